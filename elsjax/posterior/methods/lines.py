"""Logits along the edges of bbELS: windows are laid over whole lines of pixels.

There one axis is tied, and patches along the other lie inside the image. A strip is a whole line of
pixels: a query's window, laid over the line at each place of a patch with zeros beside it, is
multiplied with the line itself, and no patches are cut out of training images. e counts the entries
of a line.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from elsjax.posterior import patches
from elsjax.posterior.dictionaries import Part, WindowPart, coordinates, runs_of
from elsjax.posterior.methods.method import Block, Method, Plan, weighted
from elsjax.posterior.methods.products import (
    fitting,
    num_strips,
    strip_coordinates,
    strips,
    sum_strips,
)
from elsjax.posterior.ranking import Largest
from elsjax.posterior.softmax import Entries, PosteriorState, Request

# Training images in the right factor from which on a matrix product runs at full speed.
_PRODUCT_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Lines(Method):
    """Products of windows, laid over lines, with the lines of the training images."""

    part: WindowPart

    @staticmethod
    def applies(part: Part) -> bool:
        """Where one axis is tied and patches lie inside along the other."""
        if not isinstance(part, WindowPart) or part.rows.tied == part.columns.tied:
            return False
        free = int(part.rows.tied)
        return part.keys_per_image == part.image_shape[free] - part.window[free] + 1

    @property
    def _free(self) -> int:
        """The axis that is free."""
        return int(self.part.rows.tied)

    @property
    def _line_size(self) -> int:
        """e: number of entries of a line."""
        return self.part.image_shape[self._free] * self.part.image_shape[2]

    @property
    def multiplications(self) -> float:
        """See `Method.multiplications`."""
        return self._line_size * num_strips(self.part) / self.part.num_groups

    def plan(self, batch: int, num_images: int, itemsize: int, budget: int) -> Plan:
        """See `Method.plan`."""
        part, lines = self.part, num_strips(self.part)
        groups, keys, values = part.num_groups, part.keys_per_image, part.value_size
        size = part.window[self._free] * part.image_shape[2] + 1
        line_bytes = itemsize * lines * keys * self._line_size
        row_bytes = line_bytes + itemsize * (2 * lines * size + 4 * groups * (values + 2))
        image_bytes = itemsize * (
            4 * math.prod(part.image_shape)
            + 3 * lines * self._line_size
            + 2 * groups * keys * (values + 1)
        )
        pair_bytes = itemsize * keys * (2 * lines + 2 * groups)
        return fitting(
            batch * part.queries_per_image,
            num_images,
            row_bytes,
            image_bytes,
            pair_bytes,
            budget,
            most_rows=budget // 4 // line_bytes,
            multiple=_PRODUCT_IMAGES,
        )

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "s b q d"]:
        """Windows around the part's pixels, by strips; see `Method.queries`."""
        return strips(self.part, x, (self.part.rows.queries, self.part.columns.queries))

    def tile(self, queries: Float[Array, "s r d"]) -> tuple[Array, Array]:
        """Queries laid over a line at each place of a key, [s, r k, e], and their last entries."""
        num, rows, size = queries.shape
        channels, keys = self.part.image_shape[2], self.part.keys_per_image
        length = self._line_size // channels
        # Shifted by one more place in each turn of a period that is one longer than the line.
        padding = length + 1 - (size - 1) // channels
        laid = queries[..., :-1].reshape(num, rows, -1, channels)
        laid = jnp.pad(laid, ((0, 0), (0, 0), (0, padding), (0, 0)))
        laid = jnp.tile(laid, (1, 1, keys, 1))[:, :, : keys * length]
        return laid.reshape(num, rows * keys, -1), queries[0, :, -1]

    def state(
        self,
        queries: Any,
        block: Block,
        request: Request,
        seen: Largest | None,
    ) -> tuple[PosteriorState, Largest | None]:
        """See `Method.state`."""
        part, (laid, norm_gains) = self.part, queries
        lines = self._lines(block.images)
        products = jnp.einsum("sme,sen->smn", laid, lines, precision=lax.Precision.HIGHEST)
        products = products.reshape(len(products), len(norm_gains), -1)
        norms = self._norms(lines).reshape(part.num_groups, 1, -1)
        logits = sum_strips(part, products) + norm_gains[None, :, None] * norms
        values = patches.values(part, block.images).swapaxes(1, 2)
        keys = values.shape[1]
        return weighted(
            logits,
            values,
            block.counts[None, None, :, None],
            request,
            Entries(block.counts, block.numbers, rows=keys),
            seen,
            pieces=keys,
        )

    def _lines(self, images: Float[Array, "n h w c"]) -> Float[Array, "s e n"]:
        """Lines of the training images along the free axis, by strips."""
        tied = int(self.part.columns.tied)
        runs = runs_of(strip_coordinates(self.part, tied))
        pieces = [lax.slice_in_dim(images, *run, axis=1 + tied) for run in runs]
        lines = jnp.concatenate(pieces, axis=1 + tied)
        lines = lines.transpose((2, 1, 3, 0) if tied else (1, 2, 3, 0))
        return lines.reshape(len(lines), self._line_size, -1)

    def _norms(self, lines: Float[Array, "s e n"]) -> Float[Array, "g k n"]:
        """Squared norms of the patches along the lines of training images."""
        part, free = self.part, self._free
        num_lines, _, num = lines.shape
        squares = jnp.sum((lines * lines).reshape(num_lines, -1, part.image_shape[2], num), axis=2)
        sums = sum_strips(part, squares.reshape(num_lines, 1, -1))
        sums = sums.reshape(part.num_groups, -1, num)
        centres = coordinates(part.axes[free].keys)
        covers = jnp.asarray(part.covers(free, centres), lines.dtype)
        return jnp.einsum("kx,gxn->gkn", covers, sums, precision=lax.Precision.HIGHEST)
