"""The near-far kernel: near clusters patch by patch, far ones by what stands in for them.

A tree code for the softmax mean. For each query, clusters of an index are ordered by their
estimated share of the posterior's weight. Those above a threshold are near: their patches are
looked up one by one. Each of the others is far and counts as a Gaussian, whose integral against
the likelihood of the query is known in closed form.

What the stand-ins are worth is measured, not assumed: where a cluster has just been opened, its
exact weight and mean are compared with those of its Gaussian. That error, in proportion to the
weight that is still far, is the estimate of a query's error. The threshold falls, query by query,
until the estimate is within the tolerance; with a tolerance of 0 all clusters are opened.

Clusters, not queries, take turns: a cluster's patches are read once for up to `_SLOTS` queries that
want them, in any noisy image. They lie in memory cluster by cluster: to cut each out of its image
takes several times as long as all that is computed with it.

Axis names: r queries, k clusters, l places of a cluster, d entries of a patch, m principal axes,
f features, v entries of a stand-in's value, u clusters at a time, s slots, c channels.
"""

from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt16, UInt32

from elsjax import parallel
from elsjax.pixels import to_float
from elsjax.posterior import patches as layout
from elsjax.posterior import state as posterior
from elsjax.posterior.dictionaries import Part, WindowPart
from elsjax.posterior.index.clusters import Patches, PatchIndex

# Patches below which, and entries of a patch above which, the dense kernel is faster, measured on a
# CPU: clusters of large patches tell little of them, and there are few positions to save.
_FEWEST_PATCHES, _MOST_ENTRIES = 2**22, 120

# Bytes that the pixels of an index's patches may take, laid out cluster by cluster.
MOST_BYTES = 2**33

# Queries that share a cluster's patches, and clusters opened at a time.
_SLOTS = 4
_UNITS = 128

# Entries of a block of estimates, queries × clusters.
_BLOCK = 2**22

# Queries whose thresholds are lowered at a time: a share of all, or as many as fill a product.
_TURNS, _FEWEST_QUERIES = 4, 128

# The fewest clusters that a query opens, about, since some hold more than their Gaussians tell; and
# of how many its threshold for that is found.
_FEWEST, _SUBSET = 1024, 8192

# The error estimate: a factor and a least share of the tolerance with which it covers 99 % of the
# errors, and up to how many thresholds a cluster's share tells what those below are worth.
_SAFETY, _LEAST, _MARGIN = 3, 1 / 2, 16

# Thresholds: the first, by how much each is lower than the one before, and how much lower than
# the first the last is before 0.
_FIRST, _STEP, _LAST = 1e-3, 1 / 4, 1e-6


