"""Our machines and the published PyTorch code on the same arrays, alternating in one run.

    git clone https://github.com/Kambm/convolutional_diffusion
    pip install torch
    python benchmarks/published.py --checkout convolutional_diffusion --out published.json

One score at t = 0.5 of noisy 32x32 images, on every core; the published code with batches of 64
training images.
Nothing of it is stored here; torchvision, which it imports but does not need for this, is left out.
Both results are compared first. CIFAR10 is left out where it is not prepared.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

import elsjax
from elsjax.parallel import use_all_cores

TIME = 0.5
MODULES = {"els": "LocalEquivScoreModule", "bbels": "LocalEquivBordersScoreModule"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    checkout: Path
    """A checkout of the published code."""
    windows: tuple[int, ...] = (3, 7, 11, 17)
    batch: int = 1
    """Noisy images at once."""
    repetitions: int = 5
    out: Path | None = None
    """JSON file to write; the plot lies beside it."""


def published_code(checkout: Path) -> Any:
    """The module of the published score machines."""
    names = ("torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.models")
    stubs = {name: types.ModuleType(name) for name in names}
    for name, stub in list(stubs.items())[1:]:
        setattr(stubs["torchvision"], name.rpartition(".")[2], stub)
    sys.modules.update(stubs)
    sys.path.insert(0, str(checkout))
    from utils import idealscore

    return idealscore


def data_sets() -> dict[str, np.ndarray]:
    """Training images, uint8."""
    sets = {"MNIST": elsjax.load_dataset("mnist5k", limit=256, image_size=32).pixels}
    with contextlib.suppress(ValueError):
        sets["CIFAR10"] = elsjax.load_dataset("cifar10", limit=128).pixels
    return sets


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def both_scores(
    published: Any, kind: str, window: int, images: np.ndarray, x: np.ndarray
) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """What computes the score of noisy images: the published code, and ours."""

    def as_torch(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()

    data = torch.utils.data.TensorDataset(as_torch(images), torch.zeros(len(images)))
    theirs = getattr(published, MODULES[kind])(
        data, kernel_size=window, image_size=32, channels=images.shape[3]
    )
    ours = elsjax.ScoreMachine(kind, images, window=window, mesh=elsjax.make_mesh())
    # The published bbELS takes one noisy image at a time.
    batches = as_torch(x).split(1 if kind == "bbels" else len(x))

    def run_theirs() -> np.ndarray:
        with torch.no_grad():
            time, device = torch.full((1,), TIME), torch.device("cpu")
            scores = [theirs(time, batch, device=device) for batch in batches]
        return torch.cat(scores).permute(0, 2, 3, 1).numpy()

    return run_theirs, lambda: np.asarray(ours.score(x, TIME))


def row_of(
    run_theirs: Callable[[], np.ndarray], run_ours: Callable[[], np.ndarray], repetitions: int
) -> dict[str, Any]:
    """Both scores compared, then timed in turn."""
    alpha, sigma = elsjax.CosineSchedule()(TIME)
    # The first of ours compiles. Of theirs, some pixels may underflow to 0 / 0.
    score = run_theirs()
    differences = np.abs(run_ours() - score)[np.isfinite(score)] * sigma**2 / alpha
    times = [(seconds_of(run_theirs), seconds_of(run_ours)) for _ in range(repetitions)]
    slow, fast = map(statistics.median, zip(*times, strict=True))
    return {
        "published_s": slow,
        "elsjax_s": fast,
        "ratio": slow / fast,
        "all_s": times,
        "largest_difference_of_x0": float(differences.max()),
        "published_not_finite": score.size - differences.size,
    }


def print_row(row: dict[str, Any]) -> None:
    ours = [fast for _, fast in row["all_s"]]
    print(
        f"{row['data']:8}{row['machine']:8}{row['window']:7}{row['published_s']:13.3f}"
        f"{row['elsjax_s']:13.3f}{max(ours) / min(ours):13.2f}{row['ratio']:13.1f}"
        f"{row['largest_difference_of_x0']:13.1e}{row['published_not_finite']:13}",
        flush=True,
    )


def main(options: Options) -> None:
    use_all_cores()
    published = published_code(options.checkout)
    rows = []
    columns = ("published s", "elsjax s", "spread", "ratio", "difference", "not finite")
    print(f"{'data':8}{'machine':8}{'window':>7}" + "".join(f"{name:>13}" for name in columns))
    for name, pixels in data_sets().items():
        images = pixels.astype(np.float32) / 127.5 - 1
        noise = elsjax.initial_noise(jax.random.key(0), options.batch, images.shape[1:])
        alpha, sigma = elsjax.CosineSchedule()(TIME)
        x = np.array(alpha * images[: options.batch] + sigma * noise)
        for kind, window in itertools.product(MODULES, options.windows):
            runs = both_scores(published, kind, window, images, x)
            case = {"data": name, "num_images": len(images), "machine": kind, "window": window}
            rows.append({**case, **row_of(*runs, options.repetitions)})
            print_row(rows[-1])
    mean = math.exp(statistics.mean(math.log(row["ratio"]) for row in rows))
    print(f"geometric mean of the ratios: {mean:.1f}")
    if options.out:
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"elsjax": elsjax.__version__, "jax": jax.__version__}
            | {"torch": torch.__version__},
            "batch": options.batch,
            "rows": rows,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n")
        plot(rows).savefig(options.out.with_suffix(".png"))


def plot(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(6, 4), dpi=120)
    ax = figure.subplots()
    for name, kind in dict.fromkeys((row["data"], row["machine"]) for row in rows):
        chosen = [row for row in rows if (row["data"], row["machine"]) == (name, kind)]
        windows, ratios = zip(*((row["window"], row["ratio"]) for row in chosen), strict=True)
        ax.plot(windows, ratios, "o-", label=f"{kind}, {name}")
    ax.set(xlabel="window P", ylabel="times faster than the published code", ylim=(0, None))
    ax.legend()
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main(tyro.cli(Options))
