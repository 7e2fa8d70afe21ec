"""Options that say which images a command reads."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from elsjax.cli.progress import bar
from elsjax.data import tfds_source
from elsjax.data.datasets import Dataset, load_dataset
from elsjax.experiments.heldout import heldout_images
from elsjax.experiments.runs import environment

_NAMED_LABELS = 20  # as many are printed; config.json has them all


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which images a command reads."""

    dataset: str = "mnist5k"
    """Training images: a name that `elsjax datasets` lists, a folder of images, an .npz or .npy."""
    split: str = "train"
    """Split of the data set: train, test or validation, where it has them."""
    limit: int | None = None
    """Use only so many images, the first; of a folder, evenly from its classes."""
    image_size: int | None = 32
    """Side to resize the images to; the paper's is 32. None keeps them as they are."""
    data_dir: str | None = None
    """Where TFDS data sets lie; default: TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    skip_unreadable: bool = False
    """Leave unreadable files of a folder out."""

    def absolute(self) -> Self:
        """The same images, found from any folder: what a run records."""
        return dataclasses.replace(
            self,
            dataset=self.dataset if self._has_a_name() else _absolute(self.dataset),
            data_dir=None if self.data_dir is None else _absolute(self.data_dir),
        )

    def load(self) -> Dataset:
        """Loads the images, with a progress bar where that takes time."""
        with bar("reading images", "image") as progress:
            return load_dataset(
                self.dataset,
                self.split,
                self.limit,
                self.image_size,
                self.data_dir,
                skip_unreadable=self.skip_unreadable,
                progress=progress,
            )

    def held_out(self, data: Dataset, source: str | None, count: int) -> Dataset | None:
        """Images of the same size that are not among the training images.

        Args:
          data: the training images, as `load` returns them.
          source: see `heldout_images`.
          count: how many at most.

        Returns:
          The images; None, which is printed, if none are at hand.

        Raises:
          ValueError: as `heldout_images`.
        """
        found = heldout_images(
            data, source, count, image_size=self.image_size, data_dir=self.data_dir
        )
        if found is None:
            print(
                f"no held-out images for {data.name!r} are at hand, so their error is not "
                "measured; --heldout names a data set"
            )
        return found

    def print_labels(self, data: Dataset) -> None:
        """Says which label stands for which class of a folder of images."""
        names = data.label_names
        if names is None or self._has_a_name():
            return
        said = [f"{label} {name}" for label, name in enumerate(names[:_NAMED_LABELS])]
        more = f" and {len(names) - len(said)} more" if len(names) > len(said) else ""
        print(f"labels: {', '.join(said)}{more}")

    def _has_a_name(self) -> bool:
        """Whether the data set is known by its name, and is no path."""
        return self.dataset == "mnist5k" or self.dataset in tfds_source.SOURCES


def describe(data: Dataset) -> dict[str, Any]:
    """What a run records of its images and of the versions that computed it, as JSON values."""
    return {
        "num_images": len(data),
        "image_shape": list(data.pixels.shape[1:]),
        "images_sha256": images_sha256(data),
        "label_names": None if data.label_names is None else list(data.label_names),
        **environment(),
    }


def images_sha256(data: Dataset) -> str:
    """Checksum of the pixels."""
    pixels = np.ascontiguousarray(data.pixels).reshape(-1)
    return hashlib.sha256(pixels.data).hexdigest()


def _absolute(path: str) -> str:
    # An empty path is left to be refused: it is not the current folder.
    return path and str(Path(os.path.expanduser(path)).absolute())
