"""Requests of queries for clusters, packed so that a cluster's patches are read once for several.

Which queries request which clusters is a mask, sparse and ragged; what is computed has one shape.
So requests are packed. A *unit* is a cluster with up to `SLOTS` of the queries that request it,
each in a *slot* of the unit; a cluster that more queries request gets several units. `UNITS` units
take one *turn*: they are opened together.

The mask is kept as bits, 32 queries to a word; who is in which slot is found by counting them.

Axis names: r queries, k clusters, w = r / 32 words, u units of a turn, s slots.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

# Queries that share a cluster's patches, and clusters opened at a time.
SLOTS = 4
UNITS = 128

# Queries whose bits are packed into a word; divides the number of queries.
WORD = 32


class Units(NamedTuple):
    """The units of one turn.

    Attributes:
      cluster: of each unit.
      query: in each slot; any one where the slot is free.
      taken: whether a slot is taken.
    """

    cluster: Int[Array, " u"]
    query: Int[Array, "u s"]
    taken: Bool[Array, "u s"]


class Requests(NamedTuple):
    """Which queries request which clusters.

    Attributes:
      words: the mask, 32 queries to a word, the first in the lowest bit.
      ends: how many queries up to each word's last request a cluster.
      units: how many units there are up to each cluster.
    """

    words: UInt32[Array, "k w"]
    ends: Int[Array, "k w"]
    units: Int[Array, " k"]

    @property
    def num_turns(self) -> Int[Array, ""]:
        """Number of turns."""
        return -(-self.units[-1] // UNITS)

    def turn(self, turn: Int[Array, ""]) -> Units:
        """The units of a turn."""
        unit = turn * UNITS + jnp.arange(UNITS)
        cluster = jnp.searchsorted(self.units, unit, side="right")
        cluster = jnp.minimum(cluster, len(self.units) - 1)
        ends = self.ends[cluster]
        first = self.units[cluster] - -(-ends[:, -1] // SLOTS)
        rank = (unit - first)[:, None] * SLOTS + jnp.arange(SLOTS)[None]
        taken = (rank < ends[:, -1:]) & (unit < self.units[-1])[:, None]
        query = _nth_request(self.words[cluster], ends, rank)
        return Units(cluster, jnp.where(taken, query, 0), taken)


def pack(mask: Bool[Array, "r k"]) -> Requests:
    """Packs a mask of requests; the number of queries is a multiple of `WORD`."""
    rows = len(mask)
    row, half = jnp.arange(rows), jnp.arange(2 * rows // WORD)
    # As a product, of halves that floats hold exactly, which is faster on a CPU.
    bits = WORD // 2
    places = jnp.where(row[None] // bits == half[:, None], 2 ** (row % bits)[None], 0)
    halves = jnp.matmul(
        places.astype(jnp.float32), mask.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
    halves = halves.astype(jnp.uint32)
    words = (halves[::2] | (halves[1::2] << bits)).T
    ends = jnp.cumsum(lax.population_count(words).astype(jnp.int32), axis=1)
    return Requests(words, ends, jnp.cumsum(-(-ends[:, -1] // SLOTS)))


def sum_by_query(
    values: Float[Array, "u s v"], query: Int[Array, "u s"], rows: int
) -> Float[Array, "r v"]:
    """Sums of the values in the slots of each query.

    A scatter, as a product: query 32 i + j is row i and column j of a table of sums.
    """
    num = values.shape[2]
    word, bit = (jnp.ravel(part) for part in jnp.divmod(query, WORD))
    is_word = word[:, None] == jnp.arange(rows // WORD)[None]
    is_bit = (bit[:, None] == jnp.arange(WORD)[None]).astype(values.dtype)
    table = jnp.where(is_word[:, None], values.reshape(-1, num)[..., None], 0)
    sums = jnp.einsum("xvw,xb->wbv", table, is_bit, precision=lax.Precision.HIGHEST)
    return sums.reshape(rows, num)


def _nth_request(
    words: UInt32[Array, "u w"], ends: Int[Array, "u w"], rank: Int[Array, "u s"]
) -> Int[Array, "u s"]:
    """The queries before which so many others request a unit's cluster."""
    word = jnp.sum(ends[:, None, :] <= rank[:, :, None], axis=-1)
    word = jnp.minimum(word, ends.shape[1] - 1)
    bits = jnp.take_along_axis(words, word, axis=1)
    inside = (
        rank
        - jnp.take_along_axis(ends, word, axis=1)
        + lax.population_count(bits).astype(jnp.int32)
    )
    # The place of the bit before which so many bits are set.
    below = jnp.asarray([2 ** (bit + 1) - 1 for bit in range(WORD)], jnp.uint32)
    before = lax.population_count(bits[..., None] & below[None, None]).astype(jnp.int32)
    return word * WORD + jnp.sum(before <= inside[..., None], axis=-1)
