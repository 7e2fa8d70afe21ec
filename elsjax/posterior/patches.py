"""Windows of noisy images and patches of training images as arrays, and answers back as pixels.

Axis names are those of `elsjax.posterior.dictionaries`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from elsjax.posterior.dictionaries import (
    ImagePart,
    Padding,
    Part,
    Runs,
    Sides,
    WindowPart,
    coordinates,
)

# Slices are faster than a gather, but compile slowly where they are many.
_MOST_SLICES = 9


def windows(part: WindowPart, x: Float[Array, "b h w c"]) -> Float[Array, "g b q d"]:
    """Windows of noisy images around the part's pixels, by groups."""
    runs = (part.rows.queries, part.columns.queries)
    return by_groups(part, join(x, runs, part.window, part.padding))


def patches(part: WindowPart, images: Float[Array, "n h w c"]) -> Float[Array, "g n k d"]:
    """Patches of training images, by groups."""
    runs = (part.rows.keys, part.columns.keys)
    return by_groups(part, join(images, runs, part.window, part.padding))


def values(part: WindowPart, images: Float[Array, "n h w c"]) -> Float[Array, "g n k v"]:
    """Centre pixels of the patches, by groups."""
    rows, columns = (coordinates(axis.keys) for axis in part.axes)
    return by_groups(part, images[:, rows][:, :, columns])


def sources(part: WindowPart) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the patches' centres, each [g, k]."""
    grid = np.meshgrid(*(coordinates(axis.keys) for axis in part.axes), indexing="ij")
    rows, columns = (by_groups(part, places[None, :, :, None])[:, 0, :, 0] for places in grid)
    return np.asarray(rows), np.asarray(columns)


def by_groups(part: WindowPart, grid: Array) -> Array:
    """[n, rows, columns, size] as [g, n, k, size]: tied axes in front, the others joined."""
    num, rows, columns, size = grid.shape
    tied_rows, free_rows = (rows, 1) if part.rows.tied else (1, rows)
    tied_columns, free_columns = (columns, 1) if part.columns.tied else (1, columns)
    grid = grid.reshape(num, tied_rows, free_rows, tied_columns, free_columns, size)
    grid = grid.transpose(1, 3, 0, 2, 4, 5)
    return grid.reshape(tied_rows * tied_columns, num, free_rows * free_columns, size)


def by_pixels(part: Part, answers: Num[Array, "g b q v"]) -> Num[Array, "b p u"]:
    """Answers by groups in the order of the part's pixels; whole images are cut into theirs."""
    batch, size = answers.shape[1], answers.shape[3]
    if isinstance(part, ImagePart):
        return answers.reshape(batch, len(part.pixels), -1)
    sides = [axis.num_queries for axis in part.axes]
    groups, queries = (
        [side if axis.tied == tied else 1 for axis, side in zip(part.axes, sides, strict=True)]
        for tied in (True, False)
    )
    answers = answers.reshape(*groups, batch, *queries, size)
    return answers.transpose(2, 0, 3, 1, 4, 5).reshape(batch, -1, size)


def join(
    images: Float[Array, "n h w c"], runs: tuple[Runs, Runs], window: Sides, padding: Padding
) -> Float[Array, "n y x d"]:
    """Windows centred on runs of rows and columns, their entries joined."""

    def windows_of(image: Float[Array, "h w c"]) -> Float[Array, "y x d"]:
        for axis in (1, 0):
            image = join_neighbours(image, axis, runs[axis], window[axis], padding)
        return image

    return jax.vmap(windows_of)(images)


def join_neighbours(
    image: Float[Array, "h w c"], axis: int, runs: Runs, side: int, padding: Padding
) -> Float[Array, "y x d"]:
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
    padded = pad(image, axis, side, padding)
    if side > _MOST_SLICES:
        places = coordinates(runs)[:, None] + np.arange(side)
        # All places are inside: "clip" only spares the default's check for others.
        taken = jnp.moveaxis(jnp.take(padded, places, axis=axis, mode="clip"), axis + 1, 2)
        return taken.reshape(*taken.shape[:2], -1)

    def shifted(offset: int) -> Array:
        pieces = [
            jax.lax.slice_in_dim(padded, start + offset, stop + offset, axis=axis)
            for start, stop in runs
        ]
        return jnp.concatenate(pieces, axis)

    return jnp.concatenate([shifted(offset) for offset in range(side)], axis=-1)


def pad(array: Array, axis: int, side: int, padding: Padding) -> Array:
    """Adds what windows of a side centred on the outermost pixels see outside the image."""
    margins = [(0, 0)] * array.ndim
    margins[axis] = (side // 2, side // 2)
    return jnp.pad(array, margins, mode="wrap" if padding == "circular" else "constant")
