"""Time of one posterior mean for each kind of machine and window side.

    python benchmarks/machines.py --num-images 256 --batch 1 --out machines.json

Random images of 32x32, one warm-up, then the median of the repetitions. A pair is one query patch
against one training patch.
"""

import dataclasses
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import tyro

import elsjax
from elsjax.dictionaries import Dictionary


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    num_images: int = 256
    batch: int = 1
    channels: int = 1
    repetitions: int = 5
    out: Path | None = None


def main(options: Options) -> None:
    shape = (32, 32, options.channels)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.num_images, *shape), np.uint8)
    x = elsjax.initial_noise(jax.random.key(0), options.batch, shape)
    cases = [("is", None), ("es", None)]
    cases += [(kind, window) for kind in ("ls", "els", "bbels") for window in (3, 7, 11, 17)]
    rows = []
    print(f"{'machine':8}{'window':>7}{'median s':>10}{'min s':>8}{'max s':>8}{'Gpairs/s':>10}")
    for kind, window in cases:
        machine = elsjax.ScoreMachine(kind, images, window=window)
        jax.block_until_ready(machine.denoise(x, 0.5))
        seconds = []
        for _ in range(options.repetitions):
            start = time.perf_counter()
            jax.block_until_ready(machine.denoise(x, 0.5))
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        parts = Dictionary(kind, shape, window).parts
        pairs = sum(p.num_groups * p.queries_per_image * p.keys_per_image for p in parts)
        rate = pairs * options.batch * options.num_images / median / 1e9
        rows.append({"machine": kind, "window": window, "seconds": seconds, "gpairs_per_s": rate})
        print(
            f"{kind:8}{window or 'all':>7}{median:10.4f}{min(seconds):8.4f}{max(seconds):8.4f}"
            f"{rate:10.3f}"
        )
    record = {
        "options": {**dataclasses.asdict(options), "out": None},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "rows": rows,
    }
    print(f"{record['machine']}, {record['versions']}")
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
