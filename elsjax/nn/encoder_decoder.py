"""What UNets share: the way down through blocks and poolings, and up again."""

import abc
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from elsjax import checks
from elsjax.nn.embedding import Embedding
from elsjax.nn.layers import Upsample, conv, linear, max_pool, per_pixel
from elsjax.nn.network import Network

OUTPUT_KERNEL_SIZE = 3  # on the way up, whatever kernel_size is: so it is published


class Shift(nnx.Module):
    """What is added to each channel, from the embedding: ReLU, then linear.

    Args:
      embedding_width: length of the embedding.
      channels: number of channels to shift.
      dtype: of the weights.
      rngs: keys for the weights.
    """

    def __init__(self, embedding_width: int, channels: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.linear = linear(embedding_width, channels, dtype=dtype, rngs=rngs)

    def __call__(self, embedding: Float[Array, "b e"]) -> Float[Array, "b 1 1 c"]:
        """The shift, [B, 1, 1, C], of an embedding [B, E]."""
        return per_pixel(self.linear(nnx.relu(embedding)))


class EncoderDecoder(Network):
    """Down through blocks with 2×2 max-pooling between them, and up again.

    Up it goes through 2×2 transposed convolutions. There a block sees the features of its
    resolution from the way down beside what comes from below. `kernel_size` is that of the way
    down; on the way up it is 3.

    A subclass says what a block is, in `block`. What that needs it keeps as attributes before it
    calls this constructor.

    Args:
      image_shape: (height, width, channels) of the images; sides are multiples of `pooling`,
        2^(number of widths - 1).
      widths: channels at each resolution, finest first; at least two.
      embedding_width: length of the embedding, even, at least 4.
      rngs: keys for the weights, `flax.nnx.Rngs(seed)`.
      settings: those of all networks, such as padding and num_classes; see `Network`.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        widths: Sequence[int],
        embedding_width: int,
        rngs: nnx.Rngs,
        **settings: Any,
    ) -> None:
        self.widths = checks.positive_ints("widths", widths)
        if len(self.widths) < 2:
            raise ValueError(f"widths={self.widths} must be two or more, one a resolution")
        self.embedding_width = checks.positive_int("embedding_width", embedding_width)
        if embedding_width % 2 or embedding_width < 4:
            raise ValueError(f"embedding_width={embedding_width} must be even and at least 4")
        super().__init__(image_shape, rngs=rngs, **settings)
        channels = self.image_shape[2]
        common: dict[str, Any] = {"dtype": self.dtype, "rngs": rngs}
        self.embedding = Embedding(embedding_width, self.num_classes, **common)
        levels = range(len(self.widths))
        inputs = (channels, *self.widths[:-1])
        self.down = nnx.List(
            self.block(level, inputs[level], self.kernel_size, rngs) for level in levels
        )
        self.upsamples = nnx.List(
            Upsample(self.widths[level + 1], self.widths[level], **common) for level in levels[:-1]
        )
        self.up = nnx.List(
            self.block(level, 2 * self.widths[level], OUTPUT_KERNEL_SIZE, rngs)
            for level in levels[:-1]
        )
        self.last_shift = Shift(embedding_width, self.widths[0], **common)
        self.last_norm = self.output_norm(rngs)
        self.last = conv(self.widths[0], channels, self.last_kernel_size, self.padding, **common)

    @abc.abstractmethod
    def block(self, level: int, inputs: int, kernel_size: int, rngs: nnx.Rngs) -> nnx.Module:
        """The block of a resolution, a module `block(x, embedding)`.

        Args:
          level: the resolution; 0 is the finest.
          inputs: channels that come in; `widths[level]` go out.
          kernel_size: odd side of the kernels.
          rngs: keys for the weights.

        Returns:
          A module: features [B, H, W, widths[level]] of images [B, H, W, inputs] and an embedding
          [B, embedding_width].
        """

    def output_norm(self, rngs: nnx.Rngs) -> nnx.Module | None:
        """The normalisation before the last convolution; None for a network without.

        Args:
          rngs: keys for its weights.

        Returns:
          A module of features [B, H, W, widths[0]], or None.
        """
        return None

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """See `Network.__call__`."""
        embedding = self.embedding(t, label)
        h = x.astype(self.dtype)
        skips = []
        for block in self.down[:-1]:
            h = block(h, embedding)
            skips.append(h)
            h = max_pool(h)
        h = self.down[-1](h, embedding)
        for level in reversed(range(len(skips))):
            h = jnp.concatenate([skips[level], self.upsamples[level](h)], axis=-1)
            h = self.up[level](h, embedding)
        h = h + self.last_shift(embedding)
        return self.last(h if self.last_norm is None else self.last_norm(h))

    @property
    def pooling(self) -> int:
        """See `Network.pooling`."""
        return 2 ** (len(self.widths) - 1)

    @property
    def receptive_field(self) -> int:
        """See `Network.receptive_field`.

        What a pixel depends on is not centred on it: it changes with the pixel's place among the
        pooled blocks. This is the window that holds it for all of them.
        """
        reach = 0
        for place in range(self.pooling):
            first, last = self._seen_by(place)
            reach = max(reach, place - first, last - place)
        return 2 * reach + 1

    def _seen_by(self, place: int) -> tuple[int, int]:
        """First and last pixel, along one axis, that the output at a place depends on."""
        bottom = len(self.widths) - 1
        first, last = place - self.last_kernel_size // 2, place + self.last_kernel_size // 2
        for _ in range(bottom):  # up: two convolutions, then the coarser pixel; skips see less
            first = (first - 2 * (OUTPUT_KERNEL_SIZE // 2)) // 2
            last = (last + 2 * (OUTPUT_KERNEL_SIZE // 2)) // 2
        down = 2 * (self.kernel_size // 2)
        first, last = first - down, last + down
        for _ in range(bottom):  # down: the pooled block, then two convolutions
            first, last = 2 * first - down, 2 * last + 1 + down
        return first, last
