"""The exact kernel: every query against every key, as attention over blocks of training images.

The logit of a key y for a query x at levels alpha, sigma is

    -|x - alpha y|² / 2 sigma² = (alpha x . y - alpha² |y|² / 2) / sigma² + const(x)

and the constant cancels in the softmax. So a query scaled by alpha / sigma², with -alpha² / 2
sigma² appended, and a key with |y|² appended, have the logit as their inner product: one matrix
product for the logits, one for the weighted values, for any number of noisy images and noise
levels at once.

Two windows one row further down, at the query and at the key, differ in one row that enters and
one that leaves. So where windows are large, every row of the queries' windows is multiplied with
every row of the keys' once, and the product of two patches is that of the patches one row up, plus
the row that enters, less the row that leaves. Along the edges of bbELS, windows are laid over
whole lines of pixels and multiplied with those, so that no patches are cut out. Translates of whole
images (ES) use Fourier transforms for both products.

Only differences count, so pixels are shifted by a constant first: with the data's mean as the
origin, norms and products are smaller, and so are their rounding errors in the exponent.

Every product that feeds an exponential or an output runs at full float32 (or float64) precision.
"""

import functools
import math
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from elsjax import parallel
from elsjax.pixels import to_float
from elsjax.posterior import fused
from elsjax.posterior import state as posterior
from elsjax.posterior.dictionaries import ImagePart, Part, WindowPart

# sigma = 0 is the limit sigma -> 0, in which only the nearest patch keeps a weight.
_LEAST_VARIANCE = 1e-14

# Queries beyond this gain nothing from sharing a block's keys.
_MAX_QUERY_TILE = 2048
_MAX_SLIDING_TILE = 1024

# Multiplications per logit that one more pass over the logits is worth.
_PASS = 32

# Rows of the left factor from which on a matrix product runs at full speed, and training images in
# the right one.
_PRODUCT_ROWS = 64
_PRODUCT_IMAGES = 32


def multiplications(part: Part) -> float:
    """Multiplications of the matrix products behind one logit.

    Args:
      part: the part of the dictionary, not of translates: those take Fourier transforms.

    Returns:
      The number for one query against one key.
    """
    if _slides(part):
        return _sliding_multiplications(part)
    size = part.line_size if _has_lines(part) else part.key_size
    return size * part.num_strips / part.num_groups


class Blocks(NamedTuple):
    """How the work is cut, and whether blocks go to `elsjax.posterior.fused`.

    Attributes:
      images: training images per block.
      query_rows: rows r of queries per tile.
      fused: whether the GPU's kernel computes each block.
    """

    images: int
    query_rows: int
    fused: bool = False


