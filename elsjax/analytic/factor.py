"""Factors of positive definite matrices, out of products alone.

LAPACK's, batched, may wait for ever on a CPU (its batches wait in a thread of XLA's pool for others
of the same pool), and is slow where other programs run too. Products are neither, and run as well
on accelerators.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LEAF = 96
"""Matrices up to this size are eliminated row by row."""


def inverse_factor(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """F, lower triangular, with Fᵀ F = matrix⁻¹: the inverse of Cholesky's factor; by halves.

    Args:
      matrix: positive definite, [n, n].

    Returns:
      The factor, [n, n].
    """
    size = len(matrix)
    if size <= LEAF:
        return _eliminated(matrix)
    half = -(-size // (2 * LEAF)) * LEAF
    first = inverse_factor(matrix[:half, :half])
    across = product(first, matrix[:half, half:])
    second = inverse_factor(matrix[half:, half:] - product(across.T, across))
    below = -product(product(second, across.T), first)
    return jnp.block([[first, jnp.zeros_like(below.T)], [below, second]])


def solve(factor: Float[Array, "n n"], right: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """matrix⁻¹ right, by its inverse factor."""
    return product(factor.T, product(factor, right))


def product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """The product of two matrices in full precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _eliminated(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """`inverse_factor` by Gaussian elimination, of the matrix and the identity beside it."""
    size = len(matrix)

    def step(row: Array, both: Array) -> Array:
        pivot = both[row]
        multipliers = jnp.where(jnp.arange(size) > row, both[:, row] / pivot[row], 0)
        return both - multipliers[:, None] * pivot[None]

    both = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    both = jax.lax.fori_loop(0, size, step, both)
    return both[:, size:] / jnp.sqrt(jnp.diagonal(both))[:, None]
