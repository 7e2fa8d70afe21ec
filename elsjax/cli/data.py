"""Options that say which images a command reads."""

import contextlib
import dataclasses
import hashlib
from typing import Any

import jax
from tqdm import tqdm

import elsjax
from elsjax.datasets import Dataset, load_dataset


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which images a command reads."""

    dataset: str = "mnist5k"
    """Training images: a name that `elsjax datasets` lists, a folder of images, or an .npz."""
    split: str = "train"
    """Split of the data set."""
    limit: int | None = None
    """Use only the first images."""
    image_size: int | None = 32
    """Side to resize the images to; the paper's is 32. None keeps them as they are."""
    data_dir: str | None = None
    """Where TFDS data sets lie; default: TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    skip_unreadable: bool = False
    """Leave unreadable files of a folder out."""

    def load(self) -> Dataset:
        """Loads the images, with a progress bar where that takes time."""
        with _bar("reading images", "image") as progress:
            return load_dataset(
                self.dataset,
                self.split,
                self.limit,
                self.image_size,
                self.data_dir,
                skip_unreadable=self.skip_unreadable,
                progress=progress,
            )


def describe(data: Dataset) -> dict[str, Any]:
    """What a run records of its images and of the versions that computed it, as JSON values."""
    return {
        "num_images": len(data),
        "image_shape": list(data.pixels.shape[1:]),
        "images_sha256": hashlib.sha256(data.pixels.tobytes()).hexdigest(),
        "versions": {"elsjax": elsjax.__version__, "jax": jax.__version__},
    }


@contextlib.contextmanager
def _bar(description: str, unit: str) -> Any:
    """A progress callback, `progress(done, total)`, that draws a bar from its first call on."""
    bar: tqdm | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=description, unit=unit)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
