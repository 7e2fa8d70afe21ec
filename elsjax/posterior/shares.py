"""The share of the training images that one device goes over, block by block."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from elsjax import parallel
from elsjax.posterior.training_set import TrainingSet

# sigma = 0 is the limit sigma -> 0, in which only the nearest entry keeps a weight.
LEAST_VARIANCE = 1e-14

Carry = TypeVar("Carry")


class Levels(NamedTuple):
    """Signal and noise level of each noisy image."""

    alpha: Float[Array, " b"]
    sigma: Float[Array, " b"]


class Share(NamedTuple):
    """Training images that count, as one device sees them.

    Attributes:
      pixels: as they are stored, [N, H, W, C].
      numbers: the caller's number of each.
      start: the first that counts.
      stop: end of those that count.
      span: stop - start, or more: so many are passed over. A Python number, if the result is to be
        differentiated in reverse mode.
      total: how many count on all devices together.
      sharded: inside `jax.shard_map`: answers are over the shares of all devices along "data".
    """

    pixels: Array
    numbers: Int[Array, " n"]
    start: int | Int[Array, ""]
    stop: int | Int[Array, ""]
    span: int | Int[Array, ""]
    total: int | Int[Array, ""]
    sharded: bool

    def varying(self, carry: Carry) -> Carry:
        """What nothing is added to yet, as `fold` takes it: different on every device from then."""
        if not self.sharded:
            return carry
        return lax.pcast(carry, (parallel.DATA, parallel.SAMPLE), to="varying")

    def fold(
        self,
        add: Callable[[Carry, Int[Array, " n"], Bool[Array, " n"]], Carry],
        carry: Carry,
        block_size: int,
    ) -> Carry:
        """Adds block after block of the images that count.

        Args:
          add: what has been added so far, places of a block's images, and whether each counts, to
            the same with these added. What is beyond the last image is filled up with it and does
            not count: it must move no sum; that it may move a maximum does no harm.
          carry: before anything is added; see `varying`.
          block_size: images of a block.

        Returns:
          After all blocks; on a device that has no image that counts, what it was before.
        """

        def add_block(index: Array, carry: Carry) -> Carry:
            places = self.start + index * block_size + jnp.arange(block_size)
            return add(carry, jnp.minimum(places, self.stop - 1), places < self.stop)

        found = lax.fori_loop(0, -(-self.span // block_size), add_block, carry)
        if not self.sharded:
            return found
        # A device without an image of the range has passed over one that is not in it.
        some = self.start < self.stop
        return jax.tree.map(lambda found, none: jnp.where(some, found, none), found, carry)


def share_of(training_set: TrainingSet, ranges: Int[Array, "2"] | None) -> Share:
    """The share of the images of a range, of all for None, that this device goes over."""
    start: int | Array = 0
    stop: int | Array = training_set.num_images
    if ranges is not None:
        start, stop = ranges[0], ranges[1]
    count = span = stop - start
    mesh = training_set.mesh
    if mesh is not None:
        shard, shards = lax.axis_index(parallel.DATA), mesh.shape[parallel.DATA]
        span = -(-count // shards)
        if training_set.replicated:
            first = jnp.minimum(start + shard * span, stop)
            start, stop = first, jnp.minimum(first + span, stop)
        else:
            start, stop = parallel.shard_range(start, stop, shard, shards)
    return Share(
        training_set.pixels, training_set.numbers, start, stop, span, count, mesh is not None
    )


def placed(
    mesh: jax.sharding.Mesh | None, x: Array, levels: Levels, ranges: Array | None
) -> tuple[Array, Levels, Array | None]:
    """Spreads a batch over a mesh, filled up to what its "sample" axis divides."""
    if mesh is None:
        return x, levels, ranges
    spread = functools.partial(parallel.spread, mesh=mesh, axes=parallel.SAMPLE)
    if ranges is not None:
        ranges = spread(ranges) if ranges.ndim == 2 else parallel.everywhere(ranges, mesh)
    return spread(x), Levels(*map(spread, levels)), ranges


def on_devices(
    answer: Callable[..., Any],
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    more: Any,
    of_more: Any,
) -> Any:
    """What each device answers of its share, for a batch that is placed.

    Args:
      answer: of x, levels, training set, ranges and more; its arrays are [B, ...].
      x: noisy images.
      levels: of each.
      training_set: the training images.
      ranges: of those that count, for all or for each; None for all.
      more: what else there is to know.
      of_more: how its arrays lie on the mesh, for `jax.shard_map`.

    Returns:
      The answer.
    """
    mesh = training_set.mesh
    if mesh is not None:
        samples, everywhere = jax.P(parallel.SAMPLE), jax.P()
        of_ranges = samples if ranges is not None and ranges.ndim == 2 else everywhere
        answer = jax.shard_map(
            answer,
            mesh=mesh,
            in_specs=(samples, samples, training_set.partition_specs(), of_ranges, of_more),
            out_specs=samples,
        )
    return answer(x, levels, training_set, ranges, more)
