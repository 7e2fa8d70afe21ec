"""The analytic theory of creativity in convolutional diffusion models, in JAX.

Score machines (Kamb & Ganguli, ICML 2025) are denoisers in closed form: a softmax over training
images (IS), or patches of them (LS, ELS, bbELS). `ScoreMachine` evaluates them exactly, `sample`
runs the reverse process with them or with a network.
"""

import importlib
from typing import TYPE_CHECKING, Any

from elsjax.analytic.composed import ComposedDenoiser
from elsjax.analytic.golden import GoldenSubsetDenoiser
from elsjax.analytic.pca_locality import PCALocalityDenoiser
from elsjax.analytic.pspc import PSPCDenoiser
from elsjax.analytic.smoothed import SmoothedDenoiser
from elsjax.analytic.wiener import WienerDenoiser
from elsjax.citations import citation
from elsjax.data.datasets import Dataset, load_dataset
from elsjax.experiments.calibration import Calibration, calibrate
from elsjax.experiments.comparison import Comparison, compare
from elsjax.experiments.measures import nearest_images, pearson_r, pearson_r2, r2
from elsjax.experiments.memorization import Memorization, memorized
from elsjax.experiments.mosaics.consistency import local_consistency
from elsjax.experiments.mosaics.files import load_mosaic
from elsjax.experiments.mosaics.mosaic import Mosaic, mosaic
from elsjax.experiments.mosaics.pieces import Pieces, fewest_pieces
from elsjax.indexed import IndexedMachine
from elsjax.machines import ScoreMachine
from elsjax.parallel import make_mesh
from elsjax.posterior.answers import Posterior, Top
from elsjax.process.denoisers import Denoiser
from elsjax.process.function_denoiser import FunctionDenoiser
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
    from elsjax.experiments.mosaics.tiles import Tiles, source_pieces
    from elsjax.experiments.training import TrainingResult, train
    from elsjax.interop.state_dicts import from_torch_state_dict
    from elsjax.nn.files import load_network, save_network
    from elsjax.nn.zoo import load_pretrained
    from elsjax.training.config import TrainingConfig

__version__ = "0.2.0"

__all__ = [
    "Calibration",
    "Comparison",
    "ComposedDenoiser",
    "CosineSchedule",
    "Dataset",
    "Denoiser",
    "ExponentialSchedule",
    "FunctionDenoiser",
    "GoldenSubsetDenoiser",
    "IndexedMachine",
    "LinearBetaSchedule",
    "Memorization",
    "Mosaic",
    "PCALocalityDenoiser",
    "PSPCDenoiser",
    "Pieces",
    "Posterior",
    "Schedule",
    "ScoreMachine",
    "SmoothedDenoiser",
    "Step",
    "Tiles",
    "Top",
    "TrainingConfig",
    "TrainingResult",
    "Trajectory",
    "WienerDenoiser",
    "WindowSchedule",
    "calibrate",
    "citation",
    "compare",
    "fewest_pieces",
    "from_torch_state_dict",
    "initial_noise",
    "load_dataset",
    "load_mosaic",
    "load_network",
    "load_pretrained",
    "local_consistency",
    "make_mesh",
    "memorized",
    "mosaic",
    "nearest_images",
    "nn",
    "pearson_r",
    "pearson_r2",
    "published_windows",
    "r2",
    "reverse_process",
    "sample",
    "save_network",
    "source_pieces",
    "train",
]


# What needs Flax or SciPy is loaded when it is first asked for.
_LAZY = {
    "Tiles": "elsjax.experiments.mosaics.tiles",
    "TrainingResult": "elsjax.experiments.training",
    "TrainingConfig": "elsjax.training.config",
    "from_torch_state_dict": "elsjax.interop.state_dicts",
    "load_network": "elsjax.nn.files",
    "load_pretrained": "elsjax.nn.zoo",
    "save_network": "elsjax.nn.files",
    "source_pieces": "elsjax.experiments.mosaics.tiles",
    "train": "elsjax.experiments.training",
}


def __getattr__(name: str) -> Any:
    """The names that are loaded when they are first asked for."""
    if name == "nn":
        return importlib.import_module("elsjax.nn")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'elsjax' has no attribute {name!r}")
