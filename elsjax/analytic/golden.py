"""The ideal score machine over a subset of the training images, chosen for each noisy image.

A coarse distance, of averaged blocks of pixels, screens the images; distances proper choose among
those screened; the posterior mean is taken over what is kept (Shang et al. 2026). What was left out
has a weight that can be bounded, see `elsjax.analytic.subsets`, and so has the error of the mean.
"""

import functools
import math
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from elsjax import checks, parallel
from elsjax.analytic import subsets
from elsjax.analytic.subsets import Noisy, Pooled, Screened, Subset
from elsjax.pixels import to_float
from elsjax.posterior.training_set import TrainingSet
from elsjax.posterior.training_set_denoiser import TrainingSetDenoiser, checked_settings
from elsjax.process.schedules import Schedule
from elsjax.references import Reference

# Bytes of a block's temporary arrays: some of a CPU's cache, and enough to fill an accelerator.
_BUDGET_CPU, _BUDGET = 2**22, 2**26
_AXES = (parallel.DATA, parallel.SAMPLE)
_ARRAYS = 3  # of a block, of the size of its images in floating point


class GoldenSubsetDenoiser(TrainingSetDenoiser):
    """The posterior mean over a golden subset S of the training images (Shang et al. 2026).

        x0 = sum_n w_n y_n,   w = softmax_n(-|x_t - alpha y_n|² / 2 sigma²),   n in S

    Without a tolerance S is the published one: of n images, m of the least coarse distance, and of
    these k of the least distance to alpha times the image,

        k = round(n/10 - (n/10 - n/20)(1 - sigma)),   m = round(n/10 + (n - n/10)(1 - sigma)),

    each at least 1. The coarse distance is that of averages over pool × pool pixels; a block that
    the image's edge cuts counts with the pixels it has. (The published code draws m at random.)

    With a tolerance S is the smallest set, by rising lower bounds of distance, whose error is
    certainly at most that: all images, if need be. See `denoise_with_bound` and `kept`.

    Every noisy image is looked at for itself, so results do not depend on batch neighbours, block
    size or the order of the images, beyond rounding; of images equally far the first counts. Images
    conditional on a class are those of the class, and n is their number. Computations run in
    float64 where `jax_enable_x64` is set, else in float32; distances are computed from differences.
    At t = 0, where sigma = 0, the limit is taken. A denoiser does not change, and is a pytree; t
    and label may be traced. Loops end when enough is known, so there is no reverse-mode derivative.

    It need not be faster than the ideal machine, `ScoreMachine("is", images)`, which compares all
    images with a whole batch in one product of matrices.

    Args:
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      labels: class of each training image, integers [N]; needed to condition on a label.
      pool: side of the blocks that are averaged, in pixels.
      tolerance: bound on the error per pixel, in units of x_0, from 0 to 2; None for the published
        sizes.
      schedule: noise schedule, `CosineSchedule()` by default.
      memory_budget: bytes that the temporary arrays of a block of training images may use; None for
        4 MiB on a CPU and 64 MiB on an accelerator.

    Raises:
      ValueError: if an argument is not as described.
    """

    _leaves = ("training_set", "pooled", "members")
    training_set: TrainingSet
    pooled: Pooled
    members: Int[Array, " m"]
    pool: int
    tolerance: float | None
    memory_budget: int | None

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        pool: int = 2,
        tolerance: float | None = None,
        schedule: Schedule | None = None,
        memory_budget: int | None = None,
    ) -> None:
        checked, classes, settings = checked_settings(
            images, labels, schedule, memory_budget, None, None
        )
        pool = checks.positive_int("pool", pool)
        if tolerance is not None:
            tolerance = checks.in_range("tolerance", tolerance, 0, 2)
        training_set = TrainingSet.of(checked, classes, None)
        # First by classes, as they are stored, then by their numbers.
        by_number = np.argsort(np.asarray(training_set.numbers)).astype(np.int32)
        members = np.concatenate([np.arange(len(checked), dtype=np.int32), by_number])
        vars(self).update(
            settings,
            training_set=training_set,
            members=jnp.asarray(members),
            pool=pool,
            tolerance=tolerance,
        )
        vars(self).update(pooled=self._pooled())

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for golden subsets, and for its schedule."""
        return (Reference("shang2026", "golden subsets"), *super().references)

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Self:
        """The same denoiser on many devices: each has all images, and takes some noisy ones.

        Args:
          mesh: devices to share the work, as `elsjax.make_mesh` gives them.

        Returns:
          A denoiser of the same images.

        Raises:
          ValueError: if mesh is not as described.
        """
        parallel.check_mesh(mesh)
        return self._replaced(
            training_set=self.training_set.on(mesh).everywhere(),
            pooled=parallel.everywhere(self.pooled, mesh),
            members=parallel.everywhere(self.members, mesh),
        )

    def denoise_with_bound(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
        """Posterior mean and a bound on its error; arguments and errors as `denoise`.

        Returns:
          `(x0, bound)`: the estimate of x_0, [B, H, W, C], and how far it is at most, in any pixel,
          from the mean over all images, [B], in units of x_0, but for rounding. 0 where all images
          are kept; 2, the range of the pixels, where nothing is known.
        """
        found = self._subsets(*self.checked(x, t, label))
        return found.mean, found.bound

    def kept(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Bool[Array, "b n"]:
        """Which training images the mean is taken over; arguments and errors as `denoise`.

        Returns:
          For each noisy image and each training image, by the numbers the caller gave them, whether
          it is in the subset, [B, N].
        """
        return self._subsets(*self.checked(x, t, label)).kept

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        return self._subsets(x, t, label).mean

    def _subsets(self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None) -> Subset:
        """The subset of each noisy image, [B, ...]; of `kept` by the caller's numbers."""
        count = len(x)
        # Where in `members` those that count are; none for a label that is not known.
        ranges = jnp.asarray([self.num_images, 2 * self.num_images], jnp.int32)
        if label is not None:
            ranges = self.training_set.ranges(jnp.asarray(label))
        levels = (jnp.asarray(level, x.dtype) for level in self.schedule(t))
        alpha, sigma = (jnp.broadcast_to(level, (count,)) for level in levels)
        batch: tuple[Array, ...] = (x, alpha, sigma, jnp.broadcast_to(ranges, (count, 2)))
        if self.mesh is not None:
            batch = tuple(parallel.spread(array, self.mesh, _AXES) for array in batch)
        found = _compiled(
            self.training_set,
            self.pooled,
            self.members,
            self.tolerance,
            *batch,
            pool=self.pool,
            block=self._block(),
        )
        return jax.tree.map(lambda array: array[:count], parallel.everywhere(found, self.mesh))

    def _pooled(self) -> Pooled:
        """The training images, pooled block by block."""
        pixels, block = self.training_set.pixels, self._block()
        parts = [
            _pooled_block(pixels[first : first + block], pool=self.pool)
            for first in range(0, self.num_images, block)
        ]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    def _block(self) -> int:
        """How many training images are looked at together."""
        budget = self.memory_budget
        if budget is None:
            budget = _BUDGET_CPU if self.training_set.platform == "cpu" else _BUDGET
        bytes_of_image = _ARRAYS * math.prod(self.image_shape) * jnp.result_type(float).itemsize
        return max(1, min(self.num_images, budget // bytes_of_image))


@functools.partial(jax.jit, static_argnames="pool")
def _pooled_block(pixels: Array, *, pool: int) -> Pooled:
    return subsets.pooled(to_float(pixels, jnp.result_type(float)), pool)


@functools.partial(jax.jit, static_argnames=("pool", "block"))
def _compiled(
    training_set: TrainingSet,
    pooled: Pooled,
    members: Int[Array, " m"],
    tolerance: float | None,
    *batch: Array,
    pool: int,
    block: int,
) -> Subset:
    """The subset of each noisy image of a batch (x, alpha, sigma, ranges), one after the other."""
    size = training_set.num_images

    def one(everything: tuple[TrainingSet, Pooled, Array], image: tuple[Array, ...]) -> Subset:
        training_set, pooled, members = everything
        x, alpha, sigma, (start, stop) = image
        own = subsets.pooled(x[None], pool)
        noisy = Noisy(x.ravel(), alpha, sigma, Pooled(own.coarse[0], own.rest[0]))
        own_members = members[jnp.minimum(start + jnp.arange(size), 2 * size - 1)]
        pixels = training_set.pixels.reshape(size, -1)
        images = Screened(pixels, pooled, own_members, stop - start)
        if tolerance is not None:
            found = subsets.by_tolerance(noisy, images, block, tolerance)
        else:
            found = subsets.by_sizes(noisy, images, block)
        kept = jnp.zeros(size, bool).at[training_set.numbers[own_members]].max(found.kept)
        return found._replace(mean=found.mean.reshape(x.shape), kept=kept)

    def each(everything: tuple[TrainingSet, Pooled, Array], batch: tuple[Array, ...]) -> Subset:
        return lax.map(functools.partial(one, everything), batch)

    everything = (training_set, pooled, members)
    if training_set.mesh is not None:
        shares = jax.P(_AXES)
        each = jax.shard_map(
            each,
            mesh=training_set.mesh,
            in_specs=(jax.P(), shares),
            out_specs=shares,
            check_vma=False,
        )
    return each(everything, batch)
