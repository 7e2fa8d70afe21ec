"""Which samples are memorized: much nearer to one training image than to any other.

A sample x is memorized if d(x, y1) < d(x, y2) / 3, with d the Euclidean distance of pixels, y1 the
nearest training image and y2 the nearest other one (Gu et al. 2023). Copies of y1 among the
training images would hide it, so y2 is the nearest image that differs from y1.

All distances are computed on the device, fast and with a rounding error that has a bound. Those
that may be one of the two smallest are computed again, on the host, in float64 from differences.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num, Real

from elsjax import checks
from elsjax.experiments.measures import warn_of_scales
from elsjax.pixels import as_pixels, to_float
from elsjax.references import Cited, Reference

_LARGEST_RATIO = 1 / 3
_BUDGET = 2**26
_ARRAYS = 6  # of a block, of the size of its images in floating point

# Rounding errors of a squared distance, in units of eps (|x| + |y|)², for each value summed over.
_ROUNDINGS = 4


@dataclasses.dataclass(frozen=True)
class Memorization(Cited):
    """Which of B samples are memorized, and what they are nearest to.

    Attributes:
      memorized: whether the distance is less than a third of the second distance, [B].
      nearest: number of the nearest training image, [B]; of equally near ones the first.
      distance: to it, [B], Euclidean, in units where pixels lie in [-1, 1].
      second: number of the nearest one that is no duplicate of `nearest`, [B]; -1 for none.
      second_distance: to it, [B]; infinite for none.
      duplicates: number of training images that equal an earlier one.
    """

    memorized: Bool[Array, " b"]
    nearest: Int[Array, " b"]
    distance: Float[Array, " b"]
    second: Int[Array, " b"]
    second_distance: Float[Array, " b"]
    duplicates: int

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the criterion."""
        return (Reference("gu2023", "the criterion of memorization"),)


