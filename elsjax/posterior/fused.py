"""The exact kernel for GPUs: logits, softmax and weighted sums of a block in one pass.

On a GPU, what takes time in `elsjax.posterior.dense` is to write the logits to memory and to read
them again. Here a tile of them never leaves the registers (Dao et al. 2022, FlashAttention): a
program holds some queries, goes over a share of the keys, and keeps a running maximum and the sums.

The products run on the matrix units for bfloat16, at full float32 precision. Pixels of 8 bits, less
a whole number, are whole numbers of at most 255, which bfloat16 holds exactly; and a float32 query
is the sum of three bfloat16 numbers, but for its last bit. So three products, accumulated in
float32, are the product.

Patches are cut out for every part alike, tied or free, so there are no strips here. Axis names are
those of `elsjax.posterior.dictionaries`; l = n k are the keys of a group.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, BFloat16, Float, Int, UInt8

from elsjax.pixels import to_float
from elsjax.posterior import state as posterior
from elsjax.posterior.dictionaries import Part, WindowPart

# Queries and keys of a tile, measured on an H200. Patches of more entries than the first number go
# through the memory that a multiprocessor shares in pieces of the second.
_ROWS, _KEYS, _WHOLE, _PIECE = 64, 128, 128, 64
_WARPS, _STAGES = 4, 2

# Programs to start at least, if there are keys enough, and the fewest tiles of keys for each.
_PROGRAMS, _FEWEST_TILES = 2048, 4

# Channels up to which weighted sums cost little beside the products.
_MOST_CHANNELS = 4

# Queries per tile of `elsjax.posterior.dense`, and logits of a block: derivatives write them out.
_MOST_QUERIES, _MOST_LOGITS = 2**14, 2**28

# exp(x) = 2^(x log2 e): the power of two is an instruction.
_LOG2_E = math.log2(math.e)

# Offsets of entries are integers of 32 bits.
_MOST_OFFSET = 2**31 - 1


def applies(part: Part, images: Array, x: Array) -> bool:
    """Whether this kernel can stand in for the dense one, where `runs_on` a device.

    Args:
      part: the part of the dictionary.
      images: training images.
      x: noisy images.

    Returns:
      True for windows on 8-bit images of at most four channels, in float32.
    """
    return (
        isinstance(part, WindowPart)
        and images.dtype == jnp.uint8
        and x.dtype == jnp.float32
        and part.value_size <= _MOST_CHANNELS
    )


def runs_on(device: jax.Device) -> bool:
    """Whether a device has what this kernel needs: a GPU with matrix units for bfloat16.

    Args:
      device: a device.

    Returns:
      True for NVIDIA GPUs from compute capability 8.0 (Ampere) on.
    """
    capability = getattr(device, "compute_capability", None)
    return device.platform == "gpu" and capability is not None and float(capability) >= 8


def plan(part: WindowPart, batch: int, num_images: int, budget: int) -> tuple[int, int]:
    """The largest blocks whose temporary arrays fit in a memory budget.

    Args:
      part: the part of the dictionary.
      batch: number of noisy images.
      num_images: number of training images.
      budget: bytes.

    Returns:
      Training images per block, and queries per tile.
    """
    all_rows = batch * part.queries_per_image
    rows = -(-all_rows // -(-all_rows // _MOST_QUERIES))
    keys = part.num_groups * part.keys_per_image
    # Patches with the stages of cutting them, bfloat16, and their norms and values, float32.
    image_bytes = keys * (6 * _entries(part) + 8 * (part.value_size + 2))
    images = min(budget // image_bytes, _MOST_LOGITS // (keys * rows), num_images)
    return max(1, min(images, _MOST_OFFSET // (keys * _entries(part)))), rows


def whole_pixel(origin: Float[Array, " c"]) -> Float[Array, " c"]:
    """The value nearest to origin that a pixel of 8 bits can have."""
    return to_float(jnp.round((origin + 1) * 127.5).astype(jnp.uint8), origin.dtype)


def block_state(
    part: WindowPart,
    queries: Float[Array, "g r e"],
    images: UInt8[Array, "n h w c"],
    origin: Float[Array, " c"],
    counts: Float[Array, " n"],
) -> posterior.PosteriorState:
    """One block's state.

    Args:
      part: the part of the dictionary.
      queries: windows, times alpha / sigma², and -alpha² / 2 sigma² as the last entry.
      images: training images of the block.
      origin: a `whole_pixel`, which counts as 0.
      counts: how often each image counts.

    Returns:
      The state, of shape [g, r].
    """
    zero = jnp.round((origin + 1) * 127.5)
    shifted = (images.astype(jnp.float32) - zero[None, None, None]).astype(jnp.bfloat16)
    patches = part.patches(shifted)
    groups, size = len(patches), patches.shape[-1]
    patches = patches.reshape(groups, -1, size)
    norms = jnp.sum(jnp.square(patches.astype(jnp.float32)), axis=-1)
    values = part.values(shifted.astype(jnp.float32))
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    values = (values * counts[None, :, None, None]).reshape(groups, len(norms[0]), -1)
    unit = 1 / 127.5
    maximum, sums = _attend(queries[..., :-1] * unit, queries[..., -1] * unit**2, patches, norms,
                            values.swapaxes(1, 2))  # fmt: skip
    return posterior.PosteriorState(maximum, sums[:, -1], (sums[:, :-1] * unit).transpose(0, 2, 1))


def _entries(part: WindowPart) -> int:
    """Entries of a patch, filled up to what a tile takes."""
    return _filled_up(part.window[0] * part.window[1] * part.image_shape[2])


def _filled_up(size: int) -> int:
    """The next size that a tile can have, or the next whole number of pieces."""
    return max(16, pl.next_power_of_2(size)) if size <= _WHOLE else -(-size // _PIECE) * _PIECE


@jax.custom_jvp
def _attend(
    queries: Float[Array, "g r d"],
    norm_gains: Float[Array, "g r"],
    keys: BFloat16[Array, "g l d"],
    norms: Float[Array, "g l"],
    values: Float[Array, "g v l"],
) -> tuple[Float[Array, "g r"], Float[Array, "g v r"]]:
    """Largest logits, and sums of values weighted by exp(logit - largest)."""
    groups, num_rows, size = queries.shape
    num_keys, num_values = keys.shape[1], values.shape[1]
    row_tiles, key_tiles = -(-num_rows // _ROWS), -(-num_keys // _KEYS)
    shares = min(-(-_PROGRAMS // (groups * row_tiles)), -(-key_tiles // _FEWEST_TILES))
    tiles = -(-key_tiles // shares)
    rows_padding = row_tiles * _ROWS - num_rows
    keys_padding = shares * tiles * _KEYS - num_keys
    size_padding = _filled_up(size) - size
    queries = jnp.pad(queries, ((0, 0), (0, rows_padding), (0, size_padding)))
    norm_gains = jnp.pad(norm_gains, ((0, 0), (0, rows_padding)))
    keys = jnp.pad(keys, ((0, 0), (0, keys_padding), (0, size_padding)))
    # What fills up must not set the maximum; its values are 0.
    norms = jnp.pad(norms, ((0, 0), (0, keys_padding)), constant_values=1e30)
    values = jnp.pad(values, ((0, 0), (0, 0), (0, keys_padding)))

    def rows_of(*sizes: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, _ROWS, *sizes), lambda g, r, s: (g, r, *[0] * len(sizes)))

    def keys_of(array: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda g, r, s: (g, *[0] * (array.ndim - 1)))

    # Inside `jax.shard_map`: varies with whatever one of them varies with.
    varying = jax.typeof(norm_gains[0, 0] + norms[0, 0]).manual_axis_type
    padded_rows = row_tiles * _ROWS
    maximum, sums = pl.pallas_call(
        functools.partial(_program, tiles=tiles),
        grid=(groups, row_tiles, shares),
        in_specs=[
            *[rows_of(size + size_padding)] * 3,
            rows_of(),
            *[keys_of(array) for array in (keys, norms, values)],
        ],
        out_specs=[
            pl.BlockSpec((None, None, _ROWS), lambda g, r, s: (g, s, r)),
            pl.BlockSpec((None, None, num_values, _ROWS), lambda g, r, s: (g, s, 0, r)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=varying)
            for shape in (
                (groups, shares, padded_rows),
                (groups, shares, num_values, padded_rows),
            )
        ],
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
    )(*_bfloat16_parts(queries), norm_gains, keys, norms, values)
    largest = maximum.max(axis=1)
    sums = jnp.sum(sums * jnp.exp(maximum - largest[:, None])[:, :, None], axis=1)
    return largest[:, :num_rows], sums[:, :, :num_rows]


@_attend.defjvp
def _attend_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    """Derivatives write the logits out."""

    def plainly(queries, norm_gains, keys, norms, values):  # type: ignore[no-untyped-def]
        logits = jnp.einsum(
            "grd,gld->grl", queries, keys.astype(jnp.float32), precision=lax.Precision.HIGHEST
        )
        logits = logits + norm_gains[..., None] * norms[:, None]
        maximum = lax.stop_gradient(logits.max(axis=-1))
        weights = jnp.exp(logits - maximum[..., None])
        return maximum, jnp.einsum("grl,gvl->gvr", weights, values, precision=lax.Precision.HIGHEST)

    return jax.jvp(plainly, primals, tangents)


def _bfloat16_parts(array: Float[Array, "..."]) -> list[BFloat16[Array, "..."]]:
    """Three arrays whose sum is the array: 8 bits of the mantissa each."""
    parts = []
    for _ in range(3):
        # Not by a cast alone, which XLA may leave out.
        rounded = lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)
        parts.append(rounded.astype(jnp.bfloat16))
        array = array - rounded
    return parts


def _program(
    high,
    middle,
    low,
    norm_gains,
    keys,
    norms,
    values,
    maximum_out,
    sums_out,
    *,
    tiles: int,
) -> None:  # type: ignore[no-untyped-def]
    """One tile of queries, in three parts, and a share of the keys; what `_attend` starts."""
    share = pl.program_id(2)
    num_values = values.shape[0]
    entries = high.shape[1]
    piece = entries if entries <= _WHOLE else _PIECE
    whole_parts = [part[...] for part in (high, middle, low)] if piece == entries else None
    gains = norm_gains[...]

    def add_tile(
        tile: Int[Array, ""], state: tuple[Array, tuple[Array, ...]]
    ) -> tuple[Array, tuple[Array, ...]]:
        maximum, sums = state
        places = pl.ds((share * tiles + tile) * _KEYS, _KEYS)

        def add_piece(index: Int[Array, ""], logits: Array) -> Array:
            of_piece = pl.ds(index * piece, piece)
            patches = keys[places, of_piece]
            for part in whole_parts or [part[:, of_piece] for part in (high, middle, low)]:
                logits += lax.dot_general(
                    part,
                    patches,
                    (((1,), (1,)), ((), ())),
                    precision=lax.Precision.DEFAULT,  # products of bfloat16 are exact in float32
                    preferred_element_type=jnp.float32,
                )
            return logits

        logits = gains[:, None] * norms[places][None, :]
        logits = lax.fori_loop(0, entries // piece, add_piece, logits)
        larger = jnp.maximum(maximum, jnp.max(logits, axis=1))
        weights = jnp.exp2((logits - larger[:, None]) * _LOG2_E)
        shrunk = jnp.exp2((maximum - larger) * _LOG2_E)
        sums = tuple(
            of_value * shrunk + jnp.sum(weights * values[index, places][None, :], axis=1)
            for index, of_value in enumerate(sums)
        )
        return larger, sums

    none = posterior.empty((_ROWS,), 1, jnp.float32)
    maximum, sums = lax.fori_loop(0, tiles, add_tile, (none.maximum, (none.weight,) * num_values))
    maximum_out[...] = maximum
    for index, of_value in enumerate(sums):
        sums_out[index, :] = of_value