def pays(part: Part, num_images: int) -> TypeGuard[WindowPart]:
    """Whether clusters pay: not for few patches, nor where each pixel has patches of its own.

    Patches that would take more than 8 GiB, in uint8, are not laid out either.

    Args:
      part: the part of the dictionary.
      num_images: number of training images.

    Returns:
      True if this kernel is faster than the dense one.
    """
    if not isinstance(part, WindowPart) or part.rows.tied or part.columns.tied:
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
      patches: those patches, as `clusters.lay_out` gives them for this origin.
      tolerance: error estimate to go below, in pixels of [-1, 1].
      sharded: inside `jax.shard_map` over a mesh of `elsjax.parallel`: the clusters are the
        device's own, and the mean is over those of all devices along "data".

    Returns:
      E[x_0 | x_t] at the part's pixels, [B, len(part.pixels), C], and error estimates, the largest
      over channels, [B, len(part.pixels)].
    """
    origin = jnp.asarray(origin, x.dtype)
    windows = layout.windows(part, x - alpha * origin[None, None, None])[0]
    batch, per_image, size = windows.shape
    count = batch * per_image
    windows = jnp.pad(windows.reshape(count, size), ((0, -count % 32), (0, 0)))
    shift = jnp.tile(origin, size // origin.size)
    far = _stand_ins(index, shift, alpha, sigma)
    along = jnp.matmul(
        windows - alpha * (index.mean - shift)[None], index.axes, precision=lax.Precision.HIGHEST
    )
    norms = jnp.sum(windows * windows, axis=1, keepdims=True)
    features = jnp.concatenate([windows, along, along * along, norms, jnp.ones_like(norms)], axis=1)
    seen = _open_until(
        count,
        windows,
        features,
        along,
        alpha,
        sigma,
        shift,
        index,
        patches,
        far,
        tolerance,
        sharded,
    )
    mean = posterior.mean(seen.state)[:count].reshape(1, batch, per_image, -1)
    error = seen.error[:count].reshape(1, batch, per_image, 1)
    return layout.by_pixels(part, mean) + origin[None, None], layout.by_pixels(part, error)[..., 0]


class _StandIns(NamedTuple):
    """Gaussians in place of clusters: their log weights and values are linear in the features."""

    log_weights: Float[Array, "k f"]
    values: Float[Array, "k v"]


class _Queries(NamedTuple):
    """What a query is, its coordinates along the principal axes, and how it starts.

    Shares of the weight are relative to `unit`, a logarithm; `highest` is the first threshold.
    """

    windows: Float[Array, "r d"]
    features: Float[Array, "r f"]
    along: Float[Array, "r m"]
    unit: Float[Array, " r"]
    highest: Float[Array, " r"]


class _Seen(NamedTuple):
    """What is known of each query's posterior at one threshold; `near` by this device only."""

    threshold: Float[Array, " r"]
    near: posterior.PosteriorState
    state: posterior.PosteriorState
    change: Float[Array, " r"]
    error: Float[Array, " r"]


def _stand_ins(
    index: PatchIndex, shift: Float[Array, " d"], alpha: Float[Array, ""], sigma: Float[Array, ""]
) -> _StandIns:
    """Integrals of clusters, as Gaussians, against exp(-|x - alpha y|² / 2 sigma²).

    Along a direction of variance v, the mean of that over a Gaussian around c is, with r the
    component of x - alpha c, sqrt(1 / (1 + alpha² v / sigma²)) exp(-r² / 2 (sigma² + alpha² v)),
    and the posterior mean is moved from c by alpha v r / (sigma² + alpha² v).
    """
    dtype = shift.dtype
    noise = sigma * sigma
    centres = index.centres.astype(dtype) - shift[None]
    total = index.counts.astype(dtype).sum(axis=1)
    along = jnp.matmul(
        centres - (index.mean - shift)[None], index.axes, precision=lax.Precision.HIGHEST
    )
    spread, rest_spread = alpha**2 * index.variances, alpha**2 * index.residuals
    num_rest = max(0, index.axes.shape[0] - index.axes.shape[1])
    # exp(-r² / 2 sigma²) is exp(-r² / 2 (sigma² + spread)) without this times r².
    excess = spread / (2 * noise * (noise + spread))
    rest = rest_spread / (2 * noise * (noise + rest_spread)) * (num_rest > 0)
    beyond = excess - rest[:, None]
    norms = alpha**2 * jnp.sum(centres * centres, axis=1)
    constant = (
        jnp.where(total > 0, jnp.log(jnp.maximum(total, 1)), -1e30)
        - 0.5 * jnp.sum(jnp.log1p(spread / noise), axis=1)
        - 0.5 * num_rest * jnp.log1p(rest_spread / noise)
        + (rest - 0.5 / noise) * norms
        + jnp.sum(beyond * (alpha * along) ** 2, axis=1)
    )
    log_weights = jnp.concatenate(
        [
            (alpha / noise - 2 * alpha * rest)[:, None] * centres,
            -2 * alpha * beyond * along,
            beyond,
            rest[:, None],
            constant[:, None],
        ],
        axis=1,
    )
    channels = index.slopes.shape[2]
    middle = shift.size // 2 // channels * channels
    slopes = (alpha / (noise + spread))[:, :, None] * index.slopes
    values = centres[:, middle : middle + channels] - alpha * jnp.einsum(
        "kmc,km->kc", slopes, along, precision=lax.Precision.HIGHEST
    )
    values = jnp.concatenate(
        [values, slopes.reshape(len(slopes), -1), jnp.ones_like(values[:, :1])], axis=1
    )
    return _StandIns(log_weights, values)


