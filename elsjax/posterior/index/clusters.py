"""Clusters of training patches as arrays, and how they lie on devices.

An index holds places, not patches: a cluster is a fixed number of places (training image, row,
column) of distinct patches, with how often each occurs. The patches themselves are cut out of the
images in seconds, for the time that they are needed.

Axis names: k clusters, l places of a cluster, d entries of a patch, e = d l, m principal axes, c
channels.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8, UInt16

from elsjax import parallel
from elsjax.pixels import to_float
from elsjax.posterior.dictionaries import WindowPart

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


def centre_pixel(size: int, channels: int) -> slice:
    """Where the centre pixel's channels are among the entries of a patch."""
    start = size // 2 // channels * channels
    return slice(start, start + channels)


def spread(index: PatchIndex, mesh: jax.sharding.Mesh) -> PatchIndex:
    """Spreads the clusters of an index over the devices along "data", evenly.

    Args:
      index: as `load_or_build` gives it.
      mesh: as `elsjax.make_mesh` gives it.

    Returns:
      The index, filled up with empty clusters to a power of two for each device.
    """
    shards = mesh.shape[parallel.DATA]
    share = -(-len(index.places) // shards)
    padding = shards * 2 ** math.ceil(math.log2(share)) - len(index.places)

    def place(array: Array, spec: jax.P) -> Array:
        values = np.asarray(array)
        if spec:
            empty = np.zeros((padding, *values.shape[1:]), values.dtype)
            values = parallel.interleave(np.concatenate([values, empty]), shards)
        return jax.device_put(values, jax.NamedSharding(mesh, spec))

    return jax.tree.map(place, index, partition_specs())


def partition_specs() -> PatchIndex:
    """How `spread` partitions each array; patches are partitioned along "data" as well."""
    fields = {field.name: jax.P(parallel.DATA) for field in dataclasses.fields(PatchIndex)}
    return PatchIndex(**fields | {"mean": jax.P(), "axes": jax.P()})  # type: ignore[arg-type]


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
      index: as `load_or_build` gives it, or `spread`.
      images: all training images.
      part: the part of the index.
      start: the first image that the index is of.
      origin: pixel that counts as 0.
      mesh: over which it is spread; each device lays out the clusters of its own.

    Returns:
      Patches; pixels are [K, P² C L], norms [K, L].
    """
    return _lay_out(part, mesh, index.places, images, jnp.asarray(start, jnp.int32), origin)


@functools.partial(jax.jit, static_argnames=("part", "mesh"))
def _lay_out(
    part: WindowPart,
    mesh: jax.sharding.Mesh | None,
    places: Int[Array, "k l"],
    images: UInt8[Array, "n h w c"],
    start: Int[Array, ""],
    origin: Float[Array, " c"],
) -> Patches:
    """Lays out on every device what is its own."""
    cut = functools.partial(_cut_out, part)
    if mesh is not None:
        specs = jax.P(parallel.DATA), jax.P(), jax.P(), jax.P()
        cut = jax.shard_map(cut, mesh=mesh, in_specs=specs, out_specs=jax.P(parallel.DATA))
    return cut(places, images, start, origin)


def _cut_out(
    part: WindowPart,
    places: Int[Array, "k l"],
    images: UInt8[Array, "n h w c"],
    start: Int[Array, ""],
    origin: Float[Array, " c"],
) -> Patches:
    """Cuts patches out of images, a few clusters at a time."""
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


def padded(images, part: WindowPart):  # type: ignore[no-untyped-def]
    """Images of NumPy or JAX, in which the patch at position (i, j) is [i : i + P, j : j + P]."""
    margins = [
        (axis.num_keys + side - 1 - length) // 2
        for axis, side, length in zip(
            (part.rows, part.columns), part.window, part.image_shape[:2], strict=True
        )
    ]
    library = np if isinstance(images, np.ndarray) else jnp
    return library.pad(images, ((0, 0), *((m, m) for m in margins), (0, 0)), mode="wrap")
