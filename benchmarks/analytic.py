"""What a step of each analytic denoiser costs: seconds, and the peak memory of its process.

    python benchmarks/analytic.py --dataset mnist --num-images 10000 --out analytic.json

One estimate of noisy 32x32 images at a time in the middle, each denoiser in a process of its own.
"""

import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import elsjax
from elsjax.parallel import use_all_cores
from elsjax.posterior.dictionaries import KINDS

DENOISERS = (
    *KINDS,
    *(f"wiener-{kind}" for kind in KINDS),
    *("pca-locality", "pspc", "golden", "smoothed-is"),
)
CROP = 7  # of PSPC
WINDOWS = {"cifar10": "cifar10/unet/zeros", "fashion_mnist": "fashion_mnist/unet/zeros"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    dataset: str = "mnist"
    num_images: int = 10000
    batch: int = 1
    """Noisy images at once."""
    t: float = 0.5
    repetitions: int = 5
    denoiser: tuple[str, ...] = DENOISERS
    """Some of them."""
    data_dir: str | None = None
    out: Path | None = None
    """JSON file to write."""


def measured(options: Options) -> dict[str, Any]:
    """Seconds and memory of the first denoiser, in this process."""
    use_all_cores()
    data = elsjax.load_dataset(
        options.dataset, limit=options.num_images, image_size=32, data_dir=options.data_dir
    )
    noise = elsjax.initial_noise(jax.random.key(0), options.batch, data.pixels.shape[1:])
    schedule = elsjax.CosineSchedule()
    alpha, sigma = schedule(options.t)
    x = np.array(alpha * data.images[: options.batch] + sigma * noise)
    before = _peak()
    start = time.perf_counter()
    window = elsjax.published_windows(WINDOWS.get(options.dataset, "mnist/unet/zeros"))
    denoiser = made_of(options.denoiser[0], data, window)
    made = time.perf_counter() - start
    seconds = []
    for _ in range(options.repetitions + 1):
        start = time.perf_counter()
        np.asarray(denoiser.denoise(x, options.t))
        seconds.append(time.perf_counter() - start)
    return {
        "denoiser": options.denoiser[0],
        "made_s": made,
        "first_s": seconds[0],
        "step_s": statistics.median(seconds[1:]),
        "peak_mib": _peak() - before,
    }


def made_of(name: str, data: elsjax.Dataset, window: elsjax.WindowSchedule) -> elsjax.Denoiser:
    """A denoiser of images, as a command line makes it, on all devices."""
    mesh = elsjax.make_mesh()
    kind = name.rpartition("-")[2]
    seen = window if kind in ("ls", "els", "bbels") else None
    if name in KINDS:
        return elsjax.ScoreMachine(kind, data.pixels, window=seen, mesh=mesh)  # type: ignore[arg-type]
    if name == "pca-locality":
        return elsjax.PCALocalityDenoiser(data.pixels, mesh=mesh)
    if name == "pspc":
        return elsjax.PSPCDenoiser(data.pixels, window=CROP, mesh=mesh)
    if name == "golden":
        return elsjax.GoldenSubsetDenoiser(data.pixels).with_mesh(mesh)
    if name == "smoothed-is":
        ideal = elsjax.ScoreMachine("is", data.pixels, mesh=mesh)
        return elsjax.SmoothedDenoiser(ideal, bandwidth=0.1, draws=4)
    return elsjax.WienerDenoiser(data.pixels, kind=kind, window=seen).with_mesh(mesh)  # type: ignore[arg-type]


def _peak() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(options: Options) -> None:
    if len(options.denoiser) == 1 and options.out is None:
        print(json.dumps(measured(options)))
        return
    rows = []
    print(f"{'denoiser':15}{'made s':>9}{'first s':>9}{'step s':>9}{'MiB':>8}")
    for name in options.denoiser:
        words = ["--dataset", options.dataset, "--num-images", str(options.num_images)]
        words += ["--batch", str(options.batch), "--t", str(options.t), "--denoiser", name]
        words += ["--repetitions", str(options.repetitions)]
        if options.data_dir is not None:
            words += ["--data-dir", options.data_dir]
        run = subprocess.run(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        row = json.loads(run.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{name:15}{row['made_s']:9.2f}{row['first_s']:9.2f}{row['step_s']:9.3f}"
            f"{row['peak_mib']:8.0f}",
            flush=True,
        )
    if options.out:
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"elsjax": elsjax.__version__, "jax": jax.__version__},
            **{name: getattr(options, name) for name in ("dataset", "num_images", "batch", "t")},
            "rows": rows,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
