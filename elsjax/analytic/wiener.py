"""The Wiener filter: the best denoiser that is linear.

    E[x_0 | x_t] = mu + alpha S (alpha² S + sigma² I)⁻¹ (x_t - alpha mu)

(Wiener 1949), with the mean mu and the covariance S of the training images, whole ones, divisor N.
It is the posterior mean for Gaussian images, and the unit of held-out error: what a denoiser gains
over it is what it knows of images beyond their second moments.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from elsjax import checks
from elsjax.pixels import to_float
from elsjax.process.denoisers import Denoiser
from elsjax.process.schedules import CosineSchedule, Schedule
from elsjax.references import Reference

_BLOCK = 1024  # images in float64 at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WienerFilter(Denoiser):
    """A Wiener filter of whole images, as `wiener_filter` makes it; D = HWC.

    Args:
      mean: of the images, [D].
      variances: eigenvalues of their covariance, [D].
      directions: its eigenvectors in columns, [D, D].
      image_shape: (height, width, channels) of the images.
      schedule: noise schedule of the process.
    """

    mean: Float[Array, " d"]
    variances: Float[Array, " d"]
    directions: Float[Array, "d d"]
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    schedule: Schedule = dataclasses.field(metadata={"static": True})

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the filter, and for its schedule."""
        return (Reference("wiener1949", "the Wiener filter"), *super().references)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        alpha, sigma = (level.reshape(-1, 1) for level in self.schedule(t))  # [1 or B, 1]
        mean, variances = self.mean[None], self.variances[None]
        along = _product(x.reshape(x.shape[0], -1) - alpha * mean, self.directions)
        spread = alpha**2 * variances + sigma**2
        # Where neither signal nor noise has any spread, at sigma = 0, the mean is all there is.
        gain = jnp.where(spread > 0, alpha * variances / jnp.where(spread > 0, spread, 1), 0)
        return (mean + _product(gain * along, self.directions.T)).reshape(x.shape)


def wiener_filter(
    images: Real[ArrayLike, "n h w c"], schedule: Schedule | None = None
) -> WienerFilter:
    """The Wiener filter of training images; computed in float64.

    Time grows with the cube of the number of pixels: of D = 3072, half a minute on two cores.

    Args:
      images: training images [N, H, W, C], uint8 or floating-point in [-1, 1].
      schedule: noise schedule of the process; `CosineSchedule()` by default.

    Returns:
      The filter.

    Raises:
      ValueError: if images is no batch of images.
    """
    pixels = checks.training_images("images", images)
    count, height, width, channels = pixels.shape
    rows = pixels.reshape(count, -1)
    blocks = [slice(first, first + _BLOCK) for first in range(0, count, _BLOCK)]
    size = rows.shape[1]
    mean = sum((_rows(rows[b]).sum(0) for b in blocks), np.zeros(size)) / count
    covariance = np.zeros((size, size))
    for block in blocks:
        centred = _rows(rows[block]) - mean
        covariance += centred.T @ centred
    variances, directions = np.linalg.eigh(covariance / count)
    # What is rounding of zero would pass noise at sigma -> 0.
    variances[variances < size * np.finfo(float).eps * variances[-1]] = 0
    dtype = jnp.result_type(float)
    return WienerFilter(
        jnp.asarray(mean, dtype),
        jnp.asarray(variances, dtype),
        jnp.asarray(directions, dtype),
        (height, width, channels),
        CosineSchedule() if schedule is None else schedule,
    )


def _rows(pixels: np.ndarray) -> np.ndarray:
    return to_float(pixels, np.float64)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
