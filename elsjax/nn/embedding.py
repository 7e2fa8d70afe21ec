"""What tells a network the time and the class: one vector for each image."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from elsjax.nn.layers import standard_normal


def time_features(t: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """`[sin(t f), cos(t f)]` with `width / 2` frequencies f from 1 down to 1/10000.

    Time is not scaled: t in [0, 1], so most frequencies see it as nearly constant. That is what
    the published networks were trained with.

    Args:
      t: times, [B].
      width: number of features, even, at least 4.

    Returns:
      The features, [B, width], sines first.
    """
    count = width // 2
    frequencies = 10000.0 ** (-np.arange(count) / (count - 1))
    angles = t[:, None] * jnp.asarray(frequencies, t.dtype)[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class Embedding(nnx.Module):
    """Time features, plus a trained vector for the class where the network is conditional.

    Args:
      width: length of the vector, even, at least 4.
      num_classes: number of classes; None for an unconditional network.
      dtype: of the weights, and of the result.
      rngs: keys for the class vectors.
    """

    def __init__(
        self, width: int, num_classes: int | None, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.width = width
        self.dtype = dtype
        classes = None
        if num_classes is not None:
            classes = nnx.Embed(
                num_classes, width, param_dtype=dtype, embedding_init=standard_normal, rngs=rngs
            )
        self.classes = classes

    def __call__(
        self, t: Float[Array, " b"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b width"]:
        """The embedding of times [B] and, for a conditional network, labels [B]: [B, width]."""
        vector = time_features(t, self.width).astype(self.dtype)
        if self.classes is None or label is None:
            return vector
        return vector + self.classes(label)
