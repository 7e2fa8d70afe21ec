"""Networks by name: the paper's sizes, and small ones that train on a CPU in hours."""

from collections.abc import Callable
from functools import partial

from elsjax.nn.attention_unet import AttentionUNet
from elsjax.nn.network import Network
from elsjax.nn.resnet import ResNet
from elsjax.nn.unet import UNet

PRESETS: dict[str, Callable[..., Network]] = {
    "resnet": ResNet,
    "resnet-small": partial(ResNet, width=48),
    "unet": UNet,
    "unet-small": partial(UNet, widths=(32, 64, 128), embedding_width=128),
    "attention-unet": AttentionUNet,
    "attention-unet-small": partial(
        AttentionUNet, widths=(32, 64, 128), attention_levels=(1, 2), embedding_width=128
    ),
    "residual-unet-small": partial(
        AttentionUNet, widths=(32, 64, 128), attention_levels=(), embedding_width=128
    ),
}
"""Name to constructor: `PRESETS["unet-small"]((32, 32, 1), padding="zeros", rngs=nnx.Rngs(0))`.

The names without "small" are the paper's: 256 channels, 6 layers; 64/128/256. Its attention model
is a pretrained network of other code, of which "attention-unet" has the size, not the layers.
"residual-unet-small" is "attention-unet-small" without its attention.
"""
