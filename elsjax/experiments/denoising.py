"""How well denoisers estimate images that they have not seen, and what a network says of them.

Every denoiser gets the same x_t = alpha_t x_0 + sigma_t eps of held-out images x_0. Two things are
asked of its estimates, since a good answer to one is not a good answer to the other: how far they
are from x_0, in units of the Wiener filter's error, and how well they predict a network's.
"""

import dataclasses
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Key, Real

from elsjax import checks
from elsjax.experiments.comparison import agreement_measures
from elsjax.experiments.measures import known_median
from elsjax.experiments.states import States
from elsjax.pixels import to_float
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import initial_noise

AGREEMENT = ("pearson_r", "r2", "high_pass_r2")
"""Which of `elsjax.experiments.comparison.MEASURES` are told."""
_RESAMPLES = 2000  # of the bootstrap
_SAVED_EVERY = 10  # seconds
_UNIT = "unit"


@dataclasses.dataclass(frozen=True)
class DenoisingStudy:
    """Held-out errors of denoisers, and how well they predict networks, over t.

    Attributes:
      times: T times.
      unit: squared error of the Wiener filter for each of N images, mean over pixels, [T, N].
      errors: that of each denoiser and network, by name, [T, n]: the first n of the images.
      agreement: of each denoiser with each network, by the names of both and of the measure, [T, n]
        each; NaN where it is undefined.
      seconds: that a noisy image took each, the least over batches, [T].
    """

    times: Float[np.ndarray, " t"]
    unit: Float[np.ndarray, "t n"]
    errors: Mapping[str, Float[np.ndarray, "t m"]]
    agreement: Mapping[str, Mapping[str, Mapping[str, Float[np.ndarray, "t m"]]]]
    seconds: Mapping[str, Float[np.ndarray, " t"]]

    def relative(self, name: str) -> Float[np.ndarray, "t 3"]:
        """Held-out error in units of the Wiener filter's for the same images.

        Args:
          name: of a denoiser or network.

        Returns:
          The ratio of the mean errors and its 95 % interval, of a bootstrap over the images.

        Raises:
          ValueError: if there is none of that name.
        """
        checks.one_of("name", name, tuple(self.errors))
        errors = self.errors[name]
        count = errors.shape[1]
        unit = self.unit[:, :count]
        chosen = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
        drawn = errors[:, chosen].mean(2) / unit[:, chosen].mean(2)
        low, high = np.quantile(drawn, (0.025, 0.975), axis=1)
        return np.stack([errors.mean(1) / unit.mean(1), low, high], axis=1)

    def median_agreement(
        self, name: str, network: str, measure: str = "pearson_r"
    ) -> Float[np.ndarray, "t 3"]:
        """Median over the images of how well a denoiser predicts a network.

        Args:
          name: of the denoiser.
          network: name of the network.
          measure: one of `AGREEMENT`.

        Returns:
          The median and its 95 % interval, NaN where there is none.

        Raises:
          ValueError: if a name is not known.
        """
        checks.one_of("name", name, tuple(self.agreement))
        checks.one_of("network", network, tuple(self.agreement[name]))
        checks.one_of("measure", measure, AGREEMENT)
        found = map(known_median, self.agreement[name][network][measure])
        return np.array([(median, *(ends or (None, None))) for median, ends in found], float)

    def summary(self) -> list[dict[str, Any]]:
        """All of it, one row for each time and denoiser or network, as JSON values."""
        rows = []
        for name in self.errors:
            relative = self.relative(name).tolist()
            for place, t in enumerate(self.times.tolist()):
                value, *interval = relative[place]
                row: dict[str, Any] = {
                    "name": name,
                    "t": t,
                    "num_images": self.errors[name].shape[1],
                    "error": float(self.errors[name][place].mean()),
                    "relative_error": value,
                    "relative_error_interval": interval,
                    "seconds_per_image": float(self.seconds[name][place]),
                }
                for network in self.agreement.get(name, {}):
                    for measure in AGREEMENT:
                        found = self.median_agreement(name, network, measure)[place]
                        median, *bounds = (None if np.isnan(v) else float(v) for v in found)
                        row[f"{measure} {network}"] = median
                        row[f"{measure}_interval {network}"] = None if None in bounds else bounds
                rows.append(row)
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays."""
        arrays = {"times": self.times, "error/wiener-unit": self.unit}
        arrays |= {f"error/{name}": errors for name, errors in self.errors.items()}
        for name, of_name in self.agreement.items():
            for network, measures in of_name.items():
                for measure, values in measures.items():
                    arrays[f"{measure}/{name}/{network}"] = values
        return arrays | {f"seconds/{name}": values for name, values in self.seconds.items()}


def study_denoising(
    networks: Mapping[str, Denoiser],
    denoisers: Mapping[str, Denoiser],
    wiener: Denoiser,
    images: Real[ArrayLike, "n h w c"],
    times: Sequence[float],
    key: Key[jax.Array, ""],
    *,
    label: Int[ArrayLike, " n"] | None = None,
    num_images: Mapping[str, int] | None = None,
    batch_size: int = 10,
    states: States | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> DenoisingStudy:
    """Denoises held-out images with networks and other denoisers of one noise schedule.

    The noise of an image depends on the key and its index only: it is the same at every time and
    for every denoiser.

    Args:
      networks: by name, what is to be predicted.
      denoisers: by name, what predicts it.
      wiener: the Wiener filter, unconditional, in whose error others are measured.
      images: held-out images, [N, H, W, C], uint8 or floating point in [-1, 1].
      times: T times in [0, 1].
      key: of the noise, `jax.random.key(seed)`.
      label: class of each image, integers [N], for conditional denoisers; None for none.
      num_images: how many of the images a denoiser sees, the first, by its name; all for others.
      batch_size: images denoised at once.
      states: keeps each result, so that an interrupted study goes on; None to keep none.
      progress: called with the name of a denoiser, the noisy images it has seen, and their number.

    Returns:
      What was found.

    Raises:
      ValueError: if an argument is not as described, or does not fit a denoiser.
    """
    images = checks.training_images("images", images)
    if label is not None:
        label = checks.class_labels("label", label, len(images))
    batch_size = checks.positive_int("batch_size", batch_size)
    found = {_UNIT: wiener, **networks, **denoisers}
    if len(found) != 1 + len(networks) + len(denoisers):
        raise ValueError(f"networks and denoisers must have names of their own, not {_UNIT!r}")
    counts = _counts(found, num_images or {}, len(images))
    x0 = to_float(images)
    noise = np.asarray(initial_noise(key, len(x0), x0.shape[1:]))
    _check(found, noise[:1], times, None if label is None else label[:1])
    work = _Work(x0, noise, label, min(batch_size, len(x0)), States() if states is None else states)
    rows = _all_rows(work, networks, found, times, counts, progress)
    errors = {name: np.stack([row["error"] for row in one]) for name, one in rows.items()}
    seconds = {name: np.array([float(row["seconds"]) for row in one]) for name, one in rows.items()}
    agreement = {
        name: _by_name(networks, [row["agreement"] for row in rows[name]]) for name in denoisers
    }
    unit = errors.pop(_UNIT)
    del seconds[_UNIT]
    return DenoisingStudy(np.asarray(times, float), unit, errors, agreement, seconds)


def _all_rows(
    work: "_Work",
    networks: Mapping[str, Denoiser],
    denoisers: Mapping[str, Denoiser],
    times: Sequence[float],
    counts: Mapping[str, int],
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, list[dict[str, np.ndarray]]]:
    """What `_Work` finds of each denoiser at each time, by name.

    Networks come before what predicts them, which is held against their estimates.
    """
    rows: dict[str, list[dict[str, np.ndarray]]] = {}
    for name, denoiser in denoisers.items():
        predicts = name not in networks and name != _UNIT
        rows[name] = work.of_all_times(
            name,
            denoiser,
            times,
            counts[name],
            targets=[[row["x0"] for row in rows[n]] for n in networks] if predicts else [],
            keep=name in networks,
            progress=progress,
        )
    return rows


def _counts(
    denoisers: Mapping[str, Denoiser], num_images: Mapping[str, int], total: int
) -> dict[str, int]:
    """How many images each denoiser sees; raises ValueError if a name or a number is wrong."""
    counts = dict.fromkeys(denoisers, total) | dict(num_images)
    for name, count in counts.items():
        checks.one_of("num_images", name, tuple(denoisers))
        checks.integer(f"num_images[{name!r}]", count, 1, total)
    return counts


def _check(
    denoisers: Mapping[str, Denoiser],
    x: Float[np.ndarray, "1 h w c"],
    times: Sequence[float],
    label: Int[np.ndarray, " 1"] | None,
) -> None:
    """Raises ValueError if a time is none, or a denoiser refuses image, time or label."""
    for t in times:
        checks.times("times", t, 1)
        for name, denoiser in denoisers.items():
            denoiser.check(x, None if name == _UNIT else label, t)


def _by_name(
    networks: Mapping[str, Denoiser], rows: Sequence[Float[np.ndarray, "k m n"]]
) -> dict[str, dict[str, Float[np.ndarray, "t n"]]]:
    """Agreement at each time with each network by each measure, by their names."""
    return {
        network: {
            measure: np.stack([row[one, place] for row in rows])
            for place, measure in enumerate(AGREEMENT)
        }
        for one, network in enumerate(networks)
    }


class _Work:
    """Denoises the same noisy images with one denoiser after another, and looks at the results."""

    def __init__(
        self,
        x0: Float[np.ndarray, "n h w c"],
        noise: Float[np.ndarray, "n h w c"],
        label: Int[np.ndarray, " n"] | None,
        batch_size: int,
        states: States,
    ) -> None:
        self._x0, self._noise, self._label = x0, noise, label
        self._batch_size, self._states = batch_size, states

    def of_all_times(
        self,
        name: str,
        denoiser: Denoiser,
        times: Sequence[float],
        count: int,
        *,
        targets: Sequence[Sequence[Float[np.ndarray, "m h w c"]]],
        keep: bool,
        progress: Callable[[str, int, int], None] | None,
    ) -> list[dict[str, np.ndarray]]:
        """`of` at each time; targets are the estimates of each network at each time."""
        return [
            self.of(
                denoiser,
                f"{urllib.parse.quote(name, safe='')}-{place}",
                t,
                count,
                conditional=name != _UNIT,
                targets=[estimates[place] for estimates in targets],
                keep=keep,
                tell=_told(progress, name, place * count, len(times) * count),
            )
            for place, t in enumerate(times)
        ]

    def of(
        self,
        denoiser: Denoiser,
        name: str,
        t: float,
        count: int,
        *,
        conditional: bool,
        targets: Sequence[Float[np.ndarray, "m h w c"]],
        keep: bool,
        tell: Callable[[int], None],
    ) -> dict[str, np.ndarray]:
        """Denoises the first images at a time.

        Args:
          denoiser: what denoises.
          name: of the state that is kept.
          t: the time.
          count: n, how many images.
          conditional: the denoiser gets the labels, if there are any.
          targets: estimates of networks; of the first of them where it has fewer.
          keep: keep the estimates.
          tell: called with how many images are done.

        Returns:
          "error", [n]; the least "seconds" of an image; "agreement" with each target by each of
          `AGREEMENT`, [K, M, n]; and the estimates "x0", [n, H, W, C], if they are to be kept.
        """
        state = self._start(name, count, len(targets), keep)
        saved, size = time.monotonic(), min(self._batch_size, count)
        for first in range(int(state["taken"]), count, size):
            tell(first)
            here = slice(first, min(first + size, count))
            # The last batch is filled up from the start: programs are for one batch size.
            index = np.arange(first, first + size) % count
            estimate, seconds = self._denoise(denoiser, t, index, conditional=conditional)
            estimate = estimate[: here.stop - first]
            if not np.isfinite(estimate).all():
                raise FloatingPointError(f"an estimate at t = {t:g} is not finite")
            state["error"][here] = np.mean((estimate - self._x0[here]) ** 2, (1, 2, 3))
            state["seconds"] = np.minimum(state["seconds"], seconds)
            for place, target in enumerate(targets):
                both = slice(first, min(here.stop, len(target)))
                if both.start < both.stop:
                    measures = agreement_measures(estimate[: both.stop - first], target[both])
                    found = np.stack([measures[measure] for measure in AGREEMENT])
                    state["agreement"][place, :, both] = found
            if keep:
                state["x0"][here] = estimate
            state["taken"] = np.asarray(here.stop)
            if here.stop == count or time.monotonic() - saved > _SAVED_EVERY:
                self._states.save(name, state)
                saved = time.monotonic()
        tell(count)
        return state

    def _start(self, name: str, count: int, num_targets: int, keep: bool) -> dict[str, np.ndarray]:
        """What an earlier start has done, or nothing."""
        new = {
            "error": np.full(count, np.nan),
            "agreement": np.full((num_targets, len(AGREEMENT), count), np.nan),
            "seconds": np.asarray(np.inf),
            "taken": np.asarray(0),
        }
        if keep:
            new["x0"] = np.zeros_like(self._x0[:count])

        def check(state: dict[str, np.ndarray]) -> bool:
            taken = int(state["taken"])
            if not 0 < taken <= count or not np.isfinite(state["error"][:taken]).all():
                return False
            return bool(state["seconds"] > 0 and (not keep or np.isfinite(state["x0"]).all()))

        return self._states.load(name, new, check)

    def _denoise(
        self, denoiser: Denoiser, t: float, index: Int[np.ndarray, " b"], *, conditional: bool
    ) -> tuple[Float[np.ndarray, "b h w c"], float]:
        """Estimates of a batch, and the seconds that each took."""
        alpha, sigma = (np.asarray(level) for level in denoiser.schedule(t))
        label = None if self._label is None or not conditional else self._label[index]
        x = alpha * self._x0[index] + sigma * self._noise[index]
        start = time.perf_counter()
        estimate = np.asarray(denoiser.denoise(x, t, label))
        return estimate, (time.perf_counter() - start) / len(index)


def _told(
    progress: Callable[[str, int, int], None] | None, name: str, before: int, total: int
) -> Callable[[int], None]:
    """Tells of the images that a denoiser has seen at one of its times."""

    def tell(done: int) -> None:
        if progress is not None:
            progress("Wiener filter" if name == _UNIT else name, before + done, total)

    return tell
