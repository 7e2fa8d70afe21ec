"""The analytic theory of creativity in convolutional diffusion models, in JAX.

Score machines (Kamb & Ganguli, ICML 2025) are denoisers in closed form: a softmax over training
images (IS), or patches of them (LS, ELS, bbELS). `ScoreMachine` evaluates them exactly, `sample`
runs the reverse process with them or with a network.
"""

from elsjax import nn
from elsjax.comparison import nearest_images, pearson_r, pearson_r2, r2
from elsjax.datasets import Dataset, load_dataset
from elsjax.denoisers import Denoiser
from elsjax.interop import from_torch_state_dict
from elsjax.machines import ScoreMachine
from elsjax.sampling import Step, Trajectory, initial_noise, reverse_process, sample
from elsjax.schedules import CosineSchedule, ExponentialSchedule, LinearBetaSchedule, Schedule
from elsjax.windows import WindowSchedule, published_windows

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
    "nearest_images",
    "nn",
    "pearson_r",
    "pearson_r2",
    "published_windows",
    "r2",
    "reverse_process",
    "sample",
]
