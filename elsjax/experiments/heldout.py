"""Held-out error: how well a denoiser estimates images that it was not made of.

    error(t) = E |D(alpha_t x_0 + sigma_t eps, t) - x_0|²,   mean over pixels, x_0 held out

A loss over training images says little at high noise, where the error of the noise hardly feels
that of x_0; this does. Its unit is the error of the Wiener filter of the training images.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Key, Real

from elsjax import checks
from elsjax.data import tfds_source
from elsjax.data.datasets import Dataset, load_dataset
from elsjax.pixels import to_float
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import initial_noise

TIMES = tuple(round(0.05 + 0.1 * index, 2) for index in range(10))
"""Where training measures it: 0.05, 0.15, ..., 0.95."""
_BATCH = 50
_CANDIDATES = 10  # for each image, so that classes can be balanced


def heldout_error(
    denoiser: Denoiser,
    images: Real[ArrayLike, "n h w c"],
    times: Sequence[float],
    key: Key[jax.Array, ""],
    labels: Int[ArrayLike, " n"] | None = None,
) -> Float[np.ndarray, "t n"]:
    """Squared error of the estimate of each image at each time, mean over pixels.

    The noise of an image depends on the key and its index only: it is the same at every time and
    for every denoiser. Images are denoised a few at a time.

    Args:
      denoiser: what to measure.
      images: [N, H, W, C], uint8 or floating-point in [-1, 1].
      times: T times in [0, 1].
      key: of the noise, `jax.random.key(seed)`.
      labels: classes, integers [N], for a conditional denoiser; else None.

    Returns:
      The errors, [T, N].

    Raises:
      ValueError: if an argument does not fit the denoiser.
    """
    images = checks.training_images("images", images)
    count = len(images)
    for t in times:
        checks.times("times", t, 1)
    if labels is not None:
        labels = checks.class_labels("labels", labels, count)
    x0 = to_float(images)
    noise = np.asarray(initial_noise(key, count, x0.shape[1:]))
    batch = min(_BATCH, count)
    errors = np.empty((len(times), count))
    for row, t in enumerate(times):
        alpha, sigma = (np.asarray(level) for level in denoiser.schedule(t))
        for first in range(0, count, batch):
            # The last batch is filled up from the start: programs are for one batch size.
            index = np.arange(first, first + batch) % count
            label = None if labels is None else labels[index]
            estimate = denoiser.denoise(alpha * x0[index] + sigma * noise[index], t, label)
            errors[row, index] = np.mean((np.asarray(estimate) - x0[index]) ** 2, (1, 2, 3))
    return errors


class HeldoutCurve(NamedTuple):
    """Held-out error as training goes on.

    Attributes:
      times: T times.
      wiener: error of the Wiener filter of the training images, [T].
      steps: of training, E of them.
      errors: error of the network after each of these, [E, T].
    """

    times: Float[np.ndarray, " t"]
    wiener: Float[np.ndarray, " t"]
    steps: Int[np.ndarray, " e"]
    errors: Float[np.ndarray, "e t"]

    def extended(self, step: int, errors: Float[np.ndarray, " t"]) -> Self:
        """The curve with the errors after one more step."""
        return self._replace(
            steps=np.append(self.steps, step), errors=np.concatenate([self.errors, errors[None]])
        )

    def until(self, step: int) -> Self:
        """The curve up to a step."""
        kept = self.steps <= step
        return self._replace(steps=self.steps[kept], errors=self.errors[kept])

    @property
    def relative(self) -> Float[np.ndarray, "e t"]:
        """The errors in units of the Wiener filter's."""
        return self.errors / self.wiener


def heldout_images(
    training: Dataset,
    source: str | None,
    count: int,
    *,
    image_size: int | None = None,
    data_dir: str | None = None,
) -> Dataset | None:
    """Images that training images are not: the same number of each class as far as they go.

    Args:
      training: the training images.
      source: data set to take them from, of a TFDS data set its split "test"; None for the test
        split of the training images' own, and for "mnist5k" MNIST's training set.
      count: how many at most.
      image_size: see `load_dataset`.
      data_dir: see `load_dataset`.

    Returns:
      The first that are not among the training images, pixel by pixel; None if source is None and
      nothing is at hand: the training images have no test split, or MNIST is not prepared.

    Raises:
      ValueError: if the source cannot be loaded, holds no other images than the training images,
        or these are of another shape.
    """
    if source is None:
        own = _own_source(training)
        if own is None or tfds_source.find(own[0], tfds_source.resolve_data_dir(data_dir)) is None:
            return None
        name, split = own
    else:
        name, split = source, "test" if source in tfds_source.SOURCES else "train"
    found = load_dataset(name, split, _limit(name, split, count, data_dir), image_size, data_dir)
    if found.pixels.shape[1:] != training.pixels.shape[1:]:
        raise ValueError(
            f"heldout={name!r} has images {list(found.pixels.shape[1:])}, the training images are "
            f"{list(training.pixels.shape[1:])}"
        )
    seen = {_digest(image) for image in training.pixels}
    new = np.array([n for n, image in enumerate(found.pixels) if _digest(image) not in seen], int)
    if not len(new):
        raise ValueError(f"heldout={name!r} has no image that is not among the training images")
    if found.labels is None:
        return Dataset(name, split, found.pixels[new[:count]], None, None)
    chosen = new[_balanced(found.labels[new], count)]
    return Dataset(name, split, found.pixels[chosen], found.labels[chosen], found.label_names)


def _own_source(training: Dataset) -> tuple[str, str] | None:
    """Data set and split that training images say nothing about; None if none is known."""
    if training.name == "mnist5k":
        return "mnist", "train"
    if training.name in tfds_source.SOURCES and training.split != "test":
        return training.name, "test"
    return None


def _limit(name: str, split: str, count: int, data_dir: str | None) -> int | None:
    """How many images to read: enough to balance classes, not all of a large data set."""
    if name not in tfds_source.SOURCES:
        return None
    prepared = tfds_source.find(name, tfds_source.resolve_data_dir(data_dir))
    return None if prepared is None else min(_CANDIDATES * count, prepared.splits[split])


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first images of each class, one of each in turn, rising."""
    turn = np.empty(len(labels), int)
    for label in np.unique(labels):
        own = labels == label
        turn[own] = np.arange(own.sum())
    return np.sort(np.argsort(turn, kind="stable")[:count])
