"""A network and score machines, or any other denoisers, on the same noise.

Protocols say where they start, on a uniform grid of S steps for the machines:

    late       both at t = 1 - 1 / S
    aligned    both at t = 1
    published  the network at t = 1, the machine at 1 - 1 / S, looking through the window of the
               grid point above, as the code of Kamb & Ganguli (2025) does

A step from t to s takes an error of the predicted noise, times sigma_s - sigma_t alpha_s / alpha_t,
into x_s. From 1 to 0.95 that factor is 6.2, at the next step 0.86: where a network starts at t = 1,
its first step adds several times the signal of x_0.95 in errors, which no theory of it predicts.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Key

from elsjax import checks
from elsjax.experiments.measures import median_interval, pearson_r, r2
from elsjax.experiments.sampling import ResumableSampler, Samples
from elsjax.experiments.states import States
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Solver, solver_references
from elsjax.process.windows import WindowSchedule
from elsjax.references import Cited, Reference

Protocol = Literal["late", "aligned", "published"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
MEASURES = ("pearson_r", "pearson_r2", "r2")
"""What `Comparison.measures` says of each sample."""


@dataclasses.dataclass(frozen=True)
class Comparison(Cited):
    """Samples of a network and of machines from the same noise, and how they agree.

    What is undefined for a sample, because one of its images is constant or not finite, is NaN.

    Attributes:
      noise: what all started from, [B, H, W, C].
      label: class of each sample, [B], or None.
      num_steps: S, steps of the machines' grid from 1 to 0.
      solver: of all.
      network: the network's samples, by its number of steps from 1 to 0; posterior means of all its
        steps where these are S, else of none.
      machines: the machines' samples, by name; posterior means of all their steps.
    """

    noise: Float[np.ndarray, "b h w c"]
    label: Int[np.ndarray, " b"] | None
    num_steps: int
    solver: Solver
    network: Mapping[int, Samples]
    machines: Mapping[str, Samples]

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for comparing machines with a network, and for the solver."""
        compared = Reference("kamb2025", "the comparison of machines with a network")
        return (compared, *solver_references(self.solver))

    def measures(
        self, machine: str, network_steps: int | None = None
    ) -> dict[str, Float[np.ndarray, " b"]]:
        """How well a machine predicts each sample of the network.

        Args:
          machine: its name.
          network_steps: the network's number of steps; None for the largest.

        Returns:
          By the names "pearson_r", "pearson_r2" and "r2": `elsjax.pearson_r`, its square and
          `elsjax.r2`, [B] each.

        Raises:
          ValueError: if there are no such samples.
        """
        if network_steps is None:
            network_steps = max(self.network)
        r = self._measure(pearson_r, machine, network_steps)
        explained = self._measure(r2, machine, network_steps)
        return dict(zip(MEASURES, (r, r**2, explained), strict=True))

    def better(self, machine: str, baseline: str, network_steps: int) -> Float[np.ndarray, " b"]:
        """Whether a machine has a higher correlation with the network than another.

        Args:
          machine: its name.
          baseline: name of the other.
          network_steps: the network's number of steps.

        Returns:
          For each sample 1 or 0, [B]; NaN where a correlation is undefined.

        Raises:
          ValueError: if there are no such samples.
        """
        r, other = (self._measure(pearson_r, name, network_steps) for name in (machine, baseline))
        return np.where(np.isnan(r) | np.isnan(other), np.nan, r > other)

    def agreement(self, machine: str) -> Float[np.ndarray, "steps b"]:
        """Correlation of the posterior means of a machine and the network, step by step.

        Args:
          machine: its name.

        Returns:
          One for each of the network's S steps (S - 1 where it starts after t = 1) and each sample,
          [S, B]; NaN at steps that the machine does not take.

        Raises:
          ValueError: if there is no such machine, or the network took no S steps.
        """
        target, x0 = self._network(self.num_steps).x0, self._machine(machine).x0
        missing = len(target) - len(x0)
        known = [_of_each(pearson_r, *pair) for pair in zip(x0, target[missing:], strict=True)]
        return np.concatenate([np.full((missing, len(self.noise)), np.nan), np.stack(known)])

    def summary(self, baseline: str | None = None) -> list[dict[str, Any]]:
        """Medians over the samples, one row for each number of network steps and machine.

        Args:
          baseline: name of a machine that the others are held against, or None.

        Returns:
          Rows of JSON values: `machine`, `network_steps`, `solver`, `num_samples`; the median of
          each measure (None where it is undefined for all samples) and its 95 % interval
          (`..._interval`, None for too few samples); with a baseline, of the others, how often each
          is better (`num_better_than_...` and the share, `better_than_...`). `num_undefined` counts
          the samples that are left out of each.

        Raises:
          ValueError: if there is no machine of the baseline's name.
        """
        rows = []
        for steps in self.network:
            for machine in self.machines:
                row: dict[str, Any] = {
                    "machine": machine,
                    "network_steps": steps,
                    "solver": self.solver,
                    "num_samples": len(self.noise),
                    "num_undefined": {},
                }
                for name, values in self.measures(machine, steps).items():
                    known = _known(row, name, values)
                    row[name] = float(np.median(known)) if len(known) else None
                    row[f"{name}_interval"] = median_interval(known)
                if baseline not in (None, machine):
                    name = f"better_than_{baseline}"
                    known = _known(row, name, self.better(machine, baseline, steps))
                    row[f"num_{name}"] = int(known.sum())
                    row[name] = float(known.mean()) if len(known) else None
                rows.append(row)
        return rows

    def _measure(
        self, measure: Callable[..., jax.Array], machine: str, network_steps: int
    ) -> Float[np.ndarray, " b"]:
        return _of_each(measure, self._machine(machine).images, self._network(network_steps).images)

    def _machine(self, name: str) -> Samples:
        checks.one_of("machine", name, tuple(self.machines))
        return self.machines[name]

    def _network(self, network_steps: int) -> Samples:
        if network_steps not in self.network:
            raise ValueError(
                f"the network has no samples of network_steps={network_steps}; expected one of "
                f"{', '.join(map(str, self.network))}"
            )
        return self.network[network_steps]


