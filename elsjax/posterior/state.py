"""The posterior mean as a softmax accumulated in log space, block by block.

A state summarises the dictionary entries seen so far: the largest logit, the sum of weights and
the weighted sum of values, both relative to that largest logit. States merge associatively and
commutatively (up to rounding), so neither block size, order, padding nor device count matters.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below any logit of finite images, yet finite, so that a difference of two maxima is never NaN.
_NO_ENTRY = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PosteriorState:
    """Partial sums of a softmax-weighted mean, for each query.

    Attributes:
      maximum: largest logit so far, [*q].
      weight: sum of `exp(logit - maximum)`, [*q].
      total: sum of `exp(logit - maximum) * value`, [*q, v].
    """

    maximum: Float[Array, "*q"]
    weight: Float[Array, "*q"]
    total: Float[Array, "*q v"]


def empty(shape: tuple[int, ...], value_size: int, dtype: jnp.dtype) -> PosteriorState:
    """The state that has seen no entry, for queries of the given shape: neutral in `merge`."""
    return PosteriorState(
        maximum=jnp.full(shape, _NO_ENTRY, dtype),
        weight=jnp.zeros(shape, dtype),
        total=jnp.zeros((*shape, value_size), dtype),
    )


def from_logits(
    logits: Float[Array, "*q l"],
    weigh: Callable[[Float[Array, "*q l"]], tuple[Float[Array, "*q"], Float[Array, "*q v"]]],
) -> PosteriorState:
    """The state of one block of entries.

    Args:
      logits: log weights, [*q, l], finite.
      weigh: maps weights [*q, l] to their sum [*q] and the weighted sum of the values [*q, v].

    Returns:
      The block's state.
    """
    maximum = jnp.max(logits, axis=-1)
    weight, total = weigh(jnp.exp(logits - maximum[..., None]))
    return PosteriorState(maximum, weight, total)


def merge(a: PosteriorState, b: PosteriorState) -> PosteriorState:
    """The state that has seen the entries of both."""
    maximum = jnp.maximum(a.maximum, b.maximum)
    scale_a = jnp.exp(a.maximum - maximum)
    scale_b = jnp.exp(b.maximum - maximum)
    return PosteriorState(
        maximum=maximum,
        weight=a.weight * scale_a + b.weight * scale_b,
        total=a.total * scale_a[..., None] + b.total * scale_b[..., None],
    )


def merge_over(state: PosteriorState, axis: str) -> PosteriorState:
    """The state that has seen the entries of all devices along an axis of `jax.shard_map`."""
    # The maximum cancels in the mean, so it is a constant to derivatives.
    maximum = jax.lax.pmax(jax.lax.stop_gradient(state.maximum), axis)
    scale = jnp.exp(state.maximum - maximum)
    weight, total = jax.lax.psum((state.weight * scale, state.total * scale[..., None]), axis)
    return PosteriorState(maximum, weight, total)


def mean(state: PosteriorState) -> Float[Array, "*q v"]:
    """The posterior mean; NaN for a query that has seen no entry."""
    return state.total / state.weight[..., None]
