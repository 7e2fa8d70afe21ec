"""What all networks share: what they predict of x_t, and that they are denoisers by that.

For x_t = alpha x_0 + sigma eps, alpha² + sigma² = 1, a network's output is one of

    noise     eps                        x_0 = (x_t - sigma eps) / alpha
    velocity  v = alpha eps - sigma x_0  x_0 = alpha x_t - sigma v,  eps = sigma x_t + alpha v
    x0        x_0                        eps = (x_t - alpha x_0) / sigma

(Ho et al. 2020; Salimans & Ho 2022.) An error of the noise is divided by alpha, which is small at
t -> 1; an error of the velocity is not divided by anything.
"""

import abc
from typing import Any, Literal, get_args

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

Prediction = Literal["noise", "velocity", "x0"]


class Network(nnx.Module, Denoiser):
    """A trained denoiser: `network(x, t, label)` is what it predicts of x_t, see `prediction`.

    `denoise`, `predict_noise` and `score` follow from that output. They check their arguments and
    run compiled, once for each batch shape and not for each time. Calling the network does
    neither: that is the function to differentiate. It computes in the precision of its weights.

    A network runs on images of any size that its pooling divides; `image_shape` is the size that
    it is meant for. A conditional network needs a label, any other refuses one.

    Attributes:
      image_shape: (height, width, channels) of the images it is meant for.
      schedule: noise schedule of the process the images come from.
      padding: "zeros" or "circular", in every convolution.
      num_classes: number of classes, or None for an unconditional network.
      prediction: what its output is, "noise", "velocity" or "x0".
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
        *,
        prediction: Prediction,
    ) -> None:
        if len(image_shape) != 3:
            raise ValueError(f"image_shape={image_shape} must be (height, width, channels)")
        for size in image_shape:
            checks.positive_int("image_shape", size)
        checks.one_of("padding", padding, PADDINGS)
        if num_classes is not None:
            checks.positive_int("num_classes", num_classes)
        checks.one_of("prediction", prediction, get_args(Prediction))
        checks.positive_int("embedding_width", embedding_width)
        if embedding_width % 2 or embedding_width < 4:
            raise ValueError(f"embedding_width={embedding_width} must be even and at least 4")
        height, width, channels = (int(size) for size in image_shape)
        self.image_shape = (height, width, channels)
        self._check_sides("image_shape", height, width)
        self.padding: Padding = padding
        self.num_classes = num_classes
        self.prediction: Prediction = prediction
        self.schedule = CosineSchedule() if schedule is None else schedule
        self.dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(f"dtype={self.dtype.name} must be floating point")
        self.embedding = Embedding(embedding_width, num_classes, dtype=self.dtype, rngs=rngs)

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "b h w c"], t: Float[Array, " b"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b h w c"]:
        """What the network predicts, unchecked and not compiled by itself.

        Args:
          x: noisy images, [B, H, W, C].
          t: times in [0, 1], [B].
          label: classes, [B], for a conditional network; else None.

        Returns:
          The noise, the velocity or x_0, [B, H, W, C], in the precision of the weights.
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
        """Predicted noise, [B, H, W, C]; arguments and errors as `denoise`.

        It is defined at any t if the network predicts noise or velocity.

        Raises:
          ValueError: also where sigma_t = 0, if the network predicts x_0.
        """
        if self.prediction == "x0":
            return super().predict_noise(x, t, label)
        self.check(x, label)
        checks.times("t", t, np.shape(x)[0])
        x = jnp.asarray(x, jnp.result_type(float))
        output = self._output(x, t, label)
        if self.prediction == "noise":
            return output
        alpha, sigma = (per_image(level) for level in self.schedule(t))
        return sigma * x + alpha * output

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
        return x0_from_output(self.prediction, x, self._output(x, t, label), alpha, sigma)

    def _output(
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


def x0_from_output(
    prediction: Prediction, x: Array, output: Array, alpha: Array, sigma: Array
) -> Array:
    """x_0, [B, H, W, C], from what a network predicts of x_t; levels broadcast against x."""
    if prediction == "x0":
        return output
    if prediction == "velocity":
        return alpha * x - sigma * output
    return x0_from_noise(x, output, alpha, sigma)
