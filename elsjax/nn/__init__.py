"""Convolutional denoising networks in Flax NNX, images as [B, H, W, C].

Each network predicts the noise in x_t, the velocity or x_0, and is an `elsjax.Denoiser`, so it
goes wherever a `ScoreMachine` goes. The default widths are those of Kamb & Ganguli (2025), section
5; `PRESETS` names these and smaller ones.
"""

from elsjax.nn.attention_unet import AttentionUNet
from elsjax.nn.network import Network
from elsjax.nn.presets import PRESETS
from elsjax.nn.resnet import ResNet
from elsjax.nn.unet import UNet

__all__ = ["PRESETS", "AttentionUNet", "Network", "ResNet", "UNet"]
