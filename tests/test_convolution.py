"""The convolution that a CPU trains with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from elsjax.nn import UNet
from elsjax.nn.convolution import conv_general_dilated, use_cpu_gradients


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_the_convolution_and_its_gradients(x64, side, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 8, 6, 4))
    kernel = jax.random.normal(keys[1], (side, side, 4, 5))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def value(conv):
        def scalar(x, kernel):
            return (conv(x, kernel, (1, 1), padding, **options) ** 3).sum()

        return scalar

    def second(function):
        gradient = jax.grad(function, (0, 1))
        return jax.grad(lambda x, kernel: sum((g**2).sum() for g in gradient(x, kernel)), (0, 1))

    def all_orders(conv):
        function = value(conv)
        return jax.jit(
            lambda *a: (function(*a), jax.grad(function, (0, 1))(*a), second(function)(*a))
        )

    found, expected = (
        jax.tree.leaves(all_orders(conv)(x, kernel))
        for conv in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_network_with_that_convolution_is_the_same_function(x64, padding):
    net = UNet((8, 8, 2), widths=(4, 8), embedding_width=8, padding=padding, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(net)
    other = nnx.clone(net)
    use_cpu_gradients(other)
    x, t = jax.random.normal(jax.random.key(1), (3, 8, 8, 2)), jnp.array([0.1, 0.5, 0.9])

    def loss(weights, graph):
        return (nnx.merge(graph, weights)(x, t, None) ** 2).sum()

    loss_and_gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected = loss_and_gradient(weights, graph)
    found = loss_and_gradient(weights, nnx.graphdef(other))
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-10, atol=1e-10)
