"""Checks of arguments: one clear `ValueError` naming the argument, its value and what was expected.

What is knowable while tracing is always checked. Values are checked where looking at them costs no
transfer: Python and NumPy values, and JAX arrays that live on the CPU. Values inside a traced
function or on an accelerator are taken on trust.
"""

import math
import numbers
from collections.abc import Collection
from typing import Any

import jax
import numpy as np


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Raises ValueError unless value is one of the known names."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known; expected one of {', '.join(known)}")


def positive_int(name: str, value: object) -> None:
    """Raises ValueError unless value is an integer of at least 1."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def odd_int(name: str, value: object) -> int:
    """Returns value; raises ValueError unless it is an odd positive integer."""
    if not isinstance(value, numbers.Integral) or value < 1 or value % 2 == 0:
        raise ValueError(f"{name}={value!r} must be an odd positive integer")
    return int(value)


def in_range(name: str, value: float, low: float, high: float, *, open_ends: bool = False) -> None:
    """Raises ValueError unless low <= value <= high (strictly between with open_ends)."""
    inside = low < value < high if open_ends else low <= value <= high
    if not inside:
        brackets = "()" if open_ends else "[]"
        interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
        raise ValueError(f"{name}={value!r} must lie in {interval}")


def dtype_of(value: Any) -> np.dtype:
    """The dtype of an array, or of what NumPy makes of anything else."""
    return value.dtype if isinstance(value, jax.Array) else np.asarray(value).dtype


def host_values(value: Any) -> np.ndarray | None:
    """The value as a NumPy array if that costs no transfer from an accelerator, else None."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    if isinstance(value, jax.Array) and any(d.platform != "cpu" for d in value.devices()):
        return None
    return np.asarray(value)


def finite(name: str, value: Any) -> None:
    """Raises ValueError if an array holds NaN or infinity, naming the first place."""
    values = host_values(value)
    if values is None or values.dtype == np.uint8 or np.isfinite(values).all():
        return
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    raise ValueError(f"{name} must be finite, but {name}{list(place)} is {values[place]}")


def image_batch(name: str, value: Any, image_shape: tuple[int, int, int] | None = None) -> None:
    """Raises ValueError unless value is a finite, real [B, H, W, C] array of the given shape."""
    shape = np.shape(value)
    expected = "[batch, height, width, channels]"
    if image_shape is not None:
        expected = f"[batch, {image_shape[0]}, {image_shape[1]}, {image_shape[2]}]"
    if len(shape) != 4 or (image_shape is not None and shape[1:] != tuple(image_shape)):
        raise ValueError(f"{name} has shape {list(shape)}; expected {expected}")
    if math.prod(shape) == 0:
        raise ValueError(f"{name} is empty: shape {list(shape)}; expected {expected}, all positive")
    dtype = dtype_of(value)
    if not (np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16" or dtype == np.uint8):
        raise ValueError(f"{name} has dtype {dtype.name}; expected floating point")
    finite(name, value)


def times(name: str, value: Any, batch: int) -> None:
    """Raises ValueError unless value is a time in [0, 1], or one for each of the batch."""
    if np.shape(value) not in ((), (batch,)):
        raise ValueError(f"{name} has shape {list(np.shape(value))}; expected [] or [{batch}]")
    values = host_values(value)
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name}={value} must lie in [0, 1], where 1 is noise")
