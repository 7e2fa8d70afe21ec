"""What a method is: a way to have the logits of a part's queries against a block of images.

The logit of a key y for a query x at levels alpha, sigma is

    -|x - alpha y|² / 2 sigma² = (alpha x . y - alpha² |y|² / 2) / sigma² + const(x)

and the constant cancels in the softmax. So a query scaled by alpha / sigma², with -alpha² / 2
sigma² appended, and a key with |y|² appended, have the logit as their inner product, for any number
of noisy images and noise levels at once.

Every product that feeds an exponential or an output runs at full float32 (or float64) precision.
"""

import abc
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from elsjax.pixels import to_float
from elsjax.posterior import patches, softmax
from elsjax.posterior.dictionaries import Part
from elsjax.posterior.ranking import Largest
from elsjax.posterior.softmax import Entries, PosteriorState, Request


class Plan(NamedTuple):
    """How the work is cut.

    Attributes:
      images: training images per block.
      rows: rows r of queries per tile.
    """

    images: int
    rows: int


class Block(NamedTuple):
    """Training images that are looked at together.

    Attributes:
      images: less the origin, as `Method.shifted` gives them.
      counts: how often each counts; 0 where the block is filled up, at its end.
      numbers: the caller's, rising where they count.
    """

    images: Float[Array, "n h w c"]
    counts: Float[Array, " n"]
    numbers: Int[Array, " n"]


class Method(abc.ABC):
    """A way to have logits, for one part of a dictionary. Frozen: a static argument.

    Attributes:
      part: the part.
    """

    part: Part

    @staticmethod
    @abc.abstractmethod
    def applies(part: Part) -> bool:
        """Whether this is a method for a part."""

    @property
    @abc.abstractmethod
    def multiplications(self) -> float:
        """Multiplications of the products behind one logit."""

    @property
    def cost(self) -> float:
        """What a logit costs, in multiplications."""
        return self.multiplications

    @property
    def num_groups(self) -> int:
        """g: number of groups in the method's states."""
        return self.part.num_groups

    @abc.abstractmethod
    def plan(self, batch: int, num_images: int, itemsize: int, budget: int) -> Plan:
        """The largest blocks whose temporary arrays fit in a memory budget.

        Args:
          batch: number of noisy images.
          num_images: number of training images.
          itemsize: bytes of a number.
          budget: bytes.

        Returns:
          The plan; at least one image and one row, even where that exceeds the budget.
        """

    def origin(self, mean_pixel: Float[Array, " c"]) -> Float[Array, " c"]:
        """The pixel that counts as 0 in the arithmetic.

        Only differences count. With the data's mean as the origin, norms and products are smaller,
        and so are their rounding errors in the exponent.
        """
        return mean_pixel

    def shifted(
        self, pixels: Num[Array, "n h w c"], origin: Float[Array, " c"]
    ) -> Float[Array, "n h w c"]:
        """Training images, as they are stored, less the origin."""
        return to_float(pixels, origin.dtype) - origin[None, None, None]

    @abc.abstractmethod
    def queries(self, x: Float[Array, "b h w c"]) -> Float[Array, "s b q d"]:
        """Noisy images as queries, before the last entry of each is appended."""

    def tile(self, queries: Float[Array, "s r e"]) -> Any:
        """What is made of a tile of queries once, before it meets block after block."""
        return queries

    @abc.abstractmethod
    def state(
        self,
        queries: Any,
        block: Block,
        request: Request,
        seen: Largest | None,
    ) -> tuple[PosteriorState, Largest | None]:
        """The state of a block, and the largest logits so far.

        Args:
          queries: a tile of them, as `tile` gives it.
          block: training images.
          request: what is asked for.
          seen: the largest logits before this block, of shape [g, r]; None if not asked for.

        Returns:
          The state, of shape [g, r], and the largest of those seen and the block's.
        """

    def by_pixels(self, answers: Num[Array, "g b q v"]) -> Num[Array, "b p u"]:
        """Answers in the order of the part's pixels."""
        return patches.by_pixels(self.part, answers)


def weighted(
    logits: Float[Array, "g r l"],
    values: Float[Array, "g x y v"],
    counts: Float[Array, "..."],
    request: Request,
    entries: Entries,
    seen: Largest | None,
    pieces: int = 1,
) -> tuple[PosteriorState, Largest | None]:
    """The state of some entries, l = x y; counts, in the shape of the values, are of images.

    Sums are over so many pieces of l, each summed by a product: long products of few rows round off
    more than those of many.
    """
    values = request.values(values)
    # A column of ones makes the product return the sum of weights as well.
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1) * counts
    values = values.reshape(len(values), pieces, -1, values.shape[-1])

    def weigh(weights: Array) -> tuple[Array, Array]:
        weights = weights.reshape(*weights.shape[:2], pieces, -1)
        sums = jnp.einsum("grpl,gplv->gprv", weights, values, precision=lax.Precision.HIGHEST)
        sums = sums.sum(axis=1)
        return sums[..., -1], sums[..., :-1]

    return softmax.from_ranked_logits(logits, weigh, request, entries, seen)
