"""Which training patches a pixel may be painted from: the five dictionaries of the paper.

|                       | the same place | every place                                   |
| --------------------- | -------------- | --------------------------------------------- |
| the whole image       | IS             | ES, circular translates                       |
| a P x P window        | LS, zeros      | ELS, circular; bbELS, zeros, borders stay put |

A dictionary divides an image's pixels into parts. Along each axis, the pixels of a part are either
free, painted from patches at many coordinates, or tied to patches at their own coordinate; then
each coordinate makes a group with patches of its own. A part turns noisy images into queries,
training images into keys and values, and posterior means back into pixels; how queries meet keys
is the kernel's business.

Along a tied axis, windows of neighbouring groups share most of their products. So queries and keys
are cut into strips, one for each coordinate along the tied axes that a window covers; a patch's
logit is the sum of its strips', and the strips are shared by all groups whose windows cover them.
Along the edges of bbELS, where the other axis is free, a strip is a whole line of pixels: a
query's window, laid over the line at each place of a patch with zeros beside it, is multiplied with
the line itself, and no patches are cut out of training images.

Axis names: b noisy images, n training images, s strips, g groups, q queries per group and noisy
image, k keys per group and training image, d entries of a key, e entries of a line, v entries of a
value; r = b q, l = n k.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from elsjax import checks

Kind = Literal["is", "es", "ls", "els", "bbels"]
KINDS = ("is", "es", "ls", "els", "bbels")
Padding = Literal["zeros", "wrap"]
ImageShape = tuple[int, int, int]
Sides = tuple[int, int]
Runs = tuple[tuple[int, int], ...]

# Slices are faster than a gather, but compile slowly where they are many.
_MOST_SLICES = 9


@dataclasses.dataclass(frozen=True)
class AxisPart:
    """Pixels along one axis that look alike, as runs [start, stop) of coordinates.

    Attributes:
      queries: the pixels painted.
      keys: the centres of the training patches they are painted from.
      tied: each pixel sees only the patches at its own coordinate (then queries equal keys); else
        every pixel sees every patch.
    """

    queries: Runs
    keys: Runs
    tied: bool

    @property
    def num_queries(self) -> int:
        """Number of query coordinates."""
        return _coordinates(self.queries).size

    @property
    def num_keys(self) -> int:
        """Number of key coordinates."""
        return _coordinates(self.keys).size


@dataclasses.dataclass(frozen=True)
class WindowPart:
    """Pixels painted with the centres of P x P training patches."""

    rows: AxisPart
    columns: AxisPart
    window: Sides
    image_shape: ImageShape
    query_padding: Padding
    key_padding: Padding

    @property
    def num_strips(self) -> int:
        """s: number of strips, one for each coordinate covered along each tied axis."""
        return math.prod(
            self._strip_coordinates(index).size
            for index, axis in enumerate(self._axes)
            if axis.tied
        )

    @property
    def num_groups(self) -> int:
        """g: number of groups with keys of their own, one for each coordinate of a tied axis."""
        return math.prod(axis.num_keys for axis in self._axes if axis.tied)

    @property
    def queries_per_image(self) -> int:
        """q: number of pixels of one noisy image in one group."""
        return self.pixels.size // self.num_groups

    @property
    def keys_per_image(self) -> int:
        """k: number of patches of one training image that one group looks up."""
        return math.prod(axis.num_keys for axis in self._axes if not axis.tied)

    @property
    def key_size(self) -> int:
        """d: number of entries of a patch within one strip."""
        sides = zip(self._axes, self.window, strict=True)
        return math.prod(side for axis, side in sides if not axis.tied) * self.image_shape[2]

    @property
    def line_size(self) -> int:
        """e: number of entries of a line, where one axis is tied and patches lie inside; else 0."""
        if self.rows.tied == self.columns.tied:
            return 0
        free = int(self.rows.tied)
        length = self.image_shape[free]
        if self.keys_per_image != length - self.window[free] + 1:
            return 0
        return length * self.image_shape[2]

    @property
    def value_size(self) -> int:
        """v: number of channels."""
        return self.image_shape[2]

    @property
    def pixels(self) -> np.ndarray:
        """Flat indices of the painted pixels, in the order of `paint`."""
        rows, columns = (_coordinates(axis.queries) for axis in self._axes)
        return (rows[:, None] * self.image_shape[1] + columns).ravel()

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "s b q d"]:
        """Windows of the noisy images around the painted pixels, by strips."""
        runs = [axis.queries for axis in self._axes]
        return self._strips(x, runs, self.window, self.query_padding)

    def keys(self, images: Float[Array, "n h w c"]) -> Float[Array, "s n k d"]:
        """Patches of the training images, by strips."""
        runs = [axis.keys for axis in self._axes]
        return self._strips(images, runs, self.window, self.key_padding)

    def windows(self, x: Float[Array, "b h w c"]) -> Float[Array, "g b q d"]:
        """Whole windows of the noisy images around the painted pixels, by groups."""
        runs = [axis.queries for axis in self._axes]
        return self._tied_first(self._join(x, runs, self.window, self.query_padding))

    def patches(self, images: Float[Array, "n h w c"]) -> Float[Array, "g n k d"]:
        """Whole patches of the training images, by groups."""
        runs = [axis.keys for axis in self._axes]
        return self._tied_first(self._join(images, runs, self.window, self.key_padding))

    def query_rows(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        """Rows of windows: without tied axes, query (i, j) is rows [:, i : i + P, j], joined."""
        return self._rows_of_windows(x, self.rows.queries, self.columns.queries, self.query_padding)

    def key_rows(self, images: Float[Array, "n h w c"]) -> Float[Array, "n y x d"]:
        """Rows of patches: without tied axes, key (i, j) is rows [:, i : i + P, j], joined."""
        return self._rows_of_windows(images, self.rows.keys, self.columns.keys, self.key_padding)

    def query_lines(self, queries: Float[Array, "s r d"]) -> Float[Array, "s m e"]:
        """Queries laid over a line at each place of a key, m = r k: as `lines` take them."""
        strips, rows, _ = queries.shape
        channels = self.image_shape[2]
        length, keys = self.line_size // channels, self.keys_per_image
        # Shifted by one more place in each turn of a period that is one longer than the line.
        padding = length + 1 - queries.shape[2] // channels
        queries = queries.reshape(strips, rows, -1, channels)
        queries = jnp.pad(queries, ((0, 0), (0, 0), (0, padding), (0, 0)))
        queries = jnp.tile(queries, (1, 1, keys, 1))[:, :, : keys * length]
        return queries.reshape(strips, rows * keys, -1)

    def lines(self, images: Float[Array, "n h w c"]) -> Float[Array, "s e n"]:
        """Lines of the training images along the free axis, by strips."""
        tied = int(self.columns.tied)
        runs = _runs(self._strip_coordinates(tied))
        pieces = [jax.lax.slice_in_dim(images, *run, axis=1 + tied) for run in runs]
        lines = jnp.concatenate(pieces, axis=1 + tied)
        lines = lines.transpose((2, 1, 3, 0) if tied else (1, 2, 3, 0))
        return lines.reshape(len(lines), self.line_size, -1)

    def line_norms(self, lines: Float[Array, "s e n"]) -> Float[Array, "g k n"]:
        """Squared norms of the patches along the lines of training images."""
        free = int(self.rows.tied)
        strips, _, num = lines.shape
        squares = jnp.sum((lines * lines).reshape(strips, -1, self.image_shape[2], num), axis=2)
        sums = self.sum_strips(squares.reshape(strips, 1, -1))
        sums = sums.reshape(self.num_groups, -1, num)
        covers = self._near(free, np.arange(self.image_shape[free])).astype(lines.dtype)
        return jnp.einsum("kx,gxn->gkn", covers, sums, precision="highest")

    def values(self, images: Float[Array, "n h w c"]) -> Float[Array, "g n k v"]:
        """Centre pixels of the patches."""
        rows, columns = (_coordinates(axis.keys) for axis in self._axes)
        return self._tied_first(images[:, rows][:, :, columns])

    def sum_strips(self, logits: Float[Array, "s r l"]) -> Float[Array, "g r l"]:
        """Adds up, for each group, the strips that its windows cover."""
        for index, axis in enumerate(self._axes):
            if axis.tied:
                covers = self._near(index, self._strip_coordinates(index))
                # Rows come before columns: groups of rows are done when columns are summed.
                before = self.rows.num_keys if index == 1 and self.rows.tied else 1
                strips = logits.reshape(before, covers.shape[1], -1)
                weights = jnp.asarray(covers, logits.dtype)
                sums = jnp.einsum("gs,bsx->bgx", weights, strips, precision="highest")
                logits = sums.reshape(-1, *logits.shape[1:])
        return logits

    def paint(self, means: Float[Array, "g b q v"]) -> Float[Array, "b p v"]:
        """Posterior means, in the order of `pixels`."""
        sides = [axis.num_queries for axis in self._axes]
        groups, queries = (
            [side if axis.tied == tied else 1 for axis, side in zip(self._axes, sides, strict=True)]
            for tied in (True, False)
        )
        batch, channels = means.shape[1], means.shape[3]
        means = means.reshape(*groups, batch, *queries, channels)
        return means.transpose(2, 0, 3, 1, 4, 5).reshape(batch, -1, channels)

    @property
    def _axes(self) -> tuple[AxisPart, AxisPart]:
        return self.rows, self.columns

    def _strip_coordinates(self, index: int) -> np.ndarray:
        """The coordinates along a tied axis that any of its windows covers."""
        everywhere = np.arange(self.image_shape[index])
        return everywhere[self._near(index, everywhere).any(axis=0)]

    def _near(self, index: int, coordinates: np.ndarray) -> np.ndarray:
        """Whether each window of a tied axis covers each coordinate, [groups, coordinates]."""
        centres = _coordinates(self._axes[index].keys)
        return np.abs(centres[:, None] - coordinates) <= self.window[index] // 2

    def _strips(
        self, images: Float[Array, "n h w c"], runs: list[Runs], window: Sides, padding: Padding
    ) -> Float[Array, "s n k d"]:
        """Patches centred on runs of rows and columns; along a tied axis, the strips, unjoined."""
        height, width = window
        if self.rows.tied:
            runs, height = [_runs(self._strip_coordinates(0)), runs[1]], 1
        if self.columns.tied:
            runs, width = [runs[0], _runs(self._strip_coordinates(1))], 1
        return self._tied_first(self._join(images, runs, (height, width), padding))

    def _join(
        self, images: Float[Array, "n h w c"], runs: list[Runs], window: Sides, padding: Padding
    ) -> Float[Array, "n y x d"]:
        """Windows centred on runs of rows and columns."""

        def windows_of(image: Float[Array, "h w c"]) -> Float[Array, "y x d"]:
            for axis in (1, 0):
                image = _join_windows(image, axis, runs[axis], window[axis], padding)
            return image

        return jax.vmap(windows_of)(images)

    def _rows_of_windows(
        self, images: Float[Array, "n h w c"], rows: Runs, columns: Runs, padding: Padding
    ) -> Float[Array, "n y x d"]:
        """Windows of one row, for all rows that the windows of one run of rows cover."""
        ((start, stop),) = rows
        images = _pad(images, 1, self.window[0], padding)[:, start : stop + self.window[0] - 1]
        return jax.vmap(lambda image: _join_windows(image, 1, columns, self.window[1], padding))(
            images
        )

    def _tied_first(self, patches: Float[Array, "n y x d"]) -> Float[Array, "g n k d"]:
        """Moves tied axes to the front and joins the others."""
        num, rows, columns, size = patches.shape
        tied_rows, free_rows = (rows, 1) if self.rows.tied else (1, rows)
        tied_columns, free_columns = (columns, 1) if self.columns.tied else (1, columns)
        patches = patches.reshape(num, tied_rows, free_rows, tied_columns, free_columns, size)
        patches = patches.transpose(1, 3, 0, 2, 4, 5)
        return patches.reshape(tied_rows * tied_columns, num, free_rows * free_columns, size)


@dataclasses.dataclass(frozen=True)
class ImagePart:
    """All pixels at once, painted with whole training images.

    Attributes:
      image_shape: (height, width, channels).
      translates: all circular translates of the training images count as well (ES). Their keys
        are never laid out: a kernel correlates with them by Fourier transform.
    """

    image_shape: ImageShape
    translates: bool

    num_strips = 1
    num_groups = 1
    queries_per_image = 1

    @property
    def keys_per_image(self) -> int:
        """k: 1, or the number of translates."""
        return self.image_shape[0] * self.image_shape[1] if self.translates else 1

    @property
    def key_size(self) -> int:
        """d: number of entries of an image."""
        return math.prod(self.image_shape)

    @property
    def value_size(self) -> int:
        """v: number of entries of an image."""
        return self.key_size

    @property
    def pixels(self) -> np.ndarray:
        """Flat indices of the painted pixels, in the order of `paint`."""
        return np.arange(self.image_shape[0] * self.image_shape[1])

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "1 b 1 d"]:
        """The noisy images, flattened."""
        return x.reshape(1, x.shape[0], 1, -1)

    def keys(self, images: Float[Array, "n h w c"]) -> Float[Array, "1 n 1 d"]:
        """The training images, flattened (untranslated)."""
        return images.reshape(1, images.shape[0], 1, -1)

    def values(self, images: Float[Array, "n h w c"]) -> Float[Array, "1 n 1 v"]:
        """The training images, flattened (untranslated)."""
        return self.keys(images)

    def sum_strips(self, logits: Float[Array, "1 r l"]) -> Float[Array, "1 r l"]:
        """The logits as they are: an image is one strip."""
        return logits

    def paint(self, means: Float[Array, "1 b 1 v"]) -> Float[Array, "b p c"]:
        """Posterior means, in the order of `pixels`."""
        return means.reshape(means.shape[1], -1, self.image_shape[2])


Part = WindowPart | ImagePart


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """Which training patches each pixel is compared with and painted from.

    Args:
      kind: "is", "es", "ls", "els" or "bbels".
      image_shape: (height, width, channels).
      window: odd side P of the window; None for "is" and "es", which see the whole image. LS and
        bbELS take any P: from P = 2 * side - 1 on the window reaches every pixel from every
        other, and nothing changes further. ELS takes P up to the shorter side: beyond, no
        training patch fits (or a wrapped one would repeat pixels).
      wrap_patches: ELS only: training patches wrap around the border (Appendix B.1 of the paper)
        rather than lie inside the image (the published code).

    Raises:
      ValueError: if the kind is unknown, or the window or wrap_patches does not suit it.
    """

    kind: Kind
    image_shape: ImageShape
    window: int | None = None
    wrap_patches: bool = False

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, KINDS)
        if not isinstance(self.wrap_patches, bool | np.bool_):
            raise ValueError(f"wrap_patches={self.wrap_patches!r} must be True or False")
        if self.wrap_patches and self.kind != "els":
            raise ValueError(f"wrap_patches=True applies to kind='els' only, not {self.kind!r}")
        if self.kind in ("is", "es"):
            if self.window is not None:
                raise ValueError(
                    f"window={self.window!r} must be None: kind={self.kind!r} sees the whole image"
                )
            return
        window = checks.odd_int("window", self.window)
        object.__setattr__(self, "window", window)
        side = min(self.image_shape[:2])
        if self.kind == "els" and window > side:
            raise ValueError(
                f"window={window} must be at most {side} for kind='els' and images of "
                f"{self.image_shape[0]}x{self.image_shape[1]}: no training patch fits"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that together paint every pixel once."""
        if self.window is None:
            return (ImagePart(self.image_shape, translates=self.kind == "es"),)
        height, width, _ = self.image_shape
        # A wider window only adds places that are outside the image for every pixel.
        window = (min(self.window, 2 * height - 1), min(self.window, 2 * width - 1))
        circular = self.kind == "els"
        return tuple(
            WindowPart(
                rows=rows,
                columns=columns,
                window=window,
                image_shape=self.image_shape,
                query_padding="wrap" if circular else "zeros",
                key_padding="wrap" if circular else "zeros",
            )
            for rows in self._axis_parts(height, window[0] // 2)
            for columns in self._axis_parts(width, window[1] // 2)
        )

    def _axis_parts(self, length: int, reach: int) -> tuple[AxisPart, ...]:
        """Divides an axis: `reach` is how far the window extends from its centre."""
        everywhere = ((0, length),)
        if self.kind == "ls":
            return (AxisPart(everywhere, everywhere, tied=True),)
        inside = ((reach, length - reach),)
        if self.kind == "els":
            keys = everywhere if self.wrap_patches else inside
            return (AxisPart(everywhere, keys, tied=False),)
        if 2 * reach >= length:
            return (AxisPart(everywhere, everywhere, tied=True),)
        if reach == 0:
            return (AxisPart(everywhere, everywhere, tied=False),)
        border = ((0, reach), (length - reach, length))
        return (
            AxisPart(inside, inside, tied=False),
            AxisPart(border, border, tied=True),
        )


def _coordinates(runs: Runs) -> np.ndarray:
    """All coordinates of the runs."""
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


def _runs(coordinates: np.ndarray) -> Runs:
    """Ascending coordinates as runs: the inverse of `_coordinates`."""
    pieces = np.split(coordinates, np.flatnonzero(np.diff(coordinates) > 1) + 1)
    return tuple((int(piece[0]), int(piece[-1]) + 1) for piece in pieces)


def _join_windows(
    image: Float[Array, "h w c"], axis: int, runs: Runs, side: int, padding: Padding
) -> Float[Array, "..."]:
    """Joins the `side` neighbours along one axis of an image into its channels.

    Args:
      image: [H, W, C].
      axis: 0 or 1.
      runs: coordinates of the window centres.
      side: number of neighbours, odd.
      padding: what lies outside the image.

    Returns:
      The array with the axis cut down to the centres, and side times the channels.
    """
    padded = _pad(image, axis, side, padding)
    if side > _MOST_SLICES:
        places = _coordinates(runs)[:, None] + np.arange(side)
        # All places are inside: "clip" only spares the default's check for others.
        windows = jnp.moveaxis(jnp.take(padded, places, axis=axis, mode="clip"), axis + 1, 2)
        return windows.reshape(*windows.shape[:2], -1)

    def shifted(offset: int) -> Array:
        pieces = [
            jax.lax.slice_in_dim(padded, start + offset, stop + offset, axis=axis)
            for start, stop in runs
        ]
        return jnp.concatenate(pieces, axis)

    return jnp.concatenate([shifted(offset) for offset in range(side)], axis=-1)


def _pad(array: Array, axis: int, side: int, padding: Padding) -> Array:
    """Adds what windows of a side centred on the outermost pixels see outside the image."""
    margins = [(0, 0)] * array.ndim
    margins[axis] = (side // 2, side // 2)
    return jnp.pad(array, margins, mode="wrap" if padding == "wrap" else "constant")
