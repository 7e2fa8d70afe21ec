"""What all networks share: they predict the noise in x_t, and are denoisers by that."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks
from elsjax.denoisers import LEAST_SIGNAL, Denoiser, per_image, x0_from_noise
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

    least_alpha = LEAST_SIGNAL  # x_0 is had from the noise by a division by alpha

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
        checks.instance("rngs", rngs, nnx.Rngs, "flax.nnx.Rngs(0)")
        self.image_shape = checks.image_shape("image_shape", image_shape)
        self._check_sides("image_shape", *self.image_shape[:2])
        checks.one_of("padding", padding, PADDINGS)
        self.padding: Padding = padding
        self.num_classes = (
            None if num_classes is None else checks.positive_int("num_classes", num_classes)
        )
        embedding_width = checks.positive_int("embedding_width", embedding_width)
        if embedding_width % 2 or embedding_width < 4:
            raise ValueError(f"embedding_width={embedding_width} must be even and at least 4")
        self.schedule = CosineSchedule() if schedule is None else schedule
        checks.instance("schedule", self.schedule, Schedule, "CosineSchedule()")
        self.dtype = checks.floating_dtype("dtype", dtype)
        self.embedding = Embedding(embedding_width, self.num_classes, dtype=self.dtype, rngs=rngs)

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
        return self._predict_noise(*self._checked(x, t, label))

    def _check_images(self, x: Float[ArrayLike, "b h w c"]) -> Array | np.ndarray:
        x = checks.noisy_images("x", x)
        _, height, width, channels = x.shape
        if channels != self.image_shape[2]:
            raise ValueError(
                f"x has shape {list(x.shape)}; expected {self.image_shape[2]} channels, "
                f"[batch, height, width, {self.image_shape[2]}]"
            )
        self._check_sides("x", height, width)
        return x

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
        values = checks.host_values(label)
        if values is not None and not ((values >= 0) & (values < self.num_classes)).all():
            raise ValueError(f"label={values.tolist()} must lie in 0 to {self.num_classes - 1}")

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
        noise = _apply(graph, weights, x, times, labels).astype(x.dtype)
        classes = self.num_classes
        if labels is None or classes is None or checks.host_values(label) is not None:
            return noise
        # What is not known yet has not been checked: another class would be a wrong answer.
        known = (labels >= 0) & (labels < classes)
        return jnp.where(known.reshape(-1, 1, 1, 1), noise, jnp.nan)


@jax.jit(static_argnames="graph")
def _apply(
    graph: nnx.GraphDef[Network], weights: nnx.State, x: Array, t: Array, label: Array | None
) -> Array:
    return nnx.merge(graph, weights)(x, t, label)
