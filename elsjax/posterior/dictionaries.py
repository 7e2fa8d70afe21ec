"""Which training patches a pixel is estimated from: the five dictionaries of the paper.

|                       | the same place | every place                                   |
| --------------------- | -------------- | --------------------------------------------- |
| the whole image       | IS             | ES, circular translates                       |
| a P x P window        | LS, zeros      | ELS, circular; bbELS, zeros, borders stay put |

A dictionary divides an image's pixels into parts. Along each axis, the pixels of a part are either
free, estimated from patches at many coordinates, or tied to patches at their own coordinate; then
each coordinate makes a group with patches of its own. Parts say which pixels and which patches;
`elsjax.posterior.patches` lays them out, `elsjax.posterior.methods` compares them.

Axis names: b noisy images, n training images, g groups, q queries per group and noisy image, k keys
per group and training image, d entries of a key, v entries of a value.
"""

import dataclasses
import functools
import math
from typing import Literal, get_args

import numpy as np

from elsjax import checks
from elsjax.process.windows import WindowSchedule

Kind = Literal["is", "es", "ls", "els", "bbels"]
KINDS = ("is", "es", "ls", "els", "bbels")
Window = int | WindowSchedule | None
Padding = Literal["zeros", "circular"]
ImageShape = tuple[int, int, int]
Sides = tuple[int, int]
Runs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class AxisPart:
    """Pixels along one axis that look alike, as runs [start, stop) of coordinates.

    Attributes:
      queries: the pixels to estimate.
      keys: the centres of the training patches they are estimated from.
      tied: each pixel sees only the patches at its own coordinate (then queries equal keys); else
        every pixel sees every patch.
    """

    queries: Runs
    keys: Runs
    tied: bool

    def __post_init__(self) -> None:
        for name in ("queries", "keys"):
            runs = getattr(self, name)
            nested = isinstance(runs, tuple) and all(isinstance(run, tuple) for run in runs)
            if not nested or any(len(run) != 2 or not 0 <= run[0] < run[1] for run in runs):
                raise ValueError(f"{name}={runs!r} must be runs, ((start, stop), ...)")
        if self.tied and self.queries != self.keys:
            raise ValueError(
                f"keys={self.keys} must be queries={self.queries}: a tied axis sees patches at the "
                "pixel's own coordinate"
            )

    @property
    def num_queries(self) -> int:
        """Number of query coordinates."""
        return coordinates(self.queries).size

    @property
    def num_keys(self) -> int:
        """Number of key coordinates."""
        return coordinates(self.keys).size


@dataclasses.dataclass(frozen=True)
class WindowPart:
    """Pixels estimated from the centres of P x P training patches."""

    rows: AxisPart
    columns: AxisPart
    window: Sides
    image_shape: ImageShape
    padding: Padding

    def __post_init__(self) -> None:
        checks.one_of("padding", self.padding, get_args(Padding))
        for name, axis, length in zip(
            ("rows", "columns"), self.axes, self.image_shape, strict=False
        ):
            if max(stop for _, stop in (*axis.queries, *axis.keys)) > length:
                raise ValueError(f"{name}={axis} must lie in an image of {length} {name}")

    @property
    def axes(self) -> tuple[AxisPart, AxisPart]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def free(self) -> bool:
        """Whether no axis is tied: every pixel sees every patch."""
        return not (self.rows.tied or self.columns.tied)

    @property
    def num_groups(self) -> int:
        """g: number of groups with keys of their own, one for each coordinate of a tied axis."""
        return math.prod(axis.num_keys for axis in self.axes if axis.tied)

    @property
    def queries_per_image(self) -> int:
        """q: number of pixels of one noisy image in one group."""
        return math.prod(axis.num_queries for axis in self.axes if not axis.tied)

    @property
    def keys_per_image(self) -> int:
        """k: number of patches of one training image that one group looks up."""
        return math.prod(axis.num_keys for axis in self.axes if not axis.tied)

    @property
    def key_size(self) -> int:
        """d: number of entries of a patch."""
        return math.prod(self.window) * self.image_shape[2]

    @property
    def value_size(self) -> int:
        """v: number of channels."""
        return self.image_shape[2]

    @property
    def pixels(self) -> np.ndarray:
        """Flat indices of the part's pixels, [p], rising by rows, then columns."""
        rows, columns = (coordinates(axis.queries) for axis in self.axes)
        return (rows[:, None] * self.image_shape[1] + columns).ravel()

    def covers(self, axis: int, centres: np.ndarray) -> np.ndarray:
        """Whether the window around each centre along an axis covers each coordinate of the image.

        Args:
          axis: 0 for rows, 1 for columns.
          centres: coordinates, [m].

        Returns:
          Booleans, [m, length of the axis].
        """
        length = self.image_shape[axis]
        apart = np.abs(centres[:, None] - np.arange(length))
        if self.padding == "circular":
            apart = np.minimum(apart, length - apart)
        return apart <= self.window[axis] // 2


@dataclasses.dataclass(frozen=True)
class ImagePart:
    """All pixels at once, estimated from whole training images.

    Attributes:
      image_shape: (height, width, channels).
      translates: all circular translates of the training images count as well (ES). Their keys
        are never laid out.
    """

    image_shape: ImageShape
    translates: bool

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
        """Flat indices of the part's pixels, [p]."""
        return np.arange(self.image_shape[0] * self.image_shape[1])


Part = WindowPart | ImagePart


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """Which training patches each pixel is compared with and estimated from.

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
        """The parts that together hold every pixel once."""
        if self.window is None:
            return (ImagePart(self.image_shape, translates=self.kind == "es"),)
        height, width, _ = self.image_shape
        # A wider window only adds places that are outside the image for every pixel.
        window = (min(self.window, 2 * height - 1), min(self.window, 2 * width - 1))
        return tuple(
            WindowPart(
                rows=rows,
                columns=columns,
                window=window,
                image_shape=self.image_shape,
                padding="circular" if self.kind == "els" else "zeros",
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


def checked_window(
    kind: Kind, image_shape: ImageShape, window: Window, wrap_patches: bool
) -> Window:
    """The window; raises ValueError if it does not suit the kind and the images."""
    if isinstance(window, WindowSchedule):
        for side in window.windows:
            Dictionary(kind, image_shape, side, wrap_patches)
        return window
    return Dictionary(kind, image_shape, window, wrap_patches).window


@functools.lru_cache(maxsize=64)
def check_parts(dictionary: Dictionary) -> None:
    """Raises ValueError unless the parts of a dictionary hold every pixel once."""
    height, width, _ = dictionary.image_shape
    pixels = np.concatenate([part.pixels for part in dictionary.parts])
    counts = np.bincount(pixels, minlength=height * width)
    if (counts != 1).any():
        row, column = divmod(int(np.argmax(counts != 1)), width)
        raise ValueError(
            f"the parts of {type(dictionary).__name__} must hold every pixel once; pixel "
            f"({row}, {column}) is in {counts[row * width + column]} of them"
        )


def coordinates(runs: Runs) -> np.ndarray:
    """All coordinates of the runs."""
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


def runs_of(coordinates: np.ndarray) -> Runs:
    """Ascending coordinates as runs, the inverse of `coordinates`."""
    pieces = np.split(coordinates, np.flatnonzero(np.diff(coordinates) > 1) + 1)
    return tuple((int(piece[0]), int(piece[-1]) + 1) for piece in pieces)
