"""Logits by matrix products of windows and patches: for every part but translates.

Along a tied axis, windows of neighbouring groups share most of their products. So queries and keys
are cut into strips, one for each coordinate along the tied axes that a window covers; a patch's
logit is the sum of its strips', and the strips are shared by all groups whose windows cover them.
s counts strips.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from elsjax.posterior import patches
from elsjax.posterior.dictionaries import ImagePart, Part, WindowPart, coordinates, runs_of
from elsjax.posterior.methods.method import Block, Method, Plan, weighted
from elsjax.posterior.ranking import Largest
from elsjax.posterior.softmax import Entries, PosteriorState, Request

# Queries beyond this gain nothing from sharing a block's keys.
MOST_ROWS = 2048

# Multiplications per logit that cutting patches out is worth where few queries share them.
_CUTTING = 512


@dataclasses.dataclass(frozen=True)
class Products(Method):
    """Matrix products of whole windows, or of their strips, with those of the training images."""

    part: Part

    @staticmethod
    def applies(part: Part) -> bool:
        """For all but translates."""
        return isinstance(part, WindowPart) or not part.translates

    @property
    def multiplications(self) -> float:
        """See `Method.multiplications`."""
        return self._strip_size * num_strips(self.part) / self.part.num_groups

    @property
    def cost(self) -> float:
        """See `Method.cost`."""
        one_tied = isinstance(self.part, WindowPart) and (
            self.part.rows.tied != self.part.columns.tied
        )
        return self.multiplications + _CUTTING * one_tied

    @property
    def _strip_size(self) -> int:
        """Number of entries of a patch within one strip."""
        if isinstance(self.part, ImagePart):
            return self.part.key_size
        sides = zip(self.part.axes, self.part.window, strict=True)
        free = [side for axis, side in sides if not axis.tied]
        return math.prod(free) * self.part.image_shape[2]

    def plan(self, batch: int, num_images: int, itemsize: int, budget: int) -> Plan:
        """See `Method.plan`."""
        part, num, size = self.part, num_strips(self.part), self._strip_size + 1
        groups, keys, values = part.num_groups, part.keys_per_image, part.value_size
        # A row of queries: itself, its state, and what a merge makes of it.
        row_bytes = itemsize * (2 * num * size + 4 * groups * (values + 2))
        # An image of a block: its pixels, the stages of cutting patches, and their values.
        image_bytes = itemsize * (
            4 * math.prod(part.image_shape)
            + 3 * num * keys * size
            + 2 * groups * keys * (values + 1)
        )
        # A row against an image: the logits of strips, of groups, and the weights.
        pair_bytes = itemsize * keys * (2 * num + 2 * groups)
        return fitting(
            batch * part.queries_per_image, num_images, row_bytes, image_bytes, pair_bytes, budget
        )

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "s b q d"]:
        """Windows around the part's pixels, by strips; see `Method.queries`."""
        if isinstance(self.part, ImagePart):
            return x.reshape(1, len(x), 1, -1)
        return strips(self.part, x, (self.part.rows.queries, self.part.columns.queries))

    def state(
        self,
        queries: Float[Array, "s r e"],
        block: Block,
        request: Request,
        seen: Largest | None,
    ) -> tuple[PosteriorState, Largest | None]:
        """See `Method.state`."""
        if isinstance(self.part, ImagePart):
            keys = values = block.images.reshape(1, len(block.images), 1, -1)
        else:
            runs = (self.part.rows.keys, self.part.columns.keys)
            keys = strips(self.part, block.images, runs)
            values = patches.values(self.part, block.images)
        norms = jnp.sum(keys * keys, axis=-1, keepdims=True)
        keys = jnp.concatenate([keys, norms], axis=-1)
        keys = keys.reshape(len(keys), -1, keys.shape[-1])
        logits = jnp.einsum("sre,sle->srl", queries, keys, precision=lax.Precision.HIGHEST)
        return weighted(
            sum_strips(self.part, logits),
            values,
            block.counts[None, :, None, None],
            request,
            Entries(block.counts, block.numbers),
            seen,
        )


def fitting(
    all_rows: int,
    num_images: int,
    row_bytes: int,
    image_bytes: int,
    pair_bytes: int,
    budget: int,
    *,
    most_rows: int = MOST_ROWS,
    multiple: int = 1,
) -> Plan:
    """The largest blocks for arrays of rows, of images, and of rows against images.

    Args:
      all_rows: number of rows.
      num_images: number of training images.
      row_bytes: bytes of a row.
      image_bytes: bytes of an image of a block.
      pair_bytes: bytes of a row against an image.
      budget: bytes.
      most_rows: rows of a tile at most.
      multiple: number of images that a block should be a multiple of.

    Returns:
      The plan.
    """
    rows = (budget - multiple * image_bytes) // (row_bytes + multiple * pair_bytes)
    tiles = -(-all_rows // max(1, min(most_rows, rows)))
    rows = -(-all_rows // tiles)
    images = (budget - rows * row_bytes) // (image_bytes + rows * pair_bytes)
    images = images // multiple * multiple or images
    return Plan(images=int(max(1, min(images, num_images))), rows=int(rows))


def num_strips(part: Part) -> int:
    """s: number of strips, one for each coordinate covered along each tied axis."""
    if isinstance(part, ImagePart):
        return 1
    tied = [index for index, axis in enumerate(part.axes) if axis.tied]
    return math.prod(strip_coordinates(part, index).size for index in tied)


def strip_coordinates(part: WindowPart, index: int) -> np.ndarray:
    """The coordinates along a tied axis that any of its windows covers."""
    return np.flatnonzero(_covers(part, index).any(axis=0))


def strips(
    part: WindowPart, images: Float[Array, "n h w c"], runs: tuple
) -> Float[Array, "s n k d"]:
    """Patches centred on runs of rows and columns; along a tied axis, the strips, unjoined."""
    (rows, columns), (height, width) = runs, part.window
    if part.rows.tied:
        rows, height = runs_of(strip_coordinates(part, 0)), 1
    if part.columns.tied:
        columns, width = runs_of(strip_coordinates(part, 1)), 1
    grid = patches.join(images, (rows, columns), (height, width), part.padding)
    return patches.by_groups(part, grid)


def sum_strips(part: Part, logits: Float[Array, "s r l"]) -> Float[Array, "g r l"]:
    """Adds up, for each group, the strips that its windows cover."""
    if isinstance(part, ImagePart):
        return logits
    for index, axis in enumerate(part.axes):
        if axis.tied:
            covers = _covers(part, index)[:, strip_coordinates(part, index)]
            # Rows come before columns: groups of rows are done when columns are summed.
            before = part.rows.num_keys if index == 1 and part.rows.tied else 1
            stacked = logits.reshape(before, covers.shape[1], -1)
            weights = jnp.asarray(covers, logits.dtype)
            sums = jnp.einsum("gs,bsx->bgx", weights, stacked, precision=lax.Precision.HIGHEST)
            logits = sums.reshape(-1, *logits.shape[1:])
    return logits


def _covers(part: WindowPart, index: int) -> np.ndarray:
    """Whether each window of a tied axis covers each coordinate, [groups, coordinates]."""
    return part.covers(index, coordinates(part.axes[index].keys))
