"""Which pixels of an image each training image covers at each offset, counted without all pairs.

A label (n, o) covers pixel i where the windows of the image at i and of training image n at i + o
differ by little. One pixel's window is compared with all of its dictionary at once; what these
comparisons add to the counts of labels is a rectangle of them, as i + o runs over the dictionary.

Pixels are in levels from 0 to 255, where the squares of 8-bit images are exact.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from elsjax.posterior.dictionaries import AxisPart, Dictionary, ImagePart, coordinates

# Entries of a window that one pass over the patches compares; more would be compiled for minutes.
_ENTRIES = 9

AnyArray = Array | np.ndarray
_STATIC: Any = {"static": True}


class _Line(NamedTuple):
    """A `Stencil` along one axis, of l pixels."""

    pixels: np.ndarray
    query: np.ndarray
    key: np.ndarray
    offset: np.ndarray
    entries: np.ndarray
    window: int
    keys: int


class _Axis(NamedTuple):
    """A `Layout` along one axis; its lines are those of the dictionary's parts."""

    lines: tuple[_Line, ...]
    allowed: np.ndarray
    first: int
    offsets: int
    margins: tuple[int, int]
    key_margins: tuple[int, int]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stencil:
    """Pixels whose windows are compared with rectangles of windows of one size.

    Attributes:
      pixels: their rows and columns, [p, 2].
      query: row and column where a pixel's window begins, of the image with its margins, [p, 2].
      key: where the first window of its dictionary begins, of training images with theirs, [p, 2].
      offset: number of that window's row and column offset, [p, 2].
      entries: of a pixel's window that lie inside the image, channels included, [p].
      window: rows and columns of the windows.
      keys: rows and columns of the rectangle.
    """

    pixels: Int[AnyArray, "p 2"]
    query: Int[AnyArray, "p 2"]
    key: Int[AnyArray, "p 2"]
    offset: Int[AnyArray, "p 2"]
    entries: Int[AnyArray, " p"]
    window: tuple[int, int] = dataclasses.field(metadata=_STATIC)
    keys: tuple[int, int] = dataclasses.field(metadata=_STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
    """How the labels of a dictionary are counted.

    Attributes:
      stencils: they hold every pixel once; where windows are whole images, one stands for all.
      allowed: whether windows that begin at each row, and column, of a training image with its
        margins lie in the dictionary, [y] and [x].
      shape: rows and columns of pixels.
      first: the smallest row and column offset.
      offsets: number of row and column offsets.
      margins: (before, after) of the rows and the columns of the image.
      key_margins: those of training images.
      padding: what is in the margins; "constant" for zeros.
    """

    stencils: tuple[Stencil, ...]
    allowed: tuple[Bool[AnyArray, " y"], Bool[AnyArray, " x"]]
    shape: tuple[int, int] = dataclasses.field(metadata=_STATIC)
    first: tuple[int, int] = dataclasses.field(metadata=_STATIC)
    offsets: tuple[int, int] = dataclasses.field(metadata=_STATIC)
    margins: tuple[tuple[int, int], ...] = dataclasses.field(metadata=_STATIC)
    key_margins: tuple[tuple[int, int], ...] = dataclasses.field(metadata=_STATIC)
    padding: Literal["constant", "wrap"] = dataclasses.field(metadata=_STATIC)

    @property
    def dtype(self) -> np.dtype:
        """Of counts, which go up to the number of pixels."""
        return np.min_scalar_type(-self.shape[0] * self.shape[1] - 1)

    def bytes_per_image(self, image_shape: tuple[int, int, int], itemsize: int) -> int:
        """Memory that counting takes for each training image, in bytes."""
        padded = [
            side + sum(margin)
            for side, margin in zip(image_shape[:2], self.key_margins, strict=True)
        ]
        compared = max(stencil.keys[0] * stencil.keys[1] for stencil in self.stencils)
        values = padded[0] * padded[1] * image_shape[2] + compared
        return values * itemsize + self.offsets[0] * self.offsets[1] * self.dtype.itemsize


def layout_of(dictionary: Dictionary) -> Layout:
    """How the labels of a dictionary are counted.

    Offsets that wrap around begin at minus half of the side.

    Args:
      dictionary: of any kind.

    Returns:
      The layout, in NumPy arrays.
    """
    height, width, channels = dictionary.image_shape
    circular = dictionary.kind in ("es", "els")
    axes = []
    for axis, length in enumerate((height, width)):
        parts = dictionary.parts
        if isinstance(parts[0], ImagePart):
            axes.append(_whole(length, translates=parts[0].translates))
        else:
            window = parts[0].window[axis]
            of_axis = list(dict.fromkeys(part.axes[axis] for part in parts))  # type: ignore[union-attr]
            make = _wrapped if circular else _padded
            axes.append(make(length, window // 2, of_axis))
    rows, columns = axes
    return Layout(
        stencils=tuple(_product(a, b, channels) for a in rows.lines for b in columns.lines),
        allowed=(rows.allowed, columns.allowed),
        shape=(1, 1) if dictionary.window is None else (height, width),
        first=(rows.first, columns.first),
        offsets=(rows.offsets, columns.offsets),
        margins=(rows.margins, columns.margins),
        key_margins=(rows.key_margins, columns.key_margins),
        padding="wrap" if circular else "constant",
    )


def _whole(length: int, *, translates: bool) -> _Axis:
    """An axis of whole images: one window, of all coordinates."""
    zero = np.zeros(1, int)
    before, after = (length // 2, (length - 1) // 2) if translates else (0, 0)
    keys = before + 1 + after
    line = _Line(zero, zero, zero, zero, zero + length, length, keys)
    return _Axis((line,), np.ones(keys, bool), -before, keys, (0, 0), (before, after))


def _padded(length: int, reach: int, parts: list[AxisPart]) -> _Axis:
    """An axis with zeros outside, which are the same in the image and in its dictionary."""
    widest = max(1 if part.tied else part.num_keys for part in parts)
    lines = []
    for part in parts:
        pixels = coordinates(part.queries)
        key = pixels if part.tied else np.full_like(pixels, part.keys[0][0])
        inside = np.minimum(pixels + reach, length - 1) - np.maximum(pixels - reach, 0) + 1
        offset = key - pixels + widest - 1
        keys = 1 if part.tied else part.num_keys
        lines.append(_Line(pixels, pixels, key, offset, inside, 2 * reach + 1, keys))
    margins = (reach, reach)
    allowed = np.ones(length, bool)
    return _Axis(tuple(lines), allowed, 1 - widest, 2 * widest - 1, margins, margins)


def _wrapped(length: int, reach: int, parts: list[AxisPart]) -> _Axis:
    """An axis that wraps around: every pixel has every offset, if that leads to a patch."""
    (part,) = parts
    pixels, zeros = np.arange(length), np.zeros(length, int)
    line = _Line(pixels, pixels, pixels, zeros, zeros + 2 * reach + 1, 2 * reach + 1, length)
    before, after = length // 2, (length - 1) // 2
    allowed = np.isin(np.arange(-before, length + after) % length, coordinates(part.keys))
    margins, key_margins = (reach, reach), (before + reach, after + reach)
    return _Axis((line,), allowed, -before, length, margins, key_margins)


def _product(rows: _Line, columns: _Line, channels: int) -> Stencil:
    def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int32)

    return Stencil(
        pixels=pairs(rows.pixels, columns.pixels),
        query=pairs(rows.query, columns.query),
        key=pairs(rows.key, columns.key),
        offset=pairs(rows.offset, columns.offset),
        entries=pairs(rows.entries, columns.entries).prod(axis=1) * channels,
        window=(rows.window, columns.window),
        keys=(rows.keys, columns.keys),
    )


class Largest(NamedTuple):
    """The label of the largest count: of equal ones that of the smallest (image, row, column)."""

    covered: Int[Array, ""]
    image: Int[Array, ""]
    row: Int[Array, ""]
    column: Int[Array, ""]


class Chosen(NamedTuple):
    """Pixels of a stencil: numbers among its own, [p], of which the first `total` count."""

    numbers: Int[AnyArray, " p"]
    total: Int[AnyArray, ""]


@functools.partial(jax.jit, donate_argnames="counts")
def add(
    counts: Int[Array, "row column n"],
    images: Num[Array, "n h w c"],
    num_images: Int[Array, ""],
    image: Float[Array, "h w c"],
    layout: Layout,
    limits: tuple[Float[Array, " p"], ...],
    chosen: tuple[Chosen, ...],
    sign: Int[Array, ""],
    label: Int[Array, "3"],
) -> tuple[Int[Array, "row column n"], Largest, tuple[Bool[Array, " p"], ...]]:
    """Adds the pixels chosen to the counts of all labels that cover them.

    Args:
      counts: of pixels that a label (row offset, column offset, image) covers.
      images: training images, in levels.
      num_images: how many of them count.
      image: in levels.
      layout: of the dictionary.
      limits: for each pixel of each stencil, the largest sum of squares.
      chosen: pixels of each stencil.
      sign: -1 to take them away.
      label: number of an image, of a row and of a column offset.

    Returns:
      The counts, the label of the largest, and which of the chosen pixels the given one covers.
    """
    margins = (*layout.margins, (0, 0))
    image = jnp.pad(image, margins, mode=layout.padding)
    margins = (*layout.key_margins, (0, 0))
    dtype, pad = image.dtype, functools.partial(jnp.pad, pad_width=margins, mode=layout.padding)
    # The images last, so that neighbours in memory are compared with the same pixel.
    keys = jnp.moveaxis(jax.vmap(pad)(images.astype(dtype)), 0, -1)
    place = (label[1], label[2], label[0])
    hits = []
    for stencil, limit, pixels in zip(layout.stencils, limits, chosen, strict=True):

        def one(
            number: Array,
            seen: tuple[Array, Array, Array],
            stencil: Stencil = stencil,
            limit: Array = limit,
            pixels: Chosen = pixels,
        ) -> tuple[Array, Array, Array]:
            counts, before, hit = seen
            pixel = pixels.numbers[number]
            squares = _squares(stencil, pixel, image, keys)
            limits = _limits(layout, stencil, pixel, limit[pixel])
            covers = jnp.where(squares <= limits[..., None], sign, 0).astype(counts.dtype)
            corner = (*stencil.offset[pixel], 0)
            of_pixel = lax.dynamic_slice(counts, corner, covers.shape) + covers
            counts = lax.dynamic_update_slice(counts, of_pixel, corner)
            after = counts[place]
            return counts, after, hit.at[number].set(after != before)

        hit = jnp.zeros(len(stencil.pixels), bool)
        counts, _, hit = lax.fori_loop(0, pixels.total, one, (counts, counts[place], hit))
        hits.append(hit)
    return counts, _largest(counts, num_images), tuple(hits)


def _squares(
    stencil: Stencil, pixel: Int[Array, ""], image: Float[Array, "h w c"], keys: Array
) -> Float[Array, "r s n"]:
    """Sums of squared differences of a pixel's window and those of its dictionary."""
    (rows, columns), channels = stencil.window, image.shape[2]
    query, key = stencil.query[pixel], stencil.key[pixel]
    shape = (*stencil.keys, 1, keys.shape[3])

    def some(first: int | Array, count: int, total: Array) -> Array:
        for number in range(count):
            row, rest = divmod(first + number, columns * channels)
            column, channel = divmod(rest, channels)
            value = image[query[0] + row, query[1] + column, channel]
            corner = (key[0] + row, key[1] + column, channel, 0)
            total += (lax.dynamic_slice(keys, corner, shape)[:, :, 0] - value) ** 2
        return total

    total = jnp.zeros((*stencil.keys, keys.shape[3]), image.dtype)
    passes, left = divmod(rows * columns * channels, _ENTRIES)
    if passes > 1:
        total = lax.fori_loop(
            0, passes, lambda i, total: some(i * _ENTRIES, _ENTRIES, total), total
        )
    elif passes:
        total = some(0, _ENTRIES, total)
    return some(passes * _ENTRIES, left, total)


def _limits(
    layout: Layout, stencil: Stencil, pixel: Int[Array, ""], limit: Float[Array, ""]
) -> Float[Array, "r s"]:
    """The largest sums of squares, below 0 where there is no patch of the dictionary."""
    rows, columns = (
        lax.dynamic_slice(jnp.asarray(allowed), (stencil.key[pixel, axis],), (count,))
        for axis, (allowed, count) in enumerate(zip(layout.allowed, stencil.keys, strict=True))
    )
    return jnp.where(rows[:, None] & columns[None], limit, -1)


def _largest(counts: Int[Array, "row column n"], num_images: Int[Array, ""]) -> Largest:
    numbers = jnp.arange(counts.shape[2])
    of_images = jnp.where(numbers < num_images, counts.max(axis=(0, 1)), -1)
    image = jnp.argmax(of_images)
    row, column = jnp.divmod(jnp.argmax(counts[:, :, image]), counts.shape[1])
    return Largest(of_images[image], image, row, column)
