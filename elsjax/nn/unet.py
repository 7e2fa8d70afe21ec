"""The UNet: local features at several resolutions."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from elsjax import checks
from elsjax.nn.layers import Padding, Upsample, conv, group_norm, linear, max_pool, per_pixel
from elsjax.nn.network import Network, Prediction
from elsjax.process.schedules import Schedule

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


class UNet(Network):
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
      padding: "zeros" or "circular".
      num_classes: number of classes to condition on; None for an unconditional network.
      kernel_size: odd side of the kernels on the way down; on the way up it is 3.
      last_kernel_size: odd side of the last kernel.
      normalized: group normalisation after each convolution but the last. The groups are 32, or
        single channels where there are fewer: widths are at most 32 or multiples of it.
      last_normalized: group normalisation before the last convolution.
      prediction: what the output is: "noise", as published, "velocity" or "x0"; see
        `elsjax.nn.network`.
      schedule: noise schedule of the process; `CosineSchedule()` by default.
      dtype: of the weights; float32 by default, float64 under `jax_enable_x64`.
      rngs: keys for the weights, `flax.nnx.Rngs(seed)`.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        widths: Sequence[int] = (64, 128, 256),
        embedding_width: int = 256,
        padding: Padding = "zeros",
        num_classes: int | None = None,
        kernel_size: int = 3,
        last_kernel_size: int = 3,
        normalized: bool = False,
        last_normalized: bool = False,
        prediction: Prediction = "noise",
        schedule: Schedule | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.widths = checks.positive_ints("widths", widths)
        if len(self.widths) < 2:
            raise ValueError(f"widths={self.widths} must be two or more, one a resolution")
        for width in self.widths if normalized else self.widths[:1] if last_normalized else ():
            if width > 32 and width % 32:
                raise ValueError(f"widths={self.widths} must be at most 32 or multiples of it")
        kernel_size = checks.odd_int("kernel_size", kernel_size)
        last_kernel_size = checks.odd_int("last_kernel_size", last_kernel_size)
        embedding_width = checks.positive_int("embedding_width", embedding_width)
        self.embedding_width = embedding_width
        self.kernel_size = kernel_size
        self.last_kernel_size = last_kernel_size
        self.normalized = normalized
        self.last_normalized = last_normalized
        super().__init__(
            *(image_shape, padding, num_classes, embedding_width, schedule, dtype, rngs),
            prediction=prediction,
        )
        channels = self.image_shape[2]
        levels = range(len(self.widths))
        common: dict[str, Any] = {"dtype": self.dtype, "rngs": rngs}
        inputs = (channels, *self.widths[:-1])
        self.down = nnx.List(
            self._block(level, inputs[level], kernel_size, rngs) for level in levels
        )
        self.upsamples = nnx.List(
            Upsample(self.widths[level + 1], self.widths[level], **common) for level in levels[:-1]
        )
        self.up = nnx.List(
            self._block(level, 2 * self.widths[level], OUTPUT_KERNEL_SIZE, rngs)
            for level in levels[:-1]
        )
        self.last_shift = Shift(embedding_width, self.widths[0], **common)
        self.last_norm = _norm(self.widths[0], **common) if last_normalized else None
        self.last = conv(self.widths[0], channels, last_kernel_size, padding, **common)

    def _block(self, level: int, inputs: int, kernel_size: int, rngs: nnx.Rngs) -> nnx.Module:
        """The block of a resolution; level 0 is the finest."""
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
        if self.normalized or self.last_normalized:
            return 2 * max(self.image_shape[:2]) - 1
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


def _norm(channels: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """The published normalisation: 32 groups, or each channel by itself where there are fewer."""
    return group_norm(channels, min(32, channels), dtype=dtype, rngs=rngs)
