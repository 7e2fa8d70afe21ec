"""PSPC: the mean of posterior means over all crops that cover a pixel (Niedoba et al. 2025).

For every s×s crop C inside the image there is a posterior over the same crop of the training
images,

    w_n(C) = softmax_n(-|x_t[C] - alpha x_n[C]|² / 2 sigma²),

and the estimate at a pixel is the mean over the crops that cover it of sum_n w_n(C) x_n. Summed
over the crops first, it is a sum over training images of x_n times the mean of their weights over
crops. So weights are all that is kept for each crop, and they are needed twice: once to know their
sum, once to be averaged.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from elsjax import checks, parallel
from elsjax.analytic import streaming
from elsjax.analytic.streaming import Estimator
from elsjax.posterior import batches, softmax
from elsjax.posterior.batches import Group
from elsjax.posterior.shares import Levels, Share
from elsjax.posterior.softmax import PosteriorState
from elsjax.posterior.training_set import TrainingSet
from elsjax.posterior.training_set_denoiser import TrainingSetDenoiser, checked_settings
from elsjax.process.schedules import Schedule
from elsjax.process.windows import WindowSchedule
from elsjax.references import Reference


class PSPCDenoiser(TrainingSetDenoiser):
    """Patch set posterior composites (Niedoba et al. 2025): a posterior for each crop, averaged.

        E[x_0(i) | x_t] = mean over crops C that cover i of sum_n w_n(C) x_n(i),
        w_n(C) = softmax_n(-|x_t[C] - alpha x_n[C]|² / 2 sigma²)

    The crops are the s×s squares inside the image, compared with the same square of the training
    images. With s = 1 it is the machine LS with a window of 1, with crops of the whole image IS.
    The result does not depend on block size, batch neighbours, devices or the order of the images,
    beyond rounding; conditional on a class it is that of the class's images. At t = 0 the limit is
    taken: the nearest crop. A pytree, and unchangeable, as `ScoreMachine` is.

    Args:
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      labels: class of each training image, integers [N]; needed to condition on a label.
      window: side s of the crops, odd or even, at most that of the images; or a `WindowSchedule`
        for s(t), of which then t must be known on the host. Published, for the 18 steps of EDM on
        32×32 images, high noise first: 32 seven times, 23, 15, 11, 7, 5, and 3 six times.
      schedule: noise schedule; `CosineSchedule()` by default.
      memory_budget: bytes that one evaluation may use beside the images and its own input and
        output; see `ScoreMachine`.
      block_size: number of training images per block, instead of the budget's choice.
      mesh: devices to share the work, as `elsjax.make_mesh` gives them; None for one device.

    Raises:
      ValueError: if an argument is not as described; before any work.
    """

    window: int | WindowSchedule

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        window: int | WindowSchedule,
        schedule: Schedule | None = None,
        memory_budget: int | None = None,
        block_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        checked, classes, settings = checked_settings(
            images, labels, schedule, memory_budget, block_size, mesh
        )
        least = min(settings["image_shape"][:2])
        if isinstance(window, WindowSchedule):
            for side in window.windows:
                _check_side(side, least)
        else:
            window = _check_side(window, least)
        vars(self).update(
            settings, window=window, training_set=TrainingSet.of(checked, classes, mesh)
        )

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for it, and for its schedule."""
        return (Reference("niedoba2025", "patch set posterior composites"), *super().references)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""

        def answer(group: Group, of_group: tuple[Array, Levels]) -> dict[str, Array]:
            ranges = None
            if group.label is not None:
                ranges = self.training_set.ranges(jnp.asarray(group.label, jnp.int32))
            assert group.window is not None
            mean = streaming.denoise(
                _Crops(group.window),
                None,
                *of_group,
                self.training_set,
                ranges,
                memory_budget=self.memory_budget,
                block_size=self.block_size,
            )
            return {"mean": mean}

        groups = batches.groups_of(self.window, t, label, len(x))
        return batches.in_groups(groups, (x, self._levels_of_each(t, x)), answer)["mean"]


def _check_side(side: object, least: int) -> int:
    """The side; raises ValueError unless crops of it are inside images of that least side."""
    checked = checks.positive_int("window", side)
    if checked > least:
        raise ValueError(
            f"window={checked} must be at most {least}, the side of the images: crops are inside"
        )
    return checked


