"""How a network is trained."""

import dataclasses
from typing import Literal, get_args

from elsjax import checks
from elsjax.references import Cited, Reference

Precision = Literal["float32", "bfloat16"]
LossWeighting = Literal["uniform", "min_snr"]


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Cited):
    """How to train; the defaults converge in hours on a CPU.

    The published training is 300 epochs with batch_size=128, learning_rate=1e-4,
    learning_rate_decay=0.999965, warmup_steps=0, ema_decay=0.

    Args:
      num_steps: Number of optimiser steps.
      batch_size: Number of images in a step.
      learning_rate: Learning rate of the first step after the warm-up (AdamW, no weight decay).
      learning_rate_decay: Factor of the learning rate from step to step; None for a cosine to zero
        over num_steps.
      warmup_steps: Number of steps over which the learning rate rises from zero.
      ema_decay: Decay per step of the exponential moving average of the weights, which is what
        training returns; 0 for the weights themselves.
      clip_norm: Bound on the norm of the gradient; None for no bound.
      loss_weighting: Weights of the times in the loss: "uniform", w = 1, or "min_snr", which
        weights the error of x_0 by min(SNR, 5), SNR = alpha²/sigma², so that low noise does not
        outweigh all else (Hang et al. 2023).
      precision: Precision of the arithmetic; "bfloat16" keeps weights, average and optimiser in
        float32. It pays on accelerators.
      seed: Seed of the order of the images, of the times and of the noise.

    Raises:
      ValueError: if an argument is outside its range.
    """

    num_steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_decay: float | None = None
    warmup_steps: int = 100
    ema_decay: float = 0.999
    clip_norm: float | None = None
    loss_weighting: LossWeighting = "uniform"
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.positive_int("num_steps", self.num_steps)
        checks.positive_int("batch_size", self.batch_size)
        checks.seed("seed", self.seed)
        checks.in_range("learning_rate", self.learning_rate, 0.0, 1.0, open_ends=True)
        if self.learning_rate_decay is not None:
            checks.in_range("learning_rate_decay", self.learning_rate_decay, 0.0, 1.0)
        checks.integer("warmup_steps", self.warmup_steps, 0, self.num_steps)
        checks.in_range("ema_decay", self.ema_decay, 0.0, 1.0)
        if self.clip_norm is not None:
            checks.in_range("clip_norm", self.clip_norm, 0.0, float("inf"), open_ends=True)
        checks.one_of("loss_weighting", self.loss_weighting, get_args(LossWeighting))
        checks.one_of("precision", self.precision, get_args(Precision))

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the weights of the times in the loss."""
        if self.loss_weighting == "uniform":
            return ()
        return (Reference("hang2023", "the min-SNR weights of the loss"),)
