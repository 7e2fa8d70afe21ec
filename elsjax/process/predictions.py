"""Denoisers by what they predict: a network, or another function, of x_t."""

import abc
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks
from elsjax.process.denoisers import Denoiser, noise_from_x0, per_image
from elsjax.references import Reference

# What a network or a function may say of x_t; "edm" is x_0, of x_t in other units.
Output = Literal["noise", "x0", "velocity", "score", "edm"]

_REFERENCES: dict[Output, tuple[Reference, ...]] = {
    "noise": (Reference("ho2020", "prediction of the noise"),),
    "x0": (),
    "velocity": (Reference("salimans2022", "prediction of the velocity"),),
    "score": (Reference("song2021sde", "prediction of the score"),),
    "edm": (Reference("karras2022", "the denoiser D(y; sigma)"),),
}

# `x0_from_output` or `noise_from_output`.
Form = Callable[[Output, Array, Array, Array, Array], Array]


class Predictor(Denoiser):
    """A denoiser by what a network, or another function, predicts of x_t.

    A subclass also sets `prediction` and `num_classes`, and defines `_predict`.

    Attributes:
      prediction: what the output is; see `elsjax.process.function_denoiser`.
      num_classes: number of classes, whose labels are 0 to num_classes - 1; None for no classes.
    """

    prediction: Output
    num_classes: int | None

    @abc.abstractmethod
    def _predict(
        self, x: Float[Array, "b h w c"], t: Float[Array, " b"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b h w c"]:
        """The output for checked arguments, in the precision of x."""

    def predict_noise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Predicted noise, [B, H, W, C]; arguments and errors as `denoise`.

        It is defined at any t if noise, velocity or score are predicted.

        Raises:
          ValueError: also where sigma_t = 0, if x_0 is predicted.
        """
        if self.prediction in ("x0", "edm"):
            return super().predict_noise(x, t, label)
        x, t, label = self.checked(x, t, label)
        return self._estimate(noise_from_output, x, *self._of_each_image(x, t, label))

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for what it predicts, and for its schedule."""
        return (*_REFERENCES[self.prediction], *super().references)

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`; without a label there is nothing to refuse."""
        if label is None:
            return
        if self.num_classes is None:
            raise ValueError(
                f"label={label} was given, but {type(self).__name__} knows no classes: it was made "
                "with num_classes=None"
            )
        values = checks.host_values(label)
        if values is not None and not ((values >= 0) & (values < self.num_classes)).all():
            raise ValueError(f"label={values.tolist()} must lie in 0 to {self.num_classes - 1}")

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        return self._estimate(x0_from_output, x, *self._of_each_image(x, t, label))

    def _of_each_image(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> tuple[Float[Array, " b"], Int[Array, " b"] | None]:
        """Times and labels that may be one for all; -1 for a label that is not known."""
        times = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        if label is None or self.num_classes is None:
            return times, None
        # An array not known yet has not been checked. Of 64 bits it is looked at in 64.
        label = jnp.asarray(label, int)
        label = jnp.where((label >= 0) & (label < self.num_classes), label, -1)
        return times, jnp.broadcast_to(label.astype(jnp.int32), x.shape[:1])

    def _estimate(
        self,
        form: Form,
        x: Float[Array, "b h w c"],
        t: Float[Array, " b"],
        label: Int[Array, " b"] | None,
    ) -> Float[Array, "b h w c"]:
        """What follows from the output; NaN for a label of -1, to which any class is wrong."""
        alpha, sigma = (per_image(level) for level in self.schedule(t))
        estimate = form(self.prediction, x, self._predict(x, t, label), alpha, sigma)
        if label is None:
            return estimate
        return jnp.where(label.reshape(-1, 1, 1, 1) >= 0, estimate, jnp.nan)


def x0_from_noise(x: Array, noise: Array, alpha: Array, sigma: Array) -> Array:
    """`x_0 = (x_t - sigma eps) / alpha`, [B, H, W, C]; levels broadcast against x."""
    return (x - sigma * noise) / alpha


def x0_from_output(
    prediction: Output, x: Array, output: Array, alpha: Array, sigma: Array
) -> Array:
    """x_0, [B, H, W, C], from what is predicted of x_t; levels broadcast against x."""
    if prediction in ("x0", "edm"):
        return output
    if prediction == "velocity":
        return alpha * x - sigma * output
    if prediction == "score":
        return (x + sigma**2 * output) / alpha
    return x0_from_noise(x, output, alpha, sigma)


def noise_from_output(
    prediction: Output, x: Array, output: Array, alpha: Array, sigma: Array
) -> Array:
    """Noise, [B, H, W, C], from what is predicted of x_t; levels broadcast against x."""
    if prediction == "noise":
        return output
    if prediction == "velocity":
        return sigma * x + alpha * output
    if prediction == "score":
        return -sigma * output
    return noise_from_x0(x, output, alpha, sigma)
