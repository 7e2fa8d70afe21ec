"""Exact softmaxes over whole training images, block by block, on one device or a mesh.

What is summed over is a class of its own (`Estimator`): how a block of images is looked at, and
what is kept of it. Here is the rest: memory, ranges of a label, devices.
"""

import abc
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from elsjax import parallel
from elsjax.pixels import to_float
from elsjax.posterior import shares
from elsjax.posterior.methods import Plan
from elsjax.posterior.methods.products import fitting
from elsjax.posterior.scheme import default_budget, images_of_device
from elsjax.posterior.shares import Levels, Share
from elsjax.posterior.training_set import TrainingSet


class Estimator(abc.ABC):
    """A posterior mean as sums over training images. Frozen: a static argument."""

    @abc.abstractmethod
    def numbers(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Numbers in the temporary arrays: for a noisy image, a training image, and each pair."""

    def prepared(self, levels: Levels, constants: Any) -> Any:
        """What is made of the constants once for all noisy images, which have one noise level."""
        return constants

    @abc.abstractmethod
    def estimate(
        self, x: Float[Array, "b h w c"], levels: Levels, share: Share, prepared: Any, images: int
    ) -> Float[Array, "b h w c"]:
        """The posterior mean.

        Args:
          x: noisy images.
          levels: of each.
          share: training images that count.
          prepared: as `prepared` gives it.
          images: training images of a block.

        Returns:
          The mean over the shares of all devices.
        """


def denoise(
    estimator: Estimator,
    constants: Any,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    *,
    memory_budget: int | None = None,
    block_size: int | None = None,
) -> Float[Array, "b h w c"]:
    """The posterior means of a batch.

    Args:
      estimator: what is summed.
      constants: arrays that it needs, the same for all noisy images.
      x: noisy images.
      levels: of each.
      training_set: the training images.
      ranges: range [start, stop) of the images that count, for all or for each, which is then
        looked at for itself; None for all.
      memory_budget: bytes; None for the default.
      block_size: training images of a block; None to follow from the budget.

    Returns:
      The means.
    """
    count, mesh = len(x), training_set.mesh
    batch = -(-count // (1 if mesh is None else mesh.shape[parallel.SAMPLE]))
    if ranges is not None and ranges.ndim == 2:
        batch = 1  # each for itself
    budget = default_budget(training_set) if memory_budget is None else memory_budget
    of_row, of_image, of_pair = (
        x.dtype.itemsize * numbers
        for numbers in estimator.numbers((x.shape[1], x.shape[2], x.shape[3]))
    )
    images = images_of_device(training_set)
    plan = fitting(batch, images, of_row, of_image, of_pair, budget)
    if block_size is not None:
        plan = plan._replace(images=min(block_size, images))
    x, levels, ranges = shares.placed(mesh, x, levels, ranges)
    constants = parallel.everywhere(constants, mesh)
    return _compiled(estimator, plan, x, levels, training_set, ranges, constants)[:count]


@functools.partial(jax.jit, static_argnames=("estimator", "plan"))
def _compiled(
    estimator: Estimator,
    plan: Plan,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    constants: Any,
) -> Float[Array, "b h w c"]:
    """`denoise` for a batch that is placed."""
    answer = functools.partial(_of_device, estimator, plan)
    return shares.on_devices(answer, x, levels, training_set, ranges, constants, jax.P())


def _of_device(
    estimator: Estimator,
    plan: Plan,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    constants: Any,
) -> Float[Array, "b h w c"]:
    """What one device computes of `denoise`."""
    if ranges is not None and ranges.ndim == 2:  # each noisy image for itself

        def one(arguments: tuple[Array, Levels, Array]) -> Array:
            x, levels, ranges = jax.tree.map(lambda a: a[None], arguments)
            return _of_device(estimator, plan, x, levels, training_set, ranges[0], constants)[0]

        return lax.map(one, (x, levels, ranges))
    share = shares.share_of(training_set, ranges)
    prepared = estimator.prepared(levels, constants)

    def answer(tile: tuple[Array, Levels]) -> Array:
        return estimator.estimate(*tile, share, prepared, plan.images)

    batch = len(x)
    if batch <= plan.rows:
        return answer((x, levels))
    tiles = -(-batch // plan.rows)
    # The last tile is filled up with the last noisy image.
    places = jnp.minimum(jnp.arange(tiles * plan.rows), batch - 1).reshape(tiles, plan.rows)
    found = lax.map(answer, jax.tree.map(lambda array: array[places], (x, levels)))
    return found.reshape(-1, *x.shape[1:])[:batch]


def images_last(
    share: Share, places: Int[Array, " n"], dtype: jnp.dtype
) -> Float[Array, "h w c n"]:
    """Training images of a share, which come last: softmaxes are over the last axis."""
    return jnp.moveaxis(to_float(share.pixels[places], dtype), 0, -1)


def norm_gains(levels: Levels) -> Float[Array, " b"]:
    """What squared differences are multiplied by, before they are summed up, to be logits.

    After the sums, a compiler may contract the product and what is subtracted from it into one
    operation that rounds once: at sigma -> 0 the largest logit less itself would be far from 0.
    """
    return -0.5 / jnp.maximum(levels.sigma**2, shares.LEAST_VARIANCE)
