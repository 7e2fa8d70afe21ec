"""What denoisers that are sums over training images have in common: images, settings, devices."""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from elsjax import checks, parallel
from elsjax.posterior.shares import Levels
from elsjax.posterior.training_set import TrainingSet
from elsjax.process.denoisers import Denoiser
from elsjax.process.frozen import Frozen
from elsjax.process.schedules import CosineSchedule, Schedule


class TrainingSetDenoiser(Frozen, Denoiser):
    """A denoiser made of training images, block by block.

    Attributes:
      training_set: the training images; the only leaf.
      memory_budget: bytes that one evaluation may use on each device; None for the default.
      block_size: training images of a block; None to follow from the budget.
    """

    _leaves: ClassVar[tuple[str, ...]] = ("training_set",)
    training_set: TrainingSet
    memory_budget: int | None
    block_size: int | None

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return self.training_set.num_images

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that can be conditioned on, ascending; empty without labelled data."""
        return self.training_set.labels

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices that share the work; None for one."""
        return self.training_set.mesh

    def with_mesh(self, mesh: jax.sharding.Mesh) -> Self:
        """The same machine on other devices.

        Args:
          mesh: devices to share the work, as `elsjax.make_mesh` gives them.

        Returns:
          A machine of the same images.

        Raises:
          ValueError: if mesh is not as described.
        """
        parallel.check_mesh(mesh)
        return self._replaced(training_set=self.training_set.on(mesh))

    def check_label(self, label: ArrayLike | None, batch: int) -> None:
        """See `Denoiser.check_label`."""
        checks.known_label(label, self.labels)

    def _levels_of_each(self, t: ArrayLike, x: Float[Array, "b h w c"]) -> Levels:
        """Signal and noise level of each noisy image."""
        alpha, sigma = (
            jnp.broadcast_to(jnp.asarray(level, x.dtype), x.shape[:1]) for level in self.schedule(t)
        )
        return Levels(alpha, sigma)


def checked_settings(
    images: ArrayLike,
    labels: ArrayLike | None,
    schedule: Schedule | None,
    memory_budget: int | None,
    block_size: int | None,
    mesh: jax.sharding.Mesh | None,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """The arguments that all these denoisers take; see `elsjax.ScoreMachine`.

    Returns:
      Training images, labels, and attributes by name: image_shape, schedule, memory_budget and
      block_size.

    Raises:
      ValueError: if an argument is not as described.
    """
    checked = checks.training_images("images", images)
    if memory_budget is not None:
        memory_budget = checks.positive_int("memory_budget", memory_budget)
    if block_size is not None:
        block_size = checks.positive_int("block_size", block_size)
    if mesh is not None:
        parallel.check_mesh(mesh)
    schedule = CosineSchedule() if schedule is None else schedule
    checks.instance("schedule", schedule, Schedule, "CosineSchedule()")
    classes = None if labels is None else checks.class_labels("labels", labels, len(checked))
    height, width, channels = checked.shape[1:]
    return (
        checked,
        classes,
        {
            "image_shape": (height, width, channels),
            "schedule": schedule,
            "memory_budget": memory_budget,
            "block_size": block_size,
        },
    )
