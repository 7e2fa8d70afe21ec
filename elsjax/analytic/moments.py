"""Mean and covariance of whole training images, of all of them and of each class."""

import dataclasses
from collections.abc import Iterator
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from elsjax.pixels import to_float

DEFAULT_BUDGET = 2**32
"""Bytes that covariances may take where no budget is given: 4 GiB."""
_BLOCK = 1024  # images in float64 at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance (divisor N) of training images with D = HWC entries.

    Entry 0 is of all images; the following ones are of the images of each class alone.

    Attributes:
      mean: [1 + classes, D].
      covariance: [1 + classes, D, D].
      image_shape: (height, width, channels) of the images.
      labels: the classes, ascending; empty for images without labels.
    """

    mean: Float[Array, "m d"]
    covariance: Float[Array, "m d d"]
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    labels: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        labels: np.ndarray | None,
        memory_budget: int | None = None,
        work: int = 0,
    ) -> Self:
        """Moments of images; computed on the host in float64, a block of images at a time.

        Args:
          images: uint8 or floating point in [-1, 1], [N, H, W, C], checked.
          labels: class of each, [N], checked; None for none.
          memory_budget: bytes that the result, and what is computed with it, may take; None for
            4 GiB.
          work: bytes that computing with it takes.

        Returns:
          The moments, in the precision of JAX's floats.

        Raises:
          ValueError: if they take more than that; before any work.
        """
        count, height, width, channels = images.shape
        rows = images.reshape(count, -1)
        size, dtype = rows.shape[1], np.dtype(jnp.result_type(float))
        classes = [] if labels is None else np.unique(labels).tolist()
        entries = 1 + len(classes)
        needed = entries * (size + 1) * size * dtype.itemsize
        _check_budget(images.shape, entries, needed, work, memory_budget)
        mean = np.empty((entries, size), dtype)
        covariance = np.empty((entries, size, size), dtype)
        if labels is None:
            mean[0], covariance[0] = moments_of(rows, np.arange(count))
        else:
            # The scatter of all images is that within the classes, and that of the classes' means.
            means, within = np.empty((len(classes), size)), np.zeros((size, size))
            shares = np.array([np.mean(labels == label) for label in classes])
            for place, label in enumerate(classes):
                means[place], own = moments_of(rows, np.flatnonzero(labels == label))
                within += shares[place] * own
                mean[place + 1], covariance[place + 1] = means[place], own
            of_all = shares @ means
            apart = np.sqrt(shares)[:, None] * (means - of_all)
            mean[0], covariance[0] = of_all, within + apart.T @ apart
        shape = (height, width, channels)
        return cls(jnp.asarray(mean), jnp.asarray(covariance), shape, tuple(classes))

    def of_class(self, label: ArrayLike | None) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Mean and covariance of a class.

        Args:
          label: one class, which may be traced; None for all images.

        Returns:
          The mean, [D], and the covariance, [D, D]; NaN for a class that is not known.
        """
        if label is None:
            return self.mean[0], self.covariance[0]
        known = jnp.asarray(self.labels, jnp.int32)
        place = jnp.minimum(jnp.searchsorted(known, label), len(known) - 1)
        invalid = jnp.where(known[place] == label, 0, jnp.nan).astype(self.mean.dtype)
        return self.mean[place + 1] + invalid, self.covariance[place + 1] + invalid


def _check_budget(
    shape: tuple[int, ...], entries: int, needed: int, work: int, memory_budget: int | None
) -> None:
    """Raises ValueError if the moments, and work with them, take more memory than the budget."""
    budget = DEFAULT_BUDGET if memory_budget is None else memory_budget
    if needed + work > budget:
        height, width, channels = shape[1:]
        size = height * width * channels
        raise ValueError(
            f"memory_budget={budget} is too small: {entries} covariance{'s' * (entries > 1)} of "
            f"images [{height}, {width}, {channels}], {size}×{size} numbers each, need {needed} "
            f"bytes, and computing with them {work}; expected at least {needed + work} "
            f"({(needed + work) / 2**30:.2f} GiB)"
        )


def moments_of(
    rows: np.ndarray, chosen: np.ndarray
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and covariance (divisor n) of some images, in float64.

    Args:
      rows: images, [N, D], uint8 or floating point in [-1, 1].
      chosen: which of them count, [n].

    Returns:
      The mean, [D], and the covariance, [D, D].
    """

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, len(chosen), _BLOCK):
            yield to_float(rows[chosen[first : first + _BLOCK]], np.float64)

    size = rows.shape[1]
    mean = sum((block.sum(0) for block in blocks()), np.zeros(size)) / len(chosen)
    covariance = np.zeros((size, size))
    for block in blocks():
        centred = block - mean
        covariance += centred.T @ centred
    return mean, covariance / len(chosen)
