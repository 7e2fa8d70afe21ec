"""The largest logits and where they come from, the same whatever the order of the entries.

The logits of equal patches differ by rounding, and that rounding by how the work is cut. So logits
count as equal up to a resolution, a bound on their rounding errors, and of equal ones the entry of
the smallest source comes first: of the smallest image, then the smallest place.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Below any logit of finite images, yet finite, so that a difference of two maxima is never NaN.
NO_ENTRY = -1e30

# Entries of a group, whose maximum is looked at first, and queries at a time.
_GROUP, _AT_ONCE = 64, 16

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

    def resolved(self, resolution: Float[Array, "*q"]) -> Self:
        """The same, with another resolution."""
        # Added, so that it keeps to the devices of a `jax.shard_map`.
        return dataclasses.replace(self, resolution=0 * self.resolution + resolution)


def none(count: int, resolution: Float[Array, "*q"]) -> Largest:
    """The largest of no entries."""
    shape = (*resolution.shape, count)
    nowhere = jnp.full(shape, -1, jnp.int32)
    return Largest(jnp.full(shape, NO_ENTRY, resolution.dtype), nowhere, nowhere, resolution)


def update(
    seen: Largest,
    logits: Float[Array, "*q l"],
    maximum: Float[Array, "*q"],
    counts: Float[Array, " n"],
    numbers: Int[Array, " n"],
    rows: int,
) -> Largest:
    """The largest of those seen and of a block.

    Most blocks have something to add for few queries, so only these are looked at, a few at a time.

    Args:
      seen: the largest so far.
      logits: [*q, rows, n, entries of a row], flattened.
      maximum: the largest logit of each query.
      counts: how often each image counts.
      numbers: of the images, rising where they count.
      rows: that the entries of an image are divided into.

    Returns:
      The largest.
    """
    shape = maximum.shape
    flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[len(shape) :]), seen)
    logits = logits.reshape(len(flat.logit), -1)
    last, level = flat.logit[:, -1], maximum.reshape(-1)
    tied = (level >= last - flat.resolution) & (numbers[0] < flat.image[:, -1])
    adds = (level > last + flat.resolution) | tied
    at_once = min(_AT_ONCE, len(logits))

    def add_some(left: tuple[Largest, Array]) -> tuple[Largest, Array]:
        seen, adds = left
        (query,) = jnp.nonzero(adds, size=at_once, fill_value=len(logits))
        chosen = jax.tree.map(lambda array: array.at[query].get(mode="clip"), seen)
        of_block = logits.at[query].get(mode="clip")
        found = _of_block(of_block, counts, numbers, rows, chosen)
        merged = merge(chosen, found)
        seen = jax.tree.map(
            lambda array, some: array.at[query].set(some, mode="drop"), seen, merged
        )
        return seen, adds.at[query].set(False, mode="drop")

    flat, _ = lax.while_loop(lambda left: left[1].any(), add_some, (flat, adds))
    return jax.tree.map(lambda array, like: array.reshape(like.shape), flat, seen)


def _of_block(
    logits: Float[Array, "q l"],
    counts: Float[Array, " n"],
    numbers: Int[Array, " n"],
    rows: int,
    like: Largest,
) -> Largest:
    """The largest logits of a block, for a few queries.

    Maxima of groups of entries are compared first, then the entries of the best groups.
    """
    num, count = len(logits), like.logit.shape[1]
    per_image = logits.shape[1] // len(counts)
    logits = logits.reshape(num, rows, len(counts), -1).swapaxes(1, 2).reshape(num, -1)
    there = jnp.broadcast_to((counts > 0)[:, None], (len(counts), per_image)).reshape(1, -1)
    logits = jnp.where(there, logits, NO_ENTRY)
    logits = jnp.pad(logits, ((0, 0), (0, -logits.shape[1] % _GROUP)), constant_values=NO_ENTRY)
    groups = logits.reshape(num, -1, _GROUP)

    def step(left: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """The next largest and its place; what is left without it, and the groups' maxima."""
        groups, best = left
        least = (jnp.max(best, axis=1) - like.resolution)[:, None]
        group = jnp.argmax(best >= least, axis=1)
        members = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
        inside = jnp.argmax(members >= least, axis=1)
        chosen = _numbers(members.shape) == inside[:, None]
        logit = jnp.max(jnp.where(chosen, members, NO_ENTRY), axis=1)
        members = jnp.where(chosen, NO_ENTRY, members)
        query = jnp.arange(num)
        groups = groups.at[query, group].set(members)
        best = best.at[query, group].set(jnp.max(members, axis=1))
        return (groups, best), (logit, group * _GROUP + inside)

    _, (logit, place) = lax.scan(step, (groups, jnp.max(groups, axis=2)), length=count)
    exists = logit.T > NO_ENTRY / 2
    image, within = jnp.divmod(place.T.astype(jnp.int32), per_image)
    image = jnp.where(exists, numbers[jnp.minimum(image, len(numbers) - 1)], -1)
    within = jnp.where(exists, within, -1)
    return Largest(jnp.where(exists, logit.T, NO_ENTRY), image, within, like.resolution)


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
