"""Score machines of whole data sets, up to a tolerance."""

from typing import Protocol, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from elsjax import checks, parallel
from elsjax.posterior import batches, evaluation
from elsjax.posterior.answers import Question
from elsjax.posterior.batches import Group
from elsjax.posterior.dictionaries import Dictionary
from elsjax.posterior.lookup import Indices, Lookup
from elsjax.posterior.shares import Levels
from elsjax.posterior.training_set import TrainingSet
from elsjax.process.denoisers import Denoiser
from elsjax.process.frozen import Frozen
from elsjax.process.schedules import Schedule
from elsjax.process.windows import WindowSchedule
from elsjax.references import Reference


class Exact(Protocol):
    """What is needed of the machine that is looked up: a `ScoreMachine`."""

    schedule: Schedule
    image_shape: tuple[int, int, int]
    window: int | WindowSchedule | None
    training_set: TrainingSet
    memory_budget: int | None
    block_size: int | None

    @property
    def references(self) -> tuple[Reference, ...]: ...  # noqa: D102

    def dictionary(self, window: int | None) -> Dictionary: ...  # noqa: D102

    def with_window(self, window: int | WindowSchedule | None) -> "Exact": ...  # noqa: D102

    def check_label(self, label: ArrayLike | None, batch: int) -> None: ...  # noqa: D102


class IndexedMachine(Frozen, Denoiser):
    """A score machine that looks whole data sets up through an index of their patches.

    Made by `ScoreMachine.with_index`; t and label must be values on the host. On a GPU that
    computes whole data sets in one pass nothing is approximated.

    Args:
      machine: the exact machine; on a mesh each device holds all of its images.
      tolerance: error per pixel, in units of [-1, 1].
      indices: of its windows and labels.
    """

    _leaves = ("machine", "indices")
    machine: Exact
    tolerance: float
    indices: Indices

    def __init__(self, machine: Exact, tolerance: float, indices: Indices) -> None:
        vars(self).update(
            machine=machine,
            tolerance=tolerance,
            indices=indices,
            schedule=machine.schedule,
            image_shape=machine.image_shape,
        )

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices that its indices lie on; None for one."""
        return self.machine.training_set.mesh

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the exact machine."""
        return self.machine.references

    @property
    def window(self) -> int | WindowSchedule | None:
        """The window of the machine."""
        return self.machine.window

    def with_window(self, window: int | WindowSchedule | None) -> Self:
        """The same machine seen through another window, of whose sides each has an index.

        Args:
          window: odd side P of the window, or a `WindowSchedule` for P(t).

        Returns:
          A machine that shares the images and the indices.

        Raises:
          ValueError: if the window does not suit the kind, or a side of it has no index.
        """
        machine = self.machine.with_window(window)
        for side in batches.sides_of(machine.window):
            if any(side not in of_label for of_label in self.indices.values()):
                raise ValueError(f"window={side} has no index; give it to with_index's machine")
        return type(self)(machine, self.tolerance, self.indices)

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Self:
        """This machine, whose devices are those that its indices lie on.

        Args:
          mesh: these devices.

        Returns:
          The machine.

        Raises:
          ValueError: if mesh is any other.
        """
        parallel.check_mesh(mesh)
        if mesh != self.mesh:
            raise ValueError(
                f"mesh={mesh} is not that of the indices, {self.mesh}; give it to the "
                "ScoreMachine, before with_index"
            )
        return self

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that can be conditioned on: those that have an index."""
        return tuple(sorted(label for label in self.indices if label is not None))

    def denoise_with_error(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
        """Posterior mean and an estimate of its error; arguments and errors as `denoise`.

        Returns:
          `(x0, error)`: the estimate of x_0, [B, H, W, C], and of its error in each pixel, the
          largest over channels, [B, H, W], in units of x_0; 0 where x0 is exact but for rounding.
        """
        found = self._ask(*self.checked(x, t, label))
        return found["mean"], found["error"][..., 0]

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`."""
        self.machine.check_label(label, batch)
        values = None if label is None else checks.host_values(label)
        known = [None] if label is None else [] if values is None else values.ravel().tolist()
        for value in known:
            if value not in self.indices:
                had = ", ".join(map(str, self.indices))
                raise ValueError(f"label={value} has no index; labels of with_index had {had}")

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        return self._ask(x, t, label)["mean"]

    def _ask(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> dict[str, Array]:
        """Mean and error, [B, H, W, size]; noisy images of one time and label at once."""
        times = checks.host_values(t)
        if times is None or (label is not None and checks.host_values(label) is None):
            raise ValueError(
                f"t and label must be values on the host where tolerance={self.tolerance}: what is "
                "looked up depends on them"
            )
        groups = batches.groups_of(self.machine.window, times, label, len(x), by_time=True)

        def answer(group: Group, of_group: Array) -> dict[str, Array]:
            levels = (
                jnp.broadcast_to(jnp.asarray(level, x.dtype), of_group.shape[:1])
                for level in self.schedule(group.time)
            )
            on_host = self.schedule.on_host(group.time)
            indices = self.indices[group.label][group.window]
            if on_host is not None and on_host[1] == 0:  # nothing to integrate over
                indices = (None,) * len(indices)
            return evaluation.evaluate(
                self.machine.dictionary(group.window),
                Question(),
                of_group,
                Levels(*levels),
                self.machine.training_set,
                jnp.asarray(self.machine.training_set.bounds(group.label)),
                memory_budget=self.machine.memory_budget,
                block_size=self.machine.block_size,
                lookup=Lookup(indices, self.tolerance),
            )

        return batches.in_groups(groups, x, answer)
