"""Convolution, linear layer and upsampling, initialised as PyTorch does: U(±1/sqrt(fan_in)).

The published networks have no normalisation, so how they start is part of what they are. Weights
are drawn in float32, whatever their precision: they belong to the seed.

Precision: `precision=None` leaves products at `jax_default_matmul_precision`. On recent GPUs that
is TF32 for float32 weights, which is what such networks are usually trained with: nothing here
feeds an exponential. `jax.default_matmul_precision("highest")` gives full float32; on a CPU both
are the same.
"""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Padding = Literal["zeros", "circular"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)
PRECISION = None


def conv(
    inputs: int,
    outputs: int,
    kernel_size: int,
    padding: Padding,
    *,
    zero: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Convolution [B, H, W, inputs] -> [B, H, W, outputs], at first zero on request.

    kernel_size is odd.
    """
    init = jax.nn.initializers.zeros if zero else _uniform(inputs * kernel_size**2)
    return nnx.Conv(
        inputs,
        outputs,
        (kernel_size, kernel_size),
        padding={"zeros": "SAME", "circular": "CIRCULAR"}[padding],
        param_dtype=dtype,
        precision=PRECISION,
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


def linear(
    inputs: int, outputs: int, *, zero: bool = False, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """Affine map of the last axis, [..., inputs] -> [..., outputs], at first zero on request."""
    init = jax.nn.initializers.zeros if zero else _uniform(inputs)
    return nnx.Linear(
        inputs,
        outputs,
        param_dtype=dtype,
        precision=PRECISION,
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


def group_norm(features: int, groups: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Normalisation over groups of channels and all places, [B, ..., features] to the same."""
    # The fast variance, E[x²] - E[x]², cancels in float32 for the two channels a group may have.
    return nnx.GroupNorm(
        features,
        groups,
        epsilon=1e-5,
        use_fast_variance=False,
        param_dtype=dtype,
        rngs=rngs,
    )


class Upsample(nnx.Module):
    """Transposed 2×2 convolution of stride 2: each pixel becomes a 2×2 block of its own.

    Blocks do not overlap, so this is one matrix product and a reshape.

    Args:
      inputs: channels that come in.
      outputs: channels that go out.
      dtype: of the weights.
      rngs: keys for the weights.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        init = _uniform(outputs * 4)  # PyTorch counts the fan-in of its transposed kernel so
        self.kernel = nnx.Param(init(rngs.params(), (inputs, 2, 2, outputs), dtype))
        self.bias = nnx.Param(init(rngs.params(), (outputs,), dtype))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        """Images of twice the sides."""
        blocks = jnp.einsum("bhwc,cijd->bhiwjd", x, self.kernel[...], precision=PRECISION)
        batch, height, _, width, _, channels = blocks.shape
        bias = self.bias[...].reshape(1, 1, 1, channels)
        return blocks.reshape(batch, 2 * height, 2 * width, channels) + bias


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Largest value of each 2×2 block; the sides are even."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def per_pixel(vector: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
    """Shapes a vector for each image so that it adds to images [B, H, W, C]."""
    return vector[:, None, None, :]


def standard_normal(key: Array, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Array:
    """Initialiser N(0, 1)."""
    return jax.random.normal(key, shape, jnp.float32, out_sharding=out_sharding).astype(dtype)


def _uniform(fan_in: int) -> jax.nn.initializers.Initializer:
    bound = fan_in**-0.5

    def init(key: Array, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Array:
        # Drawn flat: XLA takes several times as long to compile a draw of four axes.
        flat = jax.random.uniform(key, (math.prod(shape),), jnp.float32, -bound, bound)
        return flat.astype(dtype).reshape(shape, out_sharding=out_sharding)

    return init
