"""Windows of neighbouring pixels, laid out so that what is solved for one serves all of them.

Where pixels have patches of their own (a tied axis of `elsjax.posterior.dictionaries`), the windows
of a tile of T neighbours are almost the same. Their union is divided into entries that all T see
and the rest; a matrix is factorised once for what is shared, and per pixel for its part of the
rest. Of a free axis one pixel stands for all.
"""

import functools
import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from elsjax.analytic.factor import LEAF
from elsjax.posterior.dictionaries import AxisPart, WindowPart, coordinates

_SIDES = (1, 2, 3, 4, 6, 8)


class Tiles(NamedTuple):
    """The tiles of a part: n of them of T pixels, with u pixels in the union of their windows.

    Places outside the image, and places that only fill up a tile, are not seen.

    Attributes:
      rows: of the pixels in the union, the shared ones first, [n, u].
      columns: of them, [n, u].
      seen: whether a tile has that many, [n, u].
      own: places in the rest of what each pixel sees beyond what is shared, [n, T, r].
      owned: whether it has that many, [n, T, r].
      targets: places in the union of the tile's pixels, [n, T].
      keys: (row, column) of each training patch relative to the tile's pixels, [s, 2].
      queries: (row, column) of each pixel to estimate relative to the tile's pixels, [q, 2].
      num_shared: how many of u are shared.
    """

    rows: Int[np.ndarray, "n u"]
    columns: Int[np.ndarray, "n u"]
    seen: Bool[np.ndarray, "n u"]
    own: Int[np.ndarray, "n t r"]
    owned: Bool[np.ndarray, "n t r"]
    targets: Int[np.ndarray, "n t"]
    keys: Int[np.ndarray, "s 2"]
    queries: Int[np.ndarray, "q 2"]
    num_shared: int

    def pixels(self, height: int, width: int) -> Int[np.ndarray, "n q t"]:
        """Flat indices of the pixels that the tiles estimate; some more than once."""
        rows, columns = (
            np.take_along_axis(axis, self.targets, 1)[:, None] + shift[:, None]
            for axis, shift in zip((self.rows, self.columns), self.queries.T, strict=True)
        )
        return rows % height * width + columns % width


class _Axis(NamedTuple):
    """One axis of the tiles: the pixels of each, where their windows start and stop, patches."""

    pixels: list[list[int]]
    windows: dict[int, tuple[int, int]]
    keys: np.ndarray
    queries: np.ndarray


@functools.lru_cache(maxsize=64)
def tiles_of(part: WindowPart) -> Tiles:
    """The tiles of a part of a dictionary, of the size that makes the least work."""
    side = min(_SIDES, key=lambda side: _work(part, side))
    rows, columns = (
        _axis(axis, length, extent // 2, side)
        for axis, length, extent in zip(part.axes, part.image_shape, part.window, strict=False)
    )
    found = [_tile(rows, columns, *pair) for pair in itertools.product(rows.pixels, columns.pixels)]
    num_shared, num_rest = (max(len(tile[i]) for tile in found) for i in (0, 1))
    size = max(len(own) for _, _, _, own in found)
    num_own = max(int(own.sum(1).max()) for _, _, _, own in found)
    union = np.zeros((len(found), num_shared + num_rest, 2), np.int32)
    seen = np.zeros(union.shape[:2], bool)
    own = np.zeros((len(found), size, num_own), np.int32)
    owned = np.zeros(own.shape, bool)
    targets = np.zeros((len(found), size), np.int32)
    for n, (shared, rest, pixels, sees) in enumerate(found):
        for first, places in ((0, shared), (num_shared, rest)):
            union[n, first : first + len(places)] = places
            seen[n, first : first + len(places)] = True
        for t in range(size):
            pixel = min(t, len(pixels) - 1)  # the last one fills up a tile
            places = np.flatnonzero(sees[pixel])
            own[n, t, : len(places)], owned[n, t, : len(places)] = places, True
            targets[n, t] = np.flatnonzero((union[n] == pixels[pixel]).all(1) & seen[n])[0]
    keys, queries = (
        _grid(*pair) for pair in ((rows.keys, columns.keys), (rows.queries, columns.queries))
    )
    return Tiles(union[..., 0], union[..., 1], seen, own, owned, targets, keys, queries, num_shared)


def _axis(axis: AxisPart, length: int, reach: int, side: int) -> _Axis:
    if axis.tied:
        pixels = [
            list(range(first, min(first + side, stop)))
            for start, stop in axis.queries
            for first in range(start, stop, side)
        ]
        windows = {
            place: (max(0, place - reach), min(length, place + reach + 1))
            for place in itertools.chain(*pixels)
        }
        return _Axis(pixels, windows, np.zeros(1, int), np.zeros(1, int))
    keys, queries = coordinates(axis.keys), coordinates(axis.queries)
    first = int(keys[0])
    windows = {first: (first - reach, first + reach + 1)}
    return _Axis([[first]], windows, keys - first, queries - first)


def _tile(
    rows: _Axis, columns: _Axis, of_rows: list[int], of_columns: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the windows of a tile share, the rest [m, 2], its pixels, and who sees of the rest."""
    windows = [
        [axis.windows[place] for place in places]
        for axis, places in ((rows, of_rows), (columns, of_columns))
    ]
    every = _grid(*(range(min(a for a, _ in axis), max(b for _, b in axis)) for axis in windows))
    sees = np.array(
        [
            (top <= every[:, 0])
            & (every[:, 0] < bottom)
            & (left <= every[:, 1])
            & (every[:, 1] < right)
            for (top, bottom), (left, right) in itertools.product(*windows)
        ]
    )
    shared = sees.all(0)
    return every[shared], every[~shared], _grid(of_rows, of_columns), sees[:, ~shared]


def _grid(rows: Iterable[int], columns: Iterable[int]) -> np.ndarray:
    """All pairs, [m, 2]."""
    return np.array(list(itertools.product(rows, columns)), np.int32).reshape(-1, 2)


def _work(part: WindowPart, side: int) -> float:
    """About how long tiles of a side take, in operations of products."""
    count, size, union, shared = 1, 1, part.image_shape[2], part.image_shape[2]
    for axis, length, window in zip(part.axes, part.image_shape, part.window, strict=False):
        own = side if axis.tied else 1
        if own > window // 2 + 1:  # what is shared would not hold the pixels
            return math.inf
        count *= -(-axis.num_keys // own) if axis.tied else 1
        size *= own
        union *= min(window + own - 1, length)
        shared *= min(window - own + 1, length)
    window = min(part.key_size, union)
    rest = union - shared
    once = _factorising(shared) + 2 * shared * rest * (shared + rest)
    return count * (once + size * _factorising(window - shared))


def _factorising(size: int) -> float:
    """Operations of `inverse_factor`, and what its leaves, which are slow, would make."""
    return 4 / 3 * size**3 + 30 * size * min(size, LEAF) ** 2
