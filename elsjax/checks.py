"""Checks of arguments: one clear `ValueError` naming the argument, its value and what was expected.

What is knowable while tracing is always checked. Values are checked where looking at them costs no
transfer: Python and NumPy values, and JAX arrays that live on the CPU. Values inside a traced
function or on an accelerator are taken on trust.

A check returns what it has checked in the form to go on with: numbers as Python's, arrays as
NumPy's or JAX's, in the byte order of the machine.
"""

import math
import numbers
import sys
import warnings
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Pixels may lie outside [-1, 1] by rounding.
_ROUNDING = 1e-5

# Whose calls a warning is not about: jaxtyping's lie between ours where it checks annotations.
_OURS = ("elsjax", "jaxtyping")

# Channels from which on an image of at most four rows or columns has its axes mixed up.
_MANY_CHANNELS, _FEW_PIXELS = 8, 4


class ElsjaxWarning(UserWarning):
    """What is done with an input may not be what was meant, or something was done without."""


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Raises ValueError unless value is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={value!r} is not known; expected one of {', '.join(known)}")


def integer(name: str, value: object, low: int, high: int) -> int:
    """Returns value; raises ValueError unless it is an integer with low <= value <= high."""
    if not _is_integer(value) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be an integer from {low} to {high}")
    return int(value)  # type: ignore[call-overload]


def positive_int(name: str, value: object) -> int:
    """Returns value; raises ValueError unless it is an integer of at least 1."""
    if not _is_integer(value) or value < 1:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    return int(value)  # type: ignore[call-overload]


def odd_int(name: str, value: object) -> int:
    """Returns value; raises ValueError unless it is an odd positive integer."""
    if not _is_integer(value) or value < 1 or value % 2 == 0:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be an odd positive integer")
    return int(value)  # type: ignore[call-overload]


def positive_ints(name: str, value: Any, *, odd: bool = False) -> tuple[int, ...]:
    """Returns value; raises ValueError unless it is one or more positive integers."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name}={value!r} must be a sequence of integers")
    check = odd_int if odd else positive_int
    found = tuple(check(f"{name}[{index}]", item) for index, item in enumerate(value))
    if not found:
        raise ValueError(f"{name}=() must hold at least one")
    return found


def in_range(name: str, value: Any, low: float, high: float, *, open_ends: bool = False) -> float:
    """Returns value; raises ValueError unless low <= value <= high (between with open_ends)."""
    inside = is_real(value) and np.shape(value) == () and not isinstance(value, jax.core.Tracer)
    if inside:
        inside = low < value < high if open_ends else low <= value <= high
    try:
        number = float(value) if inside else math.nan
    except OverflowError:  # an integer beyond all floats
        number = math.nan
    if math.isnan(number):
        brackets = "()" if open_ends else "[]"
        interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
        raise ValueError(f"{name}={value!r} must lie in {interval}")
    return number


def seed(name: str, value: object) -> int:
    """Returns value; raises ValueError unless it fits 32 bits.

    The draws of a larger or negative one would depend on `jax_enable_x64`.
    """
    return integer(name, value, 0, 2**32 - 1)


def instance(name: str, value: object, expected: type, example: str) -> None:
    """Raises ValueError unless value is an instance of a class; the example shows one."""
    if not isinstance(value, expected):
        raise ValueError(f"{name}={value!r} must be a {expected.__name__}, such as {example}")


def image_shape(name: str, value: Any) -> tuple[int, int, int]:
    """Returns value; raises ValueError unless it is (height, width, channels), all positive."""
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ValueError(f"{name}={value!r} must be (height, width, channels)")
    height, width, channels = (positive_int(name, size) for size in value)
    return height, width, channels


def floating_dtype(name: str, value: Any) -> np.dtype:
    """Returns value, the working precision for None; raises ValueError unless it is of floats."""
    try:
        dtype = jnp.dtype(jnp.result_type(float) if value is None else value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be floating point, such as float32") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}={dtype.name} must be floating point, such as float32")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{name}={dtype.name} needs jax_enable_x64")
    return dtype


def key(name: str, value: object, *shapes: tuple[int, ...]) -> None:
    """Raises ValueError unless value is typed keys of one of the shapes."""
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise ValueError(f"{name}={value!r} must be a typed key, such as jax.random.key(0)")
    if value.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} has shape {list(value.shape)}; expected {expected}")


def array(name: str, value: Any) -> jax.Array | np.ndarray:
    """The value as an array; raises ValueError if it is none."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array, whose mask would be lost: pass filled values")
    try:
        found = np.asarray(value)
    except Exception as error:  # whatever its conversion raises: lists within lists, tensors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name}, of type {type(value).__name__}, is no array: {reason}") from None
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def is_real(value: Any) -> bool:
    """Whether a number or an array is of integers or in floating point."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return any(jnp.issubdtype(value.dtype, number) for number in (jnp.floating, jnp.integer))
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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


def noisy_images(
    name: str, value: Any, image_shape: tuple[int, int, int] | None = None
) -> jax.Array | np.ndarray:
    """Returns value; raises ValueError unless it is finite, real [B, H, W, C] of the given shape.

    8-bit pixels have no noise, and are on another scale.
    """
    images = array(name, value)
    _image_axes(name, images, image_shape)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {images.dtype.name}; expected floating point, in units where clean "
            "pixels lie in [-1, 1]"
        )
    finite(name, images)
    return images


def clean_images(
    name: str, value: Any, image_shape: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Returns value; raises ValueError unless it is [B, H, W, C], uint8 or finite floats."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} must be values, not traced by a transformation of JAX")
    images = np.asarray(array(name, value))
    if images.dtype != np.uint8:
        return np.asarray(noisy_images(name, images, image_shape))
    _image_axes(name, images, image_shape)
    return images


def training_images(name: str, value: Any) -> np.ndarray:
    """Returns value; raises ValueError unless it is [N, H, W, C], uint8 or floats in [-1, 1].

    Warns where the scale of the values leaves a doubt.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} must be values, not traced by a transformation of JAX")
    images = np.asarray(array(name, value))
    _image_axes(name, images, None)
    rows, columns, channels = images.shape[1:]
    if channels >= _MANY_CHANNELS and min(rows, columns) <= _FEW_PIXELS:
        move = "1, -1" if rows <= _FEW_PIXELS else "-1, 0"
        raise ValueError(
            f"{name} has shape {list(images.shape)}: {channels} channels of {rows}×{columns} "
            "pixels; expected [batch, height, width, channels], as numpy.moveaxis"
            f"({name}, {move}) gives"
        )
    if images.dtype == np.uint8:
        if images.max() == 1:
            warn(
                f"{name} has dtype uint8 and holds 0 and 1 only: taken as almost black, since 255 "
                f"is white. If 1 is white, give 255 * {name}"
            )
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {images.dtype.name}; expected floating point in [-1, 1] or uint8"
        )
    finite(name, images)
    low, high = float(images.min()), float(images.max())
    if low < -1 - _ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; expected [-1, 1]: give uint8, or "
            f"{name} / 127.5 - 1 where 255 is white"
        )
    warn_of_no_black(name, low, high)
    return images


