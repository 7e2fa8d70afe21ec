import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax.nn import PRESETS, AttentionUNet, ResNet, UNet
from elsjax.nn.embedding import time_features
from elsjax.nn.files import named_weights, set_weights
from elsjax.nn.layers import Upsample
from elsjax.nn.network import _compiled_estimate

SMALL = {
    "resnet": functools.partial(ResNet, width=16, num_layers=2),
    "unet": functools.partial(UNet, widths=(8, 16, 16), embedding_width=16),
    "attention": functools.partial(
        AttentionUNet, widths=(8, 16), attention_levels=(1,), num_heads=2, embedding_width=16
    ),
}
SHAPE = (8, 12, 2)


@functools.cache
def make(kind, shape=SHAPE, seed=0, dtype=jnp.float32, **options):
    network = SMALL[kind](shape, dtype=dtype, rngs=nnx.Rngs(seed), **options)
    if kind == "attention":  # as if trained: what starts at zero is not zero
        _stir(network)
    return network


def _stir(module, seed=3):
    """Moves all weights."""
    rng = np.random.default_rng(seed)
    weights = nnx.state(module, nnx.Param)
    moved = jax.tree.map(lambda w: w + 0.1 * rng.standard_normal(w.shape).astype(w.dtype), weights)
    nnx.update(module, moved)


