"""PCA locality and the Wiener filter beside Analytic Diffusion Studio's, alternating in one run.

    git clone https://github.com/analytic-diffusion/analytic-diffusion-studio
    pip install torch
    python benchmarks/studio.py --checkout analytic-diffusion-studio --out studio.json

One estimate of noisy 32x32 images half-way through DDPM's linear schedule, on every core. Studio
averages the softmaxes of its batches, which is the softmax of all images only where one batch holds
them all, as here. Its covariance is divided by N - 1, ours by N; so its eigenvalues are scaled.
Nothing of it is stored here; of what it imports, diffusers and torchvision are left out.
"""

import dataclasses
import importlib
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


def theirs_of(
    model: Any, name: str, images: np.ndarray, params: dict[str, Any], folder: str
) -> Callable[[np.ndarray], np.ndarray]:
    """What Studio estimates, with all images in one batch."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    bundle = types.SimpleNamespace(
        name=name, resolution=32, in_channels=images.shape[3], dataloader=[batch]
    )
    denoiser = model(bundle, "cpu", 10, params={**params, "wiener_path": folder})
    denoiser.train(bundle)
    denoiser.LA.mul_((len(images) - 1) / len(images))

    def estimate(x: np.ndarray) -> np.ndarray:
        latents = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        return denoiser.denoise(latents, torch.tensor(STEP - 1)).permute(0, 2, 3, 1).numpy()

    return estimate


def row_of(
    theirs: Callable[[np.ndarray], np.ndarray],
    ours: elsjax.Denoiser,
    x: np.ndarray,
    repetitions: int,
) -> dict[str, Any]:
    """Both estimates compared, then timed in turn."""

    def own(x: np.ndarray) -> np.ndarray:
        return np.asarray(ours.denoise(x, STEP / 1000))

    difference = np.abs(own(x) - theirs(x))
    times: list[list[float]] = [[], []]
    for _ in range(repetitions):
        for run, taken in zip((theirs, own), times, strict=True):
            start = time.perf_counter()
            run(x)
            taken.append(time.perf_counter() - start)
    slow, fast = map(statistics.median, times)
    return {
        "studio_s": slow,
        "elsjax_s": fast,
        "ratio": slow / fast,
        "all_s": times,
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def main(options: Options) -> None:
    use_all_cores()
    torch.set_num_threads(os.cpu_count() or 1)
    pca, wiener = studio_models(options.checkout)
    schedule = elsjax.LinearBetaSchedule()
    rows = []
    for name in options.dataset:
        data = elsjax.load_dataset(
            name, limit=options.num_images, image_size=32, data_dir=options.data_dir
        )
        noise = elsjax.initial_noise(jax.random.key(0), options.batch, data.pixels.shape[1:])
        alpha, sigma = schedule(STEP / 1000)
        x = np.array(alpha * data.images[: options.batch] + sigma * noise)
        threshold, mesh = THRESHOLDS[name], elsjax.make_mesh()
        with tempfile.TemporaryDirectory() as folder:
            pairs = {
                "Wiener": (
                    theirs_of(wiener, name, data.images, {}, folder),
                    elsjax.WienerDenoiser(data.pixels, schedule=schedule),
                ),
                "PCA locality": (
                    theirs_of(pca, name, data.images, {"mask_threshold": threshold}, folder),
                    elsjax.PCALocalityDenoiser(
                        data.pixels,
                        threshold=threshold,
                        normalized_by="input",
                        schedule=schedule,
                        mesh=mesh,
                    ),
                ),
            }
            for method, pair in pairs.items():
                row = {"data": name, "method": method, **row_of(*pair, x, options.repetitions)}
                rows.append(row)
                print(
                    f"{name:8} {method:13} studio {row['studio_s']:.3f} s, elsjax "
                    f"{row['elsjax_s']:.3f} s, ratio {row['ratio']:.1f}, difference "
                    f"{row['largest_difference']:.1e} (mean {row['mean_difference']:.1e})",
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
