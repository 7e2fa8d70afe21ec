"""PCA locality: a posterior at each pixel that looks where the Wiener filter looks.

Lukoianov et al. 2025. The Wiener filter's estimate of pixel j leans on pixel i by W_ji,

    W = U diag(alpha² λ / (alpha² λ + sigma²)) Uᵀ,   A_ji = W_ji / W_jj,

with eigenvalues λ and eigenvectors U of the covariance of the training images (divisor N), whose
D = HWC pixels are those of each channel. Pixel j then sees only what it leans on enough:

    M_ji = 1 where |A_ji| ≥ τ max |A|, and M_jj = 1,
    E[x_0(j) | x_t] = sum_n softmax_n(-sum_i M_ji (x_t(i) - alpha x_n(i))² / 2 sigma²) x_n(j).

Squared distances of all pixels from all training images are one product of squared differences,
[N, D], with the mask, [D, D].
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from elsjax import checks, parallel
from elsjax.analytic import moments, streaming
from elsjax.analytic.streaming import Estimator
from elsjax.posterior import batches, softmax
from elsjax.posterior.batches import Group
from elsjax.posterior.shares import Levels, Share
from elsjax.posterior.softmax import PosteriorState
from elsjax.posterior.training_set import TrainingSet
from elsjax.posterior.training_set_denoiser import TrainingSetDenoiser, checked_settings
from elsjax.process.schedules import Schedule
from elsjax.references import Reference

NormalizedBy = Literal["output", "input"]
_NORMALIZED_BY = ("output", "input")

# W_jj below which a pixel hardly varies: it sees itself only.
_LEAST_WEIGHT = 1e-8

# Arrays [D, D] that an evaluation holds beside its blocks: eigenvectors, W and what makes the mask.
_SQUARES = 4


class PCALocalityDenoiser(TrainingSetDenoiser):
    """A posterior at each pixel over whole training images, seen through a mask (PCA locality).

        E[x_0(j) | x_t] = sum_n softmax_n(-sum_i M_ji (x_t(i) - alpha x_n(i))² / 2 sigma²) x_n(j)

    where pixel i counts for pixel j, M_ji = 1, if |A_ji| ≥ threshold · max |A|, and for j = i.
    A_ji = W_ji / W_jj is the weight of i in the Wiener filter's estimate of j, W = alpha² Σ
    (alpha² Σ + sigma² I)⁻¹, relative to that of j itself (Lukoianov et al. 2025). Pixels are those
    of each channel, D = HWC. A pixel that hardly varies, W_jj < 1e-8, sees itself only, and does
    not count for the maximum. One that varies a little more can still set it, and leave little of
    the mask: see `mask_share`.

    The softmax is exact, over all training images; conditional on a class, it is over the class's
    images, with their own covariance. With a threshold of 0 it is the machine IS, but for pixels
    that hardly vary. The result does not depend on block size, batch neighbours, devices or the
    order of the images, beyond rounding. At t = 0 the limit is taken, in W and in the softmax. A
    pytree, and unchangeable, as `ScoreMachine` is.

    The eigenvectors are computed on the host in float64, of each class when it is first asked for:
    half a minute for 50,000 images with D = 3072. From them W is exact to rounding at any noise
    level, and whatever the number of images; an inverse in float32 would lose the ratio of the
    largest variance to the noise's. An evaluation takes 2 N D² operations a noisy image, and the
    mask 2 D³ for each time and class. A label must be known on the host; where several times are
    not, each noisy image has a mask computed of its own.

    Args:
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1].
      labels: class of each training image, integers [N]; needed to condition on a label.
      threshold: τ, in [0, 1]. Published: .005 for MNIST and FashionMNIST, .05 for CIFAR10, .02
        for faces.
      normalized_by: "output": A_ji = W_ji / W_jj. "input": W_ij / W_ii in the estimate of j, as the
        public code has it; that is the transposed mask.
      schedule: noise schedule; `CosineSchedule()` by default.
      memory_budget: bytes that one evaluation may use beside the images and its own input and
        output, four arrays [D, D] included. None for 4 GiB of these, and, for blocks of images, as
        `ScoreMachine`.
      block_size: number of training images per block, instead of the budget's choice.
      mesh: devices to share the work, as `elsjax.make_mesh` gives them; None for one device.

    Raises:
      ValueError: if an argument is not as described, or the budget too small for the mask; before
        any work.
    """

    threshold: float
    normalized_by: NormalizedBy
    _spectra: "_Spectra"

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        threshold: float = 0.02,
        normalized_by: NormalizedBy = "output",
        schedule: Schedule | None = None,
        memory_budget: int | None = None,
        block_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        checked, classes, settings = checked_settings(
            images, labels, schedule, memory_budget, block_size, mesh
        )
        threshold = checks.in_range("threshold", threshold, 0, 1)
        checks.one_of("normalized_by", normalized_by, _NORMALIZED_BY)
        _check_budget(settings["image_shape"], memory_budget)
        training_set = TrainingSet.of(checked, classes, mesh)
        vars(self).update(
            settings,
            threshold=threshold,
            normalized_by=normalized_by,
            training_set=training_set,
            _spectra=_Spectra(training_set),
        )

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for it, and for its schedule."""
        return (Reference("lukoianov2025", "PCA locality"), *super().references)

    def mask_share(self, t: float, label: int | None = None) -> float:
        """How much of the mask is left at a time.

        Args:
          t: one time in [0, 1]; 1 is noise.
          label: class; None for all images.

        Returns:
          The mean of M over its D² entries; at least 1 / D, since each pixel sees itself.

        Raises:
          ValueError: if t is no such number, or the label is not known.
        """
        t = checks.in_range("t", t, 0, 1)
        if label is not None:
            label = checks.integer("label", label, -(2**31), 2**31 - 1)
            self.check_label(np.asarray(label), 1)
        levels = (jnp.asarray(level, jnp.result_type(float)) for level in self.schedule(t))
        mask = _compiled_mask(self._mask(), *levels, *self._spectra.of(label, None))
        return float(jnp.mean(mask))

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        if label is not None and checks.host_values(label) is None:
            raise ValueError(
                "label must be a value on the host, not traced or on an accelerator: the "
                "covariance of each class is computed there"
            )
        groups = batches.groups_of(None, t, label, len(x), by_time=True)
        mixed = np.ndim(t) == 1 and checks.host_values(t) is None
        budget = self.memory_budget
        if budget is not None:
            budget -= _SQUARES * _square_bytes(self.image_shape)

        def answer(group: Group, of_group: tuple[Array, Levels]) -> dict[str, Array]:
            ranges = None
            if mixed or group.label is not None:
                ranges = jnp.asarray(self.training_set.bounds(group.label), jnp.int32)
            if mixed and ranges is not None:  # each noisy image for itself
                ranges = jnp.broadcast_to(ranges, (len(group.places), 2))
            mean = streaming.denoise(
                self._mask(),
                self._spectra.of(group.label, self.mesh),
                *of_group,
                self.training_set,
                ranges,
                memory_budget=budget,
                block_size=self.block_size,
            )
            return {"mean": mean}

        return batches.in_groups(groups, (x, self._levels_of_each(t, x)), answer)["mean"]

    def _mask(self) -> "_Mask":
        return _Mask(self.threshold, self.normalized_by)