def warn_of_no_black(name: str, low: float, high: float) -> None:
    """Warns where values from low to high seem to be of images in which 0 is black."""
    if low >= 0 < high:
        warn(
            f"{name} has values from {low:g} to {high:g}, taken as they are: -1 is black, 0 grey. "
            f"If 0 is black, give 2 * {name} - 1"
        )


def _image_axes(name: str, images: Any, image_shape: tuple[int, int, int] | None) -> None:
    shape = images.shape
    expected = "[batch, height, width, channels]"
    if image_shape is not None:
        expected = f"[batch, {image_shape[0]}, {image_shape[1]}, {image_shape[2]}]"
    if len(shape) != 4 or (image_shape is not None and shape[1:] != tuple(image_shape)):
        raise ValueError(f"{name} has shape {list(shape)}; expected {expected}")
    if math.prod(shape) == 0:
        raise ValueError(f"{name} is empty: shape {list(shape)}; expected {expected}, all positive")


def times(name: str, value: Any, batch: int) -> jax.Array | np.ndarray:
    """Returns value; raises ValueError unless it is a time in [0, 1], or one for each of them.

    NumPy's if its values are known, so that it goes with arrays on any device.
    """
    found = array(name, value)
    if not is_real(found):
        raise ValueError(f"{name}={value!r} must be a number in [0, 1], where 1 is noise")
    if found.shape not in ((), (batch,)):
        raise ValueError(f"{name} has shape {list(found.shape)}; expected [] or [{batch}]")
    values = host_values(found)
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name}={value} must lie in [0, 1], where 1 is noise")
    return found if values is None else values


def label(name: str, value: Any, batch: int) -> jax.Array | np.ndarray:
    """Returns value; raises ValueError unless it is an integer, or one for each of a batch.

    NumPy's if its values are known, so that it goes with arrays on any device.
    """
    found = _integers(name, value, batch)
    if found.shape not in ((), (batch,)):
        raise ValueError(f"{name} has shape {list(found.shape)}; expected [] or [{batch}]")
    values = host_values(found)
    return found if values is None else values


def known_label(value: Any, classes: Collection[int]) -> None:
    """Raises ValueError if a checked label, [] or [B], is no class of labelled training images.

    None is no label. Without classes there are no labelled images.
    """
    if value is None:
        return
    if not classes:
        raise ValueError(f"label={value} needs labelled data, but labels=None was given")
    values = host_values(value)
    unknown = [] if values is None else sorted(set(values.ravel().tolist()) - set(classes))
    if unknown:
        raise ValueError(f"label={unknown[0]} is no class of the data; it has {classes}")


def class_labels(name: str, value: Any, count: int) -> np.ndarray:
    """Returns value, [N]; raises ValueError unless it is one integer for each of N images."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} must be values, not traced by a transformation of JAX")
    found = np.asarray(_integers(name, value, count))
    if found.shape != (count,):
        raise ValueError(f"{name} has shape {list(found.shape)}; expected [{count}]")
    if not -(2**31) <= int(found.min()) <= int(found.max()) < 2**31:
        raise ValueError(
            f"{name} has classes from {found.min()} to {found.max()}; expected integers of 32 bits"
        )
    return found.astype(np.int32)


def _integers(name: str, value: Any, count: int) -> jax.Array | np.ndarray:
    """Integers as an array; [N, 1], as some archives keep labels, becomes [N]."""
    found = array(name, value)
    if not jnp.issubdtype(found.dtype, jnp.integer):
        if found.ndim == 0:
            raise ValueError(f"{name}={value!r} must be integers")
        raise ValueError(f"{name} has dtype {found.dtype.name}; expected integers")
    return found[:, 0] if found.shape == (count, 1) else found


def warn(message: str) -> None:
    """Warns at the line that called this library, however many of its own calls lie between."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ElsjaxWarning, stacklevel=level)


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
