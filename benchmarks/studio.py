"""PCA locality and the Wiener filter beside Analytic Diffusion Studio's, alternating in one run.

    git clone https://github.com/analytic-diffusion/analytic-diffusion-studio
    pip install torch
    python benchmarks/studio.py --checkout analytic-diffusion-studio --out studio.json

One estimate of noisy images half-way through DDPM's linear schedule, on every core: timed for 32x32
pixels in float32, compared for 16x16 in float64, since a mask is decided by a threshold that
roundings cross. Studio averages the softmaxes of its batches, which is the softmax of all images
only where one batch holds them all, as here. Its covariance is divided by N - 1, ours by N; so its
eigenvalues are scaled. Nearly constant pixels, whose weight W_jj is below 1e-6, divide nothing
there; here it is 1e-8, and in this comparison in both.
Nothing of it is stored here; of what it imports, diffusers and torchvision are left out.
"""

import dataclasses
import importlib
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import tyro

import elsjax
from elsjax.parallel import use_all_cores

STEP = 500  # of 1,000
THRESHOLDS = {"mnist": 0.005, "cifar10": 0.05}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    checkout: Path
    """A checkout of Studio."""
    num_images: int = 1000
    batch: int = 4
    """Noisy images at once."""
    repetitions: int = 5
    dataset: tuple[str, ...] = ("mnist", "cifar10")
    data_dir: str | None = None
    out: Path | None = None
    """JSON file to write."""


class Scheduler:
    """The part of diffusers' DDIMScheduler that one estimate needs."""

    def __init__(self, *, beta_start: float, beta_end: float, **_: Any) -> None:
        betas = torch.linspace(beta_start, beta_end, 1000, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0).float()

    def set_timesteps(self, _: int) -> None:
        """Nothing is sampled."""


def studio_models(checkout: Path) -> tuple[Any, Any]:
    """Studio's denoisers: PCA locality and Wiener."""
    source = checkout / "src" / "local_diffusion"
    stubs = {
        "diffusers": {"DDIMScheduler": Scheduler},
        "local_diffusion": {"__path__": [str(source)]},
        "local_diffusion.data": {"DatasetBundle": Any},
        "local_diffusion.utils": {"__path__": [str(source / "utils")]},
        "local_diffusion.models": {
            "__path__": [str(source / "models")],
            "register_model": lambda _: lambda model: model,
        },
    }
    for name, attributes in stubs.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)
    wiener = importlib.import_module("local_diffusion.utils.wiener")
    vars(sys.modules["local_diffusion.utils"]).update(vars(wiener))
    return (
        importlib.import_module("local_diffusion.models.pca_locality").PCALocalityDenoiser,
        importlib.import_module("local_diffusion.models.wiener").DenoisingWiener,
    )


def pair_of(
    method: str, models: tuple[Any, Any], data: elsjax.Dataset, folder: str
) -> tuple[Callable[[np.ndarray], np.ndarray], elsjax.Denoiser]:
    """What Studio estimates, with all images in one batch, and our denoiser."""
    images = data.images.astype(np.dtype(jax.numpy.result_type(float)))
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    bundle = types.SimpleNamespace(
        name=data.name, resolution=images.shape[1], in_channels=images.shape[3], dataloader=[batch]
    )
    schedule, threshold = elsjax.LinearBetaSchedule(), THRESHOLDS[data.name]
    ours: elsjax.Denoiser
    if method == "Wiener":
        ours = elsjax.WienerDenoiser(data.pixels, schedule=schedule)
    else:
        ours = elsjax.PCALocalityDenoiser(
            data.pixels,
            threshold=threshold,
            normalized_by="input",
            schedule=schedule,
            mesh=elsjax.make_mesh(),
        )
    model = models[method == "Wiener"]
    params = {"mask_threshold": threshold, "wiener_path": folder}
    theirs = model(bundle, "cpu", 10, params=params)
    theirs.train(bundle)
    theirs.LA.mul_((len(images) - 1) / len(images))
    theirs.eps = 1e-8  # below it, a pixel's weight W_jj divides nothing; 1e-6 in Studio

    def estimate(x: np.ndarray) -> np.ndarray:
        latents = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        return theirs.denoise(latents, torch.tensor(STEP - 1)).permute(0, 2, 3, 1).numpy()

    return estimate, ours


def noisy(data: elsjax.Dataset, batch: int) -> np.ndarray:
    """Training images with noise."""
    noise = elsjax.initial_noise(jax.random.key(0), batch, data.pixels.shape[1:])
    alpha, sigma = elsjax.LinearBetaSchedule()(STEP / 1000)
    return np.array(alpha * data.images[:batch] + sigma * noise)


def difference_of(
    method: str, models: tuple[Any, Any], data: elsjax.Dataset, batch: int
) -> dict[str, float]:
    """Largest and mean difference of both estimates in float64."""
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as folder:
        theirs, ours = pair_of(method, models, data, folder)
        x = noisy(data, batch)
        apart = np.abs(np.asarray(ours.denoise(x, STEP / 1000)) - theirs(x))
    torch.set_default_dtype(torch.float32)
    return {"largest_difference": float(apart.max()), "mean_difference": float(apart.mean())}


def times_of(
    method: str, models: tuple[Any, Any], data: elsjax.Dataset, batch: int, repetitions: int
) -> dict[str, Any]:
    """Both estimates timed in turn; the first of ours compiles."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = pair_of(method, models, data, folder)
        x = noisy(data, batch)
        runs = (theirs, lambda x: np.asarray(ours.denoise(x, STEP / 1000)))
        times: list[list[float]] = [[], []]
        for repetition in range(repetitions + 1):
            for run, taken in zip(runs, times, strict=True):
                start = time.perf_counter()
                run(x)
                if repetition:
                    taken.append(time.perf_counter() - start)
    slow, fast = map(statistics.median, times)
    return {"studio_s": slow, "elsjax_s": fast, "ratio": slow / fast, "all_s": times}


def main(options: Options) -> None:
    use_all_cores()
    torch.set_num_threads(os.cpu_count() or 1)
    models = studio_models(options.checkout)
    rows = []
    for name, method in itertools.product(options.dataset, ("Wiener", "PCA locality")):
        large, small = (
            elsjax.load_dataset(
                name, limit=options.num_images, image_size=side, data_dir=options.data_dir
            )
            for side in (32, 16)
        )
        row = {"data": name, "method": method}
        row |= difference_of(method, models, small, options.batch)
        row |= times_of(method, models, large, options.batch, options.repetitions)
        rows.append(row)
        print(
            f"{name:8} {method:13} studio {row['studio_s']:.3f} s, elsjax {row['elsjax_s']:.3f} s, "
            f"ratio {row['ratio']:.1f}, difference {row['largest_difference']:.1e} (mean "
            f"{row['mean_difference']:.1e})",
            flush=True,
        )
    if options.out:
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"elsjax": elsjax.__version__, "jax": jax.__version__}
            | {"torch": torch.__version__},
            "num_images": options.num_images,
            "batch": options.batch,
            "rows": rows,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
