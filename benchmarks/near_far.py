"""The near-far kernel beside the exact one, on the same noisy images: time and error.

    python benchmarks/near_far.py --num-images 10000 60000 --tolerance 0.03 0.12 --out near_far.json

Noisy images are of reverse trajectories: of the machine over the first 1,000 training images, which
is quick. Errors are those of pixels that are approximated; the others, borders for one, are exact.
With --checkout (see published.py; needs torch) also the published code, timed over 512 training
images and scaled by their number. Indices that are missing are built first.
"""

import dataclasses
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

import elsjax
from elsjax.parallel import use_all_cores

TRAJECTORY_IMAGES, PUBLISHED_IMAGES = 1000, 512


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    dataset: str = "mnist"
    window: str = "mnist/unet/zeros"
    """Name of a published table; bbELS looks through it."""
    num_images: tuple[int, ...] = (10_000, 60_000)
    label: int | None = None
    """Condition on a class."""
    tolerance: tuple[float, ...] = (0.03, 0.12)
    batch: int = 1
    """Noisy images at once."""
    times: tuple[float, ...] = (0.05, 0.15, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)
    """Of the grid of 20 steps."""
    repetitions: int = 1
    checkout: Path | None = None
    """A checkout of the published code, to time it as well."""
    out: Path | None = None
    """JSON file to write, row by row; the plot lies beside it."""


def trajectories(options: Options, data: elsjax.Dataset) -> dict[float, np.ndarray]:
    """Noisy images at the times asked for."""
    window = elsjax.published_windows(options.window)
    few = slice(TRAJECTORY_IMAGES)
    machine = elsjax.ScoreMachine(
        "bbels", data.pixels[few], data.labels[few], window=window, mesh=elsjax.make_mesh()
    )
    noise = elsjax.initial_noise(jax.random.key(0), options.batch, machine.image_shape)
    found, x = {}, np.asarray(noise)
    for step in elsjax.reverse_process(machine, noise, 20, label=options.label):
        for t in options.times:
            if abs(step.t - t) < 1e-6:
                found[t] = x
        x = np.asarray(step.x)
    return found


def median_seconds(run: Callable[[], Any], repetitions: int) -> float:
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def published_seconds(options: Options, data: elsjax.Dataset, x: np.ndarray, t: float) -> float:
    """Seconds of the published code for one training image."""
    import torch
    from published import MODULES, published_code

    published = published_code(options.checkout)
    images = data.images[:PUBLISHED_IMAGES]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    module = getattr(published, MODULES["bbels"])(
        torch.utils.data.TensorDataset(pixels, torch.zeros(len(images))),
        kernel_size=elsjax.published_windows(options.window)(t),
        image_size=images.shape[1],
        channels=images.shape[3],
    )
    noisy = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).contiguous().split(1)

    def run() -> list[Any]:
        with torch.no_grad():
            return [module(torch.full((1,), t), one, device=torch.device("cpu")) for one in noisy]

    return median_seconds(run, options.repetitions) / len(images)


def rows_of(
    options: Options, data: elsjax.Dataset, noisy: dict[float, np.ndarray]
) -> list[dict[str, Any]]:
    """One row for each time and tolerance, over one number of training images."""
    window, mesh = elsjax.published_windows(options.window), elsjax.make_mesh()
    exact_machine = elsjax.ScoreMachine("bbels", data.pixels, data.labels, window=window, mesh=mesh)
    machines = [
        exact_machine.with_index(tolerance, labels=(options.label,))
        for tolerance in options.tolerance
    ]
    rows = []
    for t, x in noisy.items():
        exact = np.asarray(exact_machine.denoise(x, t, options.label))  # compiles
        exact_s = median_seconds(
            lambda x=x, t=t: exact_machine.denoise(x, t, options.label), options.repetitions
        )
        scaled = None
        if options.checkout:
            counted = len(data) if options.label is None else sum(data.labels == options.label)
            scaled = counted * published_seconds(options, data, x, t)
        for tolerance, machine in zip(options.tolerance, machines, strict=True):
            x0, estimate = map(np.asarray, machine.denoise_with_error(x, t, options.label))
            error = np.abs(x0 - exact).max(axis=-1)[estimate > 0]
            row = {
                "num_images": len(data),
                "t": t,
                "window": window(t),
                "tolerance": tolerance,
                "near_far_s": median_seconds(
                    lambda x=x, t=t, machine=machine: machine.denoise(x, t, options.label),
                    options.repetitions,
                ),
                "exact_s": exact_s,
                "published_s": scaled,
                "approximated": error.size / estimate.size,
            }
            if error.size:
                covered = error <= estimate[estimate > 0]
                row |= {
                    "mean_error": float(error.mean()),
                    "below_0.02": float((error <= 0.02).mean()),
                    "largest_error": float(error.max()),
                    "mean_estimate": float(estimate[estimate > 0].mean()),
                    "covered": float(covered.mean()),
                }
            rows.append(row)
            print(
                "  ".join(
                    f"{'-' if v is None else format(v, '.3g' if isinstance(v, float) else ''):>13}"
                    for v in row.values()
                ),
                flush=True,
            )
    return rows


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Seconds of a step and mean errors over t."""
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = dict.fromkeys(row["num_images"] for row in rows)
    tolerances = dict.fromkeys(row["tolerance"] for row in rows)
    for (number, size), (style, tolerance) in itertools.product(
        enumerate(sizes), zip(("-", "--", ":"), tolerances, strict=False)
    ):
        chosen = [r for r in rows if (r["num_images"], r["tolerance"]) == (size, tolerance)]
        label = f"{size:,} images, tolerance {tolerance}"
        color = f"C{number}"
        times = [row["t"] for row in chosen]
        left.plot(times, [r["near_far_s"] for r in chosen], f"o{style}", color=color, label=label)
        known = [(row["t"], row["mean_error"]) for row in chosen if "mean_error" in row]
        if known:
            right.plot(*zip(*known, strict=True), f"o{style}", color=color, label=label)
        if style == "-":
            for name, marker in (("exact", "s"), ("published", "^")):
                values = [row[f"{name}_s"] for row in chosen]
                if None not in values:
                    label = f"{size:,} images, {name}"
                    left.plot(times, values, f"{marker}-", color=color, alpha=0.4, label=label)
    left.set(xlabel="time t", ylabel="seconds of a step", yscale="log")
    right.set(xlabel="time t", ylabel="mean error of a pixel", yscale="log")
    for axes in (left, right):
        axes.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def main(options: Options) -> None:
    use_all_cores()
    size = None if options.dataset == "cifar10" else 32
    largest = elsjax.load_dataset(options.dataset, limit=max(options.num_images), image_size=size)
    noisy = trajectories(options, largest)
    rows: list[dict[str, Any]] = []
    names = ("num_images", "t", "window", "tolerance", "near_far_s", "exact_s", "published_s")
    names += ("approximated", "mean_error", "below_0.02", "largest_error", "mean_estimate")
    print("  ".join(f"{name:>13}" for name in (*names, "covered")))
    for num_images in options.num_images:
        data = elsjax.load_dataset(options.dataset, limit=num_images, image_size=size)
        rows += rows_of(options, data, noisy)
        if options.out:
            report = {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": {"elsjax": elsjax.__version__, "jax": jax.__version__},
                "dataset": options.dataset,
                "windows": options.window,
                "label": options.label,
                "batch": options.batch,
                "rows": rows,
            }
            options.out.write_text(json.dumps(report, indent=2) + "\n")
            plot(rows).savefig(options.out.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Options))