def _square_bytes(image_shape: tuple[int, int, int]) -> int:
    """Bytes of an array [D, D]."""
    return math.prod(image_shape) ** 2 * jnp.result_type(float).itemsize


def _check_budget(image_shape: tuple[int, int, int], memory_budget: int | None) -> None:
    """Raises ValueError if the mask takes more memory than the budget."""
    budget = moments.DEFAULT_BUDGET if memory_budget is None else memory_budget
    needed = _SQUARES * _square_bytes(image_shape)
    if needed >= budget:
        size = math.prod(image_shape)
        raise ValueError(
            f"memory_budget={budget} is too small: the mask of images {list(image_shape)} needs "
            f"{_SQUARES} arrays of {size}×{size} entries, {needed} bytes ({needed / 2**30:.2f} GiB)"
        )


class _Spectra:
    """Eigenvalues and eigenvectors of covariances, each computed when it is first asked for.

    Those of a class never change, whatever the devices; so denoisers share them.
    """

    def __init__(self, training_set: TrainingSet) -> None:
        self._pixels, _ = training_set.on_host()
        self._bounds = {label: training_set.bounds(label) for label in (None, *training_set.labels)}
        self._on_host: dict[int | None, tuple[np.ndarray, np.ndarray]] = {}
        self._placed: dict[tuple, tuple[Array, Array]] = {}

    def of(
        self, label: int | None, mesh: jax.sharding.Mesh | None
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Variances, and directions in columns, of the images of a class, on all devices."""
        key = (label, mesh, jnp.result_type(float))
        if key not in self._placed:
            with jax.ensure_compile_time_eval():  # the first call may be one that is traced
                variances, directions = map(jnp.asarray, self._computed(label))
                self._placed[key] = parallel.everywhere((variances, directions), mesh)
        return self._placed[key]

    def _computed(
        self, label: int | None
    ) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """The same, on the host."""
        if label not in self._on_host:
            rows = self._pixels.reshape(len(self._pixels), -1)
            _, covariance = moments.moments_of(rows, np.arange(*self._bounds[label]))
            variances, directions = np.linalg.eigh(covariance)
            # What is rounding of zero would count as signal at sigma -> 0.
            rounding = len(variances) * np.finfo(float).eps * variances[-1]
            self._on_host[label] = np.where(variances < rounding, 0, variances), directions
        return self._on_host[label]


@dataclasses.dataclass(frozen=True)
class _Mask(Estimator):
    """Which pixels count, and the mean where they do.

    Axes: j is the pixel that is estimated, i one that counts for it.
    """

    threshold: float
    normalized_by: NormalizedBy

    def numbers(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """See `Estimator.numbers`."""
        size = math.prod(image_shape)
        return 8 * size, 6 * size, 4 * size

    def of_levels(
        self,
        alpha: Float[Array, ""],
        sigma: Float[Array, ""],
        variances: Float[Array, " d"],
        directions: Float[Array, "d d"],
    ) -> Bool[Array, "j i"]:
        """The mask at a noise level."""
        signal = alpha**2 * variances
        spread = signal + sigma**2
        # Where neither signal nor noise has any spread, at sigma = 0, nothing is leant on.
        gains = jnp.where(spread > 0, signal / jnp.where(spread > 0, spread, 1), 0)
        weights = jnp.matmul(
            directions * gains[None], directions.T, precision=lax.Precision.HIGHEST
        )
        own = jnp.diagonal(weights)
        varies = (own >= _LEAST_WEIGHT)[:, None]
        relative = jnp.where(varies, jnp.abs(weights) / jnp.where(varies, own[:, None], 1), 0)
        enough = varies & (relative >= self.threshold * jnp.max(relative))
        mask = enough | jnp.eye(len(own), dtype=bool)
        return mask.T if self.normalized_by == "input" else mask

    def prepared(
        self, levels: Levels, constants: tuple[Float[Array, " d"], Float[Array, "d d"]]
    ) -> Float[Array, "j i"]:
        """The mask, as numbers; see `Estimator.prepared`."""
        variances, directions = (array.astype(levels.alpha.dtype) for array in constants)
        mask = self.of_levels(levels.alpha[0], levels.sigma[0], variances, directions)
        return mask.astype(levels.alpha.dtype)

    def estimate(
        self,
        x: Float[Array, "b h w c"],
        levels: Levels,
        share: Share,
        prepared: Float[Array, "j i"],
        images: int,
    ) -> Float[Array, "b h w c"]:
        """See `Estimator.estimate`."""
        batch, size = len(x), len(prepared)
        noisy = x.reshape(batch, size).T[..., None]
        alpha = levels.alpha[None, :, None]
        gains = streaming.norm_gains(levels)[None, :, None]

        def add(seen: PosteriorState, places: Int[Array, " n"], counts: Array) -> PosteriorState:
            keys = streaming.images_last(share, places, x.dtype).reshape(size, -1)
            squares = gains * (noisy - alpha * keys[:, None]) ** 2
            logits = jnp.matmul(
                prepared, squares.reshape(size, -1), precision=lax.Precision.HIGHEST
            ).reshape(size, batch, -1)
            # A column of ones makes the product return the sum of weights as well.
            values = jnp.stack([keys, jnp.ones_like(keys)], axis=-1)
            values = values * counts.astype(x.dtype)[None, :, None]

            def weigh(weights: Array) -> tuple[Array, Array]:
                sums = jnp.einsum("jbn,jnv->jbv", weights, values, precision=lax.Precision.HIGHEST)
                return sums[..., 1], sums[..., :1]

            return softmax.merge(seen, softmax.from_logits(logits, weigh))

        state = share.varying(softmax.empty((size, batch), 1, x.dtype))
        state = share.fold(add, state, images)
        if share.sharded:
            state = softmax.merge_over(state, parallel.DATA)
        return softmax.mean(state)[..., 0].T.reshape(x.shape)


@jax.jit(static_argnums=0)
def _compiled_mask(
    mask: _Mask,
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
    variances: Float[Array, " d"],
    directions: Float[Array, "d d"],
) -> Bool[Array, "j i"]:
    return mask.of_levels(alpha, sigma, variances, directions)
