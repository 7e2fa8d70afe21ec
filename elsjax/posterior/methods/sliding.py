"""Logits of large windows, passed on from row to row.

Two windows one row further down, at the query and at the key, differ in one row that enters and one
that leaves. So every row of the queries' windows is multiplied with every row of the keys' once,
and the product of two patches is that of the patches one row up, plus the row that enters, less the
row that leaves. y and x count rows and columns.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from elsjax.posterior import patches, softmax
from elsjax.posterior.dictionaries import Part, Runs, WindowPart
from elsjax.posterior.methods.method import Block, Method, Plan
from elsjax.posterior.ranking import NO_ENTRY, Largest
from elsjax.posterior.softmax import Entries, PosteriorState, Request

_MOST_ROWS = 1024

# Multiplications per logit that one more pass over the logits is worth.
_PASS = 32

# Rows of the left factor from which on a matrix product runs at full speed.
_PRODUCT_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Sliding(Method):
    """Products of every row of windows with every row of patches; rows r are columns of pixels."""

    part: WindowPart

    @staticmethod
    def applies(part: Part) -> bool:
        """Where no axis is tied."""
        return isinstance(part, WindowPart) and part.free

    @property
    def multiplications(self) -> float:
        """See `Method.multiplications`."""
        side, rows = self.part.window[0], self.part.rows
        lines = (rows.num_queries + side - 1) * (rows.num_keys + side - 1)
        return self.part.key_size / side * lines / (rows.num_queries * rows.num_keys)

    @property
    def cost(self) -> float:
        """See `Method.cost`."""
        return self.multiplications + _PASS

    @property
    def num_groups(self) -> int:
        """One for each row of pixels."""
        return self.part.rows.num_queries

    def plan(self, batch: int, num_images: int, itemsize: int, budget: int) -> Plan:
        """See `Method.plan`."""
        part, num_rows = self.part, self.num_groups
        side, keys = part.window[0], part.keys_per_image
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
        all_columns = batch * part.columns.num_queries
        most_columns = max(1, _MOST_ROWS // num_rows)
        while True:
            tiles = -(-all_columns // most_columns)
            columns = -(-all_columns // tiles)
            at_once = columns * _rows_at_once(num_rows, columns)
            # A column against an image: products of rows, first row of keys, sums, logits, weights.
            pairs = columns * (num_lines * num_key_lines + num_rows) * part.columns.num_keys
            pairs += (columns + 2 * at_once) * keys
            images = (budget - columns * column_bytes) // (image_bytes + itemsize * pairs)
            if images >= 1 or columns == 1:
                return Plan(images=int(max(1, min(images, num_images))), rows=columns)
            most_columns = columns - 1

    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "y b x d"]:
        """Rows of windows; query (i, j) is rows [i : i + P, :, j], joined. See `Method.queries`."""
        rows = self._rows(x, self.part.rows.queries, self.part.columns.queries)
        return rows.transpose(1, 0, 2, 3)

    def _rows(
        self, images: Float[Array, "n h w c"], rows: Runs, columns: Runs
    ) -> Float[Array, "n y x d"]:
        """Windows of one row, for all rows that the windows of one run of rows cover."""
        part, ((start, stop),) = self.part, rows
        images = patches.pad(images, 1, part.window[0], part.padding)
        images = images[:, start : stop + part.window[0] - 1]
        side, padding = part.window[1], part.padding
        return jax.vmap(lambda image: patches.join_neighbours(image, 1, columns, side, padding))(
            images
        )

    def state(
        self,
        queries: Float[Array, "y r e"],
        block: Block,
        request: Request,
        seen: Largest | None,
    ) -> tuple[PosteriorState, Largest | None]:
        """See `Method.state`.

        With x and y the rows of windows and patches, row i of queries and row j of keys have

            products[i, j] = products[i - 1, j - 1] + x[i + P - 1] y[j + P - 1] - x[i - 1] y[j - 1],

        so that only those of the first row of queries and of keys are sums over P rows.
        """
        part, columns = self.part, queries.shape[1]
        side, num_rows, num_key_rows = part.window[0], self.num_groups, part.rows.num_keys
        weigh = _weigher(part, block, request)
        entries = Entries(block.counts, block.numbers, rows=num_key_rows)
        # [rows of windows, columns, rows of patches, columns of patches].
        keys = self._keys(block.images)
        rows = jnp.tensordot(queries, keys, (-1, -1), precision=lax.Precision.HIGHEST)
        of_first_keys = functools.reduce(
            jnp.add, [rows[row : row + num_rows, :, row] for row in range(side)]
        )
        before = functools.reduce(
            jnp.add, [rows[row, :, row + 1 : row + num_key_rows] for row in range(side - 1)]
        )
        at_once = _rows_at_once(num_rows, columns)

        def add_rows(
            products: Float[Array, "r j l"], start: tuple[Array, Largest | None]
        ) -> tuple[Array, tuple[PosteriorState, Largest | None]]:
            (first, ranked), logits = start, []
            for row in range(at_once):  # those beyond the last count for nothing
                enters = lax.dynamic_index_in_dim(rows, first + row + side - 1, keepdims=False)
                leaves = lax.dynamic_index_in_dim(rows, first + row, keepdims=False)
                new = lax.dynamic_index_in_dim(of_first_keys, first + row, axis=0).swapaxes(0, 1)
                products = jnp.concatenate([new, products + enters[:, side:]], axis=1)
                logits.append(products.reshape(columns, -1))
                products = products[:, :-1] - leaves[:, : num_key_rows - 1]
            stacked = jnp.stack(logits)
            return products, softmax.from_ranked_logits(stacked, weigh, request, entries, ranked)

        firsts = jnp.arange(0, num_rows, at_once)
        _, found = lax.scan(add_rows, before, (firsts, _divided(seen, at_once)))
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:num_rows], found)

    def _keys(self, images: Float[Array, "n h w c"]) -> Float[Array, "y l e"]:
        """Rows of patches with their squared norms, l = n x."""
        keys = self._rows(images, self.part.rows.keys, self.part.columns.keys)
        keys = jnp.concatenate([keys, jnp.sum(keys * keys, axis=-1, keepdims=True)], axis=-1)
        return keys.swapaxes(0, 1).reshape(keys.shape[1], -1, keys.shape[-1])

    def by_pixels(self, answers: Num[Array, "y b x v"]) -> Num[Array, "b p u"]:
        """See `Method.by_pixels`."""
        batch, size = answers.shape[1], answers.shape[3]
        return answers.swapaxes(0, 1).reshape(batch, -1, size)


def _weigher(part: WindowPart, block: Block, request: Request):  # type: ignore[no-untyped-def]
    """Sums weights, and values by weights; entries are by rows of patches, images, columns."""
    values = request.values(patches.values(part, block.images)[0])
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    size = values.shape[-1]
    values = (values * block.counts[:, None, None]).reshape(len(values), part.rows.num_keys, -1)
    values = values.swapaxes(0, 1).reshape(-1, size)

    def weigh(weights: Array) -> tuple[Array, Array]:
        sums = jnp.matmul(weights, values, precision=lax.Precision.HIGHEST)
        return sums[..., -1], sums[..., :-1]

    return weigh


def _divided(seen: Largest | None, at_once: int) -> Largest | None:
    """The largest logits of so many rows of queries at a time, filled up to whole ones."""

    def divide(array: Array) -> Array:
        margins = [(0, -len(array) % at_once)] + [(0, 0)] * (array.ndim - 1)
        # What fills up has nothing to gain from any block.
        value = -NO_ENTRY if jnp.issubdtype(array.dtype, jnp.floating) else 0
        filled = jnp.pad(array, margins, constant_values=value)
        return filled.reshape(-1, at_once, *array.shape[1:])

    return jax.tree.map(divide, seen)


def _rows_at_once(num_rows: int, columns: int) -> int:
    """How many rows of queries, of so many columns, make a matrix product large enough."""
    steps = max(1, num_rows // -(-_PRODUCT_ROWS // columns))
    return -(-num_rows // steps)
