"""Is a network one window wide? A weighted mean of bbELS machines against the best single one.

    python benchmarks/mixture.py --network fashion_mnist/unet/zeros --out mixture

Along the network's own trajectories from some seeds, at each time, the mean squared error of its
estimate of x_0 picks the best window, and non-negative weights of all windows, which sum to 1. Both
are tested along its trajectories from other seeds, and by their own reverse processes from the same
noise, from t = 0.95, whose images are compared with the network's.

A run goes on where it stopped: what is in the folder is not computed again.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy
import tyro
from jaxtyping import Array, ArrayLike, Float
from tqdm import tqdm

import elsjax
from elsjax.experiments.counterparts import own_kind, own_table
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.runs import Run, environment
from elsjax.experiments.states import States
from elsjax.nn.zoo import zoo
from elsjax.parallel import use_all_cores

# Stands for an equality in least squares.
STRICT = 1e3


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare: --num-samples are tested, from --seed."""

    network: str = "fashion_mnist/unet/zeros"
    """One that `elsjax zoo` lists."""
    num_samples: int = 10
    num_steps: int = 20
    """Steps of the time grid from 1 to 0."""
    seed: int = 0
    windows: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 15, 17, 21, 25)
    fit_samples: int = 10
    fit_seed: int = 1
    data_dir: str | None = None
    out: Path = Path("mixture")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""


class Mixture(elsjax.Denoiser):
    """The weighted mean of a machine's estimates through several windows."""

    def __init__(
        self,
        machine: elsjax.ScoreMachine,
        windows: Sequence[int],
        times: Sequence[float],
        weights: np.ndarray,
    ) -> None:
        self.schedule, self.image_shape = machine.schedule, machine.image_shape
        self._machine, self._windows = machine, windows
        self._weights = {round(t, 6): row for t, row in zip(times, weights, strict=True)}

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Array:
        weights = self._weights[round(float(np.asarray(t)), 6)]
        used = [(p, weight) for p, weight in zip(self._windows, weights, strict=True) if weight > 0]
        return sum(w * self._machine.with_window(p).denoise(x, t, label) for p, w in used)

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        self._machine.check_label(label, batch)


