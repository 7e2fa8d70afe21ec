import jax
import numpy as np
import pytest

from elsjax.analytic.factor import LEAF, inverse_factor, solve


@pytest.mark.parametrize("size", [1, 7, LEAF, LEAF + 1, 2 * LEAF + 50])
def test_the_factor_is_that_of_cholesky(x64, size):
    root = np.random.default_rng(size).standard_normal((2, size, size + 3))
    matrices = root @ root.swapaxes(1, 2) + np.eye(size)
    right = np.ones((2, size, 2))
    found = jax.vmap(inverse_factor)(matrices)
    expected = np.linalg.inv(np.linalg.cholesky(matrices))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        jax.vmap(solve)(found, right), np.linalg.solve(matrices, right), rtol=0, atol=1e-9
    )
