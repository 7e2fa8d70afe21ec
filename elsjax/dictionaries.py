"""Which training patches a pixel may be painted from: the five dictionaries of the paper.

|                       | the same place | every place                                   |
| --------------------- | -------------- | --------------------------------------------- |
| the whole image       | IS             | ES, circular translates                       |
| a P x P window        | LS, zeros      | ELS, circular; bbELS, zeros, borders stay put |

A dictionary divides an image's pixels into parts. The pixels of one part, further divided into g
groups that differ only in where they lie, look up the same number of training patches. A part
turns noisy images into queries, training images into keys and values, and posterior means back
into pixels; how queries meet keys is the kernel's business.

Axis names: b noisy images, n training images, g groups, q queries per group and image, k keys per
group and image, d entries of a key, v entries of a value.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class AxisPart:
    """Pixels along one axis that look alike, as runs [start, stop) of coordinates.

    Attributes:
      queries: the pixels painted.
      keys: the centres of the training patches they are painted from.
      tied: each pixel sees only the patches at its own coordinate (then queries equal keys); else
        every pixel sees every patch.
    """

    queries: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]
    tied: bool

    @property
    def num_keys(self) -> int:
        """Number of key coordinates."""
        return sum(stop - start for start, stop in self.keys)


@dataclasses.dataclass(frozen=True)
class WindowPart:
    """Pixels painted with the centres of P x P training patches."""

    rows: AxisPart
    columns: AxisPart
    window: tuple[int, int]
    image_shape: ImageShape
    query_padding: Padding
    key_padding: Padding

    @property
    def num_groups(self) -> int:
        """g: number of groups with patches of their own."""
        return int(np.prod([axis.num_keys for axis in (self.rows, self.columns) if axis.tied]))

    @property
    def keys_per_image(self) -> int:
        """k: number of patches of one training image that one group looks up."""
        return int(np.prod([axis.num_keys for axis in (self.rows, self.columns) if not axis.tied]))

    @property
    def key_size(self) -> int:
        """d: number of entries of a patch."""
        return self.window[0] * self.window[1] * self.image_shape[2]

    @property
    def value_size(self) -> int:
        """v: number of channels."""
        return self.image_shape[2]

    @property
    def pixels(self) -> np.ndarray:
        """Flat indices of the painted pixels, in the order of `paint`."""
        rows, columns = (
            np.concatenate([np.arange(*run) for run in axis.queries])
            for axis in (self.rows, self.columns)
        )
        return (rows[:, None] * self.image_shape[1] + columns).ravel()

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "g b q d"]:
        """Windows of the noisy images around the painted pixels."""
        return self._grouped(x, self.rows.queries, self.columns.queries, self.query_padding)

    def keys(self, images: Float[Array, "n h w c"]) -> Float[Array, "g n k d"]:
        """Patches of the training images."""
        return self._grouped(images, self.rows.keys, self.columns.keys, self.key_padding)

    def values(self, images: Float[Array, "n h w c"]) -> Float[Array, "g n k v"]:
        """Centre pixels of the patches."""
        centres = dataclasses.replace(self, window=(1, 1))
        return centres.keys(images)

    def paint(self, means: Float[Array, "g b q v"]) -> Float[Array, "b p v"]:
        """Posterior means, in the order of `pixels`."""
        groups, queries = (
            [
                sum(stop - start for start, stop in axis.queries) if axis.tied == tied else 1
                for axis in (self.rows, self.columns)
            ]
            for tied in (True, False)
        )
        batch, channels = means.shape[1], means.shape[3]
        means = means.reshape(*groups, batch, *queries, channels)
        return means.transpose(2, 0, 3, 1, 4, 5).reshape(batch, -1, channels)

    def _grouped(
        self,
        images: Float[Array, "n h w c"],
        row_runs: tuple[tuple[int, int], ...],
        column_runs: tuple[tuple[int, int], ...],
        padding: Padding,
    ) -> Float[Array, "g n k d"]:
        """Patches centred on rows x columns, the coordinates of tied axes moved to the front."""

        def patches_of(image: Float[Array, "h w c"]) -> Float[Array, "r s d"]:
            margins = [(side // 2, side // 2) for side in self.window] + [(0, 0)]
            image = jnp.pad(image, margins, mode="wrap" if padding == "wrap" else "constant")
            image = _windows_along(1, column_runs, self.window[1], image)
            return _windows_along(0, row_runs, self.window[0], image)

        patches = jax.vmap(patches_of)(images)
        num, rows, columns, size = patches.shape
        row_group, row_key = (rows, 1) if self.rows.tied else (1, rows)
        column_group, column_key = (columns, 1) if self.columns.tied else (1, columns)
        patches = patches.reshape(num, row_group, row_key, column_group, column_key, size)
        patches = patches.transpose(1, 3, 0, 2, 4, 5)
        return patches.reshape(row_group * column_group, num, row_key * column_key, size)


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

    num_groups = 1

    @property
    def keys_per_image(self) -> int:
        """k: 1, or the number of translates."""
        return self.image_shape[0] * self.image_shape[1] if self.translates else 1

    @property
    def key_size(self) -> int:
        """d: number of entries of an image."""
        return int(np.prod(self.image_shape))

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
        if self.wrap_patches and self.kind != "els":
            raise ValueError(f"wrap_patches=True applies to kind='els' only, not {self.kind!r}")
        if self.kind in ("is", "es"):
            if self.window is not None:
                raise ValueError(
                    f"window={self.window!r} must be None: kind={self.kind!r} sees the whole image"
                )
            return
        window = checks.odd_window("window", self.window)
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


def _windows_along(
    axis: int, runs: tuple[tuple[int, int], ...], side: int, padded: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Joins the `side` neighbours along one axis of a padded [h, w, c] array into its channels.

    Args:
      axis: 0 or 1.
      runs: coordinates of the window centres, before padding by side // 2.
      side: number of neighbours.
      padded: the array.

    Returns:
      The array with the axis cut down to the centres and side times the channels.
    """

    def shifted(offset: int) -> Array:
        pieces = [
            jax.lax.slice_in_dim(padded, start + offset, stop + offset, axis=axis)
            for start, stop in runs
        ]
        return jnp.concatenate(pieces, axis)

    return jnp.concatenate([shifted(offset) for offset in range(side)], axis=-1)
