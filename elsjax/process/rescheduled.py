"""A denoiser under another noise schedule, asked at its own time of each noise level.

All schedules preserve variance, so x_t at a noise level is the same under any of them; only the
time that it belongs to differs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from elsjax import checks
from elsjax.process.denoisers import Denoiser
from elsjax.process.frozen import Frozen
from elsjax.process.schedules import Schedule, same_noise
from elsjax.references import Reference


class Rescheduled(Frozen, Denoiser):
    """A denoiser for the times of another schedule; t must be a value on the host.

    Args:
      base: the denoiser.
      schedule: whose times it is asked at.
      clip: clip its estimates to [-1, 1].
    """

    _leaves = ("_base",)
    _base: Denoiser
    _clip: bool

    def __init__(self, base: Denoiser, schedule: Schedule, *, clip: bool = False) -> None:
        vars(self).update(
            schedule=schedule,
            image_shape=base.image_shape,
            least_alpha=base.least_alpha,
            _base=base,
            _clip=clip,
        )

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """See `Denoiser.mesh`."""
        return self._base.mesh

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the denoiser, and for the schedule."""
        return (*self._base.references, *self.schedule.references)

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Denoiser:
        """See `Denoiser.with_mesh`."""
        return Rescheduled(self._base.with_mesh(mesh), self.schedule, clip=self._clip)

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`."""
        self._base.check_label(label, batch)

    def check_images(self, x: Float[ArrayLike, "b h w c"]) -> Any:
        """See `Denoiser.check_images`."""
        return self._base.check_images(x)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        times = checks.host_values(t)
        if times is None:
            raise ValueError("t must be a value on the host: the time of its noise level is")
        own = same_noise(times, self.schedule, self._base.schedule)
        x0 = self._base.posterior_mean(x, own if own.ndim else own.item(), label)
        return jnp.clip(x0, -1, 1) if self._clip else x0
