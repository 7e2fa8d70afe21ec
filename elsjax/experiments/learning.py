"""What a network paints as it is trained, from a mosaic to a memory.

At some steps of a training the network samples from always the same noise. Its samples are held
against those of analytic denoisers of its training images, against those of a second network that
learned from as many other images (Favero et al. 2025), and against the training images themselves.

Where the network leaves a machine, what does it go to? The partial correlation over the pixels of
a sample of the network x with another sample z, given that of the machine y,

    r(x, z | y) = (r_xz - r_xy r_zy) / sqrt((1 - r_xy²) (1 - r_zy²)),

is the correlation of what is left of both when y is fitted to each: zero if z says nothing of x
that y does not say.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Real

from elsjax import checks
from elsjax.data.datasets import Dataset
from elsjax.experiments.comparison import agreement_measures
from elsjax.experiments.heldout import TIMES, heldout_error
from elsjax.experiments.measures import known_median
from elsjax.experiments.memorization import memorized
from elsjax.experiments.mosaics.limbs import wilson_interval
from elsjax.experiments.mosaics.resumable_pieces import ResumablePieces
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.process.denoisers import Denoiser
from elsjax.references import Cited, Reference

SECOND = "second network"
"""The name of the samples of the network that learned from other images."""
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class LearningStudy(Cited):
    """A network at E steps of its training: its samples, its errors, its memory.

    Attributes:
      steps: of training, [E].
      samples: of the network at each, [E, B, H, W, C].
      second: those of the network that learned from other images, at the same steps; None without.
      denoisers: samples of each analytic denoiser, by name, [B, H, W, C].
      machine: name of the denoiser that the network is thought to be like.
      wiener: error of the Wiener filter of the training images on the held-out images, or on the
        training images if there are none, at T times, [T].
      training: error of the network on training images, [E, T].
      heldout: that on held-out images, [E, T]; None without.
      memorized: whether a sample is memorized (Gu et al. 2023), [E, B].
      memorized_shifted: the same, where an image and its circular shifts are the same, [E, B].
      nearest: number of the training image nearest to a sample, [E, B].
      pieces: number of pieces of some samples at each step, and the share of pixels that no piece
        explains, [E, K, 2].
      reference_pieces: those of images of other sources, by name, [K, 2].
    """

    steps: Int[np.ndarray, " e"]
    samples: Float[np.ndarray, "e b h w c"]
    second: Float[np.ndarray, "e b h w c"] | None
    denoisers: Mapping[str, Float[np.ndarray, "b h w c"]]
    machine: str
    wiener: Float[np.ndarray, " t"]
    training: Float[np.ndarray, "e t"]
    heldout: Float[np.ndarray, "e t"] | None
    memorized: Bool[np.ndarray, "e b"]
    memorized_shifted: Bool[np.ndarray, "e b"]
    nearest: Int[np.ndarray, "e b"]
    pieces: Float[np.ndarray, "e k 2"]
    reference_pieces: Mapping[str, Float[np.ndarray, "k 2"]]

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the criterion of memorization and for networks of other images."""
        second = Reference("favero2025", "agreement of networks that learned from other images")
        return (Reference("gu2023", "the criterion of memorization"), second)

    @property
    def others(self) -> dict[str, Float[np.ndarray, "e b h w c"]]:
        """What the network is held against at each step, by name, [E, B, H, W, C]."""
        shape = self.samples.shape
        found = {name: np.broadcast_to(one, shape) for name, one in self.denoisers.items()}
        return found if self.second is None else found | {SECOND: self.second}

    def agreement(self, name: str) -> Float[np.ndarray, "e b"]:
        """Pearson correlation of each sample with another from the same noise.

        Args:
          name: a denoiser, or "second network".

        Returns:
          The correlations at each step, [E, B]; NaN where one is undefined.

        Raises:
          ValueError: if there is none of that name.
        """
        others = self.others
        checks.one_of("name", name, tuple(others))
        return _correlations(self.samples, others[name])

    def partial_agreement(self, name: str) -> Float[np.ndarray, "e b"]:
        """Partial correlation with another sample, given the machine's: see the module.

        Args:
          name: a denoiser other than the machine, or "second network".

        Returns:
          The partial correlations at each step, [E, B]; NaN where one is undefined.

        Raises:
          ValueError: if there is none of that name.
        """
        others = self.others
        checks.one_of("name", name, tuple(one for one in others if one != self.machine))
        r = self.agreement(name), self.agreement(self.machine)
        between = _correlations(others[self.machine], others[name])
        rest = (1 - r[1] ** 2) * (1 - between**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(rest > 0, (r[0] - r[1] * between) / np.sqrt(rest), np.nan)

    def summary(self) -> list[dict[str, Any]]:
        """All of it, one row for each step, as JSON values; intervals are of 95 %."""
        rows: list[dict[str, Any]] = []
        for place, step in enumerate(self.steps.tolist()):
            row: dict[str, Any] = {"step": step, "num_samples": self.samples.shape[1]}
            row["training_error"] = (self.training[place] / self.wiener).mean()
            if self.heldout is not None:
                row["heldout_error"] = (self.heldout[place] / self.wiener).mean()
            for name in self.others:
                row |= _median(f"r_{name}", self.agreement(name)[place])
                if name != self.machine:
                    row |= _median(f"partial_r_{name}", self.partial_agreement(name)[place])
            for name in ("memorized", "memorized_shifted"):
                found = getattr(self, name)[place]
                row[name] = float(found.mean())
                row[f"{name}_interval"] = wilson_interval(int(found.sum()), len(found))
            if self.pieces.shape[1]:
                row |= _median("pieces", self.pieces[place, :, 0])
                row |= _median("unexplained", self.pieces[place, :, 1])
            rows.append(row)
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, for `numpy.savez`."""
        arrays: dict[str, np.ndarray] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                arrays |= {f"{field.name}/{name}": one for name, one in value.items()}
            elif isinstance(value, np.ndarray):
                arrays[field.name] = value
        return arrays


class LearningPlan:
    """What is measured of networks at some steps of their training.

    Args:
      data: training images of the network and of the denoisers.
      denoisers: analytic denoisers of these, by name.
      machine: the name of one of them, see `LearningStudy.machine`.
      wiener: the Wiener filter of the training images, the unit of errors.
      sampler: of samples from the same noise, without labels.
      states: keeps what is measured; None to keep nothing.
      num_steps: steps of the uniform time grid from 1 to 0; all start one below 1, as `compare`
        does under the protocol "late".
      heldout: images that are not trained on; None for none.
      num_errors: number of training images whose error is measured, the first.
      num_pieces: K, number of samples whose pieces are counted, the first.
      window: side of the pieces' window, as `fewest_pieces`.
    """

    def __init__(
        self,
        data: Dataset,
        denoisers: Mapping[str, Denoiser],
        machine: str,
        wiener: Denoiser,
        sampler: ResumableSampler,
        states: States | None = None,
        *,
        num_steps: int = 20,
        heldout: Dataset | None = None,
        num_errors: int = 200,
        num_pieces: int = 0,
        window: int = 3,
    ) -> None:
        checks.one_of("machine", machine, tuple(denoisers))
        self._data, self._heldout, self._machine = data, heldout, machine
        self._denoisers, self._wiener = denoisers, wiener
        self._sampler = sampler
        self._states = States() if states is None else states
        self._times, _ = machine_grid("late", num_steps, None)
        self._num_errors = min(num_errors, len(data))
        self._num_pieces = min(num_pieces, len(sampler.noise))
        self._window = window

    def study(
        self,
        steps: Sequence[int],
        networks: Sequence[Sequence[Denoiser]],
        key: jax.Array,
        progress: Progress | None = None,
    ) -> LearningStudy:
        """Samples and measures.

        Args:
          steps: of training, E of them.
          networks: the network at each step; after it the second, if there is one.
          key: of the noise of errors.
          progress: called with what is done, how much of it, and how much there is.

        Returns:
          The findings.

        Raises:
          ValueError: if a denoiser refuses noise or labels.
        """
        painted = {
            name: self._painted(name, one, progress) for name, one in self._denoisers.items()
        }
        own, *second = (
            np.stack(
                [
                    self._painted(f"{name} after {step} steps", network, progress)
                    for step, network in zip(steps, series, strict=True)
                ]
            )
            for name, series in zip(("network", SECOND), networks, strict=False)
        )
        errors = self._all_errors(steps, networks[0], key, progress)
        flat = own.reshape(-1, *own.shape[2:])
        plain = memorized(flat, self._data.pixels)
        shifted = memorized(flat, self._data.pixels, shifts=True)
        pieces, reference_pieces = self._pieces(steps, own, painted, progress)
        return LearningStudy(
            steps=np.array(steps),
            samples=own,
            second=second[0] if second else None,
            denoisers=painted,
            machine=self._machine,
            memorized=np.asarray(plain.memorized).reshape(own.shape[:2]),
            memorized_shifted=np.asarray(shifted.memorized).reshape(own.shape[:2]),
            nearest=np.asarray(plain.nearest).reshape(own.shape[:2]),
            pieces=pieces,
            reference_pieces=reference_pieces,
            **errors,
        )

    def _painted(
        self, name: str, denoiser: Denoiser, progress: Progress | None
    ) -> Float[np.ndarray, "b h w c"]:
        """Samples of a denoiser."""

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(f"samples of {name}", done, total)

        return self._sampler.sample(name, denoiser, self._times, progress=tell).images

    def _all_errors(
        self,
        steps: Sequence[int],
        networks: Sequence[Denoiser],
        key: jax.Array,
        progress: Progress | None,
    ) -> dict[str, Any]:
        """The errors of a `LearningStudy`, by name."""
        shown = {"training": self._data.pixels[: self._num_errors]}
        if self._heldout is not None:
            shown["heldout"] = self._heldout.pixels
        total, done = 1 + len(steps) * len(shown), 0
        found: dict[str, Any] = {"heldout": None}

        def measured(
            name: str, denoiser: Denoiser, images: Real[np.ndarray, "n h w c"]
        ) -> Float[np.ndarray, " t"]:
            nonlocal done
            if progress is not None:
                progress("errors", done, total)
            done += 1
            return self._errors(name, denoiser, images, key)

        unit = shown.get("heldout", shown["training"])
        found["wiener"] = measured("errors-wiener", self._wiener, unit)
        for what, images in shown.items():
            found[what] = np.stack(
                [
                    measured(f"errors-{what}-{step}", network, images)
                    for step, network in zip(steps, networks, strict=True)
                ]
            )
        if progress is not None:
            progress("errors", total, total)
        return found

    def _errors(
        self, name: str, denoiser: Denoiser, images: Real[np.ndarray, "n h w c"], key: jax.Array
    ) -> Float[np.ndarray, " t"]:
        """Mean error at each time, which an earlier start may have measured."""
        new = {"error": np.full(len(TIMES), np.nan)}
        state = self._states.load(name, new, lambda state: bool((state["error"] >= 0).all()))
        if state is new:
            found = heldout_error(denoiser, images, TIMES, key)
            state = {"error": found.mean(1)}
            self._states.save(name, state)
        return state["error"]

    def _pieces(
        self,
        steps: Sequence[int],
        own: Float[np.ndarray, "e b h w c"],
        painted: Mapping[str, Float[np.ndarray, "b h w c"]],
        progress: Progress | None,
    ) -> tuple[Float[np.ndarray, "e k 2"], dict[str, Float[np.ndarray, "k 2"]]]:
        """`pieces` and `reference_pieces` of a `LearningStudy`."""
        count = self._num_pieces
        if not count:
            return np.zeros((len(steps), 0, 2)), {}
        sources = {f"network-{step}": images for step, images in zip(steps, own, strict=True)}
        sources[self._machine] = painted[self._machine]
        if self._heldout is not None:
            sources["held-out"] = self._heldout.images
        found = ResumablePieces(self._data.pixels, window=self._window, states=self._states).of_all(
            {name: images[:count] for name, images in sources.items()},
            dict.fromkeys(sources),
            progress=None
            if progress is None
            else lambda done, total: progress("fewest pieces", done, total),
        )
        counts = {
            name: np.array([(one.count, one.uncovered_share) for one in rows[0]])
            for name, rows in found.items()
        }
        of_steps = np.stack([counts.pop(f"network-{step}") for step in steps])
        return of_steps, counts


def _correlations(
    a: Float[np.ndarray, "e b h w c"], b: Float[np.ndarray, "e b h w c"]
) -> Float[np.ndarray, "e b"]:
    """Correlation of each image of one with the same of the other; NaN where it is undefined."""
    pairs = zip(a, b, strict=True)
    return np.stack([agreement_measures(one, other)["pearson_r"] for one, other in pairs])


def _median(name: str, values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """Median of the values that are defined, and its interval, by their names in a row."""
    median, interval = known_median(values)
    return {name: median, f"{name}_interval": interval}
