"""How well one image predicts another, pixel by pixel, and how near it comes to the data.

The paper's tables call the Pearson correlation r². Here each measure has its own name.
"""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Real

from elsjax import checks
from elsjax.pixels import to_float

# An image whose values differ by no more than so many roundings of the largest is a constant one.
_ROUNDINGS = 16


def pearson_r(a: Real[ArrayLike, "b ..."], b: Real[ArrayLike, "b ..."]) -> Float[Array, " b"]:
    """Pearson correlation over the pixels of each sample, in [-1, 1].

    It is undefined where an image is constant, up to the rounding of its own values.

    Args:
      a: images, [B, ...]; uint8 stands for [-1, 1].
      b: images of the same shape, of any scale.

    Returns:
      One correlation per sample, [B]; NaN where it is undefined.

    Raises:
      ValueError: if the shapes differ, are empty or have no axis beside the batch, or a value is
        no finite real number.
    """
    a, b = _images("a", a), _images("b", b)
    _check_pair("a", a, "b", b)
    return _pearson_r(a, b)


def pearson_r2(a: Real[ArrayLike, "b ..."], b: Real[ArrayLike, "b ..."]) -> Float[Array, " b"]:
    """Square of `pearson_r`: the share of variance a linear fit explains; same arguments."""
    return pearson_r(a, b) ** 2


def r2(
    prediction: Real[ArrayLike, "b ..."], target: Real[ArrayLike, "b ..."]
) -> Float[Array, " b"]:
    """Coefficient of determination `1 - SS_res / SS_tot` over the pixels of each sample.

    It is undefined where the target is constant, up to the rounding of its own values. Scales that
    do not belong together, such as [0, 255] or [0, 1] beside [-1, 1], give a warning.

    Args:
      prediction: images, [B, ...]; uint8 stands for [-1, 1].
      target: images of the same shape and scale, whose variance is to be explained.

    Returns:
      One value per sample, [B], at most 1; not symmetric. NaN where it is undefined.

    Raises:
      ValueError: as `pearson_r`.
    """
    prediction, target = _images("prediction", prediction), _images("target", target)
    _check_pair("prediction", prediction, "target", target)
    warn_of_scales("prediction", prediction, "target", target)
    return _r2(prediction, target)


def median_interval(
    values: Float[np.ndarray, " n"], level: float = 0.95
) -> tuple[float, float] | None:
    """Exact interval of a median, from order statistics.

    Of n independent values, the k-th smallest and the k-th largest have the median of their
    distribution between them with a probability of at least `1 - 2 P(Bin(n, 1/2) < k)`, whatever
    the distribution. The interval is the narrowest of these that reaches the level.

    Args:
      values: independent values, [n].
      level: probability that the interval must reach, in (0, 1).

    Returns:
      `(low, high)`; None where all n values are too few, at 0.95 below n = 6.

    Raises:
      ValueError: if values are not finite or not [n], or level is outside (0, 1).
    """
    checks.in_range("level", level, 0, 1, open_ends=True)
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"values has shape {list(values.shape)}; expected [n]")
    checks.finite("values", values)
    values = np.sort(values)
    # Counted in whole numbers: of 2^n orders of the values about the median, how many miss it.
    k, missed, ways = 0, 0, 1
    while missed + ways <= (1 - Fraction(level)) * 2 ** len(values) / 2:
        missed += ways
        ways = ways * (len(values) - k) // (k + 1)
        k += 1
    return (float(values[k - 1]), float(values[-k])) if k else None


def known_median(
    values: Float[np.ndarray, " n"],
) -> tuple[float | None, tuple[float, float] | None]:
    """Median of the values that are defined, and its exact 95 % interval.

    Args:
      values: independent values, [n]; NaN where one is undefined.

    Returns:
      The median, None where all are undefined, and its `median_interval`.

    Raises:
      ValueError: if a value is infinite, or values are not [n].
    """
    known = values[~np.isnan(values)]
    return (float(np.median(known)) if len(known) else None), median_interval(known)


def mean_interval(
    values: Float[np.ndarray, " n"], level: float = 0.95
) -> tuple[float, float] | None:
    """Student's interval of a mean.

    Args:
      values: independent values, [n], finite.
      level: probability with which it holds the mean of a normal distribution, in (0, 1).

    Returns:
      `(low, high)`; None for fewer than 2 values.

    Raises:
      ValueError: if values are not finite or not [n], or level is outside (0, 1).
    """
    checks.in_range("level", level, 0, 1, open_ends=True)
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"values has shape {list(values.shape)}; expected [n]")
    checks.finite("values", values)
    if len(values) < 2:
        return None
    from scipy import stats

    error = values.std(ddof=1) / np.sqrt(len(values))
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * error)
    return float(values.mean()) - reach, float(values.mean()) + reach


