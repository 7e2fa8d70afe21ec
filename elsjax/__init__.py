"""The analytic theory of creativity in convolutional diffusion models, in JAX.

Score machines (Kamb & Ganguli, ICML 2025) are denoisers in closed form: a softmax over training
images (IS), or patches of them (LS, ELS, bbELS). `ScoreMachine` evaluates them exactly, `sample`
runs the reverse process with them or with a network.
"""

import importlib
from typing import TYPE_CHECKING, Any

from elsjax.data.datasets import Dataset, load_dataset
from elsjax.experiments.comparison import nearest_images, pearson_r, pearson_r2, r2
from elsjax.machines import ScoreMachine
from elsjax.parallel import make_mesh
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Step, Trajectory, initial_noise, reverse_process, sample
from elsjax.process.schedules import (
    CosineSchedule,
    ExponentialSchedule,
    LinearBetaSchedule,
    Schedule,
)
from elsjax.process.windows import WindowSchedule, published_windows

if TYPE_CHECKING:
    from elsjax import nn
    from elsjax.interop.state_dicts import from_torch_state_dict
    from elsjax.nn.files import load_network, save_network
    from elsjax.nn.zoo import load_pretrained

__version__ = "0.1.0"

__all__ = [
    "CosineSchedule",
    "Dataset",
    "Denoiser",
    "ExponentialSchedule",
    "LinearBetaSchedule",
    "Schedule",
    "ScoreMachine",
    "Step",
    "Trajectory",
    "WindowSchedule",
    "from_torch_state_dict",
    "initial_noise",
    "load_dataset",
    "load_network",
    "load_pretrained",
    "make_mesh",
    "nearest_images",
    "nn",
    "pearson_r",
    "pearson_r2",
    "published_windows",
    "r2",
    "reverse_process",
    "sample",
    "save_network",
]


# What needs Flax is loaded when it is first asked for.
_LAZY = {
    "from_torch_state_dict": "elsjax.interop.state_dicts",
    "load_network": "elsjax.nn.files",
    "load_pretrained": "elsjax.nn.zoo",
    "save_network": "elsjax.nn.files",
}


def __getattr__(name: str) -> Any:
    """The names that are loaded when they are first asked for."""
    if name == "nn":
        return importlib.import_module("elsjax.nn")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'elsjax' has no attribute {name!r}")
