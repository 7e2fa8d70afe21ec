"""What stands in for a cluster that is not opened: a Gaussian, integrated in closed form.

Both the logarithm of such an integral and its posterior mean are linear in features of the query:
its window, principal coordinates, their squares, its squared norm and 1. So the estimates of all
clusters for all queries are one matrix product.

Axis names: r queries, k clusters, d entries of a patch, m principal axes, f features, v entries of
a stand-in's value, c channels.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from elsjax.posterior.index.clusters import PatchIndex, centre_pixel

# The logarithm of the weight of a cluster without patches: below any other, yet finite.
_NO_PATCHES = -1e30


class StandIns(NamedTuple):
    """Gaussians in place of clusters.

    Attributes:
      coefficients: what the logarithm of a cluster's weight is, in terms of the features.
      values: the posterior mean at principal coordinates 0, then its slopes along each of them,
        then 1; `weighted_values` puts sums of these together.
    """

    coefficients: Float[Array, "k f"]
    values: Float[Array, "k v"]


def features(windows: Float[Array, "r d"], coordinates: Float[Array, "r m"]) -> Float[Array, "r f"]:
    """The features of queries in which the logarithms of weights are linear."""
    norms = jnp.sum(windows * windows, axis=1, keepdims=True)
    return jnp.concatenate(
        [windows, coordinates, coordinates * coordinates, norms, jnp.ones_like(norms)], axis=1
    )


def log_weights(
    features: Float[Array, "r f"], coefficients: Float[Array, "k f"]
) -> Float[Array, "r k"]:
    """Logarithms of the weights of clusters, by queries."""
    return jnp.matmul(features, coefficients.T, precision=lax.Precision.HIGHEST)


def weighted_values(
    sums: Float[Array, "*r v"], coordinates: Float[Array, "*r m"], channels: int
) -> Float[Array, "*r c"]:
    """Weighted sums of posterior means from weighted sums of stand-ins' values."""
    slopes = sums[..., channels:-1].reshape(*coordinates.shape, channels)
    return sums[..., :channels] + jnp.sum(coordinates[..., None] * slopes, axis=-2)


def stand_ins(
    index: PatchIndex, shift: Float[Array, " d"], alpha: Float[Array, ""], sigma: Float[Array, ""]
) -> StandIns:
    """Integrals of clusters, as Gaussians, against exp(-|x - alpha y|² / 2 sigma²).

    Along a direction of variance v, the mean of that over a Gaussian around c is, with r the
    component of x - alpha c, sqrt(1 / (1 + alpha² v / sigma²)) exp(-r² / 2 (sigma² + alpha² v)),
    and the posterior mean is moved from c by alpha v r / (sigma² + alpha² v).

    Args:
      index: clusters.
      shift: patch that counts as 0.
      alpha: signal level.
      sigma: noise level.

    Returns:
      Coefficients and values of all clusters.
    """
    centres = index.centres.astype(shift.dtype) - shift[None]
    coordinates = jnp.matmul(
        centres - (index.mean - shift)[None], index.axes, precision=lax.Precision.HIGHEST
    )
    return StandIns(
        coefficients=_coefficients(index, centres, coordinates, alpha, sigma),
        values=_values(index, centres, coordinates, alpha, sigma),
    )


def _coefficients(
    index: PatchIndex,
    centres: Float[Array, "k d"],
    coordinates: Float[Array, "k m"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
) -> Float[Array, "k f"]:
    """Coefficients of the logarithms of weights, in the order of the features."""
    noise = sigma * sigma
    total = index.counts.astype(centres.dtype).sum(axis=1)
    spread, rest_spread = alpha**2 * index.variances, alpha**2 * index.residuals
    num_rest = max(0, index.axes.shape[0] - index.axes.shape[1])
    # exp(-r² / 2 sigma²) is exp(-r² / 2 (sigma² + spread)) without this times r².
    excess = spread / (2 * noise * (noise + spread))
    rest = rest_spread / (2 * noise * (noise + rest_spread)) * (num_rest > 0)
    beyond = excess - rest[:, None]
    norms = alpha**2 * jnp.sum(centres * centres, axis=1)
    constant = (
        jnp.where(total > 0, jnp.log(jnp.maximum(total, 1)), _NO_PATCHES)
        - 0.5 * jnp.sum(jnp.log1p(spread / noise), axis=1)
        - 0.5 * num_rest * jnp.log1p(rest_spread / noise)
        + (rest - 0.5 / noise) * norms
        + jnp.sum(beyond * (alpha * coordinates) ** 2, axis=1)
    )
    of_window = (alpha / noise - 2 * alpha * rest)[:, None] * centres
    of_coordinates = -2 * alpha * beyond * coordinates
    return jnp.concatenate(
        [of_window, of_coordinates, beyond, rest[:, None], constant[:, None]], axis=1
    )


def _values(
    index: PatchIndex,
    centres: Float[Array, "k d"],
    coordinates: Float[Array, "k m"],
    alpha: Float[Array, ""],
    sigma: Float[Array, ""],
) -> Float[Array, "k v"]:
    """Posterior means of clusters, linear in a query's principal coordinates."""
    spread = alpha**2 * index.variances
    slopes = (alpha / (sigma * sigma + spread))[:, :, None] * index.slopes
    channels = index.slopes.shape[2]
    middle = centres[:, centre_pixel(centres.shape[1], channels)]
    middle = middle - alpha * jnp.einsum(
        "kmc,km->kc", slopes, coordinates, precision=lax.Precision.HIGHEST
    )
    return jnp.concatenate(
        [middle, slopes.reshape(len(slopes), -1), jnp.ones_like(middle[:, :1])], axis=1
    )
