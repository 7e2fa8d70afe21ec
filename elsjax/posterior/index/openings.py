"""Clusters opened, patch by patch: what they add to the posterior, and how wrong stand-ins were.

Axis names: r queries, k clusters, b clusters of a block, u units of a turn, s slots (see
`packing`), l places of a cluster, d entries of a patch, c channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from elsjax.pixels import to_float
from elsjax.posterior import softmax
from elsjax.posterior.index import packing
from elsjax.posterior.index.clusters import centre_pixel
from elsjax.posterior.index.gaussians import weighted_values
from elsjax.posterior.index.problem import Block, Problem, Queries
from elsjax.posterior.softmax import PosteriorState

# Up to how many thresholds a cluster's share tells what those below the threshold are worth.
_MARGIN = 16

# Logits so far above a maximum are added to its sums without overflow, in float32.
_ROOM = 40

# The logit of a place that fills a cluster up: below any other, yet finite.
_NO_PATCH = -1e30


class Step(NamedTuple):
    """Thresholds are lowered: clusters whose shares lie between the two are opened.

    Attributes:
      upper: the thresholds before.
      lower: the thresholds now.
      mean: the posterior means before.
    """

    upper: Float[Array, " r"]
    lower: Float[Array, " r"]
    mean: Float[Array, "r c"]


class Opened(NamedTuple):
    """What opened clusters add up to for each query, on one device.

    Attributes:
      near: state of all clusters opened so far.
      misfit: how wrong stand-ins were (`_misfits`), summed over clusters that were opened in the
        last step, and whose shares are not far above its threshold.
      share: the shares that the stand-ins of the same clusters had, summed.
    """

    near: PosteriorState
    misfit: Float[Array, " r"]
    share: Float[Array, " r"]


def open_requested(
    problem: Problem,
    queries: Queries,
    step: Step,
    block: Block,
    shares: Float[Array, "r b"],
    opened: Opened,
) -> Opened:
    """Opens those clusters of a block that lie between two thresholds.

    Args:
      problem: clusters and noise level.
      queries: the queries.
      step: the thresholds.
      block: the clusters.
      shares: their shares of the weight, as estimated.
      opened: what had been opened before.

    Returns:
      What has been opened now.
    """
    requests = packing.pack((shares >= step.lower[:, None]) & (shares < step.upper[:, None]))

    def open_turn(turn: Array, opened: Opened) -> Opened:
        units = requests.turn(turn)
        share = shares[units.query, units.cluster[:, None]]
        # Clusters are numbered within the block so far, from here on among all.
        units = units._replace(cluster=units.cluster + block.first)
        exact = exact_states(problem, queries.windows[units.query], units.cluster)
        misfit = _misfits(problem, queries, step, units, exact, share)
        marginal = units.taken & (share < _MARGIN * step.lower[units.query])
        misfit, share = (jnp.where(marginal, values, 0) for values in (misfit, share))
        return _add(opened, units, exact, misfit, share)

    return lax.fori_loop(0, requests.num_turns, open_turn, opened)


def exact_states(
    problem: Problem, windows: Float[Array, "u s d"], cluster: Int[Array, " u"]
) -> PosteriorState:
    """States of clusters, patch by patch, for the queries in their slots."""
    shift, alpha, sigma = problem.shift, problem.alpha, problem.sigma
    patches = jax.tree.map(lambda array: array[cluster], problem.patches)
    counts = problem.index.counts[cluster]
    units, _, size = windows.shape
    pixels = to_float(patches.pixels, windows.dtype).reshape(units, size, -1)
    pixels = pixels - shift[None, :, None]
    gain = alpha / (sigma * sigma)
    logits = jnp.einsum("udl,usd->usl", pixels, windows * gain, precision=lax.Precision.HIGHEST)
    logits = logits - (0.5 * alpha * gain * patches.norms)[:, None]
    # What fills a cluster up must not set its maximum: beside it, all else could vanish.
    logits = jnp.where(counts[:, None] > 0, logits, _NO_PATCH)
    values = pixels[:, centre_pixel(size, problem.channels)].swapaxes(1, 2)
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    values = values * counts.astype(values.dtype)[..., None]

    def weigh(weights: Array) -> tuple[Array, Array]:
        sums = jnp.einsum("usl,ulv->usv", weights, values, precision=lax.Precision.HIGHEST)
        return sums[..., -1], sums[..., :-1]

    return softmax.from_logits(logits, weigh)


def _misfits(
    problem: Problem,
    queries: Queries,
    step: Step,
    units: packing.Units,
    exact: PosteriorState,
    share: Float[Array, "u s"],
) -> Float[Array, "u s"]:
    """How wrong stand-ins were: by how much they had moved a query's mean too far or not enough.

    A cluster moves the mean by its share of the weight times the distance of its own posterior mean
    from that of all. Compared are the exact cluster and its stand-in; of channels, the worst.
    """
    values = problem.stand_ins.values
    said = jnp.broadcast_to(values[units.cluster][:, None], (*units.query.shape, values.shape[1]))
    said = weighted_values(said, queries.coordinates[units.query], problem.channels)
    mean = step.mean[units.query]
    apart = exact.total - exact.weight[..., None] * mean
    exponent = jnp.minimum(exact.maximum - queries.log_evidence[units.query], _ROOM)
    apart = apart * jnp.exp(exponent)[..., None]
    return jnp.abs(apart - share[..., None] * (said - mean)).max(axis=-1)


def _add(
    opened: Opened,
    units: packing.Units,
    exact: PosteriorState,
    misfit: Float[Array, "u s"],
    share: Float[Array, "u s"],
) -> Opened:
    """Adds up by queries what is in the slots of a turn."""
    rows, channels = opened.near.total.shape
    near = _make_room(opened.near, exact.maximum, jnp.where(units.taken, units.query, rows))
    scale = jnp.where(units.taken, jnp.exp(exact.maximum - near.maximum[units.query]), 0)
    columns = jnp.stack([scale * exact.weight, misfit, share], axis=-1)
    columns = jnp.concatenate([scale[..., None] * exact.total, columns], axis=-1)
    added = packing.sum_by_query(columns, units.query, rows)
    return Opened(
        near=PosteriorState(
            maximum=near.maximum,
            weight=near.weight + added[:, channels],
            total=near.total + added[:, :channels],
        ),
        misfit=opened.misfit + added[:, channels + 1],
        share=opened.share + added[:, channels + 2],
    )


def _make_room(
    state: PosteriorState,
    maximum: Float[Array, "u s"],
    query: Int[Array, "u s"],
) -> PosteriorState:
    """Raises maxima where states to be added would overflow, which is rare.

    Args:
      state: of the queries.
      maximum: of states to be added.
      query: theirs; beyond the last for none.

    Returns:
      The same state, relative to maxima that leave room.
    """

    def rescaled(state: PosteriorState) -> PosteriorState:
        raised = PosteriorState(
            maximum=state.maximum.at[query].max(maximum, mode="drop"),
            weight=jnp.zeros_like(state.weight),
            total=jnp.zeros_like(state.total),
        )
        return softmax.merge(state, raised)

    held = state.maximum.at[query].get(mode="fill", fill_value=jnp.inf)
    overflows = jnp.any(maximum > held + _ROOM)
    return lax.cond(overflows, rescaled, lambda state: state, state)
