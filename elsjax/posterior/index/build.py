"""Building an index, in NumPy: distinct patches, principal axes, a tree, moments of its leaves.

Clusters are the leaves of a balanced tree, split at the median along the principal axis in which a
node extends furthest. What stands in for a cluster is a Gaussian: its number of patches, mean,
variances along the principal axes of all patches and, beyond them, one variance for all the rest.

Axis names: p patches, k clusters, l places of a cluster, d entries of a patch, m principal axes, y
and x positions.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64

from elsjax.pixels import to_float
from elsjax.posterior.dictionaries import WindowPart
from elsjax.posterior.index.clusters import PatchIndex, centre_pixel, padded

Progress = Callable[[int, int], None]

# Distinct patches of a cluster, at most; principal axes. Part of a cached index's name, and so is
# the version, which changes with whatever else an index depends on.
CLUSTER_SIZE = 128
NUM_AXES = 16
VERSION = 3

# What a count can say.
_MOST = 2**15

# Patches taken at a time while an index is built, and those that the principal axes come from.
_CHUNK = 2**18
_SAMPLE = 200_000

# How much of the time has passed, in percent, once the distinct patches are known, the principal
# coordinates, and the tree.
_AFTER_DISTINCT, _AFTER_COORDINATES, _AFTER_TREE = 20, 35, 75


def build_index(
    images: UInt8[np.ndarray, "n h w c"], part: WindowPart, *, progress: Progress | None = None
) -> PatchIndex:
    """Clusters the patches of training images.

    Args:
      images: training images.
      part: a part without tied axes.
      progress: called as `progress(done, total)` as the work goes on; total is 100.

    Returns:
      The index.
    """
    source = _Source(images, part)
    report = progress or (lambda done, total: None)
    report(0, 100)
    places, counts = _distinct(source)
    report(_AFTER_DISTINCT, 100)
    mean, axes = _principal_axes(source, places)
    depth = max(0, math.ceil(math.log2(len(places) / CLUSTER_SIZE)))
    chosen, counts = _filled_up(counts, 2**depth)
    order = _tree(_coordinates(source, places, mean, axes)[chosen], depth, report)
    # Any part of the clusters is then a sample of all.
    order = np.random.default_rng(0).permutation(order)
    places, counts = places[chosen][order], counts[order]
    centres, variances, residuals, slopes = _moments(source, places, counts, axes)
    report(100, 100)
    return PatchIndex(
        places=jnp.asarray(places, jnp.int32),
        counts=jnp.asarray(counts, jnp.uint16),
        centres=jnp.asarray(centres),
        variances=jnp.asarray(variances),
        residuals=jnp.asarray(residuals),
        slopes=jnp.asarray(slopes),
        mean=jnp.asarray(mean),
        axes=jnp.asarray(axes),
    )


class _Source:
    """Training images, and their patches by places."""

    def __init__(self, images: UInt8[np.ndarray, "n h w c"], part: WindowPart) -> None:
        self.channels = images.shape[3]
        self.window = part.window
        self.images = padded(images, part)
        self._windows = np.lib.stride_tricks.sliding_window_view(self.images, part.window, (1, 2))
        self.rows, self.columns = self._windows.shape[1:3]

    def patches(self, places: Int[np.ndarray, "*p"]) -> Float[np.ndarray, "*p d"]:
        """Patches, rows first, then columns, then channels."""
        image, place = np.divmod(places, self.rows * self.columns)
        row, column = np.divmod(place, self.columns)
        taken = np.moveaxis(self._windows[image, row, column], -3, -1)
        return to_float(taken.reshape(*places.shape, -1))


def _distinct(source: _Source) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Places of the distinct patches, ascending, and how often each patch counts there.

    Patches are the same if their 64-bit hashes are: two of 10^8 patches collide with a probability
    of 10^-4.
    """
    hashes = _hashes(source).ravel()
    order = np.argsort(hashes)
    hashes = hashes[order]
    first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    counts = np.diff(np.append(first, len(hashes)))
    places = np.minimum.reduceat(order, first)
    # A patch that occurs more often than a count can say gets several places.
    times = -(-counts // _MOST)
    places, parts = np.repeat(places, times), np.repeat(counts // times, times)
    last = np.cumsum(times) - 1
    parts[last] += counts % times
    ascending = np.argsort(places)
    return places[ascending], parts[ascending]


def _hashes(source: _Source) -> UInt64[np.ndarray, "n y x"]:
    """Zobrist's hash of each patch: the sum of a random number for each entry and pixel value."""
    rows, columns = source.rows, source.columns
    shape = (*source.window, source.channels, 256)
    numbers = np.random.default_rng(0).integers(0, 2**64, shape, np.uint64)
    sums = np.zeros((len(source.images), rows, columns), np.uint64)
    for chunk in _chunks(len(sums), max(1, _CHUNK // (rows * columns))):
        images = source.images[chunk]
        for i, j, c in np.ndindex(shape[:3]):
            sums[chunk] += numbers[i, j, c][images[:, i : i + rows, j : j + columns, c]]
    return sums


def _principal_axes(
    source: _Source, places: Int[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d m"]]:
    """Mean and principal axes of a sample of the distinct patches."""
    chosen = np.linspace(0, len(places) - 1, min(_SAMPLE, len(places))).astype(np.int64)
    sample = source.patches(places[chosen])
    mean = sample.mean(0, dtype=np.float64).astype(np.float32)
    sample -= mean
    _, axes = np.linalg.eigh(sample.T @ sample)
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :NUM_AXES])


def _coordinates(
    source: _Source,
    places: Int[np.ndarray, " p"],
    mean: Float[np.ndarray, " d"],
    axes: Float[np.ndarray, "d m"],
) -> Float[np.ndarray, "p m"]:
    """Principal coordinates of patches."""
    return np.concatenate(
        [(source.patches(places[chunk]) - mean) @ axes for chunk in _chunks(len(places), _CHUNK)]
    )


def _filled_up(
    counts: Int[np.ndarray, " p"], num_clusters: int
) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]:
    """Which patches fill clusters of one size, all and some again, and how often each counts.

    Those again count 0 times, and are spread over all.
    """
    num = len(counts)
    size = -(-num // num_clusters)
    filling = np.linspace(0, num - 1, num_clusters * size - num).astype(np.int64)
    chosen = np.concatenate([np.arange(num), filling])
    return chosen, np.concatenate([counts, np.zeros(len(filling), counts.dtype)])


def _tree(
    coordinates: Float[np.ndarray, "p m"], depth: int, report: Progress
) -> Int[np.ndarray, "k l"]:
    """Splits points into 2^depth clusters of the same size, at medians along the widest axis."""
    report(_AFTER_COORDINATES, 100)
    order = np.arange(len(coordinates))[None]
    for level in range(depth):
        some = order[:, :: max(1, order.shape[1] // 256)]
        widest = coordinates[some].var(axis=1).argmax(axis=1)
        along = coordinates[order, widest[:, None]]
        split = np.argpartition(along, order.shape[1] // 2, axis=1)
        order = np.take_along_axis(order, split, axis=1).reshape(2 * len(order), -1)
        passed = (_AFTER_TREE - _AFTER_COORDINATES) * (level + 1) // depth
        report(_AFTER_COORDINATES + passed, 100)
    return order


def _moments(
    source: _Source,
    places: Int[np.ndarray, "k l"],
    counts: Int[np.ndarray, "k l"],
    axes: Float[np.ndarray, "d m"],
) -> tuple[np.ndarray, ...]:
    """Centres, variances, residual variances and slopes of clusters."""
    of_chunks = [
        _moments_of_few(source, places[chunk], counts[chunk], axes)
        for chunk in _chunks(len(places), max(1, _CHUNK // places.shape[1]))
    ]
    return tuple(
        np.concatenate(arrays).astype(np.float32) for arrays in zip(*of_chunks, strict=True)
    )


def _moments_of_few(
    source: _Source,
    places: Int[np.ndarray, "k l"],
    counts: Int[np.ndarray, "k l"],
    axes: Float[np.ndarray, "d m"],
) -> tuple[np.ndarray, ...]:
    """The moments of so few clusters that all their patches fit into memory."""
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weights = weights.astype(np.float32)[:, None]
    values = source.patches(places)
    centres = weights @ values
    values -= centres
    along = values @ axes
    variances = (weights @ along**2)[:, 0]
    total = (weights[:, 0] * np.einsum("kld,kld->kl", values, values)).sum(axis=1)
    rest = max(1, axes.shape[0] - axes.shape[1])
    residuals = np.maximum(total - variances.sum(axis=1), 0) / rest
    pixels = values[:, :, centre_pixel(len(axes), source.channels)]
    slopes = np.swapaxes(along * np.swapaxes(weights, 1, 2), 1, 2) @ pixels
    return centres[:, 0], variances, residuals, slopes


def _chunks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover a range."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
