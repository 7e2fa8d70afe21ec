"""Draws belong to the seed, not to the precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_inputs import KEY, same

import elsjax
from elsjax.nn import layers
from elsjax.nn.embedding import Embedding
from elsjax.process import brownian
from elsjax.training import loop as training
from elsjax.training import step
from elsjax.training.config import TrainingConfig


def of_both_precisions(draw):
    single = draw()
    with jax.enable_x64(True):
        return single, draw()


def test_noise_is_the_same_in_both_precisions():
    single, double = of_both_precisions(lambda: elsjax.initial_noise(KEY, 3, (4, 5, 2)))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    same(double, single)
    np.testing.assert_array_equal(
        single[1], jax.random.normal(jax.random.fold_in(KEY, 1), (4, 5, 2))
    )


def test_noise_of_the_sde_is_the_same_in_both_precisions():
    keys = elsjax.process.sampling.sample_keys(KEY, 3)

    def step():
        roots = (jnp.asarray(root, jnp.result_type(float)) for root in (0.3, 0.7))
        return brownian.increment(keys, *roots, (4, 5, 2))

    single, double = of_both_precisions(step)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    # A Brownian path moves by the root of what rounds its clock, here 1e-7.
    np.testing.assert_allclose(np.asarray(single), np.asarray(double), atol=2e-3)
    assert np.asarray(double).std() > 0.5


def test_what_training_draws_is_the_same_in_both_precisions():
    keys = jax.random.split(KEY, 3)
    same(*of_both_precisions(lambda: step._draws(keys, (4, 5, 2))))
    same(*of_both_precisions(lambda: training._order(KEY, 3, 50)))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_weights_start_the_same_in_every_precision(dtype):
    def weights(dtype):
        options = {"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)}
        parts = (
            layers.conv(2, 4, 1, "zeros", **options),
            layers.linear(2, 4, **options),
            layers.Upsample(1, 2, **options),
            Embedding(4, 2, **options),
        )
        return [nnx.state(part, nnx.Param) for part in parts]

    single = weights("float32")
    with jax.enable_x64(True):
        other = weights(dtype)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(other)} == {dtype}
        same(other, jax.tree.map(lambda leaf: leaf.astype(dtype), single))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "a", None])
def test_seeds_that_would_depend_on_the_precision(seed):
    with pytest.raises(ValueError, match=f"seed={seed!r} must be an integer from 0 to 4294967295"):
        TrainingConfig(seed=seed)
