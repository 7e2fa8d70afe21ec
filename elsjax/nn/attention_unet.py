"""The UNet with self-attention: not local, the case that the theory is not made for."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from elsjax import checks
from elsjax.nn.encoder_decoder import EncoderDecoder, Shift
from elsjax.nn.layers import PRECISION, Padding, conv, group_norm, linear
from elsjax.nn.network import Prediction
from elsjax.references import Reference


class SelfAttention(nnx.Module):
    """Every place attends to every place: `x + W softmax(q k / sqrt(d)) v`, q k v from norm(x).

    W starts at zero.

    Args:
      channels: of the images; a multiple of num_heads.
      num_heads: number of heads.
      dtype: of the weights.
      rngs: keys for the weights.

    Attributes:
      even: every place attends evenly to all, whatever queries and keys are; False at first. See
        `elsjax.experiments.attention.with_mean_attention`.
    """

    def __init__(self, channels: int, num_heads: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        self.even = False
        self.norm = group_norm(channels, _num_groups(channels), dtype=dtype, rngs=rngs)
        self.query_key_value = linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.last = linear(channels, channels, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Images of the same shape."""
        query, key, value = self._query_key_value(x)
        weights = self._weights(query, key)
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights, value, precision=PRECISION)
        return x + self.last(mixed.reshape(x.shape))

    def weights(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n h*w h*w"]:
        """How much each place attends to each.

        Args:
          x: images, [B, H, W, C].

        Returns:
          The softmax over the last axis, [B, heads, H W, H W]: by place that attends, row by row,
          and place that is attended to.
        """
        query, key, _ = self._query_key_value(x)
        return self._weights(query, key)

    def _query_key_value(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b p n d"], Float[Array, "b p n d"], Float[Array, "b p n d"]]:
        batch, height, width, channels = x.shape
        shape = (batch, height * width, 3, self.num_heads, channels // self.num_heads)
        joint = self.query_key_value(self.norm(x)).reshape(shape)
        return joint[:, :, 0], joint[:, :, 1], joint[:, :, 2]

    def _weights(
        self, query: Float[Array, "b p n d"], key: Float[Array, "b p n d"]
    ) -> Float[Array, "b n p p"]:
        batch, places, heads, depth = query.shape
        if self.even:
            return jnp.full((batch, heads, places, places), 1 / places, query.dtype)
        # The one product here that feeds an exponential; in bfloat16 it is summed in float32.
        logits = jnp.einsum(
            "bqnd,bknd->bnqk",
            query,
            key,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.promote_types(query.dtype, jnp.float32),
        )
        return jax.nn.softmax(logits / depth**0.5, axis=-1).astype(query.dtype)


class AttentionBlock(nnx.Module):
    """Two convolutions beside a shortcut; then attention, where asked for.

    Group normalisation and ReLU come before each convolution (Ho et al. 2020). What they take away,
    the mean and scale of an image, goes through the shortcut, which is all of the block at first:
    the second convolution starts at zero.

    Args:
      inputs: channels that come in.
      outputs: channels that go out.
      embedding_width: length of the embedding, which shifts what goes in.
      kernel_size: odd side of the kernels.
      padding: "zeros" or "circular".
      num_heads: heads of the attention; None for a block without.
      dtype: of the weights.
      rngs: keys for the weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding_width: int,
        kernel_size: int,
        padding: Padding,
        num_heads: int | None,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.shift = Shift(embedding_width, inputs, **common)
        self.convs = nnx.List(
            conv(channels, outputs, kernel_size, padding, zero=last, **common)
            for channels, last in ((inputs, False), (outputs, True))
        )
        self.norms = nnx.List(
            group_norm(channels, _num_groups(channels), **common) for channels in (inputs, outputs)
        )
        self.shortcut = None if inputs == outputs else linear(inputs, outputs, **common)
        self.attention = None if num_heads is None else SelfAttention(outputs, num_heads, **common)

    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"]
    ) -> Float[Array, "b h w d"]:
        """Features [B, H, W, outputs] of images [B, H, W, inputs]."""
        h = x + self.shift(embedding)
        for layer, norm in zip(self.convs, self.norms, strict=True):
            h = layer(nnx.relu(norm(h)))
        x = h + (x if self.shortcut is None else self.shortcut(x))
        return x if self.attention is None else self.attention(x)


class AttentionUNet(EncoderDecoder):
    """The UNet of residual blocks with group normalisation, and self-attention at some resolutions.

    After the UNet of Ho et al. (2020), appendix B, with one block a resolution.

    Attention and normalisation both reach over the whole image, whatever the padding. Attention
    has no positions: with circular padding the network commutes with the shifts of a `UNet`.

    It predicts the velocity unless told otherwise. So at t -> 1, where x_0 follows from the noise
    by a division by alpha, what normalisation loses of an image's mean and scale does no harm.

    Args:
      image_shape: (height, width, channels) of the images; see `UNet`.
      widths: channels at each resolution, finest first; at least two.
      attention_levels: resolutions with attention: 0 is the finest, level l has 1/2^l of the
        sides. Time and memory grow with the square of the number of pixels. With () it is the same
        network without attention, to tell what attention adds.
      num_heads: heads of the attention; divides the widths that have attention.
      embedding_width: length of the embedding, even, at least 4.
      prediction: what the output is: "noise", "velocity" or "x0"; see `elsjax.nn.network`.
      rngs: keys for the weights, `flax.nnx.Rngs(seed)`.
      settings: those of all networks, such as padding and num_classes; see `Network`. kernel_size
        is that of the way down; on the way up it is 3.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        widths: Sequence[int] = (128, 256, 256, 256),
        attention_levels: Sequence[int] = (1,),
        num_heads: int = 1,
        embedding_width: int = 256,
        prediction: Prediction = "velocity",
        rngs: nnx.Rngs,
        **settings: Any,
    ) -> None:
        widths = checks.positive_ints("widths", widths)
        self.attention_levels = _checked_levels(attention_levels, len(widths))
        self.num_heads = checks.positive_int("num_heads", num_heads)
        for level in self.attention_levels:
            if widths[level] % num_heads:
                raise ValueError(f"num_heads={num_heads} must divide the width {widths[level]}")
        super().__init__(
            image_shape,
            widths=widths,
            embedding_width=embedding_width,
            prediction=prediction,
            rngs=rngs,
            **settings,
        )

    def block(self, level: int, inputs: int, kernel_size: int, rngs: nnx.Rngs) -> AttentionBlock:
        """A residual block, with attention or not; arguments as `EncoderDecoder` has them."""
        return AttentionBlock(
            inputs,
            self.widths[level],
            self.embedding_width,
            kernel_size,
            self.padding,
            self.num_heads if level in self.attention_levels else None,
            dtype=self.dtype,
            rngs=rngs,
        )

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for its architecture, its prediction and its schedule."""
        return (Reference("ho2020", "the UNet with attention"), *super().references)

    @property
    def receptive_field(self) -> int:
        """The window that holds the whole image from any of its pixels, `2 max(H, W) - 1`."""
        return 2 * max(self.image_shape[:2]) - 1


def _checked_levels(attention_levels: Any, num_levels: int) -> tuple[int, ...]:
    """The levels; raises ValueError unless they are some of those that there are."""
    levels = tuple(attention_levels) if isinstance(attention_levels, Iterable) else None
    if (
        levels is None
        or len(levels) > num_levels
        or not all(level in range(num_levels) for level in levels)
    ):
        raise ValueError(
            f"attention_levels={attention_levels!r} must be some of 0 to {num_levels - 1}"
        )
    return tuple(checks.integer("attention_levels", level, 0, num_levels) for level in levels)


def _num_groups(channels: int) -> int:
    """Groups of a normalisation: at most 32 that divide the channels, of 4 or more if that can be.

    A channel alone in its group would lose its mean and scale; in a group, channels keep them
    relative to each other.
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return groups
