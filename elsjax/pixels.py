"""The one scale between stored pixels and images: uint8 0..255 <-> float32 -1..1.

Datasets and machines keep uint8 and scale block by block on the device. The scale is always
evaluated in float32, whatever the precision of what follows, so a uint8 image and its float32
copy are the same image to the last bit.
"""

from typing import Any

import numpy as np


def to_float(pixels: Any) -> Any:
    """Scales uint8 pixels to float32 in [-1, 1]: `p / 127.5 - 1`.

    Args:
      pixels: uint8 array of any shape, NumPy or JAX (traced or not). A floating-point array is
        taken to be scaled already and returned as it is.

    Returns:
      A float32 array of the same kind and shape.
    """
    if pixels.dtype != np.uint8:
        return pixels
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Rounds images in [-1, 1] to uint8, the inverse of `to_float`; values outside are clipped.

    Args:
      images: floating-point NumPy array of any shape.

    Returns:
      A uint8 array of the same shape.
    """
    return np.clip(np.rint((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)
