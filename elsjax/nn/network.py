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
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks, parallel
from elsjax.nn.layers import PADDINGS, Padding
from elsjax.process.denoisers import LEAST_SIGNAL, Denoiser
from elsjax.process.predictions import Form, Predictor
from elsjax.process.schedules import CosineSchedule, Schedule

Prediction = Literal["noise", "velocity", "x0"]


class Network(nnx.Module, Predictor):
    """A trained denoiser: `network(x, t, label)` is what it predicts of x_t, see `prediction`.

    `denoise`, `predict_noise` and `score` follow from that output. They check their arguments and
    run compiled, once for each batch shape and form and not for each time. Calling the network does
    neither: that is the function to differentiate. It computes in the precision of its weights.

    A network runs on images of any size that its pooling divides; `image_shape` is the size that
    it is meant for. A conditional network needs a label, any other refuses one.

    Its arguments are the settings of all networks: every network's constructor takes them. Each is
    kept as an attribute of its name. A new network is a subclass that defines `__call__` and
    `receptive_field`, and `pooling` if it pools. Its constructor passes the settings on to this
    one, and keeps its own arguments as attributes too.

    Args:
      image_shape: (height, width, channels) of the images it is meant for; sides are multiples of
        `pooling`.
      padding: padding of every convolution, "zeros" or "circular".
      num_classes: number of classes to condition on; None for an unconditional network.
      kernel_size: odd side of the kernels.
      last_kernel_size: odd side of the last kernel.
      prediction: what the output is: "noise", "velocity" or "x0"; see `elsjax.nn.network`.
      schedule: noise schedule of the process; `CosineSchedule()` by default.
      dtype: of the weights; float32 by default, float64 under `jax_enable_x64`.
      rngs: keys for the weights, `flax.nnx.Rngs(seed)`.

    Raises:
      ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        padding: Padding = "zeros",
        num_classes: int | None = None,
        kernel_size: int = 3,
        last_kernel_size: int = 3,
        prediction: Prediction = "noise",
        schedule: Schedule | None = None,
        dtype: Any = None,
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
        self.kernel_size = checks.odd_int("kernel_size", kernel_size)
        self.last_kernel_size = checks.odd_int("last_kernel_size", last_kernel_size)
        checks.one_of("prediction", prediction, get_args(Prediction))
        self.prediction: Prediction = prediction
        # From the noise alone x_0 is had by a division by alpha.
        self.least_alpha = LEAST_SIGNAL if prediction == "noise" else 0.0
        self.schedule = CosineSchedule() if schedule is None else schedule
        checks.instance("schedule", self.schedule, Schedule, "CosineSchedule()")
        self.dtype = checks.floating_dtype("dtype", dtype)

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

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Denoiser:
        """See `Denoiser.with_mesh`; every device has the weights."""
        parallel.check_mesh(mesh)
        graph, weights = nnx.split(self)
        return Denoiser.with_mesh(nnx.merge(graph, parallel.everywhere(weights, mesh)), mesh)

    def check_images(self, x: Float[ArrayLike, "b h w c"]) -> Array | np.ndarray:
        """See `Denoiser.check_images`."""
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

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`; a conditional network needs one."""
        if self.num_classes is None and label is not None:
            raise ValueError(f"label={label} was given, but this network is unconditional")
        if self.num_classes is not None and label is None:
            raise ValueError(f"label=None: this network needs one, 0 to {self.num_classes - 1}")
        super().check_label(label, batch)

    def _predict(
        self, x: Float[Array, "b h w c"], t: Float[Array, " b"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b h w c"]:
        """See `Predictor._predict`."""
        return self(x, t, label).astype(x.dtype)

    def _estimate(
        self,
        form: Form,
        x: Float[Array, "b h w c"],
        t: Float[Array, " b"],
        label: Int[Array, " b"] | None,
    ) -> Float[Array, "b h w c"]:
        """See `Predictor._estimate`."""
        return _compiled_estimate(form, self, x, t, label)


@jax.jit(static_argnames="form")
def _compiled_estimate(
    form: Form, network: Network, x: Array, t: Array, label: Array | None
) -> Array:
    return Predictor._estimate(network, form, x, t, label)
