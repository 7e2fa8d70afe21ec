"""Mosaics: which training pixel every pixel of a sample was copied from, step by step."""

import dataclasses

import jax
from jaxtyping import Array, Float, Int

from elsjax.posterior.answers import Top


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mosaic:
    """A reverse process of a score machine, with the sources of every pixel at every step.

    S steps lead from times[0] to times[S] = 0; step s looks at states[s], at the time times[s]. The
    most likely source of a pixel is top.*[s, b, i, j, 0].

    Attributes:
      times: of the states, [S + 1], falling.
      windows: side P(t) of the window at each step, [S]; 0 for the whole image.
      states: x_t, [S + 1, B, H, W, C]: the noise first, the samples last.
      x0: estimates of the clean images at each step, [S, B, H, W, C].
      top: the likeliest training pixels at each step, weights and sources, [S, B, H, W, k].
      effective_number: of training patches, [S, B, H, W].
      entropy: of their weights, in nats, [S, B, H, W].
      label: class of each sample, [B]; None without.
      left_out: of each sample, the training image that gave most pixels at the last step, [B].
      repainted: the samples from the same noise without that image, [B, H, W, C].
    """

    times: Float[Array, " steps"]
    windows: Int[Array, " s"]
    states: Float[Array, "steps b h w c"]
    x0: Float[Array, "s b h w c"]
    top: Top
    effective_number: Float[Array, "s b h w"]
    entropy: Float[Array, "s b h w"]
    label: Int[Array, " b"] | None
    left_out: Int[Array, " b"]
    repainted: Float[Array, "b h w c"]

    @property
    def samples(self) -> Float[Array, "b h w c"]:
        """The images at the end, [B, H, W, C]."""
        return self.states[-1]
