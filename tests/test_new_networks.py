import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax.nn import AttentionUNet, EncoderDecoder, Network, ResNet, UNet
from elsjax.nn.files import network_config
from elsjax.nn.layers import conv

X = np.linspace(-1, 1, 2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8, 1)
SETTINGS = {"padding", "num_classes", "kernel_size", "last_kernel_size", "prediction", "schedule"}


class Single(Network):
    """One convolution of a side of its own, which knows nothing of the time."""

    def __init__(self, image_shape, *, side, rngs, **settings):
        super().__init__(image_shape, rngs=rngs, **settings)
        self.side = side
        channels = self.image_shape[2]
        self.only = conv(channels, channels, side, self.padding, dtype=self.dtype, rngs=rngs)

    def __call__(self, x, t, label=None):
        return self.only(x)

    @property
    def receptive_field(self):
        return self.side


class Plain(nnx.Module):
    def __init__(self, inputs, outputs, **options):
        self.only = conv(inputs, outputs, 1, "zeros", **options)

    def __call__(self, x, embedding):
        return self.only(x)


class PlainUNet(EncoderDecoder):
    """Blocks of one 1×1 convolution, without the embedding."""

    def block(self, level, inputs, kernel_size, rngs):
        return Plain(inputs, self.widths[level], dtype=self.dtype, rngs=rngs)


@pytest.mark.parametrize(
    "network",
    [
        lambda: Single((8, 8, 1), side=5, prediction="x0", padding="circular", rngs=nnx.Rngs(0)),
        lambda: PlainUNet(
            (8, 8, 1), widths=(4, 8), embedding_width=4, prediction="x0", rngs=nnx.Rngs(0)
        ),
    ],
    ids=["network", "encoder-decoder"],
)
def test_a_new_network_is_a_denoiser(network):
    network = network()
    x0 = network.denoise(X, 0.5)
    np.testing.assert_allclose(x0, network(X, np.full(2, 0.5, np.float32)), atol=1e-6)
    assert elsjax.sample(network, X, num_steps=2).shape == X.shape
    with pytest.raises(ValueError, match="label=1 was given, but this network is unconditional"):
        network.denoise(X, 0.5, 1)


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (ResNet, {"width", "num_layers", "normalized", "last_shift"}),
        (UNet, {"widths", "embedding_width", "normalized", "last_normalized"}),
        (AttentionUNet, {"widths", "embedding_width", "attention_levels", "num_heads"}),
    ],
)
def test_a_configuration_has_all_arguments(kind, own):
    small = {"width": 8} if kind is ResNet else {"widths": (4, 8)}
    config = network_config(kind((8, 8, 1), **small, rngs=nnx.Rngs(0)))
    assert config.keys() == SETTINGS | own | {"kind", "image_shape", "dtype"}


def test_an_argument_of_another_network_is_refused():
    with pytest.raises(TypeError, match="normalized"):
        AttentionUNet((8, 8, 1), widths=(4, 8), normalized=True, rngs=nnx.Rngs(0))
