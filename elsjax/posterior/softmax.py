"""What is known of a softmax over the entries seen so far, accumulated in log space.

A state summarises entries: the largest logit, the sum of weights, the weighted sum of values, and
what else is asked for, all relative to that largest logit. States merge associatively and
commutatively (up to rounding), so neither block size, order, padding nor device count matters.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from elsjax.posterior import ranking
from elsjax.posterior.ranking import NO_ENTRY, Largest


@dataclasses.dataclass(frozen=True)
class Request:
    """What is accumulated beside the sum of weights and the weighted sum of values.

    Attributes:
      moments: up to which power of the values.
      effective_number: the sum of squared weights.
      entropy: the weighted sum of logits.
      top: so many of the largest logits, with their sources.
    """

    moments: int = 1
    effective_number: bool = False
    entropy: bool = False
    top: int = 0

    def values(self, values: Float[Array, "*l v"]) -> Float[Array, "*l u"]:
        """The values whose weighted sums are needed: themselves, then their squares, and so on."""
        powers = [values]
        for _ in range(1, self.moments):
            powers.append(powers[-1] * values)
        return powers[0] if len(powers) == 1 else jnp.concatenate(powers, axis=-1)

    def value_size(self, size: int) -> int:
        """Number of entries of those."""
        return size * self.moments


MEAN = Request()


@dataclasses.dataclass(frozen=True)
class Entries:
    """The entries behind a block's logits, for what has to know each of them.

    Attributes:
      counts: how often each training image counts: 0 where the block is filled up, at its end.
      numbers: the images' numbers, rising where they count.
      rows: logits are laid out [rows, image, entry of a row]; 1 for [image, entry].
    """

    counts: Float[Array, " n"]
    numbers: Int[Array, " n"]
    rows: int = 1

    def sums(self, terms: Float[Array, "*q l"]) -> Float[Array, "*q"]:
        """Sums over the entries that count. As a product, which is faster than a sum on a CPU."""
        per_row = terms.shape[-1] // (self.rows * len(self.counts))
        counts = jnp.broadcast_to(self.counts[:, None], (self.rows, len(self.counts), per_row))
        return jnp.matmul(terms, counts.reshape(-1), precision=jax.lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PosteriorState:
    """Partial sums over entries, for each query; None for what is not asked for.

    Attributes:
      maximum: largest logit so far, [*q].
      weight: sum of `exp(logit - maximum)`, [*q].
      total: sum of `exp(logit - maximum) * value`, [*q, v].
      squared_weight: sum of `exp(logit - maximum)²`, [*q].
      weighted_logit: sum of `exp(logit - maximum) * (logit - maximum)`, [*q].
    """

    maximum: Float[Array, "*q"]
    weight: Float[Array, "*q"]
    total: Float[Array, "*q v"]
    squared_weight: Float[Array, "*q"] | None = None
    weighted_logit: Float[Array, "*q"] | None = None


def empty(
    shape: tuple[int, ...], value_size: int, dtype: jnp.dtype, request: Request = MEAN
) -> PosteriorState:
    """The state that has seen no entry, for queries of the given shape: neutral in `merge`."""
    return PosteriorState(
        maximum=jnp.full(shape, NO_ENTRY, dtype),
        weight=jnp.zeros(shape, dtype),
        total=jnp.zeros((*shape, request.value_size(value_size)), dtype),
        squared_weight=jnp.zeros(shape, dtype) if request.effective_number else None,
        weighted_logit=jnp.zeros(shape, dtype) if request.entropy else None,
    )


def from_logits(
    logits: Float[Array, "*q l"],
    weigh: Callable[[Float[Array, "*q l"]], tuple[Float[Array, "*q"], Float[Array, "*q v"]]],
    request: Request = MEAN,
    entries: Entries | None = None,
) -> PosteriorState:
    """The state of one block of entries.

    Args:
      logits: log weights, [*q, l], finite.
      weigh: maps weights [*q, l] to their sum [*q] and the weighted sum of the values [*q, v].
      request: what else is asked for.
      entries: what the logits are of; needed for any of it.

    Returns:
      The block's state.
    """
    # It cancels in every answer, so it is a constant to derivatives.
    maximum = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    below = logits - maximum[..., None]
    weights = jnp.exp(below)
    weight, total = weigh(weights)
    squared_weight = weighted_logit = None
    if entries is not None and request.effective_number:
        squared_weight = entries.sums(weights * weights)
    if entries is not None and request.entropy:
        weighted_logit = entries.sums(weights * below)
    return PosteriorState(maximum, weight, total, squared_weight, weighted_logit)


def from_ranked_logits(
    logits: Float[Array, "*q l"],
    weigh: Callable[[Float[Array, "*q l"]], tuple[Float[Array, "*q"], Float[Array, "*q v"]]],
    request: Request,
    entries: Entries,
    seen: Largest | None,
) -> tuple[PosteriorState, Largest | None]:
    """`from_logits`, and the largest logits of those seen and these; None for None."""
    state = from_logits(logits, weigh, request, entries)
    if seen is None:
        return state, None
    fixed = jax.lax.stop_gradient(logits)
    ranked = ranking.update(
        seen, fixed, state.maximum, entries.counts, entries.numbers, entries.rows
    )
    return state, ranked


def _sums(state: PosteriorState, maximum: Float[Array, "*q"]) -> dict[str, Array | None]:
    """The sums of a state, by name, relative to another logit."""
    below = state.maximum - maximum
    scale = jnp.exp(below)
    squared_weight, weighted_logit = state.squared_weight, state.weighted_logit
    if squared_weight is not None:
        squared_weight = squared_weight * scale**2
    if weighted_logit is not None:
        # No entry is 1e30 below: 0 rather than 0 times that.
        below = jnp.where(scale > 0, below, 0)
        weighted_logit = scale * (weighted_logit + below * state.weight)
    return {
        "weight": state.weight * scale,
        "total": state.total * scale[..., None],
        "squared_weight": squared_weight,
        "weighted_logit": weighted_logit,
    }


def merge(a: PosteriorState, b: PosteriorState) -> PosteriorState:
    """The state that has seen the entries of both."""
    maximum = jnp.maximum(a.maximum, b.maximum)
    sums = jax.tree.map(jnp.add, _sums(a, maximum), _sums(b, maximum))
    return PosteriorState(maximum, **sums)


def merge_over(state: PosteriorState, axis: str) -> PosteriorState:
    """The state that has seen the entries of all devices along an axis of `jax.shard_map`."""
    # The maximum cancels in every answer, so it is a constant to derivatives.
    maximum = jax.lax.pmax(jax.lax.stop_gradient(state.maximum), axis)
    sums = jax.lax.psum(_sums(state, maximum), axis)
    return PosteriorState(maximum, **sums)


def mean(state: PosteriorState) -> Float[Array, "*q v"]:
    """The posterior mean; NaN for a query that has seen no entry."""
    return state.total / state.weight[..., None]
