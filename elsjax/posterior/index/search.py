"""The near-far search: near clusters patch by patch, far ones by what stands in for them.

A tree code for the softmax mean. For each query, clusters of an index are ordered by their
estimated share of the posterior's weight. Those above a threshold are near: their patches are
looked up one by one. Each of the others is far and counts as a Gaussian, whose integral against
the likelihood of the query is known in closed form.

What the stand-ins are worth is measured, not assumed: where a cluster has just been opened, its
exact weight and mean are compared with those of its Gaussian. That error, in proportion to the
weight that is still far, is the estimate of a query's error. The threshold falls, query by query,
until the estimate is within the tolerance; with a tolerance of 0 all clusters are opened.

Clusters are read for queries, not queries for clusters: a cluster's patches are read once for
several queries that request them, in any noisy image (see `packing`). They lie in memory cluster by
cluster: to cut each out of its image takes several times as long as all that is computed with it.

Axis names: b noisy images, r queries, k clusters, d entries of a patch, m principal axes, f
features, v entries of a stand-in's value, c channels, p pixels of a part.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from elsjax.posterior import patches as layout
from elsjax.posterior import softmax
from elsjax.posterior.dictionaries import Part, WindowPart
from elsjax.posterior.index import gaussians, openings, packing
from elsjax.posterior.index.clusters import Patches, PatchIndex
from elsjax.posterior.index.problem import Block, Problem, Queries
from elsjax.posterior.softmax import PosteriorState

_Carry = TypeVar("_Carry")

# Patches below which, and entries of a patch above which, the dense kernel is faster, measured on a
# CPU: clusters of large patches tell little of them, and there are few positions to save.
_FEWEST_PATCHES, _MOST_ENTRIES = 2**22, 120

# Bytes that the pixels of an index's patches may take, laid out cluster by cluster.
MOST_BYTES = 2**33

# Entries of a block of estimates, queries × clusters.
_BLOCK = 2**22

# Queries whose thresholds are lowered at a time: all over a number, or as many as fill a product.
_SHARE, _FEWEST_QUERIES = 4, 128

# The fewest clusters that a query opens, about, since some hold more than their Gaussians tell; and
# of how many its threshold for that is found.
_FEWEST, _SUBSET = 1024, 8192

# The error estimate: a factor and a least share of the tolerance with which it covers 99 % of the
# errors.
_SAFETY, _LEAST = 3, 1 / 2

# Thresholds: the first, by how much each is lower than the one before, and how much lower than
# the first the last is before 0.
_FIRST, _STEP, _LAST = 1e-3, 1 / 4, 1e-6


class Estimate(NamedTuple):
    """What is known of each query's posterior.

    Attributes:
      threshold: clusters with at least this share of the weight have been opened.
      near: state of the opened clusters, of this device only.
      state: that of all clusters on all devices, far ones by their stand-ins.
      change: how far the last threshold moved the mean, the largest over channels.
      error: estimate of the mean's error, the largest over channels.
    """

    threshold: Float[Array, " r"]
    near: PosteriorState
    state: PosteriorState
    change: Float[Array, " r"]
    error: Float[Array, " r"]


def pays(part: Part, num_images: int) -> TypeGuard[WindowPart]:
    """Whether clusters pay: not for few patches, nor where each pixel has patches of its own.

    Patches that would take more than `MOST_BYTES`, in uint8, are not laid out either.

    Args:
      part: the part of the dictionary.
      num_images: number of training images.

    Returns:
      True if this search is faster than the dense kernel.
    """
    if not isinstance(part, WindowPart) or not part.free:
        return False
    patches = num_images * part.keys_per_image
    if part.key_size > _MOST_ENTRIES or patches * part.key_size > MOST_BYTES:
        return False
    # Places are integers of 32 bits.
    return _FEWEST_PATCHES < patches < 2**31


def posterior_mean(
    part: WindowPart,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
    origin: Float[Array, " c"],
    index: PatchIndex,
    patches: Patches,
    tolerance: float | Float[Array, ""],
    *,
    sharded: bool = False,
) -> tuple[Float[Array, "b p c"], Float[Array, "b p"]]:
    """Posterior means of one part's pixels, and an estimate of their errors.

    Args:
      part: a part without tied axes.
      x: noisy images.
      alpha: signal level.
      sigma: noise level.
      origin: pixel that counts as 0 in the arithmetic; does not change the result beyond rounding.
      index: clusters of the part's patches in the training images that count.
      patches: those patches, as `lay_out` gives them for this origin.
      tolerance: error estimate to go below, in pixels of [-1, 1].
      sharded: inside `jax.shard_map` over a mesh of `elsjax.parallel`: the clusters are the
        device's own, and the mean is over those of all devices along "data".

    Returns:
      E[x_0 | x_t] at the part's pixels, [B, len(part.pixels), C], and error estimates, the largest
      over channels, [B, len(part.pixels)].
    """
    origin = jnp.asarray(origin, x.dtype)
    windows = _windows(part, x - alpha * origin[None, None, None])
    shift = jnp.tile(origin, windows.shape[1] // origin.size)
    problem = Problem(
        alpha=alpha,
        sigma=sigma,
        shift=shift,
        index=index,
        patches=patches,
        stand_ins=gaussians.stand_ins(index, shift, alpha, sigma),
        sharded=sharded,
    )
    found = search(problem, windows, tolerance)
    mean = _per_pixel(part, softmax.mean(found.state), len(x))
    error = _per_pixel(part, found.error[:, None], len(x))
    return mean + origin[None, None], error[..., 0]


def _windows(part: WindowPart, x: Float[Array, "b h w c"]) -> Float[Array, "r d"]:
    """The windows around a part's pixels, image by image."""
    windows = layout.windows(part, x)[0]
    return windows.reshape(-1, windows.shape[2])


