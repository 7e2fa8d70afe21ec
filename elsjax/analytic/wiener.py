"""The Wiener machines: the best denoisers that are linear in what a pixel sees.

    x_0(i) = mu_i + alpha S_i,Ω (alpha² S_ΩΩ + sigma² I)⁻¹ (x_t[Ω_i] - alpha mu_Ω)

(Wiener 1949), with the mean mu and the covariance S of the training patches that the dictionary of
pixel i holds, divisor K. All follow from the mean and the covariance of whole images.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from elsjax import checks, parallel
from elsjax.analytic import linear
from elsjax.analytic.moments import Moments
from elsjax.posterior import batches
from elsjax.posterior.dictionaries import Dictionary, Kind, Window, checked_window
from elsjax.process.denoisers import Denoiser
from elsjax.process.frozen import Frozen
from elsjax.process.schedules import CosineSchedule, Schedule
from elsjax.references import Reference


class WienerDenoiser(Frozen, Denoiser):
    """The best linear denoiser under locality and equivariance constraints.

        E[x_0(i) | x_t] ~ mu_i + alpha S_i,Ω (alpha² S_ΩΩ + sigma² I)⁻¹ (x_t[Ω_i] - alpha mu_Ω)

    (Wiener 1949), with mean mu and covariance S of the training patches in the dictionary of pixel
    i, the same as `ScoreMachine` compares it with; what lies outside the image is left out. It is
    the posterior mean for Gaussian patches: what a machine or a network gains over it is what it
    knows beyond second moments. Conditional on a class, the images are those of that class.

    At sigma -> 0 it is the projection on what the patches span, the identity where S has full rank;
    at alpha -> 0 the mean. Noise below what rounding of S leaves counts as noise of that level:
    sigma² of 5e-7 (float32) or 1e-11 (float64, under `jax_enable_x64`) times the trace of alpha² S,
    or times 1 if that is less. In float32, that is sigma = 0.02 for whole CIFAR10 images.

    Each noise level and class takes a factorisation for each pixel that has patches of its own, or
    one for all; pixels of neighbouring windows share most of it, and a batch of noisy images all.

    A denoiser does not change, and is a pytree, so it can be an argument of a jitted function;
    there, t must be a Python number if the window depends on it.

    Args:
      images: training images, [N, H, W, C], uint8 or floating point in [-1, 1]. Only their mean and
        covariance are kept, (HWC)² numbers, and those of each class.
      labels: class of each training image, integers [N]; needed to condition on a label.
      kind: "is" (whole images: the classical Wiener filter), "es" (all their translates), "ls"
        (local), "els" (equivariant local) or "bbels" (boundary-broken ELS); see
        `elsjax.posterior.dictionaries`.
      window: odd side P of the window, or a `WindowSchedule` for P(t); None for "is" and "es".
      wrap_patches: "els" only: training patches wrap around the border.
      schedule: noise schedule, `CosineSchedule()` by default.
      memory_budget: bytes that the covariances and what an evaluation computes with them may take,
        beside its own input and output; None for 4 GiB.

    Raises:
      ValueError: if an argument is not as described, or the budget is too small.
    """

    _leaves = ("moments",)
    kind: Kind
    window: Window
    wrap_patches: bool
    memory_budget: int | None
    num_images: int
    moments: Moments

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        kind: Kind = "is",
        window: Window = None,
        wrap_patches: bool = False,
        schedule: Schedule | None = None,
        memory_budget: int | None = None,
    ) -> None:
        images = checks.training_images("images", images)
        if memory_budget is not None:
            memory_budget = checks.positive_int("memory_budget", memory_budget)
        schedule = CosineSchedule() if schedule is None else schedule
        checks.instance("schedule", schedule, Schedule, "CosineSchedule()")
        height, width, channels = images.shape[1:]
        image_shape = (height, width, channels)
        window = checked_window(kind, image_shape, window, wrap_patches)
        if labels is not None:
            labels = checks.class_labels("labels", labels, len(images))
        work = max(
            linear.bytes_needed(Dictionary(kind, image_shape, side, wrap_patches))
            for side in batches.sides_of(window)
        )
        vars(self).update(
            kind=kind,
            image_shape=image_shape,
            schedule=schedule,
            window=window,
            wrap_patches=wrap_patches,
            memory_budget=memory_budget,
            num_images=len(images),
            moments=Moments.of(images, labels, memory_budget, work),
        )

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that can be conditioned on, ascending; empty without labelled data."""
        return self.moments.labels

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for the filter, for the dictionaries of machines, and for its schedule."""
        machines = (Reference("kamb2025", "what a pixel sees"),) if self.kind != "is" else ()
        return (Reference("wiener1949", "the Wiener filter"), *machines, *super().references)

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Denoiser:
        """See `Denoiser.with_mesh`; every device has the covariances."""
        parallel.check_mesh(mesh)
        there = self._replaced(moments=parallel.everywhere(self.moments, mesh))
        return Denoiser.with_mesh(there, mesh)

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`."""
        checks.known_label(label, self.labels)

    def posterior_mean(
        self, x: Float[Array, "b h w c"], t: ArrayLike, label: ArrayLike | None
    ) -> Float[Array, "b h w c"]:
        """See `Denoiser.posterior_mean`."""
        groups = batches.groups_of(self.window, t, label, len(x), by_time=True)
        found = []
        for group in groups:
            alpha, sigma = self.schedule(t if group.time is None else group.time)
            if alpha.ndim and len(groups) > 1:
                alpha, sigma = alpha[group.places], sigma[group.places]
            estimate = _estimate(
                Dictionary(self.kind, self.image_shape, group.window, self.wrap_patches),
                self.moments,
                x if len(groups) == 1 else x[group.places],
                alpha.astype(x.dtype),
                sigma.astype(x.dtype),
                None if group.label is None else jnp.asarray(group.label, jnp.int32),
            )
            found.append({"mean": estimate})
        return batches.scattered(found, groups)["mean"]


@functools.partial(jax.jit, static_argnums=0)
def _estimate(
    dictionary: Dictionary,
    moments: Moments,
    x: Float[Array, "b h w c"],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
    label: Int[Array, "*b"] | None,
) -> Float[Array, "b h w c"]:
    """The estimate of noisy images of one level and class; one by one where these are not one."""

    def of_one(each: tuple[Array, ...]) -> Array:
        x, alpha, sigma, *label = each
        mean, covariance = moments.of_class(label[0] if label else None)
        return linear.estimate(dictionary, mean, covariance, x, alpha, sigma)

    levels = (alpha, sigma) if label is None else (alpha, sigma, label)
    if all(level.ndim == 0 for level in levels):
        return of_one((x, *levels))
    each = (jnp.broadcast_to(level, x.shape[:1]) for level in levels)
    return jax.lax.map(of_one, (x[:, None], *each))[:, 0]