def images(batch=3, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


# Denoisers


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("num_classes", [None, 4])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_network_is_a_denoiser(kind, num_classes, padding):
    network = make(kind, num_classes=num_classes, padding=padding)
    assert isinstance(network, elsjax.Denoiser)
    x, t = images(), np.array([0.2, 0.7, 1.0], np.float32)
    label = None if num_classes is None else np.array([3, 0, 1])
    eps = network.predict_noise(x, t, label)
    assert eps.shape == x.shape
    assert eps.dtype == jnp.float32
    alpha, sigma = (np.asarray(level).reshape(-1, 1, 1, 1) for level in network.schedule(t))
    raw = jax.jit(network.__call__)(x, t, label)
    if kind == "attention":
        raw = sigma * x + alpha * raw  # from the velocity
    np.testing.assert_allclose(eps, raw, atol=2e-6)
    x0 = network.denoise(x, t, label)
    np.testing.assert_allclose(alpha * x0 + sigma * eps, x, atol=2e-6)
    np.testing.assert_allclose(network.score(x, t, label), -eps / sigma, rtol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_sampling(kind):
    network = make(kind, num_classes=3)
    noise = images(2)
    trajectory = elsjax.sample(network, noise, 3, label=[2, 0], return_trajectory=True)
    assert trajectory.x.shape == (4, *noise.shape)
    alone = elsjax.sample(network, noise[1:], 3, label=0)
    # One step multiplies rounding by 1 / alpha_1 = 80.
    np.testing.assert_allclose(trajectory.x[-1, 1], alone[0], atol=1e-3)
    elsjax.sample(network, noise, 2, label=1, solver="heun")


@pytest.mark.parametrize("kind", SMALL)
def test_time_and_label_are_those_of_each_sample(kind):
    network = make(kind, num_classes=4)
    x = np.repeat(images(1), 3, axis=0)
    t, label = np.array([0.1, 0.9, 0.9]), np.array([2, 2, 3])
    together = network.predict_noise(x, t, label)
    for i in range(3):
        alone = network.predict_noise(x[:1], t[i], int(label[i]))
        np.testing.assert_allclose(together[i], alone[0], atol=2e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-4
    assert np.abs(together[1] - together[2]).max() > 1e-4


def test_noise_is_predicted_where_none_is_left():
    network = make("resnet")
    x = images()
    assert np.isfinite(network.predict_noise(x, 0)).all()
    np.testing.assert_allclose(network.denoise(x, 0), x, atol=1e-6)
    with pytest.raises(ValueError, match="t=0 must be positive"):
        network.score(x, 0)


def test_compiled_once_for_each_batch_shape():
    network = make("unet", num_classes=3)
    x = images()
    network.predict_noise(x, 0.5, 1)
    network.denoise(x, 0.5, 1)
    before = _compiled_estimate._cache_size()
    for t in (0.1, 0.2, np.full(3, 0.3)):
        network.denoise(x, t, label=2)
        network.score(x, t, label=[0, 1, 2])
    elsjax.sample(network, x, 4, label=0)
    assert _compiled_estimate._cache_size() == before


@pytest.mark.parametrize("kind", SMALL)
def test_argument_of_a_jitted_function(kind):
    network = make(kind, num_classes=2)
    x = images()
    inside = jax.jit(lambda network, x, t: network.denoise(x, t, 1))(network, x, 0.5)
    np.testing.assert_allclose(inside, network.denoise(x, 0.5, 1), atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_lowers_for_every_platform(kind):
    network = make(kind, num_classes=2)
    arguments = (jnp.zeros((2, *SHAPE)), jnp.zeros(2), jnp.zeros(2, jnp.int32))
    exported = jax.export.export(jax.jit(network.__call__), platforms=["cpu", "cuda", "tpu"])
    assert exported(*arguments).platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("kind", SMALL)
def test_precision_is_that_of_the_weights(kind):
    x = images()
    single = make(kind).predict_noise(x, 0.5)
    half = make(kind, dtype=jnp.bfloat16).predict_noise(x, 0.5)
    assert half.dtype == jnp.float32
    assert np.isfinite(half).all()
    with jax.enable_x64(True):
        network = make(kind, dtype=None)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(network))} == {jnp.dtype("f8")}
        assert network.predict_noise(x, 0.5).dtype == jnp.float64
        network = make(kind)
        np.testing.assert_allclose(network.predict_noise(x, 0.5), single, atol=2e-6)


# Symmetry and locality


@pytest.mark.parametrize("kind", SMALL)
def test_circular_padding_is_equivariant(kind):
    network = make(kind, padding="circular")
    assert network.pooling == {"resnet": 1, "unet": 4, "attention": 2}[kind]
    shift = (network.pooling, 2 * network.pooling)
    roll = functools.partial(np.roll, shift=shift, axis=(1, 2))
    x = images()
    shifted = network.predict_noise(roll(x), 0.5)
    np.testing.assert_allclose(shifted, roll(network.predict_noise(x, 0.5)), atol=2e-6)
    zeros = make(kind, padding="zeros")
    assert (
        np.abs(zeros.predict_noise(roll(x), 0.5) - roll(zeros.predict_noise(x, 0.5))).max() > 0.01
    )


@jax.jit
def _gradient(network, x, place):
    output, pull = jax.vjp(lambda x: network(x, jnp.full(1, 0.5)), x)
    (gradient,) = pull(jnp.zeros_like(output).at[0, place[0], place[1], 0].set(1.0))
    return gradient


def seen(network, place, seed):
    """First and last row and column, relative to a pixel, that its output depends on."""
    x = jnp.asarray(images(1, network.image_shape, seed))
    gradient = _gradient(network, x, place)
    rows, columns = np.nonzero(np.asarray(gradient)[0].any(axis=-1))
    return np.array(
        [place[0] - rows.min(), rows.max() - place[0],
         place[1] - columns.min(), columns.max() - place[1]]
    )  # fmt: skip


@pytest.mark.parametrize(("kernel_size", "last", "layers"), [(3, 3, 6), (3, 1, 2), (5, 3, 1)])
def test_receptive_field_of_a_resnet(kernel_size, last, layers):
    network = ResNet(
        (33, 33, 1),
        width=16,
        num_layers=layers,
        kernel_size=kernel_size,
        last_kernel_size=last,
        rngs=nnx.Rngs(0),
    )
    reach = seen(network, (16, 16), 0)
    np.testing.assert_array_equal(reach, network.receptive_field // 2)


def test_receptive_field_of_the_paper():
    assert nnx.eval_shape(lambda: ResNet((32, 32, 1), rngs=nnx.Rngs(0))).receptive_field == 17


@pytest.mark.parametrize(
    ("widths", "kernel_size", "last"), [((16, 16), 3, 3), ((16, 16), 5, 1), ((16, 16, 16), 3, 3)]
)
def test_receptive_field_of_a_unet(widths, kernel_size, last):
    network = UNet(
        (80, 80, 1),
        widths=widths,
        embedding_width=16,
        kernel_size=kernel_size,
        last_kernel_size=last,
        rngs=nnx.Rngs(0),
    )
    # A maximum sees one pixel of four, so it takes several images and places to reach the bound.
    places = range(40, 40 + network.pooling)
    reach = np.max([seen(network, (p, p), seed) for p in places for seed in range(4)], axis=0)
    assert reach.max() == network.receptive_field // 2
    assert reach.min() >= network.receptive_field // 2 - network.pooling


def test_attention_is_global():
    network = make("attention", shape=(24, 24, 1))
    assert network.receptive_field == 47
    np.testing.assert_array_equal(seen(network, (0, 0), 0), [0, 23, 0, 23])
    np.testing.assert_array_equal(seen(network, (23, 5), 0), [23, 0, 5, 18])


def test_normalisation_keeps_the_mean_and_scale_of_an_image():
    network = AttentionUNet((8, 8, 3), widths=(32, 64), padding="circular", rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 8, 3)), jnp.float32)
    alpha, sigma = network.schedule(0.9)

    def velocity(x):
        return np.asarray((network.predict_noise(x, 0.9) - sigma * x) / alpha)

    # Shortcuts are all there is at first, and pooling commutes with both changes.
    moved = velocity(x + 0.5) - velocity(x)
    assert np.abs(moved).mean() > 0.01
    np.testing.assert_allclose(moved, np.tile(moved[:, :2, :2], (1, 4, 4, 1)), atol=1e-4)
    large, larger = (velocity(far * x) for far in (1e3, 2e3))
    np.testing.assert_allclose(larger, 2 * large, atol=0.01 * np.abs(larger).mean())


def test_the_last_convolution_of_an_attention_unet_gives_the_velocity():
    network = nnx.clone(make("attention"))
    x, t = images(), np.float32(0.999)
    alpha, sigma = network.schedule(t)

    class Ones(nnx.Module):
        def __call__(self, h):
            return jnp.ones_like(h[..., : SHAPE[2]])

    network.last = Ones()
    # x_0 = alpha x_t - sigma v, nothing divided by the small alpha.
    np.testing.assert_allclose(network.denoise(x, t), alpha * x - sigma, atol=1e-4)


def test_without_attention_the_rest_is_the_same():
    full, bare = (
        AttentionUNet(
            SHAPE, widths=(8, 16), attention_levels=levels, embedding_width=16, rngs=nnx.Rngs(0)
        )
        for levels in ((0, 1), ())
    )
    weights = named_weights(full)
    attention = [name for name in weights if ".attention." in name]
    assert attention
    rest = {name: weights[name] for name in weights if name not in attention}
    set_weights(bare, rest, "the other network")  # refuses other names and shapes
    # At first attention adds nothing.
    np.testing.assert_array_equal(
        bare.denoise(images(), 0.5), full.denoise(images(), 0.5), strict=True
    )


def test_attention_needs_no_normalisation_to_be_global():
    block = elsjax.nn.attention_unet.SelfAttention(8, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    _stir(block)
    x = jnp.asarray(images(1, (4, 4, 8)))
    weights = np.asarray(jax.jit(jax.grad(lambda x: block(x)[0, 0, 0].sum()))(x))
    assert (np.abs(weights).max(axis=-1) > 0).all()


# Parts


def test_time_features_are_the_published_ones():
    features = np.asarray(time_features(jnp.asarray([0.0, 0.3, 1.0]), 8), np.float64)
    angles = np.array([[0.0], [0.3], [1.0]]) / 10000 ** (np.arange(4) / 3)
    np.testing.assert_allclose(
        features, np.concatenate([np.sin(angles), np.cos(angles)], 1), rtol=1e-6
    )


def test_upsampling_gives_each_pixel_its_own_block():
    layer = Upsample(3, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = images(1, (2, 3, 3))
    y = np.asarray(layer(jnp.asarray(x)))
    assert y.shape == (1, 4, 6, 2)
    kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
    for row, column in ((0, 0), (1, 2)):
        block = np.einsum("c,cijd->ijd", x[0, row, column], kernel) + bias
        found = y[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_allclose(found, block, atol=1e-6)


def test_weights_start_as_in_pytorch():
    network = ResNet((8, 8, 3), width=32, num_layers=1, rngs=nnx.Rngs(0))
    for variable, fan_in in (
        (network.convs[0].kernel, 9 * 32),
        (network.convs[0].bias, 9 * 32),
        (network.shifts[0].linear.kernel, 32),
    ):
        values = np.asarray(variable[...]) * fan_in**0.5
        assert 0.85 < np.abs(values).max() <= 1
        assert abs(values.std() - 3**-0.5) < 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    network = nnx.eval_shape(
        lambda: PRESETS[name]((32, 32, 3), padding="circular", num_classes=10, rngs=nnx.Rngs(0))
    )
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((2,), jnp.float32)
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    output = jax.eval_shape(lambda network, *args: network(*args), network, x, t, label)
    assert output.shape == x.shape


# Wrong input


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("resnet", {"padding": "reflect"}, "padding='reflect' is not known; .*zeros, circular"),
        ("resnet", {"num_classes": 0}, "num_classes=0 must be"),
        ("resnet", {"width": 12}, "width=12 must be divisible by 8"),
        ("resnet", {"width": "wide"}, "width='wide' must be"),
        ("resnet", {"num_layers": 0}, "num_layers=0 must be"),
        ("resnet", {"kernel_size": 2}, "kernel_size=2 must be an odd"),
        ("resnet", {"last_kernel_size": 0}, "last_kernel_size=0 must be an odd"),
        ("resnet", {"shape": (8, 8)}, "image_shape=(8, 8) must be (height, width, channels)"),
        ("resnet", {"shape": (8, 8, 0)}, "image_shape=0 must be"),
        ("resnet", {"dtype": int}, "dtype=int64 must be floating"),
        ("unet", {"shape": (8, 10, 1)}, "image_shape has sides 8×10; .* multiples of 4"),
        ("unet", {"widths": (8,)}, "widths=(8,) must be two or more"),
        ("unet", {"widths": (8, -1)}, "widths[1]=-1 must be"),
        ("unet", {"kernel_size": 4}, "kernel_size=4 must be an odd"),
        ("unet", {"last_kernel_size": 2.0}, "last_kernel_size=2.0 must be an odd"),
        ("unet", {"embedding_width": 7}, "embedding_width=7 must be even"),
        ("unet", {"embedding_width": 2}, "embedding_width=2 must be even and at least 4"),
        (
            "attention",
            {"attention_levels": (2,)},
            "attention_levels=(2,) must be some of 0 to 1",
        ),
        ("attention", {"num_heads": 3}, "num_heads=3 must divide the width 16"),
        ("attention", {"num_heads": 0}, "num_heads=0 must be"),
    ],
)
def test_wrong_architecture(kind, options, message):
    pattern = re.sub(r"([()\[\]])", r"\\\1", message)
    with pytest.raises(ValueError, match=pattern):
        make(kind, **options)


@pytest.mark.parametrize("method", ["denoise", "predict_noise", "score"])
@pytest.mark.parametrize(
    ("x", "t", "label", "message"),
    [
        (images(2, (8, 8, 3)), 0.5, 0, "x has shape .2, 8, 8, 3.; expected 2 channels"),
        (images(2, (8, 10, 2)), 0.5, 0, "x has sides 8×10; .* multiples of 4"),
        (images(2)[0], 0.5, 0, "x has shape .8, 12, 2.; expected"),
        (np.full((1, 8, 8, 2), np.nan), 0.5, 0, "x must be finite"),
        (images(2), 1.5, 0, "t=1.5 must lie in"),
        (images(2), np.full(3, 0.5), 0, "t has shape .3.; expected"),
        (images(2), 0.5, None, "label=None: this network needs one, 0 to 3"),
        (images(2), 0.5, 4, "label=4 must lie in 0 to 3"),
        (images(2), 0.5, (0, -1), "label=.0, -1. must lie in 0 to 3"),
        (images(2), 0.5, [0, 1, 2], "label has shape .3.; expected"),
        (images(2), 0.5, 1.0, "label=1.0 must be integers"),
    ],
)
def test_wrong_arguments(method, x, t, label, message):
    with pytest.raises(ValueError, match=message):
        getattr(make("unet", num_classes=4), method)(x, t, label)


def test_an_unconditional_network_refuses_a_label():
    network = make("resnet")
    with pytest.raises(ValueError, match="label=1 was given, but this network is unconditional"):
        elsjax.sample(network, images(), label=1)


def test_other_image_sizes_run():
    network = make("unet")
    assert network.denoise(images(1, (16, 4, 2)), 0.5).shape == (1, 16, 4, 2)
