"""Smoothed denoisers: the mean of a denoiser's estimates about x_t, not at x_t alone.

    D_s(x, t) = (1/M) sum_m D(x + b_t eps_m, t),   b_t = s (alpha + sigma)

(Scarvelis et al. 2023). Only the argument of D is smoothed. The paper's coordinate is
x / (alpha + sigma), in which the bandwidth s is the same at every time.
"""

import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from elsjax import checks, parallel
from elsjax.process.denoisers import Denoiser, per_image
from elsjax.process.frozen import Frozen
from elsjax.process.sampling import initial_noise
from elsjax.references import Reference

_LARGEST_BANDWIDTH = 1e6  # in units of pixels, whose range is 2


class SmoothedDenoiser(Frozen, Denoiser):
    """The mean of a denoiser's estimates at M places about x_t.

        (1/M) sum_m D(x_t + b_t eps_m, t),   b_t = bandwidth (alpha + sigma)

    With D the ideal score machine it is the smoothed closed-form diffusion model of Scarvelis et
    al. (2023), whose samples are barycentres of M-tuples of training images (Proposition 1). That
    holds only if a sample sees the same eps_m at every step. Here they are a function of the key
    alone: the same for every step and every noisy image, so that a result does not depend on batch
    neighbours. Samples of other barycentres come from other keys.

    The base is called once, with B·M images: one pass over the training images of a machine, and
    the memory that B·M noisy images take. It does not change, and is a pytree.

    Args:
      base: the denoiser D, whose schedule, labels and devices it has.
      bandwidth: s, at least 0, in units where clean pixels lie in [-1, 1]. 0 gives the results of
        the base.
      draws: M, how many eps_m are drawn from a standard normal distribution; or these,
        [M, H, W, C].
      key: typed key of the draws, `jax.random.key(0)` by default; eps_m depends on the key and m
        only, not on M. None if draws are given.

    Raises:
      ValueError: if an argument is not as described.
    """

    _leaves = ("base", "draws")
    base: Denoiser
    bandwidth: float
    draws: Float[Array, "m h w c"]

    def __init__(
        self,
        base: Denoiser,
        *,
        bandwidth: float,
        draws: int | Float[ArrayLike, "m h w c"],
        key: Key[Array, ""] | None = None,
    ) -> None:
        checks.instance("base", base, Denoiser, 'ScoreMachine("is", images)')
        bandwidth = checks.in_range("bandwidth", bandwidth, 0, _LARGEST_BANDWIDTH)
        if isinstance(draws, numbers.Number):
            count = checks.positive_int("draws", draws)
            key = jax.random.key(0) if key is None else key
            checks.key("key", key, ())
            found = initial_noise(key, count, base.image_shape)
        else:
            if key is not None:
                raise ValueError("key is for a number of draws, but draws are given themselves")
            given = checks.noisy_images("draws", draws, base.image_shape)
            found = jnp.asarray(given, jnp.result_type(float))
        vars(self).update(
            base=base,
            bandwidth=bandwidth,
            draws=parallel.everywhere(found, base.mesh),
            schedule=base.schedule,
            image_shape=base.image_shape,
            least_alpha=base.least_alpha,
        )

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices of the base; None for one."""
        return self.base.mesh

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for smoothing, and for the base."""
        smoothing = Reference("scarvelis2023", "smoothed closed-form diffusion models")
        return (smoothing, *self.base.references)

    def with_mesh(self, mesh: jax.sharding.Mesh) -> "SmoothedDenoiser":
        """The same denoiser, its base on many devices; see `Denoiser.with_mesh`."""
        return SmoothedDenoiser(
            self.base.with_mesh(mesh), bandwidth=self.bandwidth, draws=self.draws
        )

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`; the base's."""
        self.base.check_label(label, batch)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        if self.bandwidth == 0:
            return self.base.posterior_mean(x, t, label)
        count = len(self.draws)
        alpha, sigma = self.schedule(t)
        reach = per_image(self.bandwidth * (alpha + sigma))[:, None]  # [1 or B, 1, 1, 1, 1]
        places = x[:, None] + (reach * self.draws[None]).astype(x.dtype)
        if label is not None:
            label = _repeated(label, count)
        flat = places.reshape(-1, *x.shape[1:])
        estimates = self.base.posterior_mean(flat, _repeated(t, count), label)
        return estimates.reshape(places.shape).mean(1)


def _repeated(values: ArrayLike, count: int) -> ArrayLike:
    """What is said of each noisy image, said of each of its places; on the host where it was."""
    if np.ndim(values) == 0:
        return values
    return (jnp if isinstance(values, jax.Array) else np).repeat(values, count)
