"""Any function of x_t as a denoiser: a network of one's own, in whatever framework, or a formula.

For x_t = alpha x_0 + sigma eps, alpha² + sigma² = 1, the function returns an estimate of one of

    noise     eps                                x_0 = (x_t - sigma eps) / alpha
    x0        x_0
    velocity  v = alpha eps - sigma x_0          x_0 = alpha x_t - sigma v
    score     s = (alpha x_0 - x_t) / sigma²     x_0 = (x_t + sigma² s) / alpha
    edm       x_0, as D(x_t / alpha; sigma / alpha)

(Ho et al. 2020; Salimans & Ho 2022; Song, Sohl-Dickstein et al. 2021, s = grad log p_t; Karras et
al. 2022). D takes y = x_0 + n with noise n of any level, as x_t / alpha is with noise of level
sigma / alpha.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from elsjax import checks
from elsjax.process.denoisers import LEAST_SIGNAL, per_image
from elsjax.process.predictions import Output, Predictor
from elsjax.process.schedules import CosineSchedule, Schedule

Function = Callable[[Float[Array, "b h w c"], Float[Array, " b"], Int[Array, " b"] | None], Any]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False, init=False)
class FunctionDenoiser(Predictor):
    """A function `function(x, t, label)` as a denoiser.

    For x_t = alpha x_0 + sigma eps it returns an estimate of one of

        noise     eps
        x0        x_0
        velocity  v = alpha eps - sigma x_0
        score     s = grad log p_t = (alpha x_0 - x_t) / sigma²
        edm       x_0, as D(x_t / alpha; sigma / alpha)

    The function is called as it is, and not compiled: wrap it in `jax.jit` yourself. It gets JAX
    arrays: x, [B, H, W, C], in float64 under `jax_enable_x64`, else float32; t, [B], in the same
    precision; and label, [B] in int32, or None. A function of another framework, such as PyTorch on
    the CPU, may return anything that `numpy.asarray` takes: NumPy arrays, or detached tensors. It
    cannot be traced, so not be part of a computation under `jax.jit` or `jax.vmap`. What is
    returned is converted to the precision of x.

    Without num_classes a label is refused. With num_classes a label may be given; None is passed
    on as None, as networks trained for classifier-free guidance take it.

    A denoiser does not change. It can be an argument of a jitted function, to which the function
    and all that it holds are constants.

    Args:
      function: `function(x, t, label)`, [B, H, W, C]. For "edm" it is
        `function(y, noise_level, label)` with y = x / alpha and noise_level = sigma / alpha, [B].
      image_shape: (height, width, channels) of the images.
      schedule: noise schedule of the process, `CosineSchedule()` by default: what t and the levels
        are at which the function is called.
      prediction: what the function returns: "noise", "x0", "velocity", "score" or "edm".
      num_classes: number of classes, whose labels are 0 to num_classes - 1; None for no classes.

    Raises:
      ValueError: if an argument is not as described; from `denoise` and all that calls it also if
        what the function returns is not real numbers, [B, H, W, C].
    """

    function: Function
    image_shape: tuple[int, int, int]
    schedule: Schedule
    prediction: Output
    num_classes: int | None

    def __init__(
        self,
        function: Function,
        image_shape: tuple[int, int, int],
        *,
        schedule: Schedule | None = None,
        prediction: Output = "noise",
        num_classes: int | None = None,
    ) -> None:
        if not callable(function):
            raise ValueError(f"function={function!r} must be callable, as function(x, t, label)")
        image_shape = checks.image_shape("image_shape", image_shape)
        schedule = CosineSchedule() if schedule is None else schedule
        checks.instance("schedule", schedule, Schedule, "CosineSchedule()")
        checks.one_of("prediction", prediction, get_args(Output))
        if num_classes is not None:
            num_classes = checks.positive_int("num_classes", num_classes)
        vars(self).update(
            function=function,
            image_shape=image_shape,
            schedule=schedule,
            prediction=prediction,
            num_classes=num_classes,
            # The others divide by alpha.
            least_alpha=0.0 if prediction in ("x0", "velocity") else LEAST_SIGNAL,
        )

    def _predict(
        self, x: Float[Array, "b h w c"], t: Float[Array, " b"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b h w c"]:
        """See `Predictor._predict`."""
        if self.prediction == "edm":
            alpha, sigma = self.schedule(t)
            output = self.function(x / per_image(alpha), sigma / alpha, label)
        else:
            output = self.function(x, t, label)
        return jnp.asarray(_real_array(output, x.shape), x.dtype)


def _real_array(output: Any, shape: tuple[int, ...]) -> Array | np.ndarray:
    """What a function returned, as an array; raises ValueError unless it is real, of the shape."""
    expected = f"expected real numbers of shape {list(shape)}"
    try:
        found = checks.array("what function returned", output)
    except ValueError as error:
        raise ValueError(f"{error}; {expected}") from None
    if not checks.is_real(found) or found.shape != shape:
        raise ValueError(
            f"function returned {type(output).__name__} of dtype {found.dtype.name} and shape "
            f"{list(found.shape)}; {expected}"
        )
    return found
