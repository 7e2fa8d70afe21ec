"""Images per second of training: ours and the same network in PyTorch, alternating in one run.

    pip install torch
    python benchmarks/training.py --out training.json

Full steps: drawing noise, forward, backward, AdamW (and, ours only, the average of the weights), on
all CPU cores; the networks are `unet-small` and `resnet-small`, images 32x32x1. PyTorch runs in the
faster of its two memory layouts.
"""

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import torch
import tyro
from flax import nnx
from torch.nn import functional

from elsjax.nn import PRESETS
from elsjax.nn.files import named_weights
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import training_steps


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    batch: int = 64
    steps: int = 10
    """Steps in a measurement."""
    repetitions: int = 7
    out: Path | None = None


class Block(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.shift = torch.nn.Linear(width, inputs)
        self.first = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = torch.nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = x + self.shift(functional.relu(embedding))[:, :, None, None]
        return functional.relu(self.second(functional.relu(self.first(x))))


class UNet(torch.nn.Module):
    """`elsjax.nn.UNet` for one channel."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), width: int = 128) -> None:
        super().__init__()
        self.width = width
        fine, middle, coarse = widths
        self.down = torch.nn.ModuleList(
            Block(i, o, width) for i, o in ((1, fine), (fine, middle), (middle, coarse))
        )
        self.upsamples = torch.nn.ModuleList(
            torch.nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((middle, fine), (coarse, middle))
        )
        self.up = torch.nn.ModuleList(Block(2 * w, w, width) for w in (fine, middle))
        self.last_shift = torch.nn.Linear(width, fine)
        self.last = torch.nn.Conv2d(fine, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        e = embed(t, self.width)
        fine = self.down[0](x, e)
        middle = self.down[1](functional.max_pool2d(fine, 2), e)
        h = self.down[2](functional.max_pool2d(middle, 2), e)
        h = self.up[1](torch.cat([middle, self.upsamples[1](h)], 1), e)
        h = self.up[0](torch.cat([fine, self.upsamples[0](h)], 1), e)
        return self.last(h + self.last_shift(functional.relu(e))[:, :, None, None])


class ResNet(torch.nn.Module):
    """`elsjax.nn.ResNet` for one channel."""

    def __init__(self, width: int = 48, num_layers: int = 6) -> None:
        super().__init__()
        self.width = width
        self.first = torch.nn.Conv2d(1, width, 3, padding=1)
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(width, width, 3, padding=1) for _ in range(num_layers)
        )
        self.shifts = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Linear(width, width), torch.nn.GroupNorm(8, width), torch.nn.ReLU()
            )
            for _ in range(num_layers + 1)
        )
        self.last = torch.nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        e = embed(t, self.width)
        h = self.first(x)
        for conv, shift in zip(self.convs, self.shifts, strict=False):
            h = h + functional.relu(conv(h + shift(e)[:, :, None, None]))
        return self.last(h + self.shifts[-1](e)[:, :, None, None])


def embed(t: torch.Tensor, width: int) -> torch.Tensor:
    angles = t[:, None] * 10000.0 ** (-torch.arange(width // 2) / (width // 2 - 1))
    return torch.cat([angles.sin(), angles.cos()], 1)


def torch_steps(
    network: torch.nn.Module, images: np.ndarray, options: Options, layout: torch.memory_format
) -> Callable[[], None]:
    network.to(memory_format=layout)
    data = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0)

    def run() -> None:
        for _ in range(options.steps):
            x0 = data[torch.randint(len(data), (options.batch,))].float() / 127.5 - 1
            t = torch.randint(1000, (options.batch,)) / 1000
            angle = (t * (torch.pi / 2 / 1.008))[:, None, None, None]
            noise = torch.randn_like(x0)
            loss = functional.mse_loss(network(angle.cos() * x0 + angle.sin() * noise, t), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def our_steps(name: str, images: np.ndarray, options: Options) -> Callable[[], None]:
    network = PRESETS[name](images.shape[1:], rngs=nnx.Rngs(0))
    config = TrainingConfig(num_steps=10**6, batch_size=options.batch)
    progress: Iterator = training_steps(network, images, None, config, report_every=options.steps)
    return lambda: next(progress)


def main(options: Options) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 1), np.uint8)
    rows = []
    for name, twin in (("unet-small", UNet), ("resnet-small", ResNet)):
        size = sum(
            w.size for w in named_weights(PRESETS[name]((32, 32, 1), rngs=nnx.Rngs(0))).values()
        )
        if size != sum(p.numel() for p in twin().parameters()):
            raise RuntimeError(f"the PyTorch network is not {name}: it has other weights")
        runs = {
            "elsjax": our_steps(name, images, options),
            "torch nchw": torch_steps(twin(), images, options, torch.contiguous_format),
            "torch nhwc": torch_steps(twin(), images, options, torch.channels_last),
        }
        seconds: dict[str, list[float]] = {key: [] for key in runs}
        for run in runs.values():
            run()
        for _ in range(options.repetitions):
            for key, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[key].append(time.perf_counter() - start)
        done = options.batch * options.steps
        rates = {key: done / statistics.median(times) for key, times in seconds.items()}
        best = max(rates["torch nchw"], rates["torch nhwc"])
        ratio = rates["elsjax"] / best
        rows.append({"network": name, "images_per_s": rates, "seconds": seconds, "ratio": ratio})
        figures = ", ".join(f"{key} {rate:.0f}" for key, rate in rates.items())
        print(f"{name:13} images/s: {figures}; ratio {ratio:.2f}", flush=True)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "options": {**dataclasses.asdict(options), "out": None},
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    main(chosen)
