"""Whether images are mosaics of training images: samples of machines and a network, and real ones.

Every image is held against the training images, where the network is conditional against those of
its class: how few pieces of them explain it (`fewest_pieces`), and how many of its pixels are those
of the nearest patch, through the window of the last step (`local_consistency`).

Pieces of all images are those of one dictionary, that of the network's counterpart; for "els" with
training patches that wrap around, without which no training image is a single piece. Consistency is
that of each machine's own dictionary, and for other images that of the counterpart's.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from elsjax import checks
from elsjax.data.datasets import Dataset
from elsjax.experiments.mosaics.consistency import difference_to_nearest
from elsjax.experiments.mosaics.findings import MosaicStudy, Source
from elsjax.experiments.mosaics.limb_study import LimbStudy, Trousers
from elsjax.experiments.mosaics.resumable_pieces import ResumablePieces
from elsjax.experiments.mosaics.tiles import Tiles, source_pieces
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.machines import ScoreMachine
from elsjax.posterior.answers import Top
from elsjax.posterior.dictionaries import Kind, Window
from elsjax.process.denoisers import Denoiser
from elsjax.process.windows import WindowSchedule

Progress = Callable[[str, int, int], None]
_Maps = dict[str, np.ndarray]


class MosaicPlan:
    """What is drawn and looked at in a study of mosaics; all of it is checked as it is made.

    Network and machines (IS, LS and the counterpart) start from the same noise, one step after
    t = 1, under the probability-flow ODE. The first training image is a check: it is one piece.

    Args:
      network: what was trained.
      training: its training images.
      noise: noise to start from, [B, H, W, C].
      machine_window: window P(t) of the local machines.
      kind: of the machine that is the network's counterpart: "els" or "bbels".
      label: class to condition on, integer or [B]; None for an unconditional network.
      heldout: real images that are no training images, the control; None without.
      tolerance: root mean squares up to which windows are alike, and differences up to which pixels
        are the same, each from 0 to 2.
      window: odd side P of the windows that pieces are compared by.
      steps: numbers of steps from t = 1 to 0, at least 2 each; pieces are counted of the samples of
        the first.
      batch_size: samples drawn at once; None for all.
      mesh: devices of the machines; None for one.
      trousers: to count excess limbs, of a conditional network of FashionMNIST; None not to.
      states: keeps each result, so that an interrupted study goes on; None to keep none.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        network: Denoiser,
        training: Dataset,
        noise: Float[ArrayLike, "b h w c"],
        machine_window: Window,
        *,
        kind: Kind = "bbels",
        label: Int[ArrayLike, "..."] | None = None,
        heldout: Dataset | None = None,
        tolerance: Sequence[float] = (0.05, 0.1, 0.2),
        window: int = 3,
        steps: Sequence[int] = (20, 80),
        batch_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        trousers: Trousers | None = None,
        states: States | None = None,
    ) -> None:
        checks.instance("network", network, Denoiser, "elsjax.load_pretrained('mnist/unet/zeros')")
        checks.instance("training", training, Dataset, "elsjax.load_dataset('mnist5k')")
        checks.one_of("kind", kind, ("els", "bbels"))
        states = States() if states is None else states
        self.network, self.training, self.kind = network, training, kind
        self.tolerance = _distinct(
            "tolerance", tolerance, lambda one: checks.in_range("tolerance", one, 0, 2)
        )
        self.steps = _distinct(
            "steps", steps, lambda one: checks.integer("steps", one, 2, 2**31 - 1)
        )
        self.shape = training.pixels.shape[1:]
        self.states = states
        self.pieces = ResumablePieces(
            training.pixels,
            training.labels,
            kind=kind,
            window=window,
            tolerance=self.tolerance,
            states=states,
        )
        self.sampler = ResumableSampler(noise, label, batch_size=batch_size, states=states)
        self.machines = self._machines(machine_window, mesh)
        self.grids = {steps: machine_grid("late", steps, None)[0] for steps in self.steps}
        for denoiser in (network, *self.machines.values()):
            for times in self.grids.values():
                self.sampler.check(denoiser, times)
        self.last = {steps: _at(machine_window, times[-2]) for steps, times in self.grids.items()}
        self.real = self._real(heldout)
        self.limbs = None
        if trousers is not None:
            self.limbs = LimbStudy(
                network,
                training,
                trousers,
                machine_window,
                kind,
                self.steps[0],
                batch_size=batch_size,
                mesh=mesh,
                states=states,
            )

    def study(self, progress: Progress | None = None) -> MosaicStudy:
        """Does all of it.

        Args:
          progress: called with the name of a part of the work, how much of it is done, and of how
            much.

        Returns:
          What was found.

        Raises:
          FloatingPointError: if a sample is not finite.
        """
        progress = progress or (lambda *_: None)
        samples = {
            name: dict.fromkeys(self.steps, images) for name, (images, _) in self.real.items()
        }
        labels = {name: label for name, (_, label) in self.real.items()}
        tiles: dict[str, dict[int, Tiles]] = {name: {} for name in self.real}
        for name, denoiser in {"network": self.network, **self.machines}.items():
            samples[name], tiles[name] = {}, {}
            labels[name] = self.sampler.label
            for steps in self.steps:
                images, of_sources = self._drawn(name, denoiser, steps, progress)
                _check_finite(name, images)
                samples[name][steps] = images
                if of_sources is not None:
                    tiles[name][steps] = of_sources
        limbs = {} if self.limbs is None else self.limbs.rates(progress)
        differences = self._differences(samples, labels, progress)
        first = {name: of_source[self.steps[0]] for name, of_source in samples.items()}
        pieces = self.pieces.of_all(first, labels, functools.partial(progress, "pieces"))
        sources = {
            name: Source(
                {self.steps[0]: first[name]} if name in self.real else of_source,
                labels[name],
                pieces[name],
                differences[name],
                tiles[name],
            )
            for name, of_source in samples.items()
        }
        noise = self.sampler.noise
        return MosaicStudy(
            self.kind,
            self.pieces.window,
            self.tolerance,
            self.steps,
            self.last,
            noise,
            sources,
            limbs,
        )

    def _machines(self, window: Window, mesh: jax.sharding.Mesh | None) -> dict[str, ScoreMachine]:
        kinds: tuple[Kind, ...] = ("is", "ls", self.kind)
        try:
            return {
                kind: ScoreMachine(
                    kind,
                    self.training.pixels,
                    self.training.labels,
                    window=None if kind == "is" else window,
                    schedule=self.network.schedule,
                    mesh=mesh,
                )
                for kind in kinds
            }
        except ValueError as error:
            raise ValueError(f"machine_window={window}: {error}") from error

    def _real(self, heldout: Dataset | None) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """Real images, with the classes that they are held against."""
        found = {"training": (self.training.pixels[:1], self.training.labels)}
        if heldout is not None:
            checks.instance("heldout", heldout, Dataset, "elsjax.load_dataset('mnist', 'test')")
            if heldout.pixels.shape[1:] != self.shape:
                raise ValueError(
                    f"heldout has images {list(heldout.pixels.shape[1:])}, the training images are "
                    f"{list(self.shape)}"
                )
            found["heldout"] = (heldout.pixels, heldout.labels)
        if self.sampler.label is None:
            return {name: (images, None) for name, (images, _) in found.items()}
        for name, (images, labels) in found.items():
            if labels is None:
                raise ValueError(f"{name} has no labels, but the network is conditional")
            found[name] = (images, labels[: len(images)])
            self.machines[self.kind].check_label(labels, len(labels))
        return found

    def _drawn(
        self, name: str, denoiser: Denoiser, steps: int, progress: Progress
    ) -> tuple[np.ndarray, Tiles | None]:
        """Samples, and of a machine the tiles of its sources at the last step."""
        times, batches = self.grids[steps], self.sampler.batches
        total = len(batches) * (len(times) - 1)
        state = f"{name}-{steps}"

        def tell(done: int, _: int = 0) -> None:
            progress(f"{name}, {steps} steps", done, total)

        if name == "network":
            return self.sampler.sample(state, denoiser, times, progress=tell).images, None
        x = self.sampler.sample(state, denoiser, times[:-1], progress=tell).images
        found = []
        for number, batch in enumerate(batches, total - len(batches)):
            tell(number)
            label = None if self.sampler.label is None else self.sampler.label[batch]
            found.append(
                self._last_step(f"{state}-last-{batch.start}", denoiser, x[batch], times[-2], label)
            )
        tell(total)
        arrays = {key: np.concatenate([one[key] for one in found]) for key in found[0]}
        return arrays.pop("x0"), source_pieces(Top(**arrays))  # type: ignore[arg-type]

    def _last_step(
        self,
        name: str,
        machine: Any,
        x: Float[np.ndarray, "b h w c"],
        t: float,
        label: Int[np.ndarray, " b"] | None,
    ) -> _Maps:
        """What the machine expects of noisy images, to which the step to t = 0 leads, and why."""
        weight = np.zeros((*x.shape[:3], 1), x.dtype)
        sources = dict.fromkeys(("image", "row", "column"), weight.astype(np.int32))

        def compute() -> _Maps:
            found = machine.posterior(x, float(t), label, 1, answers=("mean",))
            return {"x0": found.mean, **vars(found.top)}

        def check(state: _Maps) -> bool:
            numbers = state["image"]
            finite = np.isfinite(state["x0"]).all() and np.isfinite(state["weight"]).all()
            return bool(finite and ((numbers >= 0) & (numbers < len(self.training))).all())

        return self._kept(name, {"x0": x, "weight": weight, **sources}, check, compute)

    def _differences(
        self,
        samples: Mapping[str, Mapping[int, np.ndarray]],
        labels: Mapping[str, np.ndarray | None],
        progress: Progress,
    ) -> dict[str, dict[int, np.ndarray]]:
        """Differences to the nearest patch, by source and number of steps; of real images once."""
        found: dict[str, dict[int, np.ndarray]] = {name: {} for name in samples}
        jobs = [(name, steps) for name in samples for steps in self.steps]
        for done, (name, steps) in enumerate(jobs):
            progress("local consistency", done, len(jobs))
            same = [
                s for s in found[name] if name in self.real and self.last[s] == self.last[steps]
            ]
            if same:
                found[name][steps] = found[name][same[0]]
                continue
            machine = self.machines.get(name, self.machines[self.kind])
            if machine.kind != "is":
                machine = machine.with_window(self.last[steps])
            found[name][steps] = self._difference(
                f"{name}-{steps}-difference", machine, samples[name][steps], labels[name]
            )
        progress("local consistency", len(jobs), len(jobs))
        return found

    def _difference(
        self, name: str, machine: ScoreMachine, images: np.ndarray, label: np.ndarray | None
    ) -> Float[np.ndarray, "b h w"]:
        size = self.sampler.batches[0].stop
        found = []
        for first in range(0, len(images), size):
            x = images[first : first + size]
            of_these = None if label is None else label[first : first + size]

            def compute(
                x: np.ndarray = x, of_these: np.ndarray | None = of_these
            ) -> dict[str, np.ndarray]:
                pixels = self.training.pixels
                return {"difference": difference_to_nearest(machine, x, pixels, of_these)}

            new = {"difference": np.zeros(x.shape[:3])}
            kept = self._kept(f"{name}-{first}", new, _are_differences, compute)
            found.append(kept["difference"])
        return np.concatenate(found)

    def _kept(
        self,
        name: str,
        new: _Maps,
        check: Callable[[_Maps], bool],
        compute: Callable[[], Mapping[str, Any]],
    ) -> _Maps:
        """What an earlier start kept under a name; else it is computed, and kept."""
        state = self.states.load(name, new, check)
        if state is new:
            state = {key: np.asarray(array, new[key].dtype) for key, array in compute().items()}
            self.states.save(name, state)
        return state


def _are_differences(state: _Maps) -> bool:
    return bool((state["difference"] >= 0).all())  # and no NaN


def _distinct(name: str, values: Any, check: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The values, each once; ValueError if there are none, or one is refused."""
    if isinstance(values, str) or not np.iterable(values):
        raise ValueError(f"{name}={values!r} must be a sequence of numbers")
    found = tuple(dict.fromkeys(check(one) for one in values))
    if not found:
        raise ValueError(f"{name}=() must hold at least one")
    return found


def _at(window: Window, t: float) -> int:
    """The window at a time."""
    side = window(float(t)) if isinstance(window, WindowSchedule) else window
    assert side is not None  # the local machine has refused None
    return side


def _check_finite(name: str, images: Float[np.ndarray, "b h w c"]) -> None:
    bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
    if len(bad):
        raise FloatingPointError(f"sample {bad[0]} of {name} is not finite; it has no pieces")
