"""The residual network without pooling: strictly local and, with circular padding, equivariant."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from elsjax import checks
from elsjax.nn.embedding import Embedding
from elsjax.nn.layers import conv, group_norm, linear, per_pixel
from elsjax.nn.network import Network
from elsjax.references import Reference


class TimeShift(nnx.Module):
    """What a layer adds to each of its channels, from the embedding: linear, normalised, ReLU.

    Args:
      width: length of the embedding, and number of channels; divisible by 8.
      dtype: of the weights.
      rngs: keys for the weights.
    """

    def __init__(self, width: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.linear = linear(width, width, dtype=dtype, rngs=rngs)
        self.norm = group_norm(width, 8, dtype=dtype, rngs=rngs)

    def __call__(self, embedding: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
        """The shift, [B, 1, 1, C], of an embedding [B, C]."""
        return per_pixel(nnx.relu(self.norm(self.linear(embedding))))


class ResNet(Network):
    """The ResNet of Kamb & Ganguli (2025), section 5 and their published code.

        h   = conv(x)
        h  += relu(conv(h + shift_i(t, label)))      for each layer i
        out = conv(h + shift_last(t, label))

    There is no normalisation of images, no pooling and no attention: a pixel of the output
    depends on a square of side `receptive_field` (17 by default), and with circular padding the
    network commutes with circular shifts. Their code has two variants that the paper does not use:
    normalised networks, which see the whole image, and ones that double h where others shift it
    before the last convolution.

    Args:
      image_shape: (height, width, channels) of the images.
      width: channels of h, and length of the embedding; divisible by 8.
      num_layers: number of residual layers.
      normalized: group normalisation, 8 groups, after each layer's convolution and before the last.
      last_shift: shift h before the last convolution; without, h is doubled there.
      rngs: keys for the weights, `flax.nnx.Rngs(seed)`.
      settings: those of all networks, such as padding and num_classes; see `Network`.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int = 256,
        num_layers: int = 6,
        normalized: bool = False,
        last_shift: bool = True,
        rngs: nnx.Rngs,
        **settings: Any,
    ) -> None:
        width = checks.positive_int("width", width)
        if width % 8:
            raise ValueError(f"width={width} must be divisible by 8, the groups of its embedding")
        num_layers = checks.positive_int("num_layers", num_layers)
        super().__init__(image_shape, rngs=rngs, **settings)
        self.width = width
        self.num_layers = num_layers
        self.normalized = normalized
        self.last_shift = last_shift
        channels = self.image_shape[2]
        common: dict[str, Any] = {"dtype": self.dtype, "rngs": rngs}
        self.embedding = Embedding(width, self.num_classes, **common)
        self.first = conv(channels, width, self.kernel_size, self.padding, **common)
        self.shifts = nnx.List(TimeShift(width, **common) for _ in range(num_layers + last_shift))
        self.convs = nnx.List(
            conv(width, width, self.kernel_size, self.padding, **common) for _ in range(num_layers)
        )
        norms = (group_norm(width, 8, **common) for _ in range(num_layers + 1))
        self.norms = nnx.List(norms) if normalized else None
        self.last = conv(width, channels, self.last_kernel_size, self.padding, **common)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """See `Network.__call__`."""
        embedding = self.embedding(t, label)
        h = self.first(x.astype(self.dtype))
        for i, layer in enumerate(self.convs):
            h = h + nnx.relu(self._normalize(i, layer(h + self.shifts[i](embedding))))
        h = h + (self.shifts[-1](embedding) if self.last_shift else h)
        return self.last(self._normalize(-1, h))

    def _normalize(self, index: int, h: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return h if self.norms is None else self.norms[index](h)

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for its architecture, its prediction and its schedule."""
        return (Reference("kamb2025", "the ResNet"), *super().references)

    @property
    def receptive_field(self) -> int:
        """See `Network.receptive_field`."""
        if self.normalized:
            return 2 * max(self.image_shape[:2]) - 1
        return 1 + (self.num_layers + 1) * (self.kernel_size - 1) + self.last_kernel_size - 1