def _open_until(
    count: int,
    windows: Float[Array, "r d"],
    features: Float[Array, "r f"],
    along: Float[Array, "r m"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
    shift: Float[Array, " d"],
    index: PatchIndex,
    patches: Patches,
    far: _StandIns,
    tolerance: float | Float[Array, ""],
    sharded: bool,
) -> _Seen:
    """Lowers each query's threshold until its error estimate is within the tolerance."""
    rows, clusters = len(windows), len(far.values)
    channels = index.slopes.shape[2]
    dtype = windows.dtype

    def block_size(rows: int) -> int:
        """Clusters whose weights are estimated at a time; divides their number."""
        return max(1, min(clusters, 2 ** (_BLOCK // rows).bit_length() // 2))

    def block_of(array: Array, block: Array, size: int) -> Array:
        return lax.dynamic_slice_in_dim(array, block * size, size)

    def estimates(features: Array, block: Array, size: int) -> Float[Array, "r k"]:
        log_weights = block_of(far.log_weights, block, size)
        return jnp.matmul(features, log_weights.T, precision=lax.Precision.HIGHEST)

    def totals(sums: Float[Array, "*r v"], along: Float[Array, "*r m"]) -> Float[Array, "*r c"]:
        """Weighted values from weighted sums of stand-ins' values."""
        slopes = sums[..., channels:-1].reshape(*along.shape, channels)
        return sums[..., :channels] + jnp.sum(along[..., None] * slopes, axis=-2)

    def all_far(block: Array, state: posterior.PosteriorState) -> posterior.PosteriorState:
        size = block_size(rows)

        def weigh(weights: Array) -> tuple[Array, Array]:
            values = block_of(far.values, block, size)
            sums = jnp.matmul(weights, values, precision=lax.Precision.HIGHEST)
            return sums[:, -1], totals(sums, along)

        logits = estimates(features, block, size)
        return posterior.merge(state, posterior.from_logits(logits, weigh))

    def varying_over_samples(tree):  # type: ignore[no-untyped-def]
        """Constants, from here on different on devices with different noisy images."""
        return lax.pcast(tree, parallel.SAMPLE, to="varying") if sharded else tree

    def varying(tree):  # type: ignore[no-untyped-def]
        """Constants, from here on different on every device."""
        return (
            lax.pcast(varying_over_samples(tree), parallel.DATA, to="varying") if sharded else tree
        )

    def of_all(state: posterior.PosteriorState) -> posterior.PosteriorState:
        return posterior.merge_over(state, parallel.DATA) if sharded else state

    def sum_of_all(tree):  # type: ignore[no-untyped-def]
        return lax.psum(tree, parallel.DATA) if sharded else tree

    nothing = varying(posterior.empty((rows,), channels, dtype))
    first = of_all(lax.fori_loop(0, clusters // block_size(rows), all_far, nothing))
    # Estimated shares of the weight are relative to this; beyond rounding it does not matter.
    unit = first.maximum + jnp.log(first.weight)

    def lower(queries: _Queries, seen: _Seen) -> _Seen:
        windows, features, along, unit, highest = queries
        rows, size = len(windows), block_size(len(windows))
        done = seen.error <= tolerance
        lowered = jnp.where(jnp.isinf(seen.threshold), highest, seen.threshold * _STEP)
        threshold = jnp.where(
            done, seen.threshold, jnp.where(lowered < _LAST * highest, 0, lowered)
        )
        mean = posterior.mean(seen.state)

        def add_block(
            block: Array, sums: tuple[posterior.PosteriorState, Array, Array]
        ) -> tuple[posterior.PosteriorState, Array, Array]:
            near, misfits, far_sums = sums
            shares = jnp.exp(estimates(features, block, size) - unit[:, None])
            stay = shares < threshold[:, None]
            far_sums = far_sums + jnp.matmul(
                jnp.where(stay, shares, 0),
                block_of(far.values, block, size),
                precision=lax.Precision.HIGHEST,
            )
            wanted = _pack(~stay & (shares < seen.threshold[:, None]) & ~done[:, None])

            def add_units(
                turn: Array, sums: tuple[posterior.PosteriorState, Array]
            ) -> tuple[posterior.PosteriorState, Array]:
                near, misfits = sums
                inside, query, valid = wanted.unit(turn)
                cluster = inside + block * size
                exact = _open(
                    windows[query],
                    alpha,
                    sigma,
                    shift,
                    jax.tree.map(lambda array: array[cluster], patches),
                    index.counts[cluster],
                    channels,
                )
                near = _make_room(near, exact.maximum, jnp.where(valid, query, rows))
                scale = jnp.where(valid, jnp.exp(exact.maximum - near.maximum[query]), 0)
                # What the stand-in had said.
                share = shares[query, inside[:, None]]
                value = totals(
                    jnp.broadcast_to(
                        far.values[cluster][:, None], (*query.shape, far.values.shape[1])
                    ),
                    along[query],
                )
                centre = mean[query]
                apart = exact.total - exact.weight[..., None] * centre
                apart = apart * jnp.exp(jnp.minimum(exact.maximum - unit[query], 40))[..., None]
                apart = jnp.abs(apart - share[..., None] * (value - centre)).max(axis=-1)
                marginal = valid & (share < _MARGIN * threshold[query])
                columns = [
                    scale * exact.weight,
                    jnp.where(marginal, apart, 0),
                    jnp.where(marginal, share, 0),
                ]
                added = _add_up(
                    jnp.concatenate(
                        [scale[..., None] * exact.total, jnp.stack(columns, axis=-1)], axis=-1
                    ),
                    query,
                    rows,
                )
                near = posterior.PosteriorState(
                    near.maximum,
                    near.weight + added[:, channels],
                    near.total + added[:, :channels],
                )
                return near, misfits + added[:, channels + 1 :]

            near, misfits = lax.fori_loop(0, wanted.num_turns, add_units, (near, misfits))
            return near, misfits, far_sums

        misfits = varying(jnp.zeros((rows, 2), dtype))
        sums = varying(jnp.zeros((rows, far.values.shape[1]), dtype))
        near, misfits, sums = lax.fori_loop(
            0, clusters // size, add_block, (seen.near, misfits, sums)
        )
        misfits, far_weight, far_total = sum_of_all((misfits, sums[:, -1], totals(sums, along)))
        misfit, opened = misfits[:, 0], misfits[:, 1]
        # Where nothing is far, what had been expected of it does not count either.
        level = jnp.where(far_weight > 0, unit, posterior.empty((rows,), channels, dtype).maximum)
        far_state = posterior.PosteriorState(level, far_weight, far_total)
        state = posterior.merge(of_all(near), far_state)
        share_far = far_weight * jnp.exp(level - state.maximum) / state.weight
        # Relative to the weight that the stand-ins said the opened clusters had.
        misfit = misfit / jnp.maximum(opened, jnp.finfo(dtype).tiny)
        change = jnp.abs(posterior.mean(state) - mean).max(axis=-1)
        recent = jnp.maximum(change, seen.change / 4)
        error = _SAFETY * jnp.maximum(2 * share_far * misfit, recent)
        # Never below what a threshold can tell: where one cluster decides, far ones may be larger
        # than they look.
        error = jnp.where(share_far > 0, jnp.maximum(error, _LEAST * tolerance), 0)
        change, error = (
            jnp.where(done, before, now)
            for before, now in ((seen.change, change), (seen.error, error))
        )
        return _Seen(threshold, near, state, change, error)

    # A query that one cluster decides learns about others from the nearest of them. Clusters are in
    # random order, so the first are as good as any.
    devices = lax.axis_size(parallel.DATA) if sharded else 1
    some = far.log_weights[: max(1, _SUBSET // devices)]
    some = jnp.matmul(features, some.T, precision=lax.Precision.HIGHEST)
    rank = min(max(4, _FEWEST * some.shape[1] // clusters), some.shape[1])
    best = lax.top_k(some, rank)[0]
    if sharded:
        best = lax.all_gather(best, parallel.DATA, axis=1, tiled=True, to="invarying")
    share = jnp.exp(lax.top_k(best, rank)[0][:, -1] - unit)
    highest = jnp.minimum(_FIRST, share)

    queries = _Queries(windows, features, along, unit, highest)
    some_rows = min(rows, max(_FEWEST_QUERIES, -(-rows // (32 * _TURNS)) * 32))

    def lower_some(seen: _Seen) -> _Seen:
        """Lowers the highest thresholds; most queries are done long before the last."""
        _, chosen = lax.top_k(jnp.where(seen.error <= tolerance, -1, seen.threshold), some_rows)
        lowered = lower(*jax.tree.map(lambda array: array[chosen], (queries, seen)))
        return jax.tree.map(lambda array, some: array.at[chosen].set(some), seen, lowered)

    # What fills the number of queries up wants nothing.
    unknown = jnp.where(jnp.arange(rows) < count, jnp.inf, 0).astype(dtype)
    threshold, change = jnp.full(rows, jnp.inf, dtype), jnp.zeros(rows, dtype)
    threshold, change, unknown = varying_over_samples((threshold, change, unknown))
    unseen = _Seen(threshold, nothing, first, change, unknown)
    return lax.while_loop(lambda seen: jnp.any(seen.error > tolerance), lower_some, unseen)


class _Wanted(NamedTuple):
    """Which queries want which clusters of a block to be opened, as bits.

    A unit is a cluster and up to `_SLOTS` of the queries that want it; `_UNITS` units take a turn.
    """

    words: UInt32[Array, "k w"]
    ends: Int[Array, "k w"]
    units: Int[Array, " k"]

    @property
    def num_turns(self) -> Int[Array, ""]:
        """Number of turns."""
        return -(-self.units[-1] // _UNITS)

    def unit(
        self, turn: Int[Array, ""]
    ) -> tuple[Int[Array, " u"], Int[Array, "u s"], Bool[Array, "u s"]]:
        """Clusters of a turn, the queries in their slots, and which slots are taken."""
        unit = turn * _UNITS + jnp.arange(_UNITS)
        cluster = jnp.searchsorted(self.units, unit, side="right")
        cluster = jnp.minimum(cluster, len(self.units) - 1)
        ends = self.ends[cluster]
        first = self.units[cluster] - -(-ends[:, -1] // _SLOTS)
        rank = (unit - first)[:, None] * _SLOTS + jnp.arange(_SLOTS)[None]
        valid = (rank < ends[:, -1:]) & (unit < self.units[-1])[:, None]
        word = jnp.sum(ends[:, None, :] <= rank[:, :, None], axis=-1)
        word = jnp.minimum(word, ends.shape[1] - 1)
        bits = jnp.take_along_axis(self.words[cluster], word, axis=1)
        inside = (
            rank
            - jnp.take_along_axis(ends, word, axis=1)
            + lax.population_count(bits).astype(jnp.int32)
        )
        # The place of the bit before which so many bits are set.
        below = jnp.asarray([2 ** (bit + 1) - 1 for bit in range(32)], jnp.uint32)
        before = lax.population_count(bits[..., None] & below[None, None]).astype(jnp.int32)
        bit = jnp.sum(before <= inside[..., None], axis=-1)
        return cluster, jnp.where(valid, word * 32 + bit, 0), valid


def _pack(wanted: Bool[Array, "r k"]) -> _Wanted:
    """Packs 32 queries, whose number they divide, into a word."""
    rows = len(wanted)
    row, half = jnp.arange(rows), jnp.arange(rows // 16)
    # As a product, of halves that floats hold exactly, which is faster on a CPU.
    places = jnp.where(row[None] // 16 == half[:, None], 2 ** (row % 16)[None], 0)
    halves = jnp.matmul(
        places.astype(jnp.float32), wanted.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
    halves = halves.astype(jnp.uint32)
    words = (halves[::2] | (halves[1::2] << 16)).T
    ends = jnp.cumsum(lax.population_count(words).astype(jnp.int32), axis=1)
    return _Wanted(words, ends, jnp.cumsum(-(-ends[:, -1] // _SLOTS)))


def _open(
    windows: Float[Array, "u s d"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
    shift: Float[Array, " d"],
    patches: Patches,
    counts: UInt16[Array, "u l"],
    channels: int,
) -> posterior.PosteriorState:
    """States of clusters, patch by patch, for the queries in their slots."""
    units, _, size = windows.shape
    pixels = to_float(patches.pixels, windows.dtype).reshape(units, size, -1)
    pixels = pixels - shift[None, :, None]
    gain = alpha / (sigma * sigma)
    logits = jnp.einsum("udl,usd->usl", pixels, windows * gain, precision=lax.Precision.HIGHEST)
    logits = logits - (0.5 * alpha * gain * patches.norms)[:, None]
    # What fills a cluster up must not set its maximum: beside it, all else could vanish.
    logits = jnp.where(counts[:, None] > 0, logits, -1e30)
    middle = shift.size // 2 // channels * channels
    values = pixels[:, middle : middle + channels].swapaxes(1, 2)
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    values = values * counts.astype(values.dtype)[..., None]

    def weigh(weights: Array) -> tuple[Array, Array]:
        sums = jnp.einsum("usl,ulv->usv", weights, values, precision=lax.Precision.HIGHEST)
        return sums[..., -1], sums[..., :-1]

    return posterior.from_logits(logits, weigh)


def _make_room(
    state: posterior.PosteriorState,
    maximum: Float[Array, "u s"],
    query: Int[Array, "u s"],
) -> posterior.PosteriorState:
    """Raises maxima where states to be added would overflow, which is rare."""

    def rescaled(state: posterior.PosteriorState) -> posterior.PosteriorState:
        raised = state.maximum.at[query].max(maximum, mode="drop")
        none = jnp.zeros_like(state.weight)
        return posterior.merge(
            state, posterior.PosteriorState(raised, none, jnp.zeros_like(state.total))
        )

    overflows = jnp.any(maximum > state.maximum.at[query].get(mode="fill", fill_value=jnp.inf) + 40)
    return lax.cond(overflows, rescaled, lambda state: state, state)


def _add_up(
    values: Float[Array, "u s v"], query: Int[Array, "u s"], rows: int
) -> Float[Array, "r v"]:
    """Sums of the values of each query; those beyond the last query are left out.

    A scatter, as a product: query 32 i + j is row i and column j of a table of sums.
    """
    num = values.shape[2]
    word, bit = (jnp.ravel(part) for part in jnp.divmod(query, 32))
    is_word = word[:, None] == jnp.arange(rows // 32)[None]
    is_bit = (bit[:, None] == jnp.arange(32)[None]).astype(values.dtype)
    table = jnp.where(is_word[:, None], values.reshape(-1, num)[..., None], 0)
    sums = jnp.einsum("xvw,xb->wbv", table, is_bit, precision=lax.Precision.HIGHEST)
    return sums.reshape(rows, num)
