"""Attention: even copies and maps, against their definitions in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax.experiments.attention import (
    attention_layers,
    attention_maps,
    foreground,
    with_mean_attention,
)
from elsjax.nn import AttentionUNet, UNet
from elsjax.nn.attention_unet import SelfAttention
from elsjax.nn.files import network_config

X = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)


def make(levels=(0, 1), **options):
    """A network whose attention is not that of its start, where it adds nothing."""
    network = AttentionUNet(
        (8, 8, 1),
        widths=(4, 8),
        attention_levels=levels,
        num_heads=2,
        embedding_width=8,
        rngs=nnx.Rngs(0),
        **options,
    )
    random = np.random.default_rng(1)
    for _, weight in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        weight.set_value(jnp.asarray(random.normal(0, 0.5, weight.shape), weight.dtype))
    return network


@pytest.fixture(scope="module")
def network():
    return make()


def test_even_attention_is_the_mean_of_the_values():
    attention = SelfAttention(8, 2, dtype=np.dtype("float32"), rngs=nnx.Rngs(0))
    random = np.random.default_rng(2)
    x, last = random.normal(size=(2, 4, 6, 8)), random.normal(size=(8, 8))
    attention.last.kernel.set_value(np.asarray(last, np.float32))
    attention.even = True
    groups = x.reshape(2, 24, 2, 4)  # no group has fewer than four channels
    normal = groups - groups.mean((1, 3), keepdims=True)
    normal = normal / np.sqrt(groups.var((1, 3), keepdims=True) + attention.norm.epsilon)
    kernel, bias = (
        np.asarray(weight[...], float)
        for weight in (attention.query_key_value.kernel, attention.query_key_value.bias)
    )
    values = normal.reshape(2, 24, 8) @ kernel[:, 16:] + bias[16:]
    mixed = values.mean(1) @ last + np.asarray(attention.last.bias[...], float)
    expected = x + mixed[:, None, None]
    found = attention(x.astype(np.float32))
    # A sum of 8 products of rounded factors, twice: hundreds of roundings at most.
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(attention(x.astype(np.float32)) - x).max() > 0.01


def test_weights_are_the_softmax_of_queries_and_keys():
    attention = SelfAttention(8, 2, dtype=np.dtype("float32"), rngs=nnx.Rngs(0))
    x = np.random.default_rng(3).normal(size=(2, 2, 3, 8)).astype(np.float32)
    joint = np.asarray(attention.query_key_value(attention.norm(x)), float).reshape(2, 6, 3, 2, 4)
    logits = np.einsum("bqnd,bknd->bnqk", joint[:, :, 0], joint[:, :, 1]) / 2
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(attention.weights(x), expected, rtol=1e-4)


def test_layers_are_named_in_the_order_in_which_they_are_applied():
    assert attention_layers(make((1, 0))) == (
        "down-0",
        "down-1",
        "up-0",
    )
    assert attention_layers(make((1,))) == ("down-1",)


def test_without_queries_a_copy_equals_the_network(network):
    unasked = nnx.clone(network)
    for block in (*unasked.down, *unasked.up):
        layer = block.attention.query_key_value
        width = layer.kernel.shape[1] // 3
        layer.kernel.set_value(layer.kernel[...].at[:, :width].set(0))
        layer.bias.set_value(layer.bias[...].at[:width].set(0))
    copy = with_mean_attention(unasked)
    # Softmax of zeros is 1 / (H W) up to a rounding or two, which layers pass on.
    np.testing.assert_allclose(copy.denoise(X, 0.5), unasked.denoise(X, 0.5), atol=1e-4)
    np.testing.assert_allclose(attention_maps(unasked, X, 0.5), 1, rtol=1e-5)
    assert abs(with_mean_attention(network).denoise(X, 0.5) - network.denoise(X, 0.5)).max() > 0.01


def test_a_copy_changes_the_layers_asked_for_and_nothing_of_the_network(network, tmp_path):
    before = np.asarray(network.denoise(X, 0.5))
    maps = attention_maps(network, X, 0.5)
    copy = with_mean_attention(network, [1])
    of_copy = attention_maps(copy, X, 0.5)
    np.testing.assert_array_equal(network.denoise(X, 0.5), before)
    np.testing.assert_array_equal(of_copy[0], maps[0])  # before it
    np.testing.assert_array_equal(of_copy[1], 1)
    assert np.ptp(of_copy[2]) > 0.01
    assert network_config(copy) == network_config(network)
    elsjax.save_network(copy, tmp_path / "network.safetensors")
    loaded = elsjax.load_network(tmp_path / "network.safetensors")
    np.testing.assert_array_equal(loaded.denoise(X, 0.5), before)


def test_a_copy_stays_one_on_many_devices(network):
    copy = with_mean_attention(network, (0, 2))
    shared = copy.with_mesh(elsjax.make_mesh())
    # Each device has a share of the batch: sums are in another order.
    np.testing.assert_allclose(shared.denoise(X, 0.5), copy.denoise(X, 0.5), atol=1e-4)
    merged = nnx.merge(*nnx.split(copy))
    np.testing.assert_array_equal(merged.denoise(X, 0.5), copy.denoise(X, 0.5))


def test_maps_are_what_places_receive(network):
    maps = attention_maps(network, X, 0.5)
    assert maps.shape == (3, 2, 8, 8)
    np.testing.assert_allclose(maps.mean((2, 3)), 1, rtol=1e-5)
    coarse = maps[1].reshape(2, 4, 2, 4, 2)  # 2 x 2 pixels a place
    np.testing.assert_array_equal(coarse, np.broadcast_to(coarse[:, :, :1, :, :1], coarse.shape))
    # The first layer by hand: what its block gets, and what its attention then sees.
    block = network.down[0]
    seen = []
    embedding = network.embedding(np.full(2, 0.5, np.float32), None)
    copy = nnx.clone(block)
    copy.attention = lambda x: seen.append(x) or x
    copy(X, embedding)
    weights = np.asarray(block.attention.weights(seen[0]))
    expected = weights.sum(2).mean(1).reshape(2, 8, 8)
    np.testing.assert_allclose(maps[0], expected, rtol=1e-3)


def test_maps_of_a_conditional_network_depend_on_the_class():
    conditional = make(num_classes=3)
    by_class = attention_maps(conditional, X[[0, 0]], [0.5, 0.5], [0, 2])
    one = attention_maps(conditional, X[:1], 0.5, 0)
    np.testing.assert_allclose(by_class[:, :1], one, rtol=1e-4)
    assert abs(by_class[:, 0] - by_class[:, 1]).max() > 1e-3


def test_the_foreground_is_above_the_median_of_each_image():
    maps = np.array([[[1.0, 2], [3, 4]], [[5, 5], [5, 9]]])
    assert foreground(maps).tolist() == [
        [[False, False], [True, True]],
        [[False, False], [False, True]],
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: attention_layers(make(())), r"attention_levels=\(\)"),
        (lambda one: with_mean_attention(make(())), "network has no attention"),
        (
            lambda one: attention_layers(UNet((8, 8, 1), widths=(4, 8), rngs=nnx.Rngs(0))),
            "network",
        ),
        (lambda one: with_mean_attention(one, [3]), "layers=3"),
        (lambda one: with_mean_attention(one, [-1]), "layers=-1"),
        (lambda one: with_mean_attention(one, [0.5]), "layers=0.5"),
        (lambda one: with_mean_attention(one, "1"), "layers='1' must be a sequence"),
        (lambda one: with_mean_attention(one, 1), "layers=1 must be a sequence"),
        (lambda one: attention_maps(make(()), X, 0.5), "network has no attention"),
        (lambda one: attention_maps(one, X[..., 0], 0.5), "x has shape"),
        (lambda one: attention_maps(one, X, 2.0), "t="),
        (lambda one: attention_maps(one, X, 0.5, 1), "unconditional"),
        (lambda one: foreground(np.ones((2, 2))), "maps has shape"),
    ],
)
def test_wrong_arguments_are_refused(network, call, message):
    with pytest.raises(ValueError, match=message):
        call(network)
