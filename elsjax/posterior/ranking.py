"""The largest logits and where they come from, the same whatever the order of the entries.

The logits of equal patches differ by rounding, and that rounding by how the work is cut. So logits
count as equal up to a resolution, a bound on their rounding errors, and of equal ones the entry of
the smallest source comes first: of the smallest image, then the smallest place.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Below any logit of finite images, yet finite, so that a difference of two maxima is never NaN.
NO_ENTRY = -1e30

# Entries whose maximum is looked at first.
_GROUP = 64

_LAST = jnp.iinfo(jnp.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Largest:
    """The k largest logits of each query, in order; `NO_ENTRY` and -1 where there are fewer.

    Attributes:
      logit: [*q, k].
      image: number of the training image, [*q, k].
      place: number of the entry among those of an image, [*q, k].
      resolution: difference of logits up to which they count as equal, [*q].
    """

    logit: Float[Array, "*q k"]
    image: Int[Array, "*q k"]
    place: Int[Array, "*q k"]
    resolution: Float[Array, "*q"]


def none(shape: tuple[int, ...], count: int, dtype: jnp.dtype) -> Largest:
    """The largest of no entries."""
    nowhere = jnp.full((*shape, count), -1, jnp.int32)
    logit = jnp.full((*shape, count), NO_ENTRY, dtype)
    return Largest(logit, nowhere, nowhere, jnp.zeros(shape, dtype))


def largest(
    logits: Float[Array, "*q l"],
    counts: Float[Array, " n"],
    numbers: Int[Array, " n"],
    count: int,
    resolution: Float[Array, "*q"],
) -> Largest:
    """The largest logits of a block.

    Maxima of groups of entries are compared first, then the entries of the best groups.

    Args:
      logits: [*q, l], by images, then places.
      counts: how often each image counts; 0 only at the end.
      numbers: of the images, rising where they count.
      count: how many of the largest.
      resolution: see `Largest`.

    Returns:
      The largest.
    """
    shape, size = logits.shape[:-1], logits.shape[-1]
    per_image = size // len(numbers)
    num_valid = jnp.sum(counts > 0) * per_image
    padding = -size % _GROUP
    if padding:
        logits = jnp.pad(logits, [(0, 0)] * len(shape) + [(0, padding)])
    grouped = logits.reshape(*shape, -1, _GROUP)
    place = _numbers((*shape, size + padding)).reshape(grouped.shape)
    best = jnp.max(jnp.where(place < num_valid, grouped, NO_ENTRY), axis=-1)

    def step(left: tuple[Array, Array], rank: Array) -> tuple[tuple[Array, Array], Array]:
        """The next largest; `left` is the maxima of what is left, and the places taken."""
        best, taken = left
        least = (jnp.max(best, axis=-1) - resolution)[..., None]
        group = jnp.argmax(best >= least, axis=-1)[..., None]
        members = jnp.take_along_axis(grouped, group[..., None], axis=-2)[..., 0, :]
        number = _numbers(members.shape)
        places = group * _GROUP + number
        free = (places < num_valid) & ~(places[..., None] == taken[..., None, :]).any(axis=-1)
        members = jnp.where(free, members, NO_ENTRY)
        inside = jnp.argmax(members >= least, axis=-1)[..., None]
        chosen = number == inside
        logit = jnp.max(jnp.where(chosen, members, NO_ENTRY), axis=-1)
        rest = jnp.max(jnp.where(chosen, NO_ENTRY, members), axis=-1, keepdims=True)
        best = jnp.where(_numbers(best.shape) == group, rest, best)
        found = (group * _GROUP + inside).astype(jnp.int32)
        return (best, jnp.where(_numbers(taken.shape) == rank, found, taken)), logit

    # None is taken; of the same devices as the maxima are.
    taken = jnp.broadcast_to(jnp.argmin(best, axis=-1)[..., None] * 0 - 1, (*shape, count))
    (_, taken), logits = lax.scan(step, (best, taken.astype(jnp.int32)), jnp.arange(count))
    logit = jnp.moveaxis(logits, 0, -1)
    exists = logit > NO_ENTRY / 2
    image, within = jnp.divmod(taken, per_image)
    image = jnp.where(exists, numbers[jnp.minimum(image, len(numbers) - 1)], -1)
    return Largest(
        jnp.where(exists, logit, NO_ENTRY), image, jnp.where(exists, within, -1), resolution
    )


def merge(a: Largest, b: Largest) -> Largest:
    """The largest of both."""

    def both(of_a: Array, of_b: Array) -> Array:
        return jnp.concatenate([of_a, of_b], axis=-1)

    found = Largest(
        logit=both(a.logit, b.logit),
        image=both(a.image, b.image),
        place=both(a.place, b.place),
        resolution=jnp.maximum(a.resolution, b.resolution),
    )
    return _ranked(found, a.logit.shape[-1])


def merge_over(found: Largest, axis: str) -> Largest:
    """The largest of all devices along an axis of `jax.shard_map`."""

    def everywhere(array: Array) -> Array:
        return lax.all_gather(array, axis, axis=array.ndim - 1, tiled=True, to="invarying")

    gathered = Largest(
        logit=everywhere(found.logit),
        image=everywhere(found.image),
        place=everywhere(found.place),
        resolution=lax.pmax(found.resolution, axis),
    )
    return _ranked(gathered, found.logit.shape[-1])


def _ranked(found: Largest, count: int) -> Largest:
    """The first `count` of a few logits, ranked: by the number of those before each."""

    def pairs(array: Array) -> tuple[Array, Array]:
        return array[..., :, None], array[..., None, :]

    # Equal ones as large as the largest of them.
    own, other = pairs(found.logit)
    equal = other <= own + found.resolution[..., None, None]
    level = jnp.max(jnp.where(equal, other, 2 * NO_ENTRY), axis=-1)
    own, other = pairs(_numbers(found.logit.shape))
    before = other < own
    for source in (found.place, found.image, -level):
        own, other = pairs(source)
        before = (other < own) | (other == own) & before
    rank = jnp.sum(before, axis=-1)
    chosen = rank[..., None, :] == _numbers((*rank.shape[:-1], count))[..., None]

    def pick(array: Array) -> Array:
        return jnp.sum(jnp.where(chosen, array[..., None, :], 0), axis=-1, dtype=array.dtype)

    return Largest(pick(found.logit), pick(found.image), pick(found.place), found.resolution)


def _numbers(shape: tuple[int, ...]) -> Int[Array, "*q l"]:
    """0, 1, 2, ... along the last axis."""
    return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
