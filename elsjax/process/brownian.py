"""One Brownian path a sample: the noise of the reverse SDE, on whatever time grid.

With the signal-to-noise ratio lambda = alpha² / sigma² as its clock, and u = alpha x / sigma², the
reverse SDE is du = E[x_0 | x_t] dlambda + dB: stochastic localisation (El Alaoui & Montanari 2022).
The path B belongs to the key of a sample alone, so all time grids and all denoisers see the same.

lambda runs over many decades, so the path is resolved relative to it. Band k, in which the root
alpha / sigma doubles from 2^k, has draws of its own. Within a band the path is halved again and
again (Lévy's construction, with a key for each node: the virtual Brownian tree of Li et al. 2020),
and straight over the last millionths of the band.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

_BANDS = 64  # on either side of lambda = 1; before them B is 0, and behind them constant
_HALVINGS = 20


def root_snr(alpha: Float[Array, ""], sigma: Float[Array, ""]) -> Float[Array, ""]:
    """Root of the signal-to-noise ratio, alpha / sigma, within the bands of the path."""
    return jnp.clip(alpha / sigma, 2.0**-_BANDS, 2.0**_BANDS)


def check_keys(keys: Key[Array, " b"]) -> None:
    """Raises ValueError for keys whose draws depend on the batch under `jax.vmap`: "rbg"."""
    found = str(jax.random.key_impl(keys))
    if found != "threefry2x32":
        raise ValueError(f"key is of {found}; expected jax.random.key(0, impl='threefry2x32')")


@jax.jit(static_argnames="shape")
def increment(
    keys: Key[Array, " b"],
    root: Float[Array, ""],
    next_root: Float[Array, ""],
    shape: tuple[int, ...],
) -> Float[Array, "b ..."]:
    """How far each sample's path goes between two times, in units of the root where it ends.

    Args:
      keys: key of each sample.
      root: `root_snr` at the first time.
      next_root: `root_snr` at the second, no smaller.
      shape: of a sample.

    Returns:
      (B(lambda') - B(lambda)) / sqrt(lambda'): normal of variance 1 - lambda / lambda',
      [B, *shape].
    """
    (band, place), (next_band, next_place) = _place(root), _place(next_root)

    def of_sample(key: Key[Array, ""]) -> Float[Array, "..."]:
        def scaled(band: Array, path: Array) -> Array:
            return jnp.ldexp(path, band - next_band)

        def whole(band: Array, total: Array) -> Array:
            return total + scaled(band, _draw(_band_key(key, band), 0, shape))

        start = -scaled(band, _path(_band_key(key, band), place, shape))
        path = lax.fori_loop(band, next_band, whole, start)
        return path + _path(_band_key(key, next_band), next_place, shape)

    # Over band k lambda grows by 3 * 4^k.
    return math.sqrt(3) * jnp.ldexp(jax.vmap(of_sample)(keys), next_band) / next_root


def _place(root: Float[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The band that a time lies in, and the part of it, in lambda, that has passed."""
    mantissa, exponent = jnp.frexp(root)  # of at least 1 / 2
    return exponent - 1, (4 * mantissa**2 - 1) / 3


def _band_key(key: Key[Array, ""], band: Int[Array, ""]) -> Key[Array, ""]:
    return jax.random.fold_in(key, band + _BANDS)


def _path(
    key: Key[Array, ""], place: Float[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Standard Brownian motion on [0, 1] that belongs to a key, at a place."""

    def halve(level: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        node, place, left, right = state
        width = jnp.ldexp(jnp.ones_like(place), -level)
        middle = (left + right) / 2 + jnp.sqrt(width) / 2 * _draw(key, node, shape)
        place = 2 * place
        behind = place >= 1
        left, right = jnp.where(behind, middle, left), jnp.where(behind, right, middle)
        return 2 * node + behind, place - behind, left, right

    end = _draw(key, 0, shape)
    first = (jnp.ones((), jnp.int32), place, jnp.zeros_like(end), end)
    _, place, left, right = lax.fori_loop(0, _HALVINGS, halve, first)
    return left + place * (right - left)


def _draw(key: Key[Array, ""], node: Int[Array, ""] | int, shape: tuple[int, ...]) -> Array:
    """The draw of a node of the tree of halvings, the same in every precision; 0 is the end."""
    draw = jax.random.normal(jax.random.fold_in(key, node), shape, jnp.float32)
    return draw.astype(jnp.result_type(float))
