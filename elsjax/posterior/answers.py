"""What is asked of the posterior's weights, in the terms of the caller.

p runs over the K entries of a pixel's dictionary, each a patch with a source (n, r, c), the
training pixel that would be copied, of value v_p = images[n, r, c]; l_p = -|x_t[Ω] - alpha p|² / 2
sigma², w = softmax(l). Ω is the pixel's window, d the number of its entries inside the image.

| answer           | definition                                                     |
| ---------------- | -------------------------------------------------------------- |
| mean             | sum w v                                                        |
| log_evidence     | log(1/K sum exp l) - d/2 log 2 pi sigma²: log p_t(x_t[Ω])       |
| variance         | sum w v² - mean²                                               |
| effective_number | 1 / sum w²                                                     |
| entropy          | -sum w log w, in nats                                          |
| top              | the largest weights and their sources                          |
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from elsjax.posterior import patches, softmax
from elsjax.posterior.dictionaries import Dictionary, ImagePart, Part, WindowPart
from elsjax.posterior.ranking import Largest
from elsjax.posterior.softmax import PosteriorState, Request

Answer = Literal["mean", "log_evidence", "variance", "effective_number", "entropy"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Top:
    """The entries with the k largest weights, ranked; of equal ones the smallest source is first.

    Entries whose logits agree up to rounding count as equal; of equal translates of an image (ES)
    the smallest shift is first. Where a pixel has fewer than k entries the rest has weight 0 and
    source -1.

    Attributes:
      weight: [B, H, W, k].
      image: number of the training image, as the caller counts them, [B, H, W, k].
      row: of the training pixel, [B, H, W, k].
      column: of the training pixel, [B, H, W, k].
    """

    weight: Float[Array, "*b h w k"]
    image: Int[Array, "*b h w k"]
    row: Int[Array, "*b h w k"]
    column: Int[Array, "*b h w k"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """Answers about x_0 given x_t at each pixel; None for those not asked for.

    Attributes:
      mean: E[x_0 | x_t], [B, H, W, C].
      log_evidence: log density of the noisy window that the pixel sees, [B, H, W].
      variance: of x_0, [B, H, W, C].
      effective_number: of training patches, [B, H, W], from 1 to their number.
      entropy: of the weights, in nats, [B, H, W].
      top: the patches of the largest weights; None for top=0.
    """

    mean: Float[Array, "*b h w c"] | None
    log_evidence: Float[Array, "*b h w"] | None
    variance: Float[Array, "*b h w c"] | None
    effective_number: Float[Array, "*b h w"] | None
    entropy: Float[Array, "*b h w"] | None
    top: Top | None


@dataclasses.dataclass(frozen=True)
class Question:
    """Which answers are asked for.

    A question of one's own is a subclass with another `request` and `finish`.

    Attributes:
      of_channels: answers with a number for each channel of a pixel; others have one for all.
      answers: names of them.
      top: how many of the largest weights.
    """

    of_channels: ClassVar[tuple[str, ...]] = ("mean", "variance")

    answers: tuple[Answer, ...] = ("mean",)
    top: int = 0

    @property
    def request(self) -> Request:
        """What has to be accumulated."""
        sums = {name: name in self.answers for name in ("effective_number", "entropy")}
        return Request(moments=2 if "variance" in self.answers else 1, **sums, top=self.top)

    def finish(
        self, seen: PosteriorState, largest: Largest | None, origin: Float[Array, " c"]
    ) -> dict[str, Array]:
        """The answers of a state that has seen all entries, by name, each [*q, size].

        The log evidence is the log of the sum of weights: what it lacks is `evidence_constant`.

        Args:
          seen: the state, of values less the origin.
          largest: the largest logits; None if not asked for.
          origin: pixel that counts as 0.
        """
        found: dict[str, Array] = {}
        size = seen.total.shape[-1] // self.request.moments
        mean = softmax.mean(seen)[..., :size]
        log_weight = jnp.log(seen.weight)
        if "mean" in self.answers:
            tiled = jnp.resize(origin, (size,))
            found["mean"] = mean + jnp.broadcast_to(tiled, mean.shape)
        if "log_evidence" in self.answers:
            found["log_evidence"] = (seen.maximum + log_weight)[..., None]
        if "variance" in self.answers:
            found["variance"] = jnp.maximum(softmax.mean(seen)[..., size:] - mean * mean, 0)
        if seen.squared_weight is not None:
            found["effective_number"] = (seen.weight**2 / seen.squared_weight)[..., None]
        if seen.weighted_logit is not None:
            found["entropy"] = (log_weight - seen.weighted_logit / seen.weight)[..., None]
        if largest is not None:
            below = largest.logit - (seen.maximum + log_weight)[..., None]
            found["weight"] = jnp.where(largest.image >= 0, jnp.exp(below), 0)
            found["image"], found["place"] = largest.image, largest.place
        return found


def evidence_constant(
    dictionary: Dictionary,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    origin: Float[Array, " c"],
) -> Float[Array, "b h w"]:
    """What the log of a pixel's sum of weights lacks to its log evidence, but for log K.

    Args:
      dictionary: which entries.
      x: noisy images.
      alpha: signal level of each.
      sigma: noise level of each.
      origin: pixel that counted as 0.

    Returns:
      -|x[Ω] - alpha origin|² / 2 sigma² - d/2 log 2 pi sigma².
    """
    variance = (sigma * sigma)[:, None, None]
    squares = jnp.sum((x - alpha[:, None, None, None] * origin[None, None, None]) ** 2, axis=-1)
    inside = jnp.full(x.shape[1:3], x.shape[3], x.dtype)
    if dictionary.window is None:
        squares = jnp.broadcast_to(squares.sum((1, 2), keepdims=True), squares.shape)
        inside = jnp.broadcast_to(inside.sum(), inside.shape)
    else:
        part = dictionary.parts[0]
        assert isinstance(part, WindowPart)
        covers = [
            jnp.asarray(part.covers(axis, np.arange(length)), x.dtype)
            for axis, length in enumerate(x.shape[1:3])
        ]
        squares, inside = (
            jnp.einsum("iy,...yx,jx->...ij", covers[0], array, covers[1], precision="highest")
            for array in (squares, inside)
        )
    return -squares / (2 * variance) - inside[None] / 2 * jnp.log(2 * jnp.pi * variance)


def located(
    part: Part, image: Int[Array, "b p k"], place: Int[Array, "b p k"]
) -> tuple[Array, Array]:
    """Rows and columns of the training pixels, -1 where there is none.

    Args:
      part: the part.
      image: numbers of images, -1 for none.
      place: numbers of entries among those of an image.

    Returns:
      Rows and columns, each [b, p, k].
    """
    height, width, _ = part.image_shape
    if isinstance(part, ImagePart):
        row, column = (jnp.asarray(c)[None, :, None] for c in np.divmod(part.pixels, width))
        if part.translates:
            down, right = jnp.divmod(place, width)
            row, column = (row - down) % height, (column - right) % width
    else:
        numbers = np.arange(part.num_groups)[:, None, None, None]
        shape = (part.num_groups, 1, part.queries_per_image, 1)
        group = patches.by_pixels(part, jnp.broadcast_to(numbers, shape))[..., 0]
        rows, columns = patches.sources(part)
        # Places of a group in one flat table.
        flat = group[..., None] * rows.shape[1] + place
        row, column = (jnp.asarray(table.ravel())[flat] for table in (rows, columns))
    return tuple(jnp.where(image >= 0, source, -1).astype(jnp.int32) for source in (row, column))  # type: ignore[return-value]
