"""Where an image is locally consistent: what the flow of a score machine converges to.

Theorems 4.1 and B.3 of Kamb & Ganguli (2025): where the reverse process of a local machine
converges, each pixel is the centre of the patch of its dictionary that is nearest to its window.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, Real

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
    return consistent(difference_to_nearest(machine, samples, pixels), tolerance)


def difference_to_nearest(
    machine: ScoreMachine,
    samples: Real[ArrayLike, "b h w c"],
    images: Real[ArrayLike, "n h w c"],
    label: Int[ArrayLike, "..."] | None = None,
) -> Float[np.ndarray, "b h w"]:
    """How much each pixel differs from the centre of the nearest patch, in the channel of most.

    Args:
      machine: whose dictionary, of one window.
      samples: clean images, [B, H, W, C], uint8 or floating point in units of [-1, 1].
      images: the machine's training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      label: class whose images count, integer or [B]; None for all.

    Returns:
      The differences, [B, H, W].

    Raises:
      ValueError: as `ScoreMachine.posterior`.
    """
    x = to_float(np.asarray(samples), jnp.result_type(float))
    top = machine.posterior(x, 0.0, label, top=1, answers=()).top
    assert top is not None
    nearest = tuple(np.asarray(array[..., 0]) for array in (top.image, top.row, top.column))
    centres = to_float(np.asarray(images)[nearest], np.float64)
    return np.abs(to_float(np.asarray(samples), np.float64) - centres).max(axis=-1)


def consistent(
    difference: Float[np.ndarray, "b h w"], tolerance: float
) -> Bool[np.ndarray, "b h w"]:
    """Which pixels differ by no more than a tolerance, up to the rounding of samples.

    Args:
      difference: what `difference_to_nearest` found, [B, H, W].
      tolerance: difference up to which pixels are the same.

    Returns:
      Booleans, [B, H, W].
    """
    # Differences of 8-bit pixels are tolerances too, rounded in the precision of the samples.
    return difference <= tolerance + 4 * float(jnp.finfo(jnp.result_type(float)).eps)
