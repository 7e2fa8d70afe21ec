"""A convolution for training on a CPU: the same function, with gradients that XLA compiles well.

XLA's CPU compiler is fast for operands laid out [batch, height, width, channels] x [height, width,
inputs, outputs]. The gradients of `lax.conv` are not, and within `lax.scan`, as over micro-batches,
they take some twenty times as long (jax 0.10). Here both are written in that layout. They can be
differentiated in reverse mode only, which is why this is what training uses and not what networks
are made of.
"""

import functools
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array


def use_cpu_gradients(network: nnx.Module) -> None:
    """Has all convolutions of a network differentiate as this module does."""
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = conv_general_dilated


def conv_general_dilated(
    lhs: Array, rhs: Array, window_strides: Any, padding: Any, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated` of stride 1, for "SAME" or "VALID" padding, NHWC.

    Args:
      lhs: images, [B, H, W, C].
      rhs: kernel, [k, k, C, D], k odd.
      window_strides: ones.
      padding: "SAME" or "VALID".
      **options: as in `jax.lax.conv_general_dilated`; only `precision` is looked at.

    Returns:
      Images, [B, H, W, D], or smaller by k - 1 for "VALID".
    """
    pad = (rhs.shape[0] // 2, rhs.shape[1] // 2) if padding == "SAME" else (0, 0)
    return _conv(lhs, rhs, pad, options.get("precision"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, pad: tuple[int, int], precision: Any) -> Array:
    """Convolution with `pad` zeros above and below, left and right."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(zeros, zeros) for zeros in pad],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _forward(x: Array, kernel: Array, pad: tuple[int, int], precision: Any) -> tuple[Array, Any]:
    return _conv(x, kernel, pad, precision), (x, kernel)


def _backward(
    pad: tuple[int, int], precision: Any, saved: Any, cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    # To the images: a convolution with the kernel turned round, its channels exchanged.
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    rest = (kernel.shape[0] - 1 - pad[0], kernel.shape[1] - 1 - pad[1])
    to_x = _conv(cotangent, turned, rest, precision)
    # To the kernel: correlation of images and cotangent, summed over the batch. Channels stand
    # as the batch, the batch as the channels, the cotangent as the kernel.
    to_kernel = _conv(x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), pad, precision)
    return to_x, to_kernel.transpose(1, 2, 0, 3)


_conv.defvjp(_forward, _backward)
