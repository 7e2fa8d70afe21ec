"""The tiles of a mosaic: connected pixels that were copied from one place of one training image."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse
from scipy.sparse import csgraph

from elsjax import checks
from elsjax.posterior.answers import Top


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Samples divided by the likeliest source of each pixel.

    Attributes:
      tile: number of the tile of each pixel, from 0 in the order in which rows show them,
        [B, H, W].
      count: number of tiles of each sample, [B].
      ambiguous: pixels whose likeliest source has a weight below 1/2, [B, H, W].
    """

    tile: Int[np.ndarray, "b h w"]
    count: Int[np.ndarray, " b"]
    ambiguous: Bool[np.ndarray, "b h w"]


def source_pieces(top: Top) -> Tiles:
    """Tiles: pixels joined by their four neighbours, of one image n and one offset source - pixel.

    Args:
      top: sources of one step, weights and numbers [B, H, W, k], the likeliest first, as
        `ScoreMachine.posterior` gives them.

    Returns:
      The tiles; ambiguous pixels are in that of their likeliest source.

    Raises:
      ValueError: if top is not as described.
    """
    checks.instance("top", top, Top, "machine.posterior(x, t, top=1).top")
    shape = np.shape(top.image)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"top.image has shape {list(shape)}; expected [B, H, W, k] of one step")
    weight, image, row, column = (
        np.asarray(array[..., 0]) for array in (top.weight, top.image, top.row, top.column)
    )
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    source = np.stack([image, row - rows, column - columns])
    numbers = np.arange(image.size).reshape(image.shape)
    below = (source[:, :, 1:] == source[:, :, :-1]).all(axis=0)
    right = (source[..., 1:] == source[..., :-1]).all(axis=0)
    start = np.concatenate([numbers[:, :-1][below], numbers[..., :-1][right]])
    end = np.concatenate([numbers[:, 1:][below], numbers[..., 1:][right]])
    graph = sparse.coo_array((np.ones(start.size, bool), (start, end)), (image.size, image.size))
    _, component = csgraph.connected_components(graph, directed=False)
    tile = np.stack([_by_appearance(of_image) for of_image in component.reshape(image.shape)])
    return Tiles(tile, tile.max(axis=(1, 2)) + 1, weight < 0.5)


def _by_appearance(numbers: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Numbers replaced by 0, 1, 2, ... in the order in which they appear."""
    _, first, found = np.unique(numbers, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[found.reshape(numbers.shape)]
