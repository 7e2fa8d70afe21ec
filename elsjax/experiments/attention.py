"""What self-attention does in a network: copies without it, and where it looks.

Attention gives each place q a mean of the values v at all places k, weighted by how well they fit,

    out(q) = sum_k w(q, k) v(k),   w(q, k) = softmax_k(query(q) key(k) / sqrt(d))

With w(q, k) = 1 / (H W) every place gets the same mean: what is left is a sum over the image, as
group normalisation has it too, and nothing that can bring far parts together. How much attention a
place receives is the sum of w(q, k) over q; it is 1 where all receive the same.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from elsjax import checks
from elsjax.nn import AttentionUNet
from elsjax.nn.attention_unet import AttentionBlock, SelfAttention


def attention_layers(network: AttentionUNet) -> tuple[str, ...]:
    """Names of the layers with attention, in the order in which they are applied.

    Args:
      network: the network.

    Returns:
      The names: "down-1" is that on the way down at level 1, where the sides are 1/2^1 of the
      image's; "up-1" that on the way up.

    Raises:
      ValueError: if the network is no `AttentionUNet`, or has no attention.
    """
    return tuple(_attention_blocks(network))


def with_mean_attention(
    network: AttentionUNet, layers: Sequence[int] | None = None
) -> AttentionUNet:
    """A copy of a network some of whose attention layers attend evenly to all places.

    Values are then replaced by their mean over the image. A file has the weights only, which are
    those of the network: saved and loaded, the copy attends as the network does.

    Args:
      network: the network, which stays as it is.
      layers: their numbers, the places of their names in `attention_layers`; None for all.

    Returns:
      The copy.

    Raises:
      ValueError: if the network is no `AttentionUNet`, or has no attention, or not such layers.
    """
    names = attention_layers(network)
    if layers is None:
        layers = range(len(names))
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise ValueError(f"layers={layers!r} must be a sequence of numbers of layers")
    numbers = [checks.integer("layers", layer, 0, len(names) - 1) for layer in layers]
    copy = nnx.clone(network)
    blocks = list(_attention_blocks(copy).values())
    for number in numbers:
        _attention(blocks[number]).even = True
    return copy


def attention_maps(
    network: AttentionUNet,
    x: Float[ArrayLike, "b h w c"],
    t: ArrayLike,
    label: Int[ArrayLike, "..."] | None = None,
) -> Float[np.ndarray, "l b h w"]:
    """How much attention each pixel of noisy images receives, in each layer.

    The sum of the weights over the places that attend, mean over heads; 1 is as much as all receive
    on average. A layer of coarser places has that of a place at all of its pixels.

    Args:
      network: the network.
      x: noisy images, [B, H, W, C].
      t: time in [0, 1], scalar or [B]; 1 is noise.
      label: class to condition on, integer or [B]; None for unconditional.

    Returns:
      The maps, [L, B, H, W], of layers in the order of `attention_layers`.

    Raises:
      ValueError: if the network is no `AttentionUNet`, or has no attention, or refuses x, t or
        label.
    """
    attention_layers(network)
    checked, t, label = network.checked(x, t, label)
    count = len(checked)
    times = jnp.broadcast_to(jnp.asarray(t, checked.dtype), count)
    labels = None if label is None else jnp.broadcast_to(jnp.asarray(label), count)
    return np.asarray(_attention_maps(network, checked, times, labels))


def foreground(maps: Float[np.ndarray, "b h w"]) -> Bool[np.ndarray, "b h w"]:
    """Pixels that receive more attention than the median pixel of their image.

    Args:
      maps: attention of each pixel, [B, H, W].

    Returns:
      Whether it is more, [B, H, W].

    Raises:
      ValueError: if maps are not as described.
    """
    maps = np.asarray(maps)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps has shape {list(maps.shape)}; expected [B, H, W], not empty")
    return maps > np.median(maps, axis=(1, 2), keepdims=True)


@jax.jit
def _attention_maps(
    network: AttentionUNet,
    x: Float[Array, "b h w c"],
    t: Float[Array, " b"],
    label: Int[Array, " b"] | None,
) -> Float[Array, "l b h w"]:
    received: list[Array] = []
    # The network is a copy here, made of the arguments of the compiled function.
    for block in _attention_blocks(network).values():
        block.attention = _recording(_attention(block), received)  # type: ignore[assignment]
    network(x, t, label)
    height, width = x.shape[1:3]
    return jnp.stack(
        [
            one.repeat(height // one.shape[1], axis=1).repeat(width // one.shape[2], axis=2)
            for one in received
        ]
    )


def _recording(attention: SelfAttention, received: list[Array]) -> Callable[[Array], Array]:
    """The layer, which adds what attention each place receives, [B, H, W], to a list."""

    def call(x: Array) -> Array:
        weights = attention.weights(x).astype(jnp.promote_types(x.dtype, jnp.float32))
        received.append(weights.sum(2).mean(1).reshape(x.shape[:3]))
        return attention(x)

    return call


def _attention_blocks(network: AttentionUNet) -> dict[str, AttentionBlock]:
    """Blocks with attention by name, in the order in which they are applied."""
    checks.instance(
        "network",
        network,
        AttentionUNet,
        "elsjax.load_pretrained('cifar10/attention-unet/zeros')",
    )
    blocks = {f"down-{level}": block for level, block in enumerate(network.down)}
    blocks |= {f"up-{level}": network.up[level] for level in reversed(range(len(network.up)))}
    found = {
        name: block
        for name, block in blocks.items()
        if isinstance(block, AttentionBlock) and block.attention is not None
    }
    if not found:
        raise ValueError(
            f"network has no attention: attention_levels={network.attention_levels}; expected at "
            "least one"
        )
    return found


def _attention(block: AttentionBlock) -> SelfAttention:
    """The attention of a block that has it."""
    assert block.attention is not None
    return block.attention
