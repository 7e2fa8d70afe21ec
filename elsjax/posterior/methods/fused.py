"""Logits, softmax and weighted sums of a block in one pass, for GPUs.

On a GPU, what takes time is to write the logits to memory and to read them again. Here a tile of
them never leaves the registers (Dao et al. 2022, FlashAttention): a program holds some queries,
goes over a share of the keys, and keeps a running maximum, its place and the sums.

The products run on the matrix units for bfloat16, at full float32 precision. Pixels of 8 bits, less
a whole number, are whole numbers of at most 255, which bfloat16 holds exactly; and a float32 query
is the sum of three bfloat16 numbers, but for its last bit. So three products, accumulated in
float32, are the product.

Patches are cut out for every part alike, tied or free. Axis names are those of
`elsjax.posterior.dictionaries`; l = n k are the keys of a group.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, BFloat16, Float, Int, UInt8

from elsjax.pixels import to_float
from elsjax.posterior import patches, ranking
from elsjax.posterior.dictionaries import Part, WindowPart
from elsjax.posterior.methods.method import Block, Method, Plan
from elsjax.posterior.ranking import NO_ENTRY, Largest
from elsjax.posterior.softmax import PosteriorState, Request

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


@dataclasses.dataclass(frozen=True)
class Fused(Method):
    """The kernel below: the sum of weights, the weighted sum of values, and the largest logit."""

    part: WindowPart

    @staticmethod
    def applies(part: Part) -> bool:
        """For windows on images of at most four channels."""
        return isinstance(part, WindowPart) and part.value_size <= _MOST_CHANNELS

    @staticmethod
    def answers(request: Request) -> bool:
        """Whether the kernel knows what is asked for."""
        return request.top <= 1 and request == Request(top=request.top)

    @property
    def multiplications(self) -> float:
        """See `Method.multiplications`; of bfloat16, three for one."""
        return 3 * _filled_up(self.part.key_size)

    @property
    def cost(self) -> float:
        """See `Method.cost`; none of its passes goes through memory."""
        return 0.0

    def plan(self, batch: int, num_images: int, itemsize: int, budget: int) -> Plan:
        """See `Method.plan`."""
        part = self.part
        all_rows = batch * part.queries_per_image
        rows = -(-all_rows // -(-all_rows // _MOST_QUERIES))
        keys = part.num_groups * part.keys_per_image
        # Patches with the stages of cutting them, bfloat16, and their norms and values, float32.
        image_bytes = keys * (6 * _filled_up(part.key_size) + 8 * (part.value_size + 2))
        images = min(budget // image_bytes, _MOST_LOGITS // (keys * rows), num_images)
        images = min(images, _MOST_OFFSET // (keys * _filled_up(part.key_size)))
        return Plan(images=max(1, images), rows=rows)

    def origin(self, mean_pixel: Float[Array, " c"]) -> Float[Array, " c"]:
        """The nearest value that a pixel of 8 bits can have; see `Method.origin`."""
        return to_float(jnp.round((mean_pixel + 1) * 127.5).astype(jnp.uint8), mean_pixel.dtype)

    def shifted(
        self, pixels: UInt8[Array, "n h w c"], origin: Float[Array, " c"]
    ) -> Float[Array, "n h w c"]:
        """Whole numbers, in steps of a pixel of 8 bits; see `Method.shifted`."""
        return pixels.astype(jnp.float32) - jnp.round((origin + 1) * 127.5)[None, None, None]

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "g b q d"]:
        """Windows around the part's pixels; see `Method.queries`."""
        return patches.windows(self.part, x)

    def state(
        self,
        queries: Float[Array, "g r e"],
        block: Block,
        request: Request,
        seen: Largest | None,
    ) -> tuple[PosteriorState, Largest | None]:
        """See `Method.state`."""
        shifted = block.images.astype(jnp.bfloat16)
        keys = patches.patches(self.part, shifted)
        groups, per_image, size = len(keys), keys.shape[2], keys.shape[-1]
        keys = keys.reshape(groups, -1, size)
        norms = jnp.sum(jnp.square(keys.astype(jnp.float32)), axis=-1)
        values = patches.values(self.part, shifted.astype(jnp.float32))
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
        values = values * block.counts[None, :, None, None]
        values = values.reshape(groups, len(norms[0]), -1).swapaxes(1, 2)
        unit = 1 / 127.5
        resolution = jnp.zeros_like(queries[..., 0]) if seen is None else seen.resolution
        maximum, nearest, sums = _attend(
            seen is not None,
            queries[..., :-1] * unit,
            queries[..., -1] * unit**2,
            resolution,
            keys,
            norms,
            values,
        )
        total = (sums[:, :-1] * unit).transpose(0, 2, 1)
        found = PosteriorState(maximum, sums[:, -1], total)
        if seen is None:
            return found, None
        image, place = jnp.divmod(nearest, per_image)
        image = block.numbers[jnp.minimum(image, len(block.numbers) - 1)]
        largest = Largest(maximum[..., None], image[..., None], place[..., None], resolution)
        return found, ranking.merge(seen, largest)


