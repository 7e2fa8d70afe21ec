"""The one scale between stored pixels and images: uint8 0..255 <-> floating point -1..1.

Datasets and machines keep uint8 and scale block by block on the device, in the precision of what
follows. Images whose values are those of 8 bits, in whatever precision and by whatever formula they
were scaled, are kept as uint8 too: so they are the same images to the last bit.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np


def to_float(pixels: Any, dtype: Any = None) -> Any:
    """Scales uint8 pixels to [-1, 1]: `p / 127.5 - 1`.

    Args:
      pixels: uint8 array of any shape, NumPy or JAX (traced or not). A floating-point array is
        taken to be scaled already.
      dtype: of the result; None for float32, or that of a floating-point array.

    Returns:
      A floating-point array of the same kind and shape.
    """
    if pixels.dtype != np.uint8:
        return pixels if dtype is None else pixels.astype(dtype)
    number = np.dtype(np.float32 if dtype is None else dtype).type
    return pixels.astype(number) / number(127.5) - number(1.0)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Rounds images in [-1, 1] to uint8, the inverse of `to_float`; values outside are clipped.

    Args:
      images: floating-point NumPy array of any shape.

    Returns:
      A uint8 array of the same shape.
    """
    images = images.astype(np.promote_types(images.dtype, np.float32), copy=False)
    return np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype(np.uint8)


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8 where their values are those of 8 bits, but for rounding.

    Whatever the formula that scaled them, they are then within three roundings, of the precision in
    which machines compute, of `to_float`'s values. In float64 those that `to_float` scaled in
    float32 count too; others keep what they say beyond float32.

    Args:
      images: uint8 or floating-point NumPy array of any shape.

    Returns:
      A uint8 array of the same shape, or the images as they are.
    """
    if images.dtype == np.uint8:
        return images
    pixels = to_uint8(images)
    rounding = 1.5 * jnp.finfo(jnp.result_type(float)).eps
    apart = np.abs(to_float(pixels, np.float64) - images)
    if apart.max() <= rounding or np.array_equal(to_float(pixels), images):
        return pixels
    return images
