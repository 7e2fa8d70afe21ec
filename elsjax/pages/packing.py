"""Arrays in a page: rounded as they are shown, compressed, and readable by a browser."""

import base64
import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np

_ALIGNMENT = 4  # bytes: typed arrays begin at multiples of the size of their elements


def packed(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], str]:
    """Arrays as one text.

    Args:
      arrays: by name.

    Returns:
      For each its type, shape and first byte; and the bytes of all, compressed, in base64.
    """
    index, parts, start = {}, [], 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        content += bytes(-len(content) % _ALIGNMENT)
        index[name] = {"type": array.dtype.name, "shape": list(array.shape), "start": start}
        parts.append(content)
        start += len(content)
    return index, base64.b64encode(gzip.compress(b"".join(parts), mtime=0)).decode()


def packed_size(arrays: Mapping[str, np.ndarray]) -> int:
    """The length of the text of `packed`."""
    return len(packed(arrays)[1])


def thousandths(values: np.ndarray) -> np.ndarray:
    """Values rounded to three decimals, as int16 thousandths, clipped; NaN is -1, black."""
    limits = np.iinfo(np.int16)
    scaled = np.rint(np.nan_to_num(values.astype(np.float64), nan=-1) * 1000)
    return np.clip(scaled, limits.min, limits.max).astype(np.int16)


def significant(values: np.ndarray, digits: int) -> np.ndarray:
    """Positive values rounded to significant digits, float32; NaN and infinity stay."""
    values = values.astype(np.float64)
    exponents = np.floor(np.log10(values, where=values > 0, out=np.zeros_like(values)))
    unit = 10.0 ** (np.where(np.isfinite(exponents), exponents, 0) - (digits - 1))
    return (np.rint(values / unit) * unit).astype(np.float32)
