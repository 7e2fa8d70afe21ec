"""A network and score machines, or any other denoisers, on the same noise."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Key

from elsjax import checks
from elsjax.experiments.measures import local_means, mean_interval, median_interval, pearson_r, r2
from elsjax.experiments.protocols import Protocol, machine_grid, network_grid, numbers_of_steps
from elsjax.experiments.sampling import ResumableSampler, Samples
from elsjax.experiments.states import States
from elsjax.process.denoisers import Denoiser
from elsjax.process.rescheduled import Rescheduled
from elsjax.process.sampling import Solver, solver_references
from elsjax.process.schedules import LinearBetaSchedule
from elsjax.references import Cited, Reference

MEASURES = ("pearson_r", "pearson_r2", "r2", "high_pass_r2")
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
          By the names "pearson_r", "pearson_r2", "r2" and "high_pass_r2": `elsjax.pearson_r`, its
          square, `elsjax.r2` and that of the images less their `local_means`, [B] each.

        Raises:
          ValueError: if there are no such samples.
        """
        if network_steps is None:
            network_steps = max(self.network)
        images = self._machine(machine).images, self._network(network_steps).images
        return agreement_measures(*images)

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
          (`..._interval`, None for too few samples); `mean_r2`, the mean of r2, which papers of the
          protocol "ten-step" report, and its 95 % interval; with a baseline, of the others, how
          often each is better (`num_better_than_...` and the share, `better_than_...`).
          `num_undefined` counts the samples that are left out of each.

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
                    if name == "r2":
                        row["mean_r2"] = float(known.mean()) if len(known) else None
                        row["mean_r2_interval"] = mean_interval(known)
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
    num_steps: int | None = None,
    network_steps: Sequence[int] | None = None,
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
      num_steps: S, steps of the machines' uniform time grid from 1 to 0; 20 for None.
      network_steps: numbers of steps of the network from 1 to 0, one run each; 20 and 150 for None.
      protocol: where they start: "late", both one of the S steps below t = 1; "aligned", both at
        t = 1; "published", the network at t = 1 and the machine one step below, where a machine
        whose `window` is a `WindowSchedule` looks through that of the grid point above; or
        "ten-step", of its own schedule and with ten steps for all, see the top of
        `elsjax.experiments.protocols`.
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
    num_steps, network_steps = numbers_of_steps(protocol, num_steps, network_steps)
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
    num_steps: int | None = None,
    network_steps: Sequence[int] | None = None,
    protocol: Protocol = "late",
    solver: Solver = "ddim",
    key: Key[jax.Array, "..."] | None = None,
    batch_size: int | None = None,
) -> None:
    """Raises the ValueError that `compare` would raise for these arguments; computes nothing."""
    sampler = ResumableSampler(noise, label, solver=solver, key=key, batch_size=batch_size)
    steps = numbers_of_steps(protocol, num_steps, network_steps)
    _runs(network, machines, sampler, *steps, protocol)


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
    for steps in network_steps:
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
    if protocol == "ten-step":
        schedule = LinearBetaSchedule()
        runs = {
            name: run._replace(denoiser=Rescheduled(run.denoiser, schedule, clip=True))
            for name, run in runs.items()
        }
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


def _high_pass_r2(
    predicted: Float[np.ndarray, "b h w c"], target: Float[np.ndarray, "b h w c"]
) -> jax.Array:
    return r2(predicted - local_means(predicted), target - local_means(target))


def agreement_measures(
    predicted: Float[np.ndarray, "b h w c"], target: Float[np.ndarray, "b h w c"]
) -> dict[str, Float[np.ndarray, " b"]]:
    """How well images predict others, by each of `MEASURES`; NaN where that is undefined.

    Args:
      predicted: images, [B, H, W, C].
      target: what they predict, [B, H, W, C].

    Returns:
      The measures, [B] each.
    """
    r = _of_each(pearson_r, predicted, target)
    explained = _of_each(r2, predicted, target)
    fine = np.where(np.isnan(explained), np.nan, _of_each(_high_pass_r2, predicted, target))
    return dict(zip(MEASURES, (r, r**2, explained, fine), strict=True))


def _known(
    row: dict[str, Any], name: str, values: Float[np.ndarray, " b"]
) -> Float[np.ndarray, " known"]:
    """The values that are not NaN; the others are counted in the row."""
    known = values[~np.isnan(values)]
    row["num_undefined"][name] = len(values) - len(known)
    return known
