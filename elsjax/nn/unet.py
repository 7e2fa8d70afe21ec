"""The UNet: local features at several resolutions."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from elsjax import checks
from elsjax.nn.encoder_decoder import EncoderDecoder, Shift
from elsjax.nn.layers import Padding, conv, group_norm
from elsjax.references import Reference


class Block(nnx.Module):
    """Two convolutions with ReLU; the embedding shifts what goes in.

    Args:
      inputs: channels that come in.
      outputs: channels that go out.
      embedding_width: length of the embedding.
      kernel_size: odd side of the kernels.
      padding: "zeros" or "circular".
      normalized: group normalisation after each convolution.
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
        normalized: bool,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.shift = Shift(embedding_width, inputs, dtype=dtype, rngs=rngs)
        self.convs = nnx.List(
            conv(channels, outputs, kernel_size, padding, dtype=dtype, rngs=rngs)
            for channels in (inputs, outputs)
        )
        norms = (_norm(outputs, dtype=dtype, rngs=rngs) for _ in self.convs)
        self.norms = nnx.List(norms) if normalized else None

    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"]
    ) -> Float[Array, "b h w d"]:
        """Features [B, H, W, outputs] of images [B, H, W, inputs]."""
        x = x + self.shift(embedding)
        for i, layer in enumerate(self.convs):
            x = layer(x)
            x = nnx.relu(x if self.norms is None else self.norms[i](x))
        return x


class UNet(EncoderDecoder):
    """The UNet of Kamb & Ganguli (2025), section 5 and their published code.

    Down through blocks of the given widths with 2×2 max-pooling between them, and up again
    through 2×2 transposed convolutions; on the way up a block sees the features of its resolution
    from the way down beside what comes from below. There is no normalisation and no attention.
    With circular padding the network commutes with circular shifts by multiples of `pooling`.
    Their code has normalised variants, which see the whole image; the paper does not use them.

    Args:
      image_shape: (height, width, channels) of the images; sides divisible by `pooling`,
        2^(number of widths - 1).
      widths: channels at each resolution, finest first; at least two.
      embedding_width: length of the embedding, even, at least 4.
      normalized: group normalisation after each convolution but the last. The groups are 32, or
        single channels where there are fewer: widths are at most 32 or multiples of it.
      last_normalized: group normalisation before the last convolution.
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
        widths: Sequence[int] = (64, 128, 256),
        embedding_width: int = 256,
        normalized: bool = False,
        last_normalized: bool = False,
        rngs: nnx.Rngs,
        **settings: Any,
    ) -> None:
        widths = checks.positive_ints("widths", widths)
        for width in widths if normalized else widths[:1] if last_normalized else ():
            if width > 32 and width % 32:
                raise ValueError(f"widths={widths} must be at most 32 or multiples of it")
        self.normalized = normalized
        self.last_normalized = last_normalized
        super().__init__(
            image_shape, widths=widths, embedding_width=embedding_width, rngs=rngs, **settings
        )

    def block(self, level: int, inputs: int, kernel_size: int, rngs: nnx.Rngs) -> Block:
        """Two convolutions, of all widths alike; arguments as `EncoderDecoder` has them."""
        return Block(
            inputs,
            self.widths[level],
            self.embedding_width,
            kernel_size,
            self.padding,
            self.normalized,
            dtype=self.dtype,
            rngs=rngs,
        )

    def output_norm(self, rngs: nnx.Rngs) -> nnx.GroupNorm | None:
        """Group normalisation, if asked for; arguments as `EncoderDecoder` has them."""
        if not self.last_normalized:
            return None
        return _norm(self.widths[0], dtype=self.dtype, rngs=rngs)

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for its architecture, its prediction and its schedule."""
        return (Reference("kamb2025", "the UNet"), *super().references)

    @property
    def receptive_field(self) -> int:
        """See `Network.receptive_field`."""
        if self.normalized or self.last_normalized:
            return 2 * max(self.image_shape[:2]) - 1
        return super().receptive_field


def _norm(channels: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """The published normalisation: 32 groups, or each channel by itself where there are fewer."""
    return group_norm(channels, min(32, channels), dtype=dtype, rngs=rngs)
