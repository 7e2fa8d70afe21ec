"""How well one image predicts another, pixel by pixel, and how near it comes to the data.

The paper's tables call the Pearson correlation r². Here each measure has its own name.

A network and a machine are compared on the same noise. Protocols say where they start, on a uniform
grid of S steps for the machine:

    late       both at t = 1 - 1 / S
    aligned    both at t = 1
    published  the network at t = 1, the machine at 1 - 1 / S, looking through the window of the
               grid point above, as the code of Kamb & Ganguli (2025) does

A step from t to s takes an error of the predicted noise, times sigma_s - sigma_t alpha_s / alpha_t,
into x_s. From 1 to 0.95 that factor is 6.2, at the next step 0.86: where a network starts at t = 1,
its first step adds several times the signal of x_0.95 in errors, which no theory of it predicts.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from elsjax import checks
from elsjax.pixels import to_float
from elsjax.windows import WindowSchedule

Protocol = Literal["late", "aligned", "published"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


def machine_grid(
    protocol: Protocol, num_steps: int, window: WindowSchedule | int | None
) -> tuple[np.ndarray, WindowSchedule | int | None]:
    """Time grid and window of the machine in a comparison.

    Args:
      protocol: "late", "aligned" or "published"; see the module's docstring.
      num_steps: S, steps of the uniform grid from 1 to 0.
      window: window of the machine.

    Returns:
      `(times, window)`: times for `elsjax.sample`, and the window to look through.

    Raises:
      ValueError: if the protocol is unknown or num_steps too small for it.
    """
    checks.one_of("protocol", protocol, PROTOCOLS)
    checks.positive_int("num_steps", num_steps)
    if protocol == "aligned":
        return _uniform(num_steps), window
    if num_steps == 1:
        raise ValueError(f"num_steps=1 must be at least 2 for protocol={protocol!r}")
    if protocol == "published" and isinstance(window, WindowSchedule):
        window = WindowSchedule((*window.windows[1:], window.windows[-1]))
    return _uniform(num_steps)[1:], window


def network_grid(protocol: Protocol, num_steps: int, network_steps: int) -> np.ndarray:
    """Time grid of the network in a comparison.

    Args:
      protocol: as `machine_grid`.
      num_steps: S, steps of the machine's grid from 1 to 0.
      network_steps: steps of the network from 1 to 0; from where it starts it takes its share, and
        as many as the machine where both numbers are the same.

    Returns:
      Times for `elsjax.sample`.

    Raises:
      ValueError: as `machine_grid`, or if network_steps is not positive.
    """
    checks.positive_int("network_steps", network_steps)
    times, _ = machine_grid(protocol, num_steps, None)
    if protocol != "late":
        return _uniform(network_steps)
    if network_steps == num_steps:
        return times
    return times[0] * _uniform(max(1, round(network_steps * times[0])))


def _uniform(num_steps: int) -> np.ndarray:
    """The uniform time grid from 1 to 0."""
    return np.arange(num_steps, -1, -1) / num_steps


def pearson_r(a: Float[ArrayLike, "b ..."], b: Float[ArrayLike, "b ..."]) -> Float[Array, " b"]:
    """Pearson correlation over the pixels of each sample, in [-1, 1].

    Args:
      a: images, [B, ...].
      b: images of the same shape.

    Returns:
      One correlation per sample, [B]; NaN where an image is constant.

    Raises:
      ValueError: if the shapes differ or have no axis beside the batch.
    """
    a, b = _samples(a, b)
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    norms = jnp.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return jnp.clip((a * b).sum(axis=1) / norms, -1.0, 1.0)


def pearson_r2(a: Float[ArrayLike, "b ..."], b: Float[ArrayLike, "b ..."]) -> Float[Array, " b"]:
    """Square of `pearson_r`: the share of variance a linear fit explains; same arguments."""
    return pearson_r(a, b) ** 2


def r2(
    prediction: Float[ArrayLike, "b ..."], target: Float[ArrayLike, "b ..."]
) -> Float[Array, " b"]:
    """Coefficient of determination `1 - SS_res / SS_tot` over the pixels of each sample.

    Args:
      prediction: images, [B, ...].
      target: images of the same shape, whose variance is to be explained.

    Returns:
      One value per sample, [B], at most 1; not symmetric. -inf or NaN for a constant target.

    Raises:
      ValueError: if the shapes differ or have no axis beside the batch.
    """
    prediction, target = _samples(prediction, target)
    residual = ((target - prediction) ** 2).sum(axis=1)
    return 1.0 - residual / ((target - target.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)


@jax.jit
def nearest_images(
    samples: Float[Array, "b h w c"], images: Shaped[Array, "n h w c"]
) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """The training image nearest to each sample, to see what is new about it.

    Args:
      samples: [B, H, W, C], in [-1, 1].
      images: training images, [N, H, W, C], uint8 or in [-1, 1].

    Returns:
      `(index, distance)`, each [B]; the distance is the root mean square over pixels, in units of
      the pixels' range [-1, 1].
    """

    def nearest(sample: Array) -> tuple[Array, Array]:
        squares = jnp.mean((to_float(images) - sample[None]) ** 2, axis=(1, 2, 3))
        index = jnp.argmin(squares)
        return index, jnp.sqrt(squares[index])

    return jax.lax.map(nearest, samples)


def _samples(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Both as floating point [B, pixels]."""
    if np.shape(a) != np.shape(b) or np.ndim(a) < 2:
        raise ValueError(
            f"images have shapes {list(np.shape(a))} and {list(np.shape(b))}; "
            "expected the same [batch, ...] for both"
        )
    dtype = jnp.result_type(float)
    a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    return a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
