"""The checker of the jaxtyping annotations, which all tests run under (see environment.py).

jaxtyping calls it before and after each function. It looks at arguments afterwards only: what a
function refuses, by a `ValueError` of its own, is its own business, and what it has accepted must
be what its annotations say. It looks at arrays, traced or not; public functions take lists and
numbers in their place.
"""

import functools
import inspect
import types
import typing

import jax
import jaxtyping
import numpy as np


def checked(function):
    """Wraps a function, as jaxtyping hands it over, to check its arguments and its result."""
    hints = {name: hint for name, hint in function.__annotations__.items() if _has_shapes(hint)}
    # Before the call the result is `Any`.
    if not hints or function.__annotations__.get("return") is typing.Any:
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        values = {**signature.bind(*args, **kwargs).arguments, "return": result}
        for name, hint in hints.items():
            if name in values and not _agrees(values[name], hint):
                raise TypeError(f"{name} does not agree with {hint}")
        return result

    return wrapper


def _is_shape(hint):
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def _has_shapes(hint):
    return _is_shape(hint) or any(map(_has_shapes, typing.get_args(hint)))


def _agrees(value, hint):
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_agrees(value, one) for one in inner)
    if isinstance(value, jax.Array | np.ndarray) and isinstance(hint, type):
        if isinstance(value, np.ndarray) and _is_shape(hint):  # in place of JAX's
            hint = hint.dtype[np.ndarray, hint.dim_str]
        return isinstance(value, hint)
    if isinstance(value, tuple) and origin is tuple and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(_agrees, value, inner))
    return True
