"""An index of training patches: clusters of similar patches, and what stands in for each.

Built once for a dictionary and a window size. It holds places, not patches: a cluster is a fixed
number of places (training image, row, column) of distinct patches, with how often each occurs. The
patches themselves are cut out in seconds, for the time that they are needed.
Clusters are the leaves of a balanced tree, split at the median along the principal axis in which a
node extends furthest. What stands in for a cluster is a Gaussian: its number of patches, mean,
variances along the principal axes of all patches and, beyond them, one variance for all the rest.

Axis names: k clusters, l places of a cluster, d entries of a patch, m principal axes, c channels.
"""

import dataclasses
import functools
import hashlib
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8, UInt16
from tqdm import tqdm

from elsjax import parallel, storage
from elsjax.pixels import to_float
from elsjax.posterior.dictionaries import WindowPart

# Distinct patches of a cluster, at most; principal axes. Part of a cached index's name.
_CLUSTER_SIZE = 128
_NUM_AXES = 16
_VERSION = 3

# What a count can say.
_MOST = 2**15

# Patches taken at a time while an index is built, and those that the principal axes come from.
_CHUNK = 2**18
_SAMPLE = 200_000

# Clusters laid out at a time.
_CUT_AT_ONCE = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PatchIndex:
    """Clusters of the patches that the pixels of a part may be painted from.

    Patches are scaled to [-1, 1]. All sums count a patch as often as it occurs.

    Attributes:
      places: training image × keys_per_image + position of each distinct patch.
      counts: how often it occurs; 0 for a place that fills up a cluster.
      centres: mean patch of each cluster.
      variances: along the principal axes.
      residuals: variance along every other direction, on average.
      slopes: covariance of the centre pixel's channels with the principal coordinates.
      mean: mean of all patches, of a sample.
      axes: principal axes of all patches.
    """

    places: Int[Array, "k l"]
    counts: UInt16[Array, "k l"]
    centres: Float[Array, "k d"]
    variances: Float[Array, "k m"]
    residuals: Float[Array, " k"]
    slopes: Float[Array, "k m c"]
    mean: Float[Array, " d"]
    axes: Float[Array, "d m"]


class Patches(NamedTuple):
    """The patches of an index, cluster by cluster, and their squared distances from an origin.

    Attributes:
      pixels: rows first, then columns, then channels, then the patches of a cluster.
      norms: with the origin at every place of a patch.
    """

    pixels: UInt8[Array, "k e"]
    norms: Float[Array, "k l"]


def load_index(images: UInt8[np.ndarray, "n h w c"], part: WindowPart) -> PatchIndex:
    """The index of a part, from the cache of "indices" or built and left there.

    A file's name is a digest of the images, the part and this module's settings. One that is
    damaged is built again, and one that cannot be written is used all the same, with a warning.

    Args:
      images: training images.
      part: a part without tied axes.

    Returns:
      The index.
    """
    name = _digest(images, part)
    cached = storage.read_cached("indices", name)
    if cached is not None:
        return PatchIndex(**{key: jnp.asarray(array) for key, array in cached.items()})
    index = build_index(images, part)
    arrays = {f.name: np.asarray(getattr(index, f.name)) for f in dataclasses.fields(index)}
    storage.keep("indices", name, arrays)
    return index