@dataclasses.dataclass(frozen=True)
class _Crops(Estimator):
    """The mean over crops.

    Axes: u and v are the rows and columns of crops.
    """

    side: int

    def numbers(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """See `Estimator.numbers`."""
        size, pixels = math.prod(image_shape), image_shape[0] * image_shape[1]
        return 4 * size + 8 * pixels, 4 * size, 5 * pixels

    def estimate(
        self, x: Float[Array, "b h w c"], levels: Levels, share: Share, prepared: None, images: int
    ) -> Float[Array, "b h w c"]:
        """See `Estimator.estimate`."""
        batch, height, width, channels = x.shape

        def of_pass(
            carry: tuple[PosteriorState, Array], averaging: Bool[Array, ""]
        ) -> tuple[tuple[PosteriorState, Array], None]:
            """All images once: to know the largest logits and sums of weights, or to average."""
            known, before = carry

            def add(
                found: tuple[PosteriorState, Array], places: Int[Array, " n"], counts: Array
            ) -> tuple[PosteriorState, Array]:
                state, total = found
                keys = streaming.images_last(share, places, x.dtype)
                logits, counted = self._logits(x, levels, keys), counts.astype(x.dtype)
                return lax.cond(
                    averaging,
                    lambda: (state, total + self._averaged(logits, known, keys, counted)),
                    lambda: (softmax.merge(state, _state(logits, counted)), total),
                )

            state, total = share.fold(add, share.varying(none), images)
            if share.sharded:
                state = softmax.merge_over(state, parallel.DATA)
                total = lax.psum(total, parallel.DATA)
            known = jax.tree.map(lambda a, b: jnp.where(averaging, a, b), known, state)
            return (known, before + total), None

        crops = (height - self.side + 1, width - self.side + 1, batch)
        total = jnp.zeros((height, width, batch, channels), x.dtype)
        none = softmax.empty(crops, 0, x.dtype), total
        # One loop body for both passes: the logits are those of the first to the last bit in the
        # second. With others, a rounding apart, the nearest crop's weight at sigma -> 0 would be 0.
        start = lax.pcast(none, parallel.SAMPLE, to="varying") if share.sharded else none
        (known, total), _ = lax.scan(of_pass, start, jnp.arange(2) == 1)
        covering = np.multiply.outer(*(_covering(size, self.side) for size in (height, width)))
        mean = total / jnp.asarray(covering, x.dtype)[..., None, None]
        # NaN where there is no image of the label.
        mean = jnp.where(known.weight[:1, :1, :, None] > 0, mean, jnp.nan)
        return mean.transpose(2, 0, 1, 3)

    def _logits(
        self, x: Float[Array, "b h w c"], levels: Levels, keys: Float[Array, "h w c n"]
    ) -> Float[Array, "u v b n"]:
        """Of each crop; sums of squares, without differences of sums."""
        noisy = x.transpose(1, 2, 3, 0)[..., None]
        apart = noisy - levels.alpha[None, None, None, :, None] * keys[..., None, :]
        gains = streaming.norm_gains(levels)[None, None, :, None]
        squares = gains * jnp.sum(apart**2, axis=2)
        return lax.optimization_barrier(_box(_box(squares, self.side, 0, 0), self.side, 1, 0))

    def _averaged(
        self,
        logits: Float[Array, "u v b n"],
        known: PosteriorState,
        keys: Float[Array, "h w c n"],
        counts: Float[Array, " n"],
    ) -> Float[Array, "h w b c"]:
        """Sums of images times their weights, over the crops that cover each pixel."""
        weights = jnp.exp(logits - known.maximum[..., None])
        weights = weights * (counts[None, None, None] / known.weight[..., None])
        margin = self.side - 1
        covering = _box(_box(weights, self.side, 0, margin), self.side, 1, margin)
        return jnp.einsum("hwbn,hwcn->hwbc", covering, keys, precision=lax.Precision.HIGHEST)


def _state(logits: Float[Array, "u v b n"], counts: Float[Array, " n"]) -> PosteriorState:
    """Largest logits and sums of weights of a block; no values."""

    def weigh(weights: Array) -> tuple[Array, Array]:
        sums = jnp.matmul(weights, counts, precision=lax.Precision.HIGHEST)
        return sums, jnp.zeros((*sums.shape, 0), logits.dtype)

    return softmax.from_logits(logits, weigh)


def _box(array: Array, side: int, axis: int, padding: int) -> Array:
    """Sums over so many neighbours along an axis, filled up with zeros on both sides."""
    sides, paddings = [1] * array.ndim, [(0, 0)] * array.ndim
    sides[axis], paddings[axis] = side, (padding, padding)
    return lax.reduce_window(array, 0.0, lax.add, sides, [1] * array.ndim, paddings)


def _covering(size: int, side: int) -> Int[np.ndarray, " size"]:
    """How many crops along an axis cover each coordinate."""
    return np.convolve(np.ones(size - side + 1, int), np.ones(side, int))
