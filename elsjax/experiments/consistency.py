"""Where an image is locally consistent: what the flow of a score machine converges to.

Theorems 4.1 and B.3 of Kamb & Ganguli (2025): where the reverse process of a local machine
converges, each pixel is the centre of the patch of its dictionary that is nearest to its window.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Real

from elsjax import checks
from elsjax.experiments.measures import warn_of_scales
from elsjax.machines import ScoreMachine
from elsjax.pixels import as_pixels, to_float
from elsjax.posterior.dictionaries import Kind


def local_consistency(
    samples: Real[ArrayLike, "b h w c"],
    images: Real[ArrayLike, "n h w c"],
    *,
    window: int | None,
    tolerance: float,
    kind: Kind = "bbels",
    wrap_patches: bool = False,
) -> Bool[np.ndarray, "b h w"]:
    """Whether each pixel is that of the nearest patch, all channels up to a tolerance.

    The nearest patches are those of a `ScoreMachine` at t = 0: of patches that are equally near, up
    to rounding, the one of the smallest source counts, the smallest (n, row, column).

    Args:
      samples: images, [B, H, W, C], uint8 or floating point in units of [-1, 1].
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      window: odd side P of the window; None for "is" and "es". That of the last step of a process.
      tolerance: difference up to which pixels are the same, from 0 to 2.
      kind: whose dictionary: "is", "es", "ls", "els" or "bbels".
      wrap_patches: "els" only: training patches wrap around the border. Else they lie inside.

    Returns:
      Booleans, [B, H, W].

    Raises:
      ValueError: if an argument is not as described, or the samples are not of the shape of images.
    """
    pixels = as_pixels(checks.training_images("images", images))
    height, width, channels = pixels.shape[1:]
    samples = as_pixels(checks.clean_images("samples", samples, (height, width, channels)))
    warn_of_scales("samples", samples, "images", pixels)
    tolerance = checks.in_range("tolerance", tolerance, 0, 2)
    machine = ScoreMachine(kind, pixels, window=window, wrap_patches=wrap_patches)
    dtype = jnp.result_type(float)
    top = machine.posterior(to_float(samples, dtype), 0.0, top=1, answers=()).top
    assert top is not None
    nearest = tuple(np.asarray(array[..., 0]) for array in (top.image, top.row, top.column))
    apart = np.abs(to_float(samples, np.float64) - to_float(pixels[nearest], np.float64))
    # Differences of 8-bit pixels are tolerances too, rounded in the precision of the samples.
    return apart.max(axis=-1) <= tolerance + 4 * float(jnp.finfo(dtype).eps)