def runs_on(device: jax.Device) -> bool:
    """Whether a device has what this kernel needs: a GPU with matrix units for bfloat16.

    Args:
      device: a device.

    Returns:
      True for NVIDIA GPUs from compute capability 8.0 (Ampere) on.
    """
    capability = getattr(device, "compute_capability", None)
    return device.platform == "gpu" and capability is not None and float(capability) >= 8


def _filled_up(size: int) -> int:
    """The next size that a tile can have, or the next whole number of pieces."""
    return max(16, pl.next_power_of_2(size)) if size <= _WHOLE else -(-size // _PIECE) * _PIECE


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(
    ranked: bool,
    queries: Float[Array, "g r d"],
    norm_gains: Float[Array, "g r"],
    resolution: Float[Array, "g r"],
    keys: BFloat16[Array, "g l d"],
    norms: Float[Array, "g l"],
    values: Float[Array, "g v l"],
) -> tuple[Float[Array, "g r"], Int[Array, "g r"], Float[Array, "g v r"]]:
    """Largest logits, their first places if ranked, and sums weighted by exp(logit - largest)."""
    num_rows, num_keys = queries.shape[1], keys.shape[1]
    row_tiles, key_tiles = -(-num_rows // _ROWS), -(-num_keys // _KEYS)
    shares = min(-(-_PROGRAMS // (len(queries) * row_tiles)), -(-key_tiles // _FEWEST_TILES))
    tiles = -(-key_tiles // shares)
    more_rows = (0, row_tiles * _ROWS - num_rows)
    more_keys = (0, shares * tiles * _KEYS - num_keys)
    more_entries = (0, _filled_up(queries.shape[2]) - queries.shape[2])
    queries = jnp.pad(queries, ((0, 0), more_rows, more_entries))
    norm_gains, limit = (jnp.pad(rows, ((0, 0), more_rows)) for rows in (norm_gains, resolution))
    keys = jnp.pad(keys, ((0, 0), more_keys, more_entries))
    # What fills up must not set the maximum; its values are 0.
    norms = jnp.pad(norms, ((0, 0), more_keys), constant_values=1e30)
    values = jnp.pad(values, ((0, 0), (0, 0), more_keys))
    maximum, nearest, sums = _start(
        functools.partial(_program, tiles=tiles, ranked=ranked),
        (len(queries), row_tiles, shares),
        (*_bfloat16_parts(queries), norm_gains, limit),
        (keys, norms, values),
    )
    largest = maximum.max(axis=1)
    sums = jnp.sum(sums * jnp.exp(maximum - largest[:, None])[:, :, None], axis=1)
    first = jnp.argmax(maximum >= (largest - limit)[:, None], axis=1)
    nearest = jnp.take_along_axis(nearest, first[:, None], axis=1)[:, 0]
    return largest[:, :num_rows], nearest[:, :num_rows], sums[:, :, :num_rows]


def _start(
    program: Callable[..., None],
    grid: tuple[int, int, int],
    rows: tuple[Array, ...],
    columns: tuple[Array, ...],
) -> list[Array]:
    """Starts the programs: each holds a tile of the rows, and sees all columns of its group."""
    groups, row_tiles, shares = grid

    def tile_of(array: Array) -> pl.BlockSpec:
        sizes = array.shape[2:]
        return pl.BlockSpec((None, _ROWS, *sizes), lambda g, r, s: (g, r, *[0] * len(sizes)))

    def all_of(array: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda g, r, s: (g, *[0] * (array.ndim - 1)))

    # Inside `jax.shard_map`: varies with whatever one of them varies with.
    varying = jax.typeof(rows[3][0, 0] + columns[1][0, 0]).manual_axis_type
    num_values = columns[2].shape[1]
    of_tile = pl.BlockSpec((None, None, _ROWS), lambda g, r, s: (g, s, r))
    of_values = pl.BlockSpec((None, None, num_values, _ROWS), lambda g, r, s: (g, s, 0, r))
    all_rows = row_tiles * _ROWS
    shapes = [
        ((groups, shares, all_rows), jnp.float32),
        ((groups, shares, all_rows), jnp.int32),
        ((groups, shares, num_values, all_rows), jnp.float32),
    ]
    return pl.pallas_call(
        program,
        grid=grid,
        in_specs=[*map(tile_of, rows), *map(all_of, columns)],
        out_specs=[of_tile, of_tile, of_values],
        out_shape=[jax.ShapeDtypeStruct(*shape, manual_axis_type=varying) for shape in shapes],
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
    )(*rows, *columns)


@_attend.defjvp
def _attend_jvp(ranked, primals, tangents):  # type: ignore[no-untyped-def]
    """Derivatives write the logits out."""

    def plainly(queries, norm_gains, resolution, keys, norms, values):  # type: ignore[no-untyped-def]
        logits = jnp.einsum(
            "grd,gld->grl", queries, keys.astype(jnp.float32), precision=lax.Precision.HIGHEST
        )
        logits = logits + norm_gains[..., None] * norms[:, None]
        maximum = lax.stop_gradient(logits.max(axis=-1))
        weights = jnp.exp(logits - maximum[..., None])
        nearest = jnp.argmax(logits >= (maximum - resolution)[..., None], axis=-1)
        sums = jnp.einsum("grl,gvl->gvr", weights, values, precision=lax.Precision.HIGHEST)
        return maximum, nearest.astype(jnp.int32), sums

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
    resolution,
    keys,
    norms,
    values,
    maximum_out,
    nearest_out,
    sums_out,
    *,
    tiles: int,
    ranked: bool,
) -> None:  # type: ignore[no-untyped-def]
    """One tile of queries, in three parts, and a share of the keys; what `_attend` starts."""
    share = pl.program_id(2)
    num_values = values.shape[0]
    logits_of = _logits_of((high, middle, low), norm_gains[...], keys, norms)
    limit = resolution[...]

    def add_tile(tile: Int[Array, ""], seen: tuple[Array, ...]) -> tuple[Array, ...]:
        maximum, nearest, *sums = seen
        start = (share * tiles + tile) * _KEYS
        logits = logits_of(start)
        of_tile = jnp.max(logits, axis=1)
        if ranked:
            column = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
            near = logits >= (of_tile - limit)[:, None]
            first = jnp.min(jnp.where(near, column, _KEYS), axis=1)
            nearest = jnp.where(of_tile > maximum + limit, start + first, nearest)
        larger = jnp.maximum(maximum, of_tile)
        weights = jnp.exp2((logits - larger[:, None]) * _LOG2_E)
        shrunk = jnp.exp2((maximum - larger) * _LOG2_E)
        places = pl.ds(start, _KEYS)
        sums = [
            of_value * shrunk + jnp.sum(weights * values[index, places][None, :], axis=1)
            for index, of_value in enumerate(sums)
        ]
        return larger, nearest, *sums

    nothing = jnp.zeros((_ROWS,), jnp.float32)
    seen = (nothing + NO_ENTRY, jnp.zeros((_ROWS,), jnp.int32), *[nothing] * num_values)
    maximum, nearest, *sums = lax.fori_loop(0, tiles, add_tile, seen)
    maximum_out[...] = maximum
    nearest_out[...] = nearest
    for index, of_value in enumerate(sums):
        sums_out[index, :] = of_value


def _logits_of(parts, gains, keys, norms):  # type: ignore[no-untyped-def]
    """The logits of a tile of queries against the keys from a start on."""
    entries = parts[0].shape[1]
    piece = entries if entries <= _WHOLE else _PIECE
    whole = [part[...] for part in parts] if piece == entries else None

    def logits_of(start: Int[Array, ""]) -> Float[Array, "r l"]:
        places = pl.ds(start, _KEYS)

        def add_piece(index: Int[Array, ""], logits: Array) -> Array:
            of_piece = pl.ds(index * piece, piece)
            patch = keys[places, of_piece]
            for part in whole or [part[:, of_piece] for part in parts]:
                logits += lax.dot_general(
                    part,
                    patch,
                    (((1,), (1,)), ((), ())),
                    precision=lax.Precision.DEFAULT,  # products of bfloat16 are exact in float32
                    preferred_element_type=jnp.float32,
                )
            return logits

        logits = gains[:, None] * norms[places][None, :]
        return lax.fori_loop(0, entries // piece, add_piece, logits)

    return logits_of