def fit(
    estimates: Float[np.ndarray, "n b h w c"], target: Float[np.ndarray, "b h w c"]
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of n windows, [n], and the mean squared error of each alone, [n]."""
    columns = estimates.reshape(len(estimates), -1).T
    weights, _ = scipy.optimize.nnls(
        np.vstack([columns, np.full((1, len(estimates)), STRICT)]),
        np.append(target.ravel(), STRICT),
    )
    return weights / weights.sum(), ((estimates - target) ** 2).reshape(len(estimates), -1).mean(1)


class Problem:
    """A network, a machine over its training images, and noise for both."""

    def __init__(self, options: Options) -> None:
        entry = zoo()[options.network]
        self.options = options
        self.network = elsjax.load_pretrained(options.network)
        data = elsjax.load_dataset(
            entry.dataset,
            entry.split,
            entry.num_images,
            self.network.image_shape[0],
            options.data_dir,
        )
        self.machine = elsjax.ScoreMachine(
            own_kind(self.network),
            data.pixels,
            data.labels,
            window=options.windows[0],
            schedule=self.network.schedule,
            mesh=elsjax.make_mesh(),
        )
        self.table = own_table(self.network, entry.dataset)
        self.times, _ = machine_grid("late", options.num_steps, None)

    def noise(self, num_samples: int, seed: int) -> Array:
        return elsjax.initial_noise(jax.random.key(seed), num_samples, self.network.image_shape)

    def label(self, num_samples: int) -> np.ndarray | None:
        """All classes of the network in turn."""
        classes = self.network.num_classes
        return None if classes is None else np.arange(num_samples, dtype=np.int32) % classes

    def along(
        self, num_samples: int, seed: int, name: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Estimates through each window, and the network's, along the network's trajectories."""
        x, label = self.noise(num_samples, seed), self.label(num_samples)
        steps = elsjax.reverse_process(self.network, x, label=label, times=self.times)
        for step in tqdm(steps, total=len(self.times) - 1, desc=name, unit="step"):
            estimates = [
                self.machine.with_window(p).denoise(x, step.t, label) for p in self.options.windows
            ]
            yield np.stack(estimates), np.asarray(step.x0)
            x = step.x


def fitted(problem: Problem, run: Run) -> dict[str, np.ndarray]:
    """Weights of the windows and the error of each alone, at each time, [S, n]."""
    options = problem.options
    shape = (len(problem.times) - 1, len(options.windows))
    found = run.load_arrays("weights.npz", dict.fromkeys(("weights", "errors"), (float, shape)))
    if found is None:
        pairs = problem.along(options.fit_samples, options.fit_seed, "fit")
        weights, errors = zip(*(fit(*pair) for pair in pairs), strict=True)
        found = {"weights": np.stack(weights), "errors": np.stack(errors).astype(float)}
        run.save_arrays("weights.npz", found)
    return found


def tested(problem: Problem, run: Run, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Error of each of several weightings at each time, [S], along other trajectories."""
    options = problem.options
    like = dict.fromkeys(weights, (float, (len(problem.times) - 1,)))
    errors = run.load_arrays("errors.npz", like)
    if errors is None:
        found = [
            [np.mean((np.tensordot(w[step], estimates, 1) - x0) ** 2) for w in weights.values()]
            for step, (estimates, x0) in enumerate(
                problem.along(options.num_samples, options.seed, "test")
            )
        ]
        errors = dict(zip(weights, np.transpose(found).astype(float), strict=True))
        run.save_arrays("errors.npz", errors)
    return errors


def compared(problem: Problem, states: States, weights: dict[str, np.ndarray]) -> elsjax.Comparison:
    """Samples by each weighting, by the published windows, and by the network."""
    options = problem.options
    denoisers: dict[str, elsjax.Denoiser] = {
        name: Mixture(problem.machine, options.windows, problem.times[:-1], w)
        for name, w in weights.items()
    }
    if problem.table is not None:
        window = elsjax.published_windows(problem.table)
        denoisers["published windows"] = problem.machine.with_window(window)
    with tqdm(total=(len(denoisers) + 1) * (len(problem.times) - 1), unit="step") as bar:
        taken: dict[str, int] = {}

        def progress(name: str, done: int, total: int) -> None:
            taken[name] = done
            bar.set_description(name)
            bar.update(sum(taken.values()) - bar.n)

        return elsjax.compare(
            problem.network,
            denoisers,
            problem.noise(options.num_samples, options.seed),
            label=problem.label(options.num_samples),
            num_steps=options.num_steps,
            network_steps=(options.num_steps,),
            states=states,
            progress=progress,
        )


def measure(options: Options, run: Run) -> None:
    problem = Problem(options)
    config = dataclasses.asdict(options)
    del config["out"], config["overwrite"]
    run.start({"benchmark": "mixture", **config, **environment()})
    fit_results = fitted(problem, run)
    best = np.eye(len(options.windows))[fit_results["errors"].argmin(axis=1)]
    weights = {"best windows": best, "mixture": fit_results["weights"]}
    errors = tested(problem, run, weights)
    states = States(run)
    found = compared(problem, states, weights)
    images = {name: samples.images for name, samples in found.machines.items()}
    network = found.network[options.num_steps].images
    run.save_arrays("samples.npz", {"noise": found.noise, "network": network, **images})
    print_weights(problem, weights, errors)
    summary: dict[str, Any] = {"times": problem.times[:-1].tolist()}
    for name in found.machines:
        measures = found.measures(name, options.num_steps)
        r, r2 = measures["pearson_r"], measures["r2"]
        summary[name] = {"pearson_r": r.tolist(), "r2": r2.tolist()}
        if name in errors:
            summary[name]["errors"] = errors[name].tolist()
        print(f"{name}: median r = {np.median(r):.3f}, r2 = {np.median(r2):.3f}")
    run.save_json("summary.json", summary)
    states.forget()
    run.finish()


def print_weights(
    problem: Problem, weights: dict[str, np.ndarray], errors: dict[str, np.ndarray]
) -> None:
    """A line for each time: the best window, the mixture, and the error of each."""
    windows = problem.options.windows
    for step, t in enumerate(problem.times[:-1]):
        window = windows[weights["best windows"][step].argmax()]
        of_best, of_mixture = (errors[name][step] for name in weights)
        used = zip(windows, weights["mixture"][step], strict=True)
        shown = [f"{p}: {w:.2f}" for p, w in used if w > 0]
        print(f"t = {t:.2f}: P = {window}: {of_best:.4f}, mixture: {of_mixture:.4f} of", *shown)


def main(options: Options) -> None:
    """Fits, tests, prints and writes."""
    use_all_cores()
    with Run(options.out, overwrite=options.overwrite) as run:
        measure(options, run)


if __name__ == "__main__":
    main(tyro.cli(Options))