def _per_pixel(part: WindowPart, values: Float[Array, "r c"], batch: int) -> Float[Array, "b p c"]:
    """What belongs to each window, at the part's pixels."""
    return layout.by_pixels(part, values.reshape(1, batch, -1, values.shape[1]))


def search(
    problem: Problem, windows: Float[Array, "r d"], tolerance: float | Float[Array, ""]
) -> Estimate:
    """Lowers each query's threshold until its error estimate is within the tolerance.

    Args:
      problem: clusters and noise level.
      windows: of noisy images, less alpha times the shift.
      tolerance: error estimate to go below.

    Returns:
      The last estimates.
    """
    count = len(windows)
    # What fills the number of queries up requests nothing.
    windows = jnp.pad(windows, ((0, -count % packing.WORD), (0, 0)))
    rows = len(windows)
    queries, far = _as_queries(problem, windows)
    infinite, zero = jnp.full(rows, jnp.inf, windows.dtype), jnp.zeros(rows, windows.dtype)
    unknown = jnp.where(jnp.arange(rows) < count, infinite, zero)
    infinite, zero, unknown = problem.varying_over_samples((infinite, zero, unknown))
    nothing = problem.varying(softmax.empty((rows,), problem.channels, windows.dtype))
    start = Estimate(infinite, nothing, far, change=zero, error=unknown)
    at_once = -(-rows // (packing.WORD * _SHARE)) * packing.WORD
    at_once = min(rows, max(_FEWEST_QUERIES, at_once))

    def refine_some(estimate: Estimate) -> Estimate:
        """Lowers the highest thresholds; most queries are done long before the last."""
        priority = jnp.where(estimate.error <= tolerance, -1, estimate.threshold)
        _, chosen = lax.top_k(priority, at_once)
        some = jax.tree.map(lambda array: array[chosen], (queries, estimate))
        refined = _refine(problem, some[0], some[1], tolerance)
        return jax.tree.map(lambda array, new: array.at[chosen].set(new), estimate, refined)

    found = lax.while_loop(lambda e: jnp.any(e.error > tolerance), refine_some, start)
    return jax.tree.map(lambda array: array[:count], found)


def _as_queries(problem: Problem, windows: Float[Array, "r d"]) -> tuple[Queries, PosteriorState]:
    """Queries, and their states while all clusters are far."""
    index = problem.index
    coordinates = jnp.matmul(
        windows - problem.alpha * (index.mean - problem.shift)[None],
        index.axes,
        precision=lax.Precision.HIGHEST,
    )
    features = gaussians.features(windows, coordinates)
    far = problem.merge_over_shards(_all_far(problem, features, coordinates))
    # Estimated shares of the weight are relative to this; beyond rounding it does not matter.
    log_evidence = far.maximum + jnp.log(far.weight)
    first = _first_thresholds(problem, features, log_evidence)
    return Queries(windows, features, coordinates, log_evidence, first), far


def _all_far(
    problem: Problem, features: Float[Array, "r f"], coordinates: Float[Array, "r m"]
) -> PosteriorState:
    """States of all clusters of this device by their stand-ins."""
    channels = problem.channels

    def add(block: Block, state: PosteriorState) -> PosteriorState:
        def weigh(weights: Array) -> tuple[Array, Array]:
            values = block.of(problem.stand_ins.values)
            sums = jnp.matmul(weights, values, precision=lax.Precision.HIGHEST)
            return sums[:, -1], gaussians.weighted_values(sums, coordinates, channels)

        coefficients = block.of(problem.stand_ins.coefficients)
        logits = gaussians.log_weights(features, coefficients)
        return softmax.merge(state, softmax.from_logits(logits, weigh))

    rows = len(features)
    nothing = problem.varying(softmax.empty((rows,), channels, features.dtype))
    return _over_blocks(problem, rows, add, nothing)


def _first_thresholds(
    problem: Problem, features: Float[Array, "r f"], log_evidence: Float[Array, " r"]
) -> Float[Array, " r"]:
    """Thresholds that at least a few clusters are above.

    A query that one cluster decides learns about others from the nearest of them. Clusters are in
    random order, so the first are as good as any.
    """
    some = problem.stand_ins.coefficients[: max(1, _SUBSET // problem.num_shards)]
    some = gaussians.log_weights(features, some)
    rank = min(max(4, _FEWEST * some.shape[1] // problem.num_clusters), some.shape[1])
    best = problem.gather_over_shards(lax.top_k(some, rank)[0])
    share = jnp.exp(lax.top_k(best, rank)[0][:, -1] - log_evidence)
    return jnp.minimum(_FIRST, share)


class _Sums(NamedTuple):
    """What a step adds up over the clusters of this device: opened ones, and stand-ins' values."""

    opened: openings.Opened
    far: Float[Array, "r v"]


def _refine(
    problem: Problem,
    queries: Queries,
    before: Estimate,
    tolerance: float | Float[Array, ""],
) -> Estimate:
    """Lowers the thresholds of queries that are not done by a step."""
    done = before.error <= tolerance
    lower = jnp.where(done, before.threshold, _next_thresholds(queries, before.threshold))
    step = openings.Step(before.threshold, lower, softmax.mean(before.state))

    def add(block: Block, sums: _Sums) -> _Sums:
        estimates = gaussians.log_weights(
            queries.features, block.of(problem.stand_ins.coefficients)
        )
        shares = jnp.exp(estimates - queries.log_evidence[:, None])
        far = jnp.matmul(
            jnp.where(shares < lower[:, None], shares, 0),
            block.of(problem.stand_ins.values),
            precision=lax.Precision.HIGHEST,
        )
        opened = openings.open_requested(problem, queries, step, block, shares, sums.opened)
        return _Sums(opened, sums.far + far)

    zeros = functools.partial(jnp.zeros, dtype=queries.windows.dtype)
    rows, width = len(lower), problem.stand_ins.values.shape[1]
    misfit, share, far = problem.varying((zeros(rows), zeros(rows), zeros((rows, width))))
    start = _Sums(openings.Opened(before.near, misfit, share), far)
    sums = _over_blocks(problem, rows, add, start)
    return _judged(problem, queries, before, step, sums, tolerance, done)


def _next_thresholds(queries: Queries, threshold: Float[Array, " r"]) -> Float[Array, " r"]:
    """The thresholds that follow on others: the first on infinity, 0 on the last."""
    first = queries.first_threshold
    lowered = jnp.where(jnp.isinf(threshold), first, threshold * _STEP)
    return jnp.where(lowered < _LAST * first, 0, lowered)


def _judged(
    problem: Problem,
    queries: Queries,
    before: Estimate,
    step: openings.Step,
    sums: _Sums,
    tolerance: float | Float[Array, ""],
    done: Bool[Array, " r"],
) -> Estimate:
    """The posteriors after a step, and estimates of their errors."""
    values = gaussians.weighted_values(sums.far, queries.coordinates, problem.channels)
    misfit, share, far_weight, far_total = problem.sum_over_shards(
        (sums.opened.misfit, sums.opened.share, sums.far[:, -1], values)
    )
    # Where nothing is far, what had been expected of it does not count either.
    nothing = softmax.empty(far_weight.shape, problem.channels, far_weight.dtype)
    level = jnp.where(far_weight > 0, queries.log_evidence, nothing.maximum)
    far = PosteriorState(maximum=level, weight=far_weight, total=far_total)
    state = softmax.merge(problem.merge_over_shards(sums.opened.near), far)
    share_far = far_weight * jnp.exp(level - state.maximum) / state.weight
    # Relative to the weight that the stand-ins said the opened clusters had.
    misfit = misfit / jnp.maximum(share, jnp.finfo(share.dtype).tiny)
    change = jnp.abs(softmax.mean(state) - step.mean).max(axis=-1)
    recent = jnp.maximum(change, before.change / 4)
    error = _SAFETY * jnp.maximum(2 * share_far * misfit, recent)
    # Never below what a threshold can tell: where one cluster decides, far ones may be larger
    # than they look.
    error = jnp.where(share_far > 0, jnp.maximum(error, _LEAST * tolerance), 0)
    return Estimate(
        threshold=step.lower,
        near=sums.opened.near,
        state=state,
        change=jnp.where(done, before.change, change),
        error=jnp.where(done, before.error, error),
    )


def _over_blocks(
    problem: Problem, rows: int, add: Callable[[Block, _Carry], _Carry], start: _Carry
) -> _Carry:
    """Adds up over the clusters of this device, in blocks whose size divides their number."""
    clusters = problem.num_clusters
    size = max(1, min(clusters, 2 ** (_BLOCK // rows).bit_length() // 2))
    return lax.fori_loop(
        0, clusters // size, lambda number, sums: add(Block(number * size, size), sums), start
    )