def compare(
    network: Denoiser,
    machines: Mapping[str, Denoiser],
    noise: Float[ArrayLike, "b h w c"],
    *,
    label: Int[ArrayLike, "..."] | None = None,
    num_steps: int = 20,
    network_steps: Sequence[int] = (20, 150),
    protocol: Protocol = "late",
    solver: Solver = "ddim",
    key: Key[jax.Array, "..."] | None = None,
    batch_size: int | None = None,
    states: States | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Samples a network and machines from the same noise.

    Args:
      network: what is to be predicted.
      machines: what predicts it, by name: score machines, usually with the network's noise
        schedule, or any other denoisers.
      noise: noise to start from, [B, H, W, C].
      label: class to condition on, integer or [B]; None for unconditional.
      num_steps: S, steps of the machines' uniform time grid from 1 to 0.
      network_steps: numbers of steps of the network from 1 to 0, one run each.
      protocol: where they start: "late", both one of the S steps below t = 1; "aligned", both at
        t = 1; "published", the network at t = 1 and the machine one step below, where a machine
        whose `window` is a `WindowSchedule` looks through that of the grid point above.
      solver: of network and machines alike, see `elsjax.sample`; under "ancestral" all see the same
        Brownian path, whatever their numbers of steps.
      key: see `elsjax.sample`.
      batch_size: samples drawn at once; None for all.
      states: keeps the states on the way, so that an interrupted comparison goes on; None to keep
        none.
      progress: called with the name of a denoiser, the steps that it has taken and their number.

    Returns:
      The samples, and their measures.

    Raises:
      ValueError: if an argument is not as described, or a denoiser refuses noise or label.
    """
    sampler = ResumableSampler(
        noise, label, solver=solver, key=key, batch_size=batch_size, states=states
    )
    runs = _runs(network, machines, sampler, num_steps, network_steps, protocol)
    found = {
        name: sampler.sample(
            name,
            run.denoiser,
            run.times,
            run.kept,
            progress=None if progress is None else functools.partial(progress, name),
        )
        for name, run in runs.items()
    }
    return Comparison(
        sampler.noise,
        sampler.label,
        num_steps,
        solver,
        {steps: found[_network_name(steps)] for steps in network_steps},
        {name: found[name] for name in machines},
    )


def check_comparison(
    network: Denoiser,
    machines: Mapping[str, Denoiser],
    noise: Float[ArrayLike, "b h w c"],
    *,
    label: Int[ArrayLike, "..."] | None = None,
    num_steps: int = 20,
    network_steps: Sequence[int] = (20, 150),
    protocol: Protocol = "late",
    solver: Solver = "ddim",
    key: Key[jax.Array, "..."] | None = None,
    batch_size: int | None = None,
) -> None:
    """Raises the ValueError that `compare` would raise for these arguments; computes nothing."""
    sampler = ResumableSampler(noise, label, solver=solver, key=key, batch_size=batch_size)
    _runs(network, machines, sampler, num_steps, network_steps, protocol)


class _Run(NamedTuple):
    """What one denoiser does in a comparison: its time grid, and the steps whose x0 are kept."""

    denoiser: Denoiser
    times: Float[np.ndarray, " states"]
    kept: range


def _runs(
    network: Denoiser,
    machines: Mapping[str, Denoiser],
    sampler: ResumableSampler,
    num_steps: int,
    network_steps: Sequence[int],
    protocol: Protocol,
) -> dict[str, _Run]:
    """What there is to sample, by name, the network first; all of it is checked."""
    checks.instance("network", network, Denoiser, "elsjax.load_pretrained('mnist/unet/zeros')")
    runs = {}
    for steps in checks.positive_ints("network_steps", network_steps):
        times = network_grid(protocol, num_steps, steps)
        kept = range(len(times) - 1 if steps == num_steps else 0)
        runs[_network_name(steps)] = _Run(network, times, kept)
    if not isinstance(machines, Mapping) or not machines:
        raise ValueError(f"machines={machines!r} must map names to at least one denoiser")
    for name, machine in machines.items():
        if not isinstance(name, str) or name in runs:
            raise ValueError(
                f"machines has the name {name!r}; expected a text other than {', '.join(runs)}"
            )
        checks.instance(
            f"machines[{name!r}]",
            machine,
            Denoiser,
            "a ScoreMachine, a network or a FunctionDenoiser",
        )
        runs[name] = _machine_run(machine, num_steps, protocol)
    for run in runs.values():
        sampler.check(run.denoiser, run.times)
    return runs


def _machine_run(machine: Any, num_steps: int, protocol: Protocol) -> _Run:
    """What a machine does, through the window that the protocol has it look through."""
    window = getattr(machine, "window", None)
    times, seen = machine_grid(protocol, num_steps, window)
    if seen is not window:
        machine = machine.with_window(seen)
    return _Run(machine, times, range(len(times) - 1))


def _network_name(steps: int) -> str:
    return f"network-{steps}"


def _of_each(
    measure: Callable[..., jax.Array],
    predicted: Float[np.ndarray, "b h w c"],
    target: Float[np.ndarray, "b h w c"],
) -> Float[np.ndarray, " b"]:
    """A measure of each sample; NaN also where an image is not finite."""
    finite = (np.isfinite(predicted) & np.isfinite(target)).all((1, 2, 3), keepdims=True)
    values = measure(np.where(finite, predicted, 0), np.where(finite, target, 0))
    return np.where(finite.ravel(), values, np.nan)


def _known(
    row: dict[str, Any], name: str, values: Float[np.ndarray, " b"]
) -> Float[np.ndarray, " known"]:
    """The values that are not NaN; the others are counted in the row."""
    known = values[~np.isnan(values)]
    row["num_undefined"][name] = len(values) - len(known)
    return known


def machine_grid(
    protocol: Protocol, num_steps: int, window: WindowSchedule | int | None
) -> tuple[np.ndarray, WindowSchedule | int | None]:
    """Time grid and window of the machine in a comparison.

    Args:
      protocol: "late", "aligned" or "published", see `compare`.
      num_steps: S, steps of the uniform grid from 1 to 0.
      window: window of the machine.

    Returns:
      `(times, window)`: times for `elsjax.sample`, and the window to look through.

    Raises:
      ValueError: if the protocol is unknown or num_steps too small for it.
    """
    checks.one_of("protocol", protocol, PROTOCOLS)
    checks.positive_int("num_steps", num_steps)
    if protocol == "aligned":
        return _uniform(num_steps), window
    if num_steps == 1:
        raise ValueError(f"num_steps=1 must be at least 2 for protocol={protocol!r}")
    if protocol == "published" and isinstance(window, WindowSchedule):
        window = WindowSchedule((*window.windows[1:], window.windows[-1]))
    return _uniform(num_steps)[1:], window


def network_grid(protocol: Protocol, num_steps: int, network_steps: int) -> np.ndarray:
    """Time grid of the network in a comparison.

    Args:
      protocol: as `machine_grid`.
      num_steps: S, steps of the machine's grid from 1 to 0.
      network_steps: steps of the network from 1 to 0; from where it starts it takes its share, and
        as many as the machine where both numbers are the same.

    Returns:
      Times for `elsjax.sample`.

    Raises:
      ValueError: as `machine_grid`, or if network_steps is not positive.
    """
    checks.positive_int("network_steps", network_steps)
    times, _ = machine_grid(protocol, num_steps, None)
    if protocol != "late":
        return _uniform(network_steps)
    if network_steps == num_steps:
        return times
    return times[0] * _uniform(max(1, round(network_steps * times[0])))


def _uniform(num_steps: int) -> np.ndarray:
    """The uniform time grid from 1 to 0."""
    return np.arange(num_steps, -1, -1) / num_steps