def local_means(images: Real[ArrayLike, "b h w c"]) -> Float[np.ndarray, "b h w c"]:
    """Mean over the 3x3 pixels around each pixel, of those inside the image: what blur leaves.

    Args:
      images: [B, H, W, C], floating point.

    Returns:
      The means, [B, H, W, C].

    Raises:
      ValueError: if images is no array [B, H, W, C].
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images has shape {list(images.shape)}; expected [B, H, W, C]")
    sums, counts = images, np.ones_like(images[:1])
    for axis in (1, 2):
        sums, counts = (_with_neighbours(array, axis) for array in (sums, counts))
    return sums / counts


def nearest_images(
    samples: Real[ArrayLike, "b h w c"], images: Real[ArrayLike, "n h w c"]
) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """The training image nearest to each sample, to see what is new about it.

    Args:
      samples: [B, H, W, C], uint8 or in [-1, 1].
      images: training images, [N, H, W, C], uint8 or in [-1, 1].

    Returns:
      `(index, distance)`, each [B]; the distance is the root mean square over pixels, in units of
      the pixels' range [-1, 1].

    Raises:
      ValueError: if the shapes are not as described or empty, or a value is no finite real number.
    """
    samples, images = _images("samples", samples), _images("images", images, keep_uint8=True)
    if samples.ndim != 4 or images.ndim != 4 or samples.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"samples and images have shapes {list(samples.shape)} and {list(images.shape)}; "
            "expected [batch, height, width, channels], the same but for the batch"
        )
    warn_of_scales("samples", samples, "images", images)
    return _nearest_images(samples, images)


def _with_neighbours(array: np.ndarray, axis: int) -> np.ndarray:
    """Each entry with its two neighbours along an axis, summed; outside there is 0."""
    first, last = [slice(None)] * array.ndim, [slice(None)] * array.ndim
    first[axis], last[axis] = slice(None, -1), slice(1, None)
    sums = array.copy()
    sums[tuple(last)] += array[tuple(first)]
    sums[tuple(first)] += array[tuple(last)]
    return sums


@jax.jit
def _pearson_r(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, " b"]:
    directions = []
    for images in (a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)):
        centred = _centred(images)
        # Of length 1 only in the end, so that no square overflows or vanishes.
        centred = centred / jnp.abs(centred).max(axis=1, keepdims=True)
        directions.append(centred / jnp.linalg.norm(centred, axis=1, keepdims=True))
    return jnp.clip((directions[0] * directions[1]).sum(axis=1), -1.0, 1.0)


@jax.jit
def _r2(prediction: Float[Array, "b ..."], target: Float[Array, "b ..."]) -> Float[Array, " b"]:
    prediction = prediction.reshape(prediction.shape[0], -1)
    target = target.reshape(target.shape[0], -1)
    size = jnp.abs(target).max(axis=1, keepdims=True)
    residual = (((target - prediction) / size) ** 2).sum(axis=1)
    return 1.0 - residual / ((_centred(target) / size) ** 2).sum(axis=1)


def _centred(images: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """Images less their means; NaN where they are constant."""
    size = jnp.abs(images).max(axis=1, keepdims=True)
    spread = images.max(axis=1, keepdims=True) - images.min(axis=1, keepdims=True)
    # Less one value first: the mean of what is left is not rounded at the scale of an offset.
    shifted = images - images[:, :1]
    centred = shifted - shifted.mean(axis=1, keepdims=True)
    rounding = jnp.finfo(images.dtype).eps * size
    return jnp.where(spread > _ROUNDINGS * rounding, centred, jnp.nan)


@jax.jit
def _nearest_images(
    samples: Float[Array, "b h w c"], images: Real[Array, "n h w c"]
) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    def nearest(sample: Array) -> tuple[Array, Array]:
        squares = jnp.mean((to_float(images) - sample[None]) ** 2, axis=(1, 2, 3))
        index = jnp.argmin(squares)
        return index, jnp.sqrt(squares[index])

    return jax.lax.map(nearest, samples)


def _images(name: str, value: Any, *, keep_uint8: bool = False) -> Array:
    """An argument as a finite floating-point array that is not empty; uint8 is scaled or kept."""
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of numbers: {error}") from error
    dtype, shape = value.dtype, list(value.shape)
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(f"{name} has dtype {dtype}; expected real numbers")
    if 0 in shape:
        raise ValueError(f"{name} is empty: shape {shape}; expected at least one image")
    if dtype == np.uint8 and keep_uint8:
        return jnp.asarray(value)
    with np.errstate(over="ignore"):  # infinite then, and refused
        images = jnp.asarray(to_float(value).astype(jnp.result_type(float)))
    checks.finite(name, images)
    return images


def _check_pair(name: str, a: Array, other: str, b: Array) -> None:
    """Raises ValueError unless both are [batch, ...] of one shape."""
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"{name} and {other} have shapes {list(a.shape)} and {list(b.shape)}; "
            "expected the same [batch, ...] for both"
        )


def warn_of_scales(name: str, a: Array | np.ndarray, other: str, b: Array | np.ndarray) -> None:
    """Warns where one of two arrays seems to be in [-1, 1] and the other in other units."""
    spans = []
    for array in (a, b):
        values = checks.host_values(array)
        if values is None:
            return
        if values.dtype == np.uint8:
            values = np.array([-1.0, 1.0])
        spans.append((float(values.min()), float(values.max())))
    for (low, high), (least, most) in (spans, spans[::-1]):
        large = max(-low, high) > 10 and max(-least, most) <= 1.5
        half = 0 <= low <= high <= 1 and high - low > 0.5 and least < -0.5
        if large or half:
            ranges = " and ".join(
                f"{n} in [{span[0]:.3g}, {span[1]:.3g}]"
                for n, span in zip((name, other), spans, strict=True)
            )
            checks.warn(
                f"{ranges} are of different scales; expected the same for both, such as [-1, 1]"
            )
            return