def memorized(
    samples: Real[ArrayLike, "b h w c"],
    images: Real[ArrayLike, "n h w c"],
    *,
    shifts: bool = False,
    memory_budget: int | None = None,
) -> Memorization:
    """Which samples are memorized, by the criterion of Gu et al. (2023): d1 < d2 / 3.

    d1 is the distance to the nearest training image, d2 that to the nearest *distinct* one:
    duplicates in the data do not count, and how many there are is told. Where all training images
    are the same, d2 is infinite and every sample memorized.

    Args:
      samples: [B, H, W, C], uint8 or in [-1, 1].
      images: training images, [N, H, W, C], uint8 or in [-1, 1].
      shifts: whether an image and its circular shifts are the same: distances are then the least
        over shifts, and a shifted copy is a duplicate.
      memory_budget: bytes that temporary arrays may use on the device, and as many on the host;
        None for 64 MiB.

    Returns:
      The findings for each sample.

    Raises:
      ValueError: if an argument is not as described.
    """
    images = checks.training_images("images", images)
    samples = checks.clean_images("samples", samples, images.shape[1:])
    if not isinstance(shifts, bool):
        raise ValueError(f"shifts={shifts!r} must be True or False")
    budget = _BUDGET
    if memory_budget is not None:
        budget = checks.positive_int("memory_budget", memory_budget)
    warn_of_scales("samples", samples, "images", images)
    pixels = as_pixels(images)
    numbers = _distinct(pixels, shifts)
    size = len(numbers) * jnp.result_type(float).itemsize
    share = max(1, budget // size)
    found = [
        _two_nearest(samples[first : first + share], pixels, numbers, shifts, budget)
        for first in range(0, len(samples), share)
    ]
    nearest, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Memorization(
        memorized=jnp.asarray(distances[:, 0] < _LARGEST_RATIO * distances[:, 1]),
        nearest=jnp.asarray(nearest[:, 0]),
        distance=jnp.asarray(distances[:, 0], jnp.result_type(float)),
        second=jnp.asarray(nearest[:, 1]),
        second_distance=jnp.asarray(distances[:, 1], jnp.result_type(float)),
        duplicates=len(images) - len(numbers),
    )


def _two_nearest(
    samples: Real[np.ndarray, "b h w c"],
    pixels: Num[np.ndarray, "n h w c"],
    numbers: Int[np.ndarray, " m"],
    shifts: bool,
    budget: int,
) -> tuple[Int[np.ndarray, "b 2"], Float[np.ndarray, "b 2"]]:
    """The two nearest of distinct images, and the distances to them."""
    squares, error = _approximate(to_float(samples), pixels, numbers, shifts, budget)
    limits = np.partition(squares, min(1, len(numbers) - 1), axis=1)
    limits = limits[:, min(1, len(numbers) - 1)] + 2 * error
    nearest = np.full((len(samples), 2), -1, np.int32)
    distances = np.full((len(samples), 2), np.inf)
    block = max(1, budget // (_ARRAYS * 8 * pixels[0].size))
    for i, sample in enumerate(to_float(samples, np.float64)):
        candidates = numbers[squares[i] <= limits[i]]
        exact = np.concatenate(
            [
                _exact(sample, to_float(pixels[candidates[first : first + block]], float), shifts)
                for first in range(0, len(candidates), block)
            ]
        )
        order = np.argsort(exact, kind="stable")[:2]
        nearest[i, : len(order)] = candidates[order]
        distances[i, : len(order)] = np.sqrt(exact[order])
    return nearest, distances


def _approximate(
    samples: Real[np.ndarray, "b h w c"],
    pixels: Num[np.ndarray, "n h w c"],
    numbers: Int[np.ndarray, " m"],
    shifts: bool,
    budget: int,
) -> tuple[Float[np.ndarray, "b m"], Float[np.ndarray, " b"]]:
    """Squared distances, computed on the device, and a bound on their errors."""
    dtype = jnp.result_type(float)
    values = pixels[0].size
    block = max(1, min(len(numbers), budget // (_ARRAYS * values * dtype.itemsize)))
    # Less one pixel all over distances are the same, and what is rounded is smaller.
    centre = to_float(pixels[numbers[:block]], float).mean((0, 1, 2))[None, None, None]
    own = jnp.asarray(samples - centre, dtype)
    squares = np.empty((len(samples), len(numbers)), dtype)
    largest = 0.0
    for first in range(0, len(numbers), block):
        # The last block is as large as the others, so that nothing is compiled for it.
        first = min(first, len(numbers) - block)
        of_block = pixels[numbers[first : first + block]]
        found, norm = _squares(own, of_block, jnp.asarray(centre, dtype), shifts=shifts)
        squares[:, first : first + block] = found
        largest = max(largest, float(norm))
    norms = np.sqrt(((samples - centre) ** 2).sum((1, 2, 3)))
    return squares, _ROUNDINGS * values * jnp.finfo(dtype).eps * (norms + largest) ** 2


@functools.partial(jax.jit, static_argnames="shifts")
def _squares(
    samples: Float[Array, "b h w c"],
    pixels: Num[ArrayLike, "m h w c"],
    centre: Float[Array, "1 1 1 c"],
    *,
    shifts: bool,
) -> tuple[Float[Array, "b m"], Float[Array, ""]]:
    """Squared distances, and the largest norm of the images, all less the centre."""
    images = to_float(pixels, samples.dtype) - centre
    rows, columns = samples.reshape(len(samples), -1), images.reshape(len(images), -1)
    if shifts:
        size = samples.shape[1:3]
        spectra = jnp.fft.rfft2(images, axes=(1, 2)).conj()

        def largest(sample: Array) -> Array:
            spectrum = (jnp.fft.rfft2(sample, axes=(0, 1))[None] * spectra).sum(-1)
            return jnp.fft.irfft2(spectrum, size, axes=(1, 2)).max((1, 2))

        products = lax.map(largest, samples)
    else:
        products = jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
    norms = (columns**2).sum(1)
    squares = (rows**2).sum(1)[:, None] + norms[None] - 2 * products
    return squares, jnp.sqrt(norms.max())


def _exact(
    sample: Float[np.ndarray, "h w c"], images: Float[np.ndarray, "m h w c"], shifts: bool
) -> Float[np.ndarray, " m"]:
    """Squared distances in float64, from differences; the least over shifts."""
    if not shifts:
        return ((sample[None] - images) ** 2).sum((1, 2, 3))
    spectra = np.fft.rfft2(sample, axes=(0, 1))[None] * np.fft.rfft2(images, axes=(1, 2)).conj()
    products = np.fft.irfft2(spectra.sum(-1), sample.shape[:2], axes=(1, 2))
    norms = np.linalg.norm(sample) + np.sqrt((images**2).sum((1, 2, 3)))
    error = _ROUNDINGS * sample.size * np.finfo(float).eps * norms**2
    best = products >= (products.max((1, 2)) - 2 * error)[:, None, None]
    return np.array(
        [
            min(((sample - np.roll(image, at, (0, 1))) ** 2).sum() for at in np.argwhere(of_image))
            for image, of_image in zip(images, best, strict=True)
        ]
    )


def _distinct(pixels: Num[np.ndarray, "n h w c"], shifts: bool) -> Int[np.ndarray, " m"]:
    """The numbers, rising, of the images that equal no earlier one."""
    if pixels.dtype != np.uint8:
        pixels = pixels + 0.0  # of -0 and 0 one
    groups: dict[object, list[int]] = {}
    for number, image in enumerate(pixels):
        key = _unshifted(image) if shifts else image.tobytes()
        groups.setdefault(key, []).append(number)
    kept = []
    for group in groups.values():
        while group:
            first, *group = group
            kept.append(first)
            if shifts and group:
                copies = _shifted(pixels[first])
                group = [number for number in group if pixels[number].tobytes() not in copies]
            elif not shifts:
                break
    return np.sort(np.asarray(kept, np.int32))


def _unshifted(image: Num[np.ndarray, "h w c"]) -> int:
    """A number that is the same for all circular shifts: of the values of rows and of columns."""
    rows = sorted(row.tobytes() for row in np.sort(image, axis=1))
    columns = sorted(column.tobytes() for column in np.sort(image, axis=0).swapaxes(0, 1))
    return hash((*rows, *columns))


def _shifted(image: Num[np.ndarray, "h w c"]) -> set[bytes]:
    """All circular shifts of an image."""
    height, width, _ = image.shape
    shifts = np.ndindex(height, width)
    return {np.roll(image, shift, (0, 1)).tobytes() for shift in shifts}
