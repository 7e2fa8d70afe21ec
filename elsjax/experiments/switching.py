"""Which stretch of the reverse process decides whether a machine predicts a network's sample?

From the same noise, one takes the first steps and the other the rest:

    machine-network    the machine the first k steps, then the network
    network-machine    the network the first k steps, then the machine

The sampler, ddim, has no memory: the second goes on from the state x_t of the first. Where k is 0
or all steps, one of them takes every step. As k grows, agreement with the network's own sample
falls along the first curve and rises along the second; what it loses or gains between two values of
k is due to the steps between them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from elsjax import checks
from elsjax.experiments.comparison import agreement_measures
from elsjax.experiments.measures import known_median, pearson_r
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.process.denoisers import Denoiser

Order = Literal["machine-network", "network-machine"]
ORDERS: tuple[Order, ...] = get_args(Order)
MEASURES = ("pearson_r", "r2", "high_pass_r2", "border_r", "interior_r", "border_share")
"""What `SwitchingStudy.measures` says of each sample."""
_SWITCHES = 8  # by default


@dataclasses.dataclass(frozen=True)
class SwitchingStudy:
    """Samples that a network and a machine draw in turns.

    Attributes:
      times: time grid of both, falling, [S].
      switches: numbers of steps k before the switch, rising, from 0 to S - 1: none and all of them
        are the samples of one alone.
      images: by order, see the top of the module, the samples of each switch, [K, B, H, W, C].
      border: width of the border in pixels.
    """

    times: Float[np.ndarray, " s"]
    switches: tuple[int, ...]
    images: Mapping[Order, Float[np.ndarray, "k b h w c"]]
    border: int

    @property
    def network(self) -> Float[np.ndarray, "b h w c"]:
        """The network's own samples, [B, H, W, C]."""
        return self.images["machine-network"][0]

    def measures(self, order: Order) -> dict[str, Float[np.ndarray, "k b"]]:
        """How near the samples are to the network's own.

        Args:
          order: one of `ORDERS`.

        Returns:
          By name, [K, B] each, NaN where undefined: "pearson_r", "r2" and "high_pass_r2", as
          `Comparison.measures`; "border_r" and "interior_r", Pearson's r over these pixels; and
          "border_share", the share of the sum of squared differences that lies in the border.

        Raises:
          ValueError: if the order is not known.
        """
        checks.one_of("order", order, ORDERS)
        rows = [_measures(images, self.network, self.border) for images in self.images[order]]
        return {name: np.stack([row[name] for row in rows]) for name in MEASURES}

    def summary(self) -> list[dict[str, Any]]:
        """All medians, one row for each order and switch, as JSON values.

        Returns:
          Rows with "order", "switch", its time "t", each of `MEASURES` and its "..._interval", and
          the change of each since the switch before, "..._change" and "..._change_interval"; None
          where there is none.
        """
        rows = []
        for order in ORDERS:
            values = self.measures(order)
            medians = {name: _medians(found) for name, found in values.items()}
            for name, found in values.items():
                # Before the first there is none.
                medians[f"{name}_change"] = _medians(np.diff(found, axis=0, prepend=np.nan))
            for place, switch in enumerate(self.switches):
                t = float(self.times[switch])
                row: dict[str, Any] = {"order": order, "switch": switch, "t": t}
                for name, found in medians.items():
                    median, *bounds = (None if np.isnan(v) else float(v) for v in found[place])
                    row[name] = median
                    row[f"{name}_interval"] = None if None in bounds else bounds
                rows.append(row)
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays."""
        arrays = {"times": self.times, "switches": np.array(self.switches)}
        for order in ORDERS:
            arrays[f"images/{order}"] = self.images[order]
            for name, values in self.measures(order).items():
                arrays[f"{name}/{order}"] = values
        return arrays


def study_switching(
    network: Denoiser,
    machine: Denoiser,
    noise: Float[ArrayLike, "b h w c"],
    *,
    num_steps: int = 20,
    switches: Sequence[int] | None = None,
    border: int = 4,
    label: Int[ArrayLike, "..."] | None = None,
    batch_size: int | None = None,
    states: States | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> SwitchingStudy:
    """Draws samples of a network, of a machine, and of both in turns, from the same noise.

    Args:
      network: what is to be predicted.
      machine: what predicts it: a score machine or any other denoiser of the same noise schedule.
      noise: noise to start from, [B, H, W, C].
      num_steps: S, steps of the uniform time grid from 1 to 0, at least 3; both start one step
        below t = 1 (the protocol "late" of `elsjax.compare`), so that there are S - 1.
      switches: numbers of steps before the switch, from 1 to S - 2; None for up to eight, evenly.
      border: width of the border in pixels.
      label: class to condition on, integer or [B]; None for unconditional.
      batch_size: samples drawn at once; None for all.
      states: keeps the states on the way, so that an interrupted study goes on; None to keep none.
      progress: called with what is drawn, the steps that are taken and their number.

    Returns:
      The samples, and their measures.

    Raises:
      ValueError: if an argument is not as described, or a denoiser refuses noise or label.
      FloatingPointError: if a sample is not finite.
    """
    sampler = ResumableSampler(noise, label, batch_size=batch_size, states=states)
    switches = check_switching(network, machine, sampler, num_steps, switches, border)
    times, _ = machine_grid("late", num_steps, None)
    ends = (0, *switches, num_steps - 1)
    work = _Work(sampler, {"network": network, "machine": machine}, times, states, progress)
    paths = {name: work.path(name, ends) for name in ("network", "machine")}
    images: dict[Order, np.ndarray] = {}
    for order in ORDERS:
        first, second = order.split("-")
        switched = [
            work.stretch(f"{first} to step {k}, then {second}", second, state, k, ends[-1])
            for k, state in zip(switches, paths[first][1:-1], strict=True)
        ]
        images[order] = np.stack([paths[second][-1], *switched, paths[first][-1]])
    return SwitchingStudy(times, ends, images, border)


def check_switching(
    network: Denoiser,
    machine: Denoiser,
    sampler: ResumableSampler,
    num_steps: int,
    switches: Sequence[int] | None,
    border: int,
) -> tuple[int, ...]:
    """Raises the ValueError that `study_switching` would raise; computes nothing.

    Args:
      network: see `study_switching`.
      machine: see `study_switching`.
      sampler: of its noise and label.
      num_steps: see `study_switching`.
      switches: see `study_switching`.
      border: see `study_switching`.

    Returns:
      The switches, rising.
    """
    switches = numbers_of_switches(num_steps, switches)
    shorter = min(sampler.noise.shape[1:3])
    if 2 * checks.positive_int("border", border) >= shorter:
        raise ValueError(
            f"border={border} must be less than half of {shorter}, the images' shorter side"
        )
    times, _ = machine_grid("late", num_steps, None)
    for name, denoiser in (("network", network), ("machine", machine)):
        checks.instance(name, denoiser, Denoiser, "a ScoreMachine, a network")
        sampler.check(denoiser, times)
    if machine.schedule != network.schedule:
        raise ValueError(
            f"machine has schedule={machine.schedule}, the network {network.schedule}; expected "
            "the same: one goes on from the states of the other"
        )
    return switches


def numbers_of_switches(num_steps: int, switches: Sequence[int] | None) -> tuple[int, ...]:
    """Numbers of steps before a switch.

    Args:
      num_steps: see `study_switching`.
      switches: see `study_switching`.

    Returns:
      The numbers, rising; what None stands for.

    Raises:
      ValueError: if an argument is not as described, or a number is there twice.
    """
    if checks.positive_int("num_steps", num_steps) < 3:
        raise ValueError(
            f"num_steps={num_steps} must be at least 3: both start at 1 - 1 / num_steps, and there "
            "is a step before the switch and one after it"
        )
    last = num_steps - 2
    if switches is None:
        even = np.linspace(0, num_steps - 1, _SWITCHES + 2)[1:-1].round().astype(int)
        return tuple(sorted(set(np.clip(even, 1, last).tolist())))
    found = checks.positive_ints("switches", switches)
    for one in found:
        checks.integer("switches", one, 1, last)
    if len(set(found)) < len(found):
        raise ValueError(f"switches={found} must differ from each other")
    return tuple(sorted(found))


class _Work:
    """Draws stretches of reverse processes, each resumed by its name."""

    def __init__(
        self,
        sampler: ResumableSampler,
        denoisers: Mapping[str, Denoiser],
        times: Float[np.ndarray, " s"],
        states: States | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._sampler, self._denoisers, self._times = sampler, denoisers, times
        self._states, self._progress = states, progress

    def path(self, name: str, ends: Sequence[int]) -> list[Float[np.ndarray, "b h w c"]]:
        """The states of one denoiser after these numbers of steps, the first of them 0."""
        x = [self._sampler.noise]
        for first, last in itertools.pairwise(ends):
            x.append(self.stretch(f"{name}, steps {first} to {last}", name, x[-1], first, last))
        return x

    def stretch(
        self, name: str, denoiser: str, x: Float[np.ndarray, "b h w c"], first: int, last: int
    ) -> Float[np.ndarray, "b h w c"]:
        """The states after `last` steps, from those after `first`, of one of the denoisers."""
        sampler = ResumableSampler(
            x,
            self._sampler.label,
            batch_size=self._sampler.batches[0].stop,
            states=self._states,
        )
        found = sampler.sample(
            name,
            self._denoisers[denoiser],
            self._times[first : last + 1],
            progress=None if self._progress is None else functools.partial(self._progress, name),
        ).images
        if not np.isfinite(found).all():
            raise FloatingPointError(f"a state of {name} is not finite")
        return found


def _measures(
    images: Float[np.ndarray, "b h w c"], target: Float[np.ndarray, "b h w c"], border: int
) -> dict[str, Float[np.ndarray, " b"]]:
    """Each of `MEASURES` of images beside the network's."""
    found = agreement_measures(images, target)
    inner = _interior(images.shape[1], images.shape[2], border)
    squares = ((images - target) ** 2).sum(3)
    whole = squares.sum((1, 2))
    share = np.full(len(images), np.nan)
    np.divide(squares[:, ~inner].sum(1), whole, out=share, where=whole > 0)
    found |= {
        "border_r": np.asarray(pearson_r(images[:, ~inner], target[:, ~inner])),
        "interior_r": np.asarray(pearson_r(images[:, inner], target[:, inner])),
        "border_share": share,
    }
    return {name: found[name] for name in MEASURES}


def _interior(height: int, width: int, border: int) -> Bool[np.ndarray, "h w"]:
    """Which pixels are so far from every edge."""
    inner = np.zeros((height, width), bool)
    inner[border : height - border, border : width - border] = True
    return inner


def _medians(values: Float[np.ndarray, "k b"]) -> Float[np.ndarray, "k 3"]:
    """Medians of the known values and their 95 % intervals; NaN where there is none."""
    found = map(known_median, values)
    return np.array([(median, *(ends or (None, None))) for median, ends in found], float)