def plan_blocks(
    part: Part, batch: int, num_images: int, itemsize: int, budget: int, *, use_fused: bool = False
) -> Blocks:
    """The largest blocks whose temporary arrays fit in a memory budget.

    Args:
      part: the part of the dictionary.
      batch: number of noisy images.
      num_images: number of training images.
      itemsize: bytes of a number.
      budget: bytes.
      use_fused: for `elsjax.posterior.fused`, which must apply to the part.

    Returns:
      The blocks; at least one image and one row of queries, even where that exceeds the budget.
    """
    if use_fused and isinstance(part, WindowPart):
        return Blocks(*fused.plan(part, batch, num_images, budget), fused=True)
    # What the two pairs of edges prepare may lie in memory while another part is computed.
    prepared = budget // 6
    budget -= 2 * prepared
    if _slides(part):
        return _plan_sliding(part, batch, num_images, itemsize, budget)
    strips, groups, keys = part.num_strips, part.num_groups, part.keys_per_image
    # A row of queries: itself, its state, and what a merge makes of it.
    row_bytes = itemsize * (2 * strips * (part.key_size + 1) + 4 * groups * (part.value_size + 2))
    # An image of a block: its pixels, the stages of cutting patches, and their values.
    image_bytes = itemsize * (
        4 * math.prod(part.image_shape)
        + 3 * strips * keys * (part.key_size + 1)
        + 2 * groups * keys * (part.value_size + 1)
    )
    # A row against an image: the logits of strips, of groups, and the weights.
    pair_bytes = itemsize * keys * (2 * strips + 2 * groups)
    multiple, most_rows = 1, _MAX_QUERY_TILE
    if isinstance(part, ImagePart) and part.translates:
        image_bytes, pair_bytes = (itemsize * 6 * size for size in (part.key_size, keys))
    elif _has_lines(part):
        line_bytes = itemsize * strips * keys * part.line_size
        most_rows = prepared // line_bytes
        row_bytes += line_bytes
        image_bytes = itemsize * (
            4 * math.prod(part.image_shape)
            + 3 * strips * part.line_size
            + 2 * groups * keys * (part.value_size + 1)
        )
        multiple = _PRODUCT_IMAGES
    all_rows = batch * part.queries_per_image
    fitting = (budget - multiple * image_bytes) // (row_bytes + multiple * pair_bytes)
    tiles = -(-all_rows // max(1, min(most_rows, fitting)))
    rows = -(-all_rows // tiles)
    images = (budget - rows * row_bytes) // (image_bytes + rows * pair_bytes)
    images = images // multiple * multiple or images
    return Blocks(images=int(max(1, min(images, num_images))), query_rows=int(rows))


def _plan_sliding(
    part: WindowPart, batch: int, num_images: int, itemsize: int, budget: int
) -> Blocks:
    """`plan_blocks` for `_sliding_state`, whose rows are columns of pixels."""
    side, num_rows, keys = part.window[0], part.rows.num_queries, part.keys_per_image
    row_size = part.key_size // side + 1
    num_lines, num_key_lines = num_rows + side - 1, part.rows.num_keys + side - 1
    # A column of pixels: its rows of windows, and its states.
    column_bytes = itemsize * (2 * num_lines * row_size + num_rows * 4 * (part.value_size + 2))
    # An image of a block: its pixels, the stages of its rows of patches, and its values.
    image_bytes = itemsize * (
        4 * math.prod(part.image_shape)
        + 3 * num_key_lines * part.columns.num_keys * row_size
        + 2 * keys * (part.value_size + 1)
    )
    all_columns = batch * part.queries_per_image // num_rows
    most_columns = max(1, _MAX_SLIDING_TILE // num_rows)
    while True:
        tiles = -(-all_columns // most_columns)
        columns = -(-all_columns // tiles)
        at_once = columns * _rows_at_once(num_rows, columns)
        # A column against an image: products of rows, first row of keys, sums, logits, weights.
        pairs = columns * (num_lines * num_key_lines + num_rows) * part.columns.num_keys
        pairs += (columns + 2 * at_once) * keys
        images = (budget - columns * column_bytes) // (image_bytes + itemsize * pairs)
        if images >= 1 or columns == 1:
            return Blocks(images=int(max(1, min(images, num_images))), query_rows=columns)
        most_columns = columns - 1


def posterior_mean(
    part: Part,
    blocks: Blocks,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    images: Array,
    origin: Float[Array, " c"],
    start: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    *,
    span: int | Int[Array, ""],
    sharded: bool = False,
) -> Float[Array, "b p c"]:
    """Posterior means of one part's pixels over the training images [start, stop).

    Args:
      part: the part of the dictionary.
      blocks: how the work is cut; does not change the result beyond rounding.
      x: noisy images.
      alpha: signal level of each noisy image.
      sigma: noise level of each noisy image.
      images: all training images, [N, H, W, C], uint8 or scaled.
      origin: pixel that counts as 0 in the arithmetic; does not change the result beyond rounding.
      start: first training image that counts.
      stop: end of the training images that count.
      span: stop - start, or more: so many images are passed over. A Python number, if the result
        is to be differentiated in reverse mode.
      sharded: inside `jax.shard_map` over a mesh of `elsjax.parallel`: images, start and stop are
        the device's own, and the mean is over those of all devices along "data".

    Returns:
      E[x_0 | x_t] at the part's pixels, [B, len(part.pixels), C].
    """
    gain = alpha / jnp.maximum(sigma * sigma, _LEAST_VARIANCE)
    if blocks.fused:
        origin = fused.whole_pixel(origin)
    origin = origin[None, None, None, :]
    alpha_, gain_ = alpha[:, None, None, None], gain[:, None, None, None]
    queries, groups = _queries(part, blocks, (x - alpha_ * origin) * gain_)
    strips, batch, per_image, size = queries.shape
    norm_gain = jnp.broadcast_to(
        (-0.5 * alpha * gain)[None, :, None, None], (*queries.shape[:3], 1)
    )
    queries = jnp.concatenate([queries, norm_gain], axis=-1).reshape(strips, -1, size + 1)

    def mean_of(tile: Float[Array, "s r e"]) -> Float[Array, "g r v"]:
        return _stream(part, blocks, groups, tile, images, origin, start, stop, span, sharded)

    rows = batch * per_image
    if rows <= blocks.query_rows:
        means = mean_of(queries)
    else:
        tiles = -(-rows // blocks.query_rows)
        padding = tiles * blocks.query_rows - rows
        queries = jnp.pad(queries, ((0, 0), (0, padding), (0, 0)))
        queries = queries.reshape(strips, tiles, blocks.query_rows, size + 1)
        means = lax.map(mean_of, queries.transpose(1, 0, 2, 3))
        means = means.transpose(1, 0, 2, 3).reshape(groups, rows + padding, -1)
        means = means[:, :rows]
    means = means.reshape(groups, batch, per_image, -1)
    if groups != part.num_groups:  # rows of pixels, which `_queries` has put first
        means = means.swapaxes(0, 1).reshape(1, batch, groups * per_image, -1)
    return part.paint(means) + origin[0]


def _queries(
    part: Part, blocks: Blocks, x: Float[Array, "b h w c"]
) -> tuple[Float[Array, "s b q d"], int]:
    """Queries as the part's kernel takes them, and the number of groups in its states."""
    if blocks.fused and isinstance(part, WindowPart):
        return part.windows(x), part.num_groups
    if _slides(part):
        return part.query_rows(x).transpose(1, 0, 2, 3), part.rows.num_queries
    return part.queries(x), part.num_groups


def _stream(
    part: Part,
    blocks: Blocks,
    groups: int,
    queries: Float[Array, "s r e"],
    images: Array,
    origin: Float[Array, "1 1 1 c"],
    start: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    span: int | Int[Array, ""],
    sharded: bool,
) -> Float[Array, "g r v"]:
    """Posterior means of one tile of queries, over the training images block by block."""
    block = blocks.images
    over_lines = queries
    if _has_lines(part) and not blocks.fused:
        over_lines = part.query_lines(queries[..., :-1])

    def add_block(index: Array, state: posterior.PosteriorState) -> posterior.PosteriorState:
        places = start + index * block + jnp.arange(block)
        # What is beyond the last image is filled up with it and counts 0 times: it moves neither
        # the sums nor the maximum.
        counts = (places < stop).astype(queries.dtype)
        chosen = images[jnp.minimum(places, stop - 1)]
        if blocks.fused and isinstance(part, WindowPart):
            seen = fused.block_state(part, queries, chosen, origin[0, 0, 0], counts)
            return posterior.merge(state, seen)
        chosen = to_float(chosen, queries.dtype) - origin
        if isinstance(part, ImagePart) and part.translates:
            seen = _translates_state(part, queries, chosen, counts)
        elif _slides(part):
            seen = _sliding_state(part, queries, chosen, counts)
        elif _has_lines(part):
            seen = _lines_state(part, over_lines, queries[0, :, -1], chosen, counts)
        else:
            seen = _products_state(part, queries, chosen, counts)
        return posterior.merge(state, seen)

    empty = posterior.empty((groups, queries.shape[1]), part.value_size, queries.dtype)
    if sharded:  # from here on different on every device
        empty = lax.pcast(empty, (parallel.DATA, parallel.SAMPLE), to="varying")
    state = lax.fori_loop(0, -(-span // block), add_block, empty)
    if sharded:
        # A device without an image of the range has passed over one that is not in it.
        state = jax.tree.map(lambda seen, none: jnp.where(start < stop, seen, none), state, empty)
        state = posterior.merge_over(state, parallel.DATA)
    return posterior.mean(state)


def _products_state(
    part: Part,
    queries: Float[Array, "s r e"],
    images: Float[Array, "n h w c"],
    counts: Float[Array, " n"],
) -> posterior.PosteriorState:
    """One block's state by matrix products; image n counts counts[n] times."""
    keys, values = part.keys(images), part.values(images)
    strips, num, per_image, size = keys.shape
    norms = jnp.sum(keys * keys, axis=-1, keepdims=True)
    keys = jnp.concatenate([keys, norms], axis=-1).reshape(strips, num * per_image, size + 1)
    strip_logits = jnp.einsum("sre,sle->srl", queries, keys, precision=lax.Precision.HIGHEST)
    return _weighted(part.sum_strips(strip_logits), values, counts[None, :, None, None])


def _has_lines(part: Part) -> TypeGuard[WindowPart]:
    """Whether `_lines_state` applies: to the edges of bbELS."""
    return isinstance(part, WindowPart) and part.line_size > 0


def _lines_state(
    part: WindowPart,
    queries: Float[Array, "s m e"],
    norm_gains: Float[Array, " r"],
    images: Float[Array, "n h w c"],
    counts: Float[Array, " n"],
) -> posterior.PosteriorState:
    """One block's state by products with whole lines of pixels; counts as above."""
    lines = part.lines(images)
    products = jnp.einsum("sme,sen->smn", queries, lines, precision=lax.Precision.HIGHEST)
    products = products.reshape(len(products), len(norm_gains), -1)
    norms = part.line_norms(lines).reshape(part.num_groups, 1, -1)
    logits = part.sum_strips(products) + norm_gains[None, :, None] * norms
    values = part.values(images).swapaxes(1, 2)
    return _weighted(logits, values, counts[None, None, :, None], pieces=values.shape[1])


def _weighted(
    logits: Float[Array, "g r l"],
    values: Float[Array, "g x y v"],
    counts: Float[Array, "..."],
    pieces: int = 1,
) -> posterior.PosteriorState:
    """The state of some entries, l = x y; counts, in the shape of the values, are of images.

    Sums are over so many pieces of l, each summed by a product: long products of few rows round off
    more than those of many.
    """
    # A column of ones makes the product return the sum of weights as well.
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1) * counts
    values = values.reshape(len(values), pieces, -1, values.shape[-1])

    def weigh(weights: Array) -> tuple[Array, Array]:
        weights = weights.reshape(*weights.shape[:2], pieces, -1)
        sums = jnp.einsum("grpl,gplv->gprv", weights, values, precision=lax.Precision.HIGHEST)
        sums = sums.sum(axis=1)
        return sums[..., -1], sums[..., :-1]

    return posterior.from_logits(logits, weigh)


def _slides(part: Part) -> TypeGuard[WindowPart]:
    """Whether `_sliding_state` is faster than `_products_state`."""
    if not isinstance(part, WindowPart) or part.rows.tied or part.columns.tied:
        return False
    return part.key_size - _sliding_multiplications(part) > _PASS


def _sliding_multiplications(part: WindowPart) -> float:
    """`multiplications` of `_sliding_state`: every row with every row."""
    side, rows = part.window[0], part.rows
    lines = (rows.num_queries + side - 1) * (rows.num_keys + side - 1)
    return part.key_size / side * lines / (rows.num_queries * rows.num_keys)


def _rows_at_once(num_rows: int, columns: int) -> int:
    """How many rows of queries, of so many columns, make a matrix product large enough."""
    steps = max(1, num_rows // -(-_PRODUCT_ROWS // columns))
    return -(-num_rows // steps)


def _sliding_state(
    part: WindowPart,
    queries: Float[Array, "y r e"],
    images: Float[Array, "n h w c"],
    counts: Float[Array, " n"],
) -> posterior.PosteriorState:
    """One block's state by products of rows of patches, for queries by rows of windows.

    With x and y the rows of windows and patches, row i of queries and row j of keys have

        products[i, j] = products[i - 1, j - 1] + x[i + P - 1] y[j + P - 1] - x[i - 1] y[j - 1],

    so that only those of the first row of queries and of keys are sums over P rows.

    Returns:
      The state, of shape [query rows, r].
    """
    side, num_rows, num_key_rows = part.window[0], part.rows.num_queries, part.rows.num_keys
    columns = queries.shape[1]
    keys, values = part.key_rows(images), part.values(images)[0]
    keys = jnp.concatenate([keys, jnp.sum(keys * keys, axis=-1, keepdims=True)], axis=-1)
    keys = keys.swapaxes(0, 1).reshape(keys.shape[1], -1, keys.shape[-1])
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    values = (values * counts[:, None, None]).reshape(len(images), num_key_rows, -1)
    values = values.swapaxes(0, 1).reshape(-1, part.value_size + 1)

    def weigh(weights: Array) -> tuple[Array, Array]:
        sums = jnp.matmul(weights, values, precision=lax.Precision.HIGHEST)
        return sums[..., -1], sums[..., :-1]

    # [rows of windows, columns, rows of patches, columns of patches].
    rows = jnp.tensordot(queries, keys, (-1, -1), precision=lax.Precision.HIGHEST)
    of_first_keys = functools.reduce(
        jnp.add, [rows[row : row + num_rows, :, row] for row in range(side)]
    )
    before = functools.reduce(
        jnp.add, [rows[row, :, row + 1 : row + num_key_rows] for row in range(side - 1)]
    )
    at_once = _rows_at_once(num_rows, columns)

    def add_rows(
        products: Float[Array, "r j l"], first: Array
    ) -> tuple[Array, posterior.PosteriorState]:
        logits = []
        for row in range(at_once):  # those beyond the last count for nothing
            enters = lax.dynamic_index_in_dim(rows, first + row + side - 1, keepdims=False)
            leaves = lax.dynamic_index_in_dim(rows, first + row, keepdims=False)
            new = lax.dynamic_index_in_dim(of_first_keys, first + row, axis=0).swapaxes(0, 1)
            products = jnp.concatenate([new, products + enters[:, side:]], axis=1)
            logits.append(products.reshape(columns, -1))
            products = products[:, :-1] - leaves[:, : num_key_rows - 1]
        return products, posterior.from_logits(jnp.stack(logits), weigh)

    _, states = lax.scan(add_rows, before, jnp.arange(0, num_rows, at_once))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:num_rows], states)


def _translates_state(
    part: ImagePart,
    queries: Float[Array, "1 r e"],
    images: Float[Array, "n h w c"],
    counts: Float[Array, " n"],
) -> posterior.PosteriorState:
    """One block's state over all circular translates, by Fourier transforms; counts as above."""
    height, width, _ = part.image_shape
    rows, num = queries.shape[1], images.shape[0]

    def forward(array: Array) -> Array:
        return jnp.fft.rfft2(array, axes=(1, 2))

    def inverse(array: Array) -> Array:
        return jnp.fft.irfft2(array, s=(height, width), axes=(1, 2))

    spectra = forward(images)
    query_spectra = forward(queries[0, :, :-1].reshape(rows, *part.image_shape))
    products = jnp.einsum(
        "rhwc,nhwc->rnhw", query_spectra, spectra.conj(), precision=lax.Precision.HIGHEST
    )
    # logits[r, n, i, j]: query r against image n rolled by (i, j).
    logits = inverse(products.reshape(rows * num, *products.shape[2:])).reshape(rows, num, -1)
    norms = jnp.sum(images * images, axis=(1, 2, 3))
    logits = (logits + queries[0, :, -1, None, None] * norms[None, :, None]).reshape(1, rows, -1)

    def weigh(weights: Array) -> tuple[Array, Array]:
        weights = weights.reshape(rows, num, height, width) * counts[None, :, None, None]
        weight_spectra = forward(weights.reshape(rows * num, height, width))
        weight_spectra = weight_spectra.reshape(rows, num, *weight_spectra.shape[1:])
        totals = inverse(
            jnp.einsum("rnhw,nhwc->rhwc", weight_spectra, spectra, precision=lax.Precision.HIGHEST)
        )
        return weights.sum((1, 2, 3))[None], totals.reshape(1, rows, -1)

    return posterior.from_logits(logits, weigh)
