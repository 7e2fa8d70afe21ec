"""What a machine and a network have in common: both estimate the clean image, E[x_0 | x_t].

The three forms of one prediction, for x_t = alpha x_0 + sigma eps:

    x_0   posterior mean, E[x_0 | x_t]
    eps   predicted noise, (x_t - alpha x_0) / sigma
    score gradient of log p_t, -eps / sigma = (alpha x_0 - x_t) / sigma²
"""

import abc

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks
from elsjax.schedules import Schedule


class Denoiser(abc.ABC):
    """Estimates x_0 from x_t; subclasses implement `_denoise` on checked arguments.

    Attributes:
      schedule: noise schedule of the process the images come from.
      image_shape: (height, width, channels) of the images.
    """

    schedule: Schedule
    image_shape: tuple[int, int, int]

    def denoise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Posterior mean E[x_0 | x_t = x].

        Args:
          x: noisy images, [B, H, W, C], in units where clean pixels lie in [-1, 1].
          t: time in [0, 1], scalar or [B]; 1 is noise.
          label: class to condition on, integer or [B]; None for the unconditional mean.

        Returns:
          The estimate of x_0, [B, H, W, C].

        Raises:
          ValueError: if a shape, time or label does not fit, or a pixel of x is not finite.
        """
        self.check(x, label)
        checks.times("t", t, np.shape(x)[0])
        x = jnp.asarray(x, jnp.result_type(float))
        return self._denoise(x, t, label)

    def predict_noise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Predicted noise, `(x - alpha E[x_0|x]) / sigma`; arguments and errors as `denoise`.

        Raises:
          ValueError: also where sigma_t = 0, since no noise is left to predict.
        """
        x0 = self.denoise(x, t, label)
        alpha, sigma = self._levels(t)
        return noise_from_x0(jnp.asarray(x, x0.dtype), x0, alpha, sigma)

    def score(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Score `(alpha E[x_0|x] - x) / sigma²`; arguments and errors as `predict_noise`."""
        _, sigma = self._levels(t)
        return -self.predict_noise(x, t, label) / sigma

    def check(self, x: Float[ArrayLike, "b h w c"], label: ArrayLike | None) -> None:
        """Raises the ValueError that `denoise` would raise for these images and labels."""
        checks.image_batch("x", x, self.image_shape)
        self._check_label(label, np.shape(x)[0])

    @abc.abstractmethod
    def _denoise(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """`denoise` for arguments already checked."""

    @abc.abstractmethod
    def _check_label(self, label: Int[ArrayLike, "..."] | None, batch: int) -> None:
        """Raises ValueError if the label is not one that this denoiser knows."""

    def _levels(self, t: ArrayLike) -> tuple[Array, Array]:
        """Signal and noise level at t, shaped to multiply [B, H, W, C]; sigma = 0 is an error."""
        alpha, sigma = self.schedule(t)
        values = checks.host_values(sigma)
        if values is not None and (values == 0).any():
            raise ValueError(f"t={t} must be positive here: no noise is left at sigma_t = 0")
        return per_image(alpha), per_image(sigma)


def per_image(level: Float[Array, "*b"]) -> Float[Array, "..."]:
    """Shapes a level, scalar or [B], so that it multiplies images [B, H, W, C]."""
    level = jnp.asarray(level)
    return level.reshape(-1, 1, 1, 1)


def noise_from_x0(x: Array, x0: Array, alpha: Array, sigma: Array) -> Array:
    """`eps = (x_t - alpha x_0) / sigma`, [B, H, W, C]; levels broadcast against x."""
    return (x - alpha * x0) / sigma


def x0_from_noise(x: Array, noise: Array, alpha: Array, sigma: Array) -> Array:
    """`x_0 = (x_t - sigma eps) / alpha`, [B, H, W, C]; levels broadcast against x."""
    return (x - sigma * noise) / alpha
