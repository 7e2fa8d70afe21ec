"""`elsjax bench`: how fast the score machines are on this device."""

import dataclasses
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import elsjax
from elsjax import checks, plotting
from elsjax.experiments.runs import Run, environment
from elsjax.parallel import use_all_cores
from elsjax.posterior.dictionaries import Dictionary, Kind
from elsjax.posterior.methods import choose

_COLUMNS = ("machine", "window", "channels", "num_images", "batch_size", "devices")
_MEASURED = (
    *("median_s", "gpairs_per_s", "gflop_per_s", "peak_gflop_per_s"),
    *("process_peak_mb", "images_mb"),
)
_PEAK_SIDE = 2048


@dataclasses.dataclass(frozen=True)
class Bench:
    """Time the score machines: one posterior mean at t = 0.5 of noisy images, against random ones.

    Options that take several values are combined in every way. Writes bench.json, row by row, and
    bench.png. A pair is one window of a noisy image against one training patch; the fraction of the
    peak is that of this device's own large matrix product, timed beside each row.
    """

    machine: tuple[Kind, ...] = ("is", "es", "ls", "els", "bbels")
    """Kinds of machines."""
    window: tuple[int, ...] = (3, 7, 11, 17)
    """Sides of the window."""
    channels: tuple[int, ...] = (1,)
    """Channels of the images."""
    num_images: tuple[int, ...] = (256,)
    """Numbers of training images."""
    batch_size: tuple[int, ...] = (1,)
    """Numbers of noisy images at once."""
    devices: tuple[int, ...] = (1,)
    """Numbers of devices that share the training images; more than 1 makes each core of a CPU a
    device."""
    image_size: int = 32
    """Side of the images."""
    repetitions: int = 5
    """Times each row is timed, after one that compiles; the median counts."""
    out: Path = Path("elsjax-bench")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is timed.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            rows = self._run(run)
        print(f"{len(rows)} rows in {self.out}: bench.json, bench.png, config.json")

    def _run(self, run: Run) -> list[dict[str, Any]]:
        """Writes the results; returns the rows."""
        for name in _COLUMNS:
            if not getattr(self, name):
                raise ValueError(f"{name}=() must hold at least one value")
        for name in ("channels", "num_images", "batch_size", "devices"):
            for value in getattr(self, name):
                checks.positive_int(name, value)
        checks.positive_int("image_size", self.image_size)
        checks.positive_int("repetitions", self.repetitions)
        if max(self.devices) > 1:
            use_all_cores()
        if max(self.devices) > jax.device_count():
            raise ValueError(f"devices={max(self.devices)}; there are {jax.device_count()}")
        cases = self._cases()
        for case in cases:  # refuses windows that do not suit
            Dictionary(case["machine"], self._shape(case), case["window"])
        run.start(self._config())
        rows = self._rows(run, cases)
        print("  ".join(f"{name:>10}" for name in (*_COLUMNS, "seconds", "Gpairs/s", "of peak")))
        for row in rows:
            _print(row)
        for case in tqdm(cases[len(rows) :], desc="timing", unit="row"):
            rows.append(self._time(case))
            run.save_json("bench.json", rows)
            with tqdm.external_write_mode():
                _print(rows[-1])
        figure = plotting.timing_figure(rows, _COLUMNS)
        run.write("bench.png", lambda file: figure.savefig(file, format="png"))
        run.finish()
        return rows

    def _rows(self, run: Run, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that an earlier start of this run timed."""
        rows = run.load_json("bench.json")
        if rows is None or _are_rows(rows, cases):
            return rows or []
        run.warn_damaged("bench.json", "no rows of this run")
        return []

    def _cases(self) -> list[dict[str, Any]]:
        """All combinations."""
        cases = []
        for kind, channels, num_images, batch_size, devices in itertools.product(
            self.machine, self.channels, self.num_images, self.batch_size, self.devices
        ):
            for window in (None,) if kind in ("is", "es") else self.window:
                values = (kind, window, channels, num_images, batch_size, devices)
                cases.append(dict(zip(_COLUMNS, values, strict=True)))
        return cases

    def _config(self) -> dict[str, Any]:
        """All that the rows depend on."""
        options = dataclasses.asdict(self)
        del options["out"], options["overwrite"]
        device = jax.devices()[0]
        return {
            "command": "bench",
            **{name: list(v) if isinstance(v, tuple) else v for name, v in options.items()},
            "device": f"{device.platform}, {device.device_kind}",
            "host": f"{platform.machine()}, {os.cpu_count()} cores",
            **environment(),
        }

    def _shape(self, case: dict[str, Any]) -> tuple[int, int, int]:
        return self.image_size, self.image_size, case["channels"]

    def _time(self, case: dict[str, Any]) -> dict[str, Any]:
        """One row."""
        shape, batch_size, num_images = self._shape(case), case["batch_size"], case["num_images"]
        rng = np.random.default_rng(0)
        machine = elsjax.ScoreMachine(
            case["machine"],
            rng.integers(0, 256, (num_images, *shape), np.uint8),
            window=case["window"],
            mesh=elsjax.make_mesh(case["devices"]) if case["devices"] > 1 else None,
        )
        x = elsjax.initial_noise(jax.random.key(0), batch_size, shape)
        square = jnp.asarray(rng.standard_normal((_PEAK_SIDE, _PEAK_SIDE)), jnp.float32)
        square_product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
        calls = (lambda: machine.denoise(x, 0.5), lambda: square_product(square))
        for call in calls:
            jax.block_until_ready(call())
        timed = [[_seconds(call) for call in calls] for _ in range(self.repetitions)]
        seconds, peak_seconds = zip(*timed, strict=True)
        median = statistics.median(seconds)
        parts = machine.dictionary(case["window"]).parts
        evaluations = batch_size * num_images
        pairs = [p.num_groups * p.queries_per_image * p.keys_per_image for p in parts]
        products = sum(
            number * (choose(part).multiplications + part.value_size + 1)
            for number, part in zip(pairs, parts, strict=True)
        )
        peak_gflops = 2e-9 * _PEAK_SIDE**3 / statistics.median(peak_seconds)
        return {
            **case,
            "seconds": list(seconds),
            "median_s": median,
            "gpairs_per_s": 1e-9 * sum(pairs) * evaluations / median,
            "gflop_per_s": 2e-9 * products * evaluations / median,
            "peak_gflop_per_s": peak_gflops,
            "process_peak_mb": _peak_memory_mb(),
            "images_mb": 1e-6 * num_images * np.prod(shape).item(),
        }


def _are_rows(rows: Any, cases: list[dict[str, Any]]) -> bool:
    """Whether values are rows as `Bench` writes them, of the first cases."""
    if not isinstance(rows, list) or len(rows) > len(cases):
        return False
    for row, case in zip(rows, cases, strict=False):
        if not isinstance(row, dict) or row.keys() != {*case, *_MEASURED, "seconds"}:
            return False
        if any(row[name] != value for name, value in case.items()):
            return False
        if not isinstance(row["seconds"], list) or not all(map(_is_positive, row["seconds"])):
            return False
        if not all(_is_positive(row[name]) for name in _MEASURED if row[name] is not None):
            return False
    return True


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _print(row: dict[str, Any]) -> None:
    """One row of the table."""
    values = [str(row[name] or "all") for name in _COLUMNS]
    values += [f"{row['median_s']:.4f}", f"{row['gpairs_per_s']:.3f}"]
    share = "-"
    if row["machine"] != "es":  # Fourier transforms, not matrix products
        share = f"{row['gflop_per_s'] / row['peak_gflop_per_s']:.2f}"
    print("  ".join(f"{value:>10}" for value in [*values, share]))


def _seconds(call: Callable[[], Any]) -> float:
    """How long one call takes, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _peak_memory_mb() -> float | None:
    """The most memory that this process has held so far, in 10^6 bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1e-6 if sys.platform == "darwin" else 1.024e-3)
