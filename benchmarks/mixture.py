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

import numpy as np
import scipy
import tyro
from jaxtyping import Array, ArrayLike, Float
from tqdm import tqdm

import elsjax
from elsjax.cli.experiment import Experiment, own_kind
from elsjax.cli.painting import Painter
from elsjax.cli.window import parse_window, published_table
from elsjax.experiments.comparison import machine_grid
from elsjax.experiments.runs import Run
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser

# Stands for an equality in least squares.
STRICT = 1e3


@dataclasses.dataclass(frozen=True)
class Options(Experiment):
    """What to compare: --num-samples are tested, from --seed."""

    network: str = "fashion_mnist/unet/zeros"
    num_samples: int = 10
    windows: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 15, 17, 21, 25)
    fit_samples: int = 10
    fit_seed: int = 1
    out: Path = Path("mixture")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""


class Mixture(Denoiser):
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

    def _denoise(self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None) -> Array:
        weights = self._weights[round(float(np.asarray(t)), 6)]
        used = [(p, weight) for p, weight in zip(self._windows, weights, strict=True) if weight > 0]
        return sum(w * self._machine.with_window(p).denoise(x, t, label) for p, w in used)

    def _check_label(self, label: ArrayLike | None, batch: int) -> None:
        self._machine._check_label(label, batch)


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


def along(
    options: Options, network: Denoiser, machine: elsjax.ScoreMachine, noise: np.ndarray, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Estimates through each window, and the network's, along the network's trajectories."""
    label = options.labels(network)
    times, _ = machine_grid("late", options.num_steps, None)
    x = noise
    steps = elsjax.reverse_process(network, noise, label=label, times=times)
    for step in tqdm(steps, total=len(times) - 1, desc=name, unit="step"):
        estimates = [machine.with_window(p).denoise(x, step.t, label) for p in options.windows]
        yield np.stack(estimates), np.asarray(step.x0)
        x = step.x


def main(options: Options) -> None:
    """Fits, tests, prints and writes."""
    with Run(options.out, overwrite=options.overwrite) as run:
        measure(options, run)


def measure(options: Options, run: Run) -> None:
    options.check_options()
    use_all_cores()
    network = options.load_network()
    images = options.data_options(network)
    data = options.load_data(network, images)
    machine = options.machine(own_kind(network), data, network, options.windows[0])
    fitting = dataclasses.replace(options, num_samples=options.fit_samples, seed=options.fit_seed)
    label, noise = options.labels(network), options.noise(data)
    config = {"benchmark": "mixture", **options.describe(images, data, label)}
    config["windows"] = list(options.windows)
    run.start(config)
    times, _ = machine_grid("late", options.num_steps, None)
    shape = (len(times) - 1, len(options.windows))
    fitted = run.load_arrays("weights.npz", dict.fromkeys(("weights", "errors"), (float, shape)))
    if fitted is None:
        rows = [fit(*pair) for pair in along(fitting, network, machine, fitting.noise(data), "fit")]
        fitted = {
            "weights": np.stack([w for w, _ in rows]),
            "errors": np.stack([e for _, e in rows]).astype(float),
        }
        run.save_arrays("weights.npz", fitted)
    best = np.eye(len(options.windows))[fitted["errors"].argmin(axis=1)]
    single = {"best windows": best, "mixture": fitted["weights"]}
    errors = run.load_arrays("errors.npz", dict.fromkeys(single, (float, shape[:1])))
    if errors is None:
        pairs = along(options, network, machine, noise, "test")
        found = [
            [np.mean((np.tensordot(w[step], estimates, 1) - x0) ** 2) for w in single.values()]
            for step, (estimates, x0) in enumerate(pairs)
        ]
        errors = dict(zip(single, np.transpose(found), strict=True))
        run.save_arrays("errors.npz", errors)
    denoisers: dict[str, Denoiser] = {
        "network": network,
        **{name: Mixture(machine, options.windows, times[:-1], w) for name, w in single.items()},
    }
    architecture = "resnet" if isinstance(network, elsjax.nn.ResNet) else "unet"
    table = published_table(images.dataset, architecture, network.padding)
    if table is not None:
        window = parse_window(table)
        denoisers["published windows"] = options.machine(own_kind(network), data, network, window)
    painter = Painter(run, noise, label, options.num_samples)
    arrays = {name: painter.paint(name, d, times, ())[0] for name, d in denoisers.items()}
    run.save_arrays("samples.npz", {"noise": noise, **arrays})
    for step, t in enumerate(times[:-1]):
        window = options.windows[best[step].argmax()]
        of_best, of_mixture = (errors[name][step] for name in single)
        weights = zip(options.windows, fitted["weights"][step], strict=True)
        shown = [f"{p}: {w:.2f}" for p, w in weights if w > 0]
        print(f"t = {t:.2f}: P = {window}: {of_best:.4f}, mixture: {of_mixture:.4f} of", *shown)
    summary: dict[str, Any] = {"times": times[:-1].tolist()}
    for name in [name for name in arrays if name != "network"]:
        r = np.asarray(elsjax.pearson_r(arrays[name], arrays["network"]))
        r2 = np.asarray(elsjax.r2(arrays[name], arrays["network"]))
        summary[name] = {"pearson_r": r.tolist(), "r2": r2.tolist()}
        if name in errors:
            summary[name]["errors"] = errors[name].tolist()
        print(f"{name}: median r = {np.median(r):.3f}, r2 = {np.median(r2):.3f}")
    run.save_json("summary.json", summary)
    painter.forget()
    run.finish()


if __name__ == "__main__":
    main(tyro.cli(Options))
