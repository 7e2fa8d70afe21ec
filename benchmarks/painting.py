"""How much faster a network paints on all cores, a device each, than on one core.

    python benchmarks/painting.py --batch-size 8 32 64

Each configuration is a process of its own: one core is pinned, with one device. The two take turns;
medians of the seconds for one sampling run, compilation excluded. Linux only.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
import tyro

import elsjax
from elsjax.parallel import usable_cores


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    network: str = "mnist5k/unet/zeros"
    """One that `elsjax zoo` lists."""
    batch_size: tuple[int, ...] = (8, 32, 64)
    repetitions: int = 5
    """Turns of each configuration."""
    devices: int | None = None
    """Internal: time on so many devices, and print the seconds of each batch size."""


def main(options: Options) -> None:
    """Prints a table, or times one configuration."""
    if options.devices is not None:
        jax.config.update("jax_num_cpu_devices", options.devices)
        print(*[_seconds(options.network, size) for size in options.batch_size])
        return
    cores = sorted(os.sched_getaffinity(0))
    configurations = {"one core": cores[:1], f"{usable_cores()} devices": cores}
    times: dict[str, list[list[float]]] = {name: [] for name in configurations}
    for _ in range(options.repetitions):
        for name, used in configurations.items():
            times[name].append(_in_process(options, used))
    medians = [
        [statistics.median(turns) for turns in zip(*rows, strict=True)] for rows in times.values()
    ]
    print("  ".join(f"{heading:>10}" for heading in ("images", *configurations, "ratio")))
    for size, one, many in zip(options.batch_size, *medians, strict=True):
        print(f"{size:>10}  {one:>10.3f}  {many:>10.3f}  {one / many:>10.2f}")


def _in_process(options: Options, cores: list[int]) -> list[float]:
    """Seconds of each batch size, in a process with these cores."""
    command = [sys.executable, __file__, "--network", options.network]
    command += ["--devices", str(min(len(cores), usable_cores())), "--batch-size"]
    run = subprocess.run(
        [*command, *map(str, options.batch_size)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return [float(word) for word in run.stdout.split()]


def _seconds(name: str, batch_size: int) -> float:
    """Median over three runs of 19 steps."""
    network = elsjax.load_pretrained(name)
    noise = elsjax.initial_noise(jax.random.key(0), batch_size, network.image_shape)
    label = None if network.num_classes is None else np.arange(batch_size) % network.num_classes
    times = np.linspace(0.95, 0, 20)
    seconds = []
    for _ in range(4):  # the first compiles
        start = time.perf_counter()
        mesh = elsjax.make_mesh() if jax.device_count() > 1 else None
        elsjax.sample(network, noise, times=times, label=label, mesh=mesh).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main(tyro.cli(Options))