def build_index(images: UInt8[np.ndarray, "n h w c"], part: WindowPart) -> PatchIndex:
    """Clusters the patches of training images; shows progress.

    Args:
      images: training images.
      part: a part without tied axes.

    Returns:
      The index.
    """
    patches = _Patches(images, part)
    with tqdm(total=100, desc=f"index of {part.window[0]}x{part.window[1]} patches") as bar:
        places, counts = _distinct(patches)
        bar.update(20)
        mean, axes = _principal_axes(patches, places)
        coordinates = np.concatenate(
            [(patches.at(places[chunk]) - mean) @ axes for chunk in _chunks(len(places), _CHUNK)]
        )
        bar.update(15)
        depth = max(0, math.ceil(math.log2(len(places) / _CLUSTER_SIZE)))
        size = -(-len(places) // 2**depth)
        # Clusters are filled up with places that count 0 times, spread over all of them.
        filling = np.linspace(0, len(places) - 1, 2**depth * size - len(places)).astype(np.int64)
        chosen = np.concatenate([np.arange(len(places)), filling])
        counts = np.concatenate([counts, np.zeros(len(filling), counts.dtype)])
        order = _tree(coordinates[chosen], depth, bar, 40)
        # Any part of the clusters is then a sample of all.
        order = np.random.default_rng(0).permutation(order)
        del coordinates
        places, counts = places[chosen][order], counts[order]
        arrays = []
        for chunk in _chunks(2**depth, max(1, _CHUNK // size)):
            arrays.append(_moments(patches, places[chunk], counts[chunk], mean, axes))
        bar.update(100 - bar.n)
    centres, variances, residuals, slopes = (
        np.concatenate(parts).astype(np.float32) for parts in zip(*arrays, strict=True)
    )
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


def spread(index: PatchIndex, mesh: jax.sharding.Mesh) -> PatchIndex:
    """Spreads the clusters of an index over the devices along "data", evenly.

    Args:
      index: as `load_index` gives it.
      mesh: as `elsjax.make_mesh` gives it.

    Returns:
      The index, filled up with empty clusters to a power of two for each device.
    """
    hands = mesh.shape[parallel.DATA]
    share = -(-len(index.places) // hands)
    padding = hands * 2 ** math.ceil(math.log2(share)) - len(index.places)

    def place(array: Array, spec: jax.P) -> Array:
        values = np.asarray(array)
        if spec:
            empty = np.zeros((padding, *values.shape[1:]), values.dtype)
            values = parallel.deal(np.concatenate([values, empty]), hands)
        return jax.device_put(values, jax.NamedSharding(mesh, spec))

    return jax.tree.map(place, index, partition_specs())


def lay_out(
    index: PatchIndex,
    images: UInt8[Array, "n h w c"],
    part: WindowPart,
    start: int,
    origin: Float[Array, " c"],
    mesh: jax.sharding.Mesh | None = None,
) -> Patches:
    """The patches of an index, cluster by cluster.

    Args:
      index: as `load_index` gives it, or `spread`.
      images: all training images.
      part: the part of the index.
      start: the first image that the index is of.
      origin: pixel that counts as 0.
      mesh: over which it is spread; each device lays out the clusters of its own.

    Returns:
      Patches; pixels are [K, P² C L], norms [K, L].
    """
    cut = functools.partial(_cut_out, part)
    if mesh is not None:
        specs = jax.P(parallel.DATA), jax.P(), jax.P(), jax.P()
        cut = jax.shard_map(cut, mesh=mesh, in_specs=specs, out_specs=jax.P(parallel.DATA))
    return jax.jit(cut)(index.places, images, jnp.asarray(start, jnp.int32), origin)


def _cut_out(
    part: WindowPart,
    places: Int[Array, "k l"],
    images: UInt8[Array, "n h w c"],
    start: Int[Array, ""],
    origin: Float[Array, " c"],
) -> Patches:
    """What one device lays out."""
    channels = images.shape[3]
    sides = (1, part.window[0], part.window[1] * channels)
    lines = padded(images, part)
    lines = lines.reshape(*lines.shape[:2], -1)

    def patch(place: Array) -> Array:
        image, inside = jnp.divmod(place, part.keys_per_image)
        row, column = jnp.divmod(inside, part.columns.num_keys)
        return jax.lax.dynamic_slice(lines, (start + image, row, column * channels), sides)

    def cut(places: Array) -> Patches:
        # XLA copies rows of patches whole, on a CPU, where nothing else is done with them.
        pixels = jax.lax.optimization_barrier(jax.vmap(patch)(places.ravel()))
        pixels = pixels.reshape(*places.shape, part.key_size).swapaxes(1, 2)
        pixels = jax.lax.optimization_barrier(pixels)
        shift = jnp.tile(origin, part.key_size // channels)
        apart = to_float(pixels, origin.dtype) - shift[None, :, None]
        return Patches(pixels.reshape(len(places), -1), jnp.sum(apart * apart, axis=1))

    at_once = math.gcd(_CUT_AT_ONCE, len(places))
    patches = jax.lax.map(cut, places.reshape(len(places) // at_once, at_once, -1))
    return jax.tree.map(lambda array: array.reshape(len(places), -1), patches)


def partition_specs() -> PatchIndex:
    """How `spread` partitions each array."""
    fields = {field.name: jax.P(parallel.DATA) for field in dataclasses.fields(PatchIndex)}
    return PatchIndex(**fields | {"mean": jax.P(), "axes": jax.P()})  # type: ignore[arg-type]


class _Patches:
    """The patches of training images by their places."""

    def __init__(self, images: UInt8[np.ndarray, "n h w c"], part: WindowPart) -> None:
        self.channels = images.shape[3]
        images = padded(images, part)
        self._windows = np.lib.stride_tricks.sliding_window_view(images, part.window, (1, 2))
        self.images, self.window = images, part.window
        self.rows, self.columns = self._windows.shape[1:3]

    def at(self, places: Int[np.ndarray, "*p"]) -> Float[np.ndarray, "*p d"]:
        """Patches, rows first, then columns, then channels."""
        image, place = np.divmod(places, self.rows * self.columns)
        row, column = np.divmod(place, self.columns)
        taken = np.moveaxis(self._windows[image, row, column], -3, -1)
        return to_float(taken.reshape(*places.shape, -1))


def padded(images, part: WindowPart):  # type: ignore[no-untyped-def]
    """Images in which the patch at position (i, j) is [i : i + P, j : j + P]."""
    margins = [
        (axis.num_keys + side - 1 - length) // 2
        for axis, side, length in zip(
            (part.rows, part.columns), part.window, part.image_shape[:2], strict=True
        )
    ]
    library = np if isinstance(images, np.ndarray) else jnp
    return library.pad(images, ((0, 0), *((m, m) for m in margins), (0, 0)), mode="wrap")


def _distinct(patches: _Patches) -> tuple[np.ndarray, np.ndarray]:
    """Places of the distinct patches, ascending, and how often each patch counts there.

    Patches are the same if their 64-bit hashes are (Zobrist's: the sum of a random number for each
    entry and pixel value): two of 10^8 patches collide with a probability of 10^-4.
    """
    height, width = patches.window
    rows, columns = patches.rows, patches.columns
    shape = (height, width, patches.channels, 256)
    numbers = np.random.default_rng(0).integers(0, 2**64, shape, np.uint64)
    sums = np.zeros((len(patches.images), rows, columns), np.uint64)
    for chunk in _chunks(len(sums), max(1, _CHUNK // (rows * columns))):
        images = patches.images[chunk]
        for i, j, c in np.ndindex(shape[:3]):
            sums[chunk] += numbers[i, j, c][images[:, i : i + rows, j : j + columns, c]]
    hashes = sums.ravel()
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


def _principal_axes(
    patches: _Patches, places: Int[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d m"]]:
    """Mean and principal axes of a sample of the distinct patches."""
    chosen = np.linspace(0, len(places) - 1, min(_SAMPLE, len(places))).astype(np.int64)
    sample = patches.at(places[chosen])
    mean = sample.mean(0, dtype=np.float64).astype(np.float32)
    sample -= mean
    _, axes = np.linalg.eigh(sample.T @ sample)
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :_NUM_AXES])


def _tree(
    coordinates: Float[np.ndarray, "p m"], depth: int, bar: tqdm, share: float
) -> Int[np.ndarray, "k l"]:
    """Splits points into 2^depth clusters of the same size, at medians along the widest axis."""
    order = np.arange(len(coordinates))[None]
    for _ in range(depth):
        some = order[:, :: max(1, order.shape[1] // 256)]
        widest = coordinates[some].var(axis=1).argmax(axis=1)
        along = coordinates[order, widest[:, None]]
        split = np.argpartition(along, order.shape[1] // 2, axis=1)
        order = np.take_along_axis(order, split, axis=1).reshape(2 * len(order), -1)
        bar.update(share / depth)
    return order


def _moments(
    patches: _Patches,
    places: Int[np.ndarray, "k l"],
    counts: Int[np.ndarray, "k l"],
    mean: Float[np.ndarray, " d"],
    axes: Float[np.ndarray, "d m"],
) -> tuple[np.ndarray, ...]:
    """Centres, variances, residual variances and slopes of clusters."""
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weights = weights.astype(np.float32)[:, None]
    values = patches.at(places)
    centres = weights @ values
    values -= centres
    along = values @ axes
    variances = (weights @ along**2)[:, 0]
    total = (weights[:, 0] * np.einsum("kld,kld->kl", values, values)).sum(axis=1)
    rest = max(1, axes.shape[0] - axes.shape[1])
    residuals = np.maximum(total - variances.sum(axis=1), 0) / rest
    middle = values.shape[2] // 2 // patches.channels * patches.channels
    pixels = values[:, :, middle : middle + patches.channels]
    slopes = np.swapaxes(along * np.swapaxes(weights, 1, 2), 1, 2) @ pixels
    return centres[:, 0], variances, residuals, slopes


def _chunks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover a range."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _digest(images: UInt8[np.ndarray, "n h w c"], part: WindowPart) -> str:
    """Names an index by all that determines it."""
    settings = json.dumps([repr(part), images.shape, _CLUSTER_SIZE, _NUM_AXES, _VERSION])
    return hashlib.sha256(settings.encode() + np.ascontiguousarray(images).tobytes()).hexdigest()
