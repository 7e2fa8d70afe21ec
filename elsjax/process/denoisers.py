"""What a machine and a network have in common: both estimate the clean image, E[x_0 | x_t].

The three forms of one prediction, for x_t = alpha x_0 + sigma eps:

    x_0   posterior mean, E[x_0 | x_t]
    eps   predicted noise, (x_t - alpha x_0) / sigma
    score gradient of log p_t, -eps / sigma = (alpha x_0 - x_t) / sigma²
"""

import abc
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks, parallel
from elsjax.process.schedules import Schedule
from elsjax.references import Cited, Reference

# The least signal level by which anything is divided: errors grow by its inverse.
LEAST_SIGNAL = 1e-3


class Denoiser(Cited, abc.ABC):
    """Estimates x_0 from x_t.

    A denoiser of one's own sets `schedule` and `image_shape` and defines `posterior_mean`; one that
    knows classes defines `check_label` too, one for images of other sizes `check_images`.

    Attributes:
      schedule: noise schedule of the process the images come from.
      image_shape: (height, width, channels) of the images.
      least_alpha: signal level down to which `denoise` is well-defined.
    """

    schedule: Schedule
    image_shape: tuple[int, int, int]
    least_alpha: float = 0.0

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices that share the work, see `with_mesh`; None for one."""
        return None

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for it; here, for its schedule."""
        return self.schedule.references

    def denoise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Posterior mean E[x_0 | x_t = x].

        Args:
          x: noisy images, [B, H, W, C], in units where clean pixels lie in [-1, 1].
          t: time in [0, 1], scalar or [B]; 1 is noise.
          label: class to condition on, integer or [B]; None for the unconditional mean.

        Returns:
          The estimate of x_0, [B, H, W, C]. NaN for a label that is not known, where its value is
          not known either until the computation: inside `jax.jit`, or on an accelerator.

        Raises:
          ValueError: if a shape, type, time or label does not fit, a pixel of x is not finite, or
            no signal is left at t to estimate x_0 from.
        """
        x, t, label = self.checked(x, t, label)
        check_signal(self.schedule, t, self.least_alpha)
        return self.posterior_mean(x, t, label)

    def predict_noise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Predicted noise, `(x - alpha E[x_0|x]) / sigma`; arguments and errors as `denoise`.

        Raises:
          ValueError: also where sigma_t = 0, since no noise is left to predict.
        """
        x, t, label = self.checked(x, t, label)
        alpha, sigma = self._levels(t)
        return noise_from_x0(x, self.denoise(x, t, label), alpha, sigma)

    def score(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        """Score `(alpha E[x_0|x] - x) / sigma²`; arguments and errors as `predict_noise`."""
        x, t, label = self.checked(x, t, label)
        _, sigma = self._levels(t)
        return -self.predict_noise(x, t, label) / sigma

    def with_mesh(self, mesh: jax.sharding.Mesh) -> "Denoiser":
        """The same denoiser on many devices, each of which takes a share of the noisy images.

        Any batch is filled up to what the devices divide, wherever its images are; results are
        whole on every device.

        Args:
          mesh: the devices, as `elsjax.make_mesh` gives them. Which axis they are on is of no
            account but for a `ScoreMachine`, which shares its training images along "data".

        Returns:
          The denoiser.

        Raises:
          ValueError: if mesh is not as described.
        """
        parallel.check_mesh(mesh)
        return _Sharded(self, mesh)

    def check(
        self,
        x: Float[ArrayLike, "b h w c"],
        label: ArrayLike | None,
        t: ArrayLike | None = None,
    ) -> None:
        """Raises the ValueError that `denoise` would raise for these images, labels and times."""
        _, times, _ = self.checked(x, 0.0 if t is None else t, label)
        if t is not None:
            check_signal(self.schedule, times, self.least_alpha)

    @abc.abstractmethod
    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """`denoise` for arguments that are checked.

        Args:
          x: noisy images, [B, H, W, C], in floating point.
          t: time, scalar or [B].
          label: class, integer or [B]; None for the unconditional mean.

        Returns:
          The estimate of x_0, [B, H, W, C].
        """

    def check_label(self, label: Int[ArrayLike, "..."] | None, batch: int) -> None:
        """Raises ValueError if the label is not one that this denoiser knows: any but None.

        Args:
          label: integer or [B]; None for none.
          batch: B.

        Raises:
          ValueError: if it is not.
        """
        if label is not None:
            raise ValueError(f"label={label} was given, but {type(self).__name__} knows no classes")

    def check_images(self, x: Float[ArrayLike, "b h w c"]) -> Array | np.ndarray:
        """Noisy images as an array.

        Args:
          x: [B, H, W, C].

        Returns:
          The same, NumPy's or JAX's.

        Raises:
          ValueError: if they are not finite floating-point images of `image_shape`.
        """
        return checks.noisy_images("x", x, self.image_shape)

    def checked(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> tuple[Float[Array, "b h w c"], ArrayLike, ArrayLike | None]:
        """The arguments of `denoise`, checked; see `denoise`.

        Returns:
          x as a floating-point array, [B, H, W, C]; t; and label.
        """
        x = self.check_images(x)
        if label is not None:
            label = checks.label("label", label, x.shape[0])
        self.check_label(label, x.shape[0])
        t = checks.times("t", t, x.shape[0])
        return parallel.everywhere(jnp.asarray(x, jnp.result_type(float)), self.mesh), t, label

    def _levels(self, t: ArrayLike) -> tuple[Array, Array]:
        """Signal and noise level at t, shaped to multiply [B, H, W, C]; sigma = 0 is an error."""
        levels = self.schedule.on_host(t)
        if levels is not None and (levels[1] == 0).any():
            raise ValueError(f"t={t} must be positive here: no noise is left at sigma_t = 0")
        alpha, sigma = self.schedule(t)
        return per_image(alpha), per_image(sigma)


@jax.tree_util.register_pytree_node_class
class _Sharded(Denoiser):
    """A denoiser whose batches are split between the devices of a mesh."""

    def __init__(self, whole: Denoiser, mesh: jax.sharding.Mesh) -> None:
        self.schedule, self.image_shape = whole.schedule, whole.image_shape
        self.least_alpha = whole.least_alpha
        self._whole, self._mesh = whole, mesh

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self._mesh

    @property
    def references(self) -> tuple[Reference, ...]:
        return self._whole.references

    def tree_flatten(self) -> tuple[tuple[Denoiser], jax.sharding.Mesh]:
        return (self._whole,), self._mesh

    @classmethod
    def tree_unflatten(cls, mesh: jax.sharding.Mesh, leaves: tuple[Denoiser]) -> "_Sharded":
        return cls(leaves[0], mesh)

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Denoiser:
        return self._whole.with_mesh(mesh)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        return self._split(self._whole.posterior_mean, x, t, label)

    def predict_noise(
        self, x: Float[ArrayLike, "b h w c"], t: ArrayLike, label: ArrayLike | None = None
    ) -> Float[Array, "b h w c"]:
        return self._split(self._whole.predict_noise, *self.checked(x, t, label))

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        self._whole.check_label(label, batch)

    def check_images(self, x: Float[ArrayLike, "b h w c"]) -> Array | np.ndarray:
        return self._whole.check_images(x)

    def _split(
        self,
        function: Callable[..., Float[Array, "b h w c"]],
        x: Float[Array, "b h w c"],
        t: ArrayLike,
        label: ArrayLike | None,
    ) -> Float[Array, "b h w c"]:
        """A function of images, times and labels, a share on each device."""
        count = len(x)
        x = parallel.spread(x, self._mesh, (parallel.DATA, parallel.SAMPLE))
        if np.ndim(t) == 1:
            t = parallel.filled(t, len(x))
        if label is not None and np.ndim(label) == 1:
            label = parallel.filled(label, len(x))
        return parallel.everywhere(function(x, t, label), self._mesh)[:count]


def check_signal(schedule: Schedule, t: ArrayLike, least_alpha: float) -> None:
    """Raises ValueError if the signal level at a time on the host is below the least.

    Args:
      schedule: of the process.
      t: time or times.
      least_alpha: the least signal level; 0 for any.
    """
    levels = schedule.on_host(t) if least_alpha > 0 else None
    if levels is None or (levels[0] >= least_alpha).all():
        return
    lost = np.unravel_index(np.argmin(levels[0]), levels[0].shape)
    start = last_time(schedule, least_alpha)
    raise ValueError(
        f"no signal is left at t = {np.asarray(t)[lost]:g} (alpha = {levels[0][lost]:.2g}): start "
        f"below, where alpha >= {least_alpha:g}, as with times=numpy.linspace({start:g}, 0, 20)"
    )


def last_time(schedule: Schedule, least_alpha: float) -> float:
    """The last time with so much signal, in hundredths: where a reverse process can start.

    Args:
      schedule: of the process.
      least_alpha: the least signal level; 0 for any.

    Returns:
      The time; 0 where none has so much.
    """
    grid = np.linspace(0, 1, 101)
    levels = schedule.on_host(grid)
    return 0.0 if levels is None else float(grid[levels[0] >= least_alpha].max(initial=0))


def per_image(level: Float[Array, "*b"]) -> Float[Array, "..."]:
    """Shapes a level, scalar or [B], so that it multiplies images [B, H, W, C]."""
    level = jnp.asarray(level)
    return level.reshape(-1, 1, 1, 1)


def noise_from_x0(x: Array, x0: Array, alpha: Array, sigma: Array) -> Array:
    """`eps = (x_t - alpha x_0) / sigma`, [B, H, W, C]; levels broadcast against x."""
    return (x - alpha * x0) / sigma
