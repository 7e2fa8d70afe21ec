"""The score machines: a dictionary of training patches, a noise schedule and a window schedule."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from elsjax import checks
from elsjax.indexed import IndexedMachine
from elsjax.posterior import batches, evaluation, lookup
from elsjax.posterior.answers import ANSWERS, Answer, Posterior, Question, Top
from elsjax.posterior.batches import Group
from elsjax.posterior.dictionaries import Dictionary, Kind, Window, checked_window
from elsjax.posterior.shares import Levels
from elsjax.posterior.training_set import TrainingSet
from elsjax.posterior.training_set_denoiser import TrainingSetDenoiser, checked_settings
from elsjax.process.schedules import Schedule
from elsjax.references import Reference

MOST_TOP = 1024  # ranking compares them in pairs


class ScoreMachine(TrainingSetDenoiser):
    """The exact posterior mean E[x_0 | x_t] under locality and equivariance constraints.

        E[x_0(i) | x_t] = sum_p w_p p(centre),   w = softmax_p(-|x_t[Ω_i] - alpha p|² / 2 sigma²)

    over the dictionary of training patches p that the kind of machine allows at pixel i (Kamb &
    Ganguli 2025, section 3). Nothing is trained. The result does not depend on block size, batch
    neighbours or the order of the images, beyond rounding. Computations run in float64 where
    `jax_enable_x64` is set, else in float32. At t = 0, where sigma = 0, the limit is taken: the
    nearest patch.

    A machine does not change, and is a pytree, so it can be an argument of a jitted function;
    there, t must be a Python number if the window depends on it.

    Args:
      kind: "is" (ideal), "es" (equivariant), "ls" (local), "els" (equivariant local) or "bbels"
        (boundary-broken ELS); see `elsjax.posterior.dictionaries`.
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1]. Kept as uint8
        where that loses nothing but rounding, and scaled block by block on the device.
      labels: class of each training image, integers [N]; needed to condition on a label.
      schedule: noise schedule.
      window: odd side P of the window, or a `WindowSchedule` for P(t); None for "is" and "es".
      wrap_patches: "els" only: training patches wrap around the border.
      memory_budget: bytes that one evaluation may use beside the images and its own input and
        output; decides how many training images make a block. None for 384 MiB on an accelerator,
        and on a CPU, about its cache, for 24 MiB, which its devices share.
      block_size: number of training images per block, instead of the budget's choice.
      mesh: devices to share the work, as `elsjax.make_mesh` gives them; each uses memory_budget.
        None for one device.

    Raises:
      ValueError: if an argument is not as described.
    """

    kind: Kind
    window: Window
    wrap_patches: bool

    def __init__(
        self,
        kind: Kind,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        schedule: Schedule | None = None,
        window: Window = None,
        wrap_patches: bool = False,
        memory_budget: int | None = None,
        block_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        checked, classes, settings = checked_settings(
            images, labels, schedule, memory_budget, block_size, mesh
        )
        window = checked_window(kind, settings["image_shape"], window, wrap_patches)
        vars(self).update(
            settings,
            kind=kind,
            window=window,
            wrap_patches=wrap_patches,
            training_set=TrainingSet.of(checked, classes, mesh),
        )

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for score machines, and for its schedule."""
        return (Reference("kamb2025", "the theory of score machines"), *super().references)

    def with_window(self, window: Window) -> Self:
        """The same machine, and the same images, seen through another window.

        Args:
          window: odd side P of the window, or a `WindowSchedule` for P(t).

        Returns:
          A machine that shares the images.

        Raises:
          ValueError: if the window does not suit the kind.
        """
        window = checked_window(self.kind, self.image_shape, window, self.wrap_patches)
        return self._replaced(window=window)

    def without(self, images: Sequence[int]) -> Self:
        """The same machine, less some training images.

        Args:
          images: their numbers, from 0, as the caller gave them. The others keep theirs.

        Returns:
          A machine of the other images.

        Raises:
          ValueError: if there is no image of such a number, or none would be left.
        """
        images = _items("images", images, "integers")
        numbers = [checks.integer(f"images[{i}]", n, 0, 2**31 - 1) for i, n in enumerate(images)]
        left = self.training_set.without(np.asarray(numbers, np.int32))
        return self._replaced(training_set=left)

    def with_index(
        self,
        tolerance: float = 0.03,
        *,
        labels: Sequence[int | None] = (None,),
        progress: Callable[[int, int], None] | None = None,
    ) -> IndexedMachine:
        """The same machine, approximately: whole data sets are looked up through an index.

        An index of patches is made for each window where that is faster than going over all of
        them, in minutes for a whole data set, and kept in the user's cache directory. The patches
        are laid out in memory, up to 8 GiB, and a float for each.

        Args:
          tolerance: error per pixel, in units of [-1, 1], up to which results may differ.
          labels: classes to condition on, each with an index of its own; None is all images.
          progress: called with how much of the indices is built, and with how much there is.

        Returns:
          A machine that gives estimates of its errors too.

        Raises:
          ValueError: if an argument is not as described, the images are not of 8 bits, or their
            patches take more memory than that.
        """
        tolerance = checks.in_range("tolerance", tolerance, 0, 1, open_ends=True)
        if self.training_set.pixels.dtype != np.uint8:
            raise ValueError(
                f"tolerance={tolerance} needs images of 8 bits, but images has values between"
            )
        labels = _items("labels", labels, "integers")
        for label in labels:
            self.check_label(label, 1)
        machine = self._replaced(training_set=self.training_set.everywhere())
        dictionaries = {
            window: machine.dictionary(window) for window in batches.sides_of(self.window)
        }
        indices = lookup.indices(machine.training_set, dictionaries, labels, progress)
        return IndexedMachine(machine, tolerance, indices)

    def posterior(
        self,
        x: Float[ArrayLike, "b h w c"],
        t: ArrayLike,
        label: ArrayLike | None = None,
        top: int = 0,
        *,
        answers: Sequence[Answer] = ANSWERS,
    ) -> Posterior:
        """What the weights of the training patches say at each pixel, in one pass over them.

        Args:
          x: see `denoise`.
          t: see `denoise`.
          label: see `denoise`.
          top: how many of the largest weights to tell, with their sources; at most 1,024.
          answers: which of "mean", "log_evidence", "variance", "effective_number" and "entropy".

        Returns:
          The answers; only what is asked for is computed.

        Raises:
          ValueError: as `denoise`; if an answer is not known; or at t = 0, where there is no
            density, if the log evidence is asked for.
        """
        x, t, label = self.checked(x, t, label)
        answers = _items("answers", answers, "names")
        for answer in answers:
            checks.one_of("answers", answer, ANSWERS)
        top = checks.integer("top", top, 0, MOST_TOP)
        if "log_evidence" in answers:
            self._levels(t)  # refuses t = 0
        question = Question(tuple(name for name in ANSWERS if name in answers), top)
        found = self._answers(question, x, t, label)
        images = {name: found.get(name) for name in ("mean", "variance")}
        numbers = {name: found[name][..., 0] if name in found else None for name in _NUMBERS}
        sources = [found[name] for name in ("weight", "image", "row", "column")] if top else None
        return Posterior(**images, **numbers, top=None if sources is None else Top(*sources))

    def ask(
        self,
        question: Question,
        x: Float[ArrayLike, "b h w c"],
        t: ArrayLike,
        label: ArrayLike | None = None,
    ) -> dict[str, Array]:
        """Answers to a question of one's own, see `elsjax.posterior.answers.Question`.

        Args:
          question: what is asked of the weights.
          x: see `denoise`.
          t: see `denoise`.
          label: see `denoise`.

        Returns:
          Answers by name, [B, H, W, size].

        Raises:
          ValueError: as `denoise`; or if question is none.
        """
        checks.instance("question", question, Question, "Question()")
        return self._answers(question, *self.checked(x, t, label))

    def dictionary(self, window: int | None) -> Dictionary:
        """Which training patches each pixel is compared with, through a window.

        Args:
          window: side P; None for the whole image.

        Returns:
          The dictionary.

        Raises:
          ValueError: if the window does not suit the kind.
        """
        return Dictionary(self.kind, self.image_shape, window, self.wrap_patches)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        return self._answers(Question(), x, t, label)["mean"]

    def _answers(
        self, question: Question, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> dict[str, Array]:
        """Answers by name, [B, H, W, size]; noisy images of one window and label at once."""

        def answer(group: Group, of_group: tuple[Array, Levels]) -> dict[str, Array]:
            return self._answers_of_group(question, *of_group, group)

        groups = batches.groups_of(self.window, t, label, len(x))
        return batches.in_groups(groups, (x, self._levels_of_each(t, x)), answer)

    def _answers_of_group(
        self, question: Question, x: Float[Array, "b h w c"], levels: Levels, group: Group
    ) -> dict[str, Array]:
        """`_answers` through one window and for one label, or for labels that are traced."""
        ranges = None
        if group.label is not None:
            ranges = self.training_set.ranges(jnp.asarray(group.label, jnp.int32))
        return evaluation.evaluate(
            self.dictionary(group.window),
            question,
            x,
            levels,
            self.training_set,
            ranges,
            memory_budget=self.memory_budget,
            block_size=self.block_size,
        )


_NUMBERS = ("log_evidence", "effective_number", "entropy")


def _items(name: str, value: Any, items: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not np.iterable(value):
        raise ValueError(f"{name}={value!r} must be a sequence of {items}")
    return tuple(value)
