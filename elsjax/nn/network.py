"""What all networks share: they predict the noise in x_t, and are denoisers by that."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks
from elsjax.denoisers import Denoiser, per_image, x0_from_noise
from elsjax.nn.embedding import Embedding
from elsjax.nn.layers import PADDINGS, Padding
from elsjax.schedules import CosineSchedule, Schedule


class Network(nnx.Module, Denoiser):
    """A trained denoiser: `network(x, t, label)` is the noise it predicts in x_t.

    `predict_noise` is that output itself; `denoise` and `score` follow from it. They check their
    arguments and run compiled, once for each batch shape and not for each time. Calling the
    network does neither: that is the function to differentiate. It computes in the precision of
    its weights.

    A network runs on images of any size that its pooling divides; `image_shape` is the size that
    it is meant for. A conditional network needs a label, any other refuses one.

    Attributes:
      image_shape: (height, width, channels) of the images it is meant for.
      schedule: noise schedule of the process the images come from.
      padding: "zeros" or "circular", in every convolution.
      num_classes: number of classes, or None for an unconditional network.
      dtype: of the weights.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        padding: Padding,
        num_classes: int | None,
        embedding_width: int,
        schedule: Schedule | None,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        if len(image_shape) != 3:
            raise ValueError(f"image_shape={image_shape} must be (height, width, channels)")
        for size in image_shape:
            checks.positive_int("image_shape", size)
        checks.one_of("padding", padding, PADDINGS)
        if num_classes is not None:
            checks.positive_int("num_classes", num_classes)
        checks.positive_int("embedding_width", embedding_width)
        if embedding_width % 2 or embedding_width < 4:
            raise ValueError(f"embedding_width={embedding_width} must be even and at least 4")
        height, width, channels = (int(size) for size in image_shape)
        self.image_shape = (height, width, channels)
        self._check_sides("image_shape", height, width)
        self.padding: Padding = padding
        self.num_classes = num_classes
        self.schedule = CosineSchedule() if schedule is None else schedule
        self.dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(f"dtype={self.dtype.name} must be floating point")
        self.embedding = Embedding(embedding_width, num_classes, dtype=self.dtype, rngs=rngs)

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "b h w c"], t: Float[Array, " b"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b h w c"]:
        """Predicted noise, unchecked and not compiled by itself.

        Args:
          x: noisy images, [B, H, W, C].
          t: times in [0, 1], [B].
          label: classes, [B], for a conditional network; else None.

        Returns:
          The noise, [B, H, W, C], in the precision of the weights.
        """

    @property
    @abc.abstractmethod
    def receptive_field(self) -> int:
        """Odd side of the smallest window, centred on a pixel, that its output can depend on."""

    @property
    def pooling(self) -> int:
        """What divides the sides of the images, by all poolings together."""
        return 1

    def predict_noise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Predicted noise, the network's own output; arguments and errors as `denoise`.

        Unlike a score machine's, it is defined at any t.
        """
        self.check(x, label)
        checks.times("t", t, np.shape(x)[0])
        return self._predict_noise(jnp.asarray(x, jnp.result_type(float)), t, label)

    def check(self, x: Float[ArrayLike, "b h w c"], label: ArrayLike | None) -> None:
        """Raises the ValueError that `denoise` would raise for these images and labels."""
        checks.image_batch("x", x)
        batch, height, width, channels = np.shape(x)
        if channels != self.image_shape[2]:
            raise ValueError(
                f"x has shape {list(np.shape(x))}; expected {self.image_shape[2]} channels, "
                f"[batch, height, width, {self.image_shape[2]}]"
            )
        self._check_sides("x", height, width)
        self._check_label(label, batch)

    def _check_sides(self, name: str, height: int, width: int) -> None:
        if height % self.pooling or width % self.pooling:
            raise ValueError(
                f"{name} has sides {height}×{width}; the pooling of this network needs multiples "
                f"of {self.pooling}"
            )

    def _check_label(self, label: ArrayLike | None, batch: int) -> None:
        if self.num_classes is None:
            if label is not None:
                raise ValueError(f"label={label} was given, but this network is unconditional")
            return
        if label is None:
            raise ValueError(f"label=None: this network needs one, 0 to {self.num_classes - 1}")
        if np.shape(label) not in ((), (batch,)):
            raise ValueError(f"label has shape {list(np.shape(label))}; expected [] or [{batch}]")
        if not np.issubdtype(checks.dtype_of(label), np.integer):
            raise ValueError(f"label={label} must be integers")
        values = checks.host_values(label)
        if values is not None and not ((values >= 0) & (values < self.num_classes)).all():
            raise ValueError(f"label={label} must lie in 0 to {self.num_classes - 1}")

    def _denoise(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        alpha, sigma = (per_image(level) for level in self.schedule(t))
        return x0_from_noise(x, self._predict_noise(x, t, label), alpha, sigma)

    def _predict_noise(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        batch = x.shape[:1]
        times = jnp.broadcast_to(jnp.asarray(t, x.dtype), batch)
        labels = None if label is None else jnp.broadcast_to(jnp.asarray(label, jnp.int32), batch)
        graph, weights = nnx.split(self)
        return _apply(graph, weights, x, times, labels).astype(x.dtype)


@jax.jit(static_argnames="graph")
def _apply(
    graph: nnx.GraphDef[Network], weights: nnx.State, x: Array, t: Array, label: Array | None
) -> Array:
    return nnx.merge(graph, weights)(x, t, label)
