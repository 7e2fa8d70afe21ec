"""Convolutional denoising networks in Flax NNX, images as [B, H, W, C].

Each network predicts the noise in x_t, the velocity or x_0, and is an `elsjax.Denoiser`, so it
goes wherever a `ScoreMachine` goes. The default widths are those of Kamb & Ganguli (2025), section
5; `PRESETS` names these and smaller ones.

A new network is a subclass of `Network`, or of `EncoderDecoder` where only its blocks are new.
"""

from elsjax.nn.attention_unet import AttentionUNet
from elsjax.nn.encoder_decoder import EncoderDecoder
from elsjax.nn.network import Network
from elsjax.nn.presets import PRESETS
from elsjax.nn.resnet import ResNet
from elsjax.nn.unet import UNet

__all__ = ["PRESETS", "AttentionUNet", "EncoderDecoder", "Network", "ResNet", "UNet"]
