"""Data sets of images: an embedded MNIST sample, TFDS, folders of images, `.npz` and `.npy`.

Pixels stay uint8; `Dataset.images` scales them to float32 in [-1, 1], the scale of every machine
and network.
"""

import dataclasses
import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from elsjax import checks, pixels
from elsjax.data import archives, image_files, tfds_source
from elsjax.data.image_files import Arrays, Progress
from elsjax.references import Cited, Reference

_EMBEDDED = "mnist5k"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(Cited):
    """Images with their labels, in memory.

    Args:
      name: what `load_dataset` was asked for.
      split: "train", "test" or "validation".
      pixels: uint8 [N, H, W, C], or float32 in [-1, 1] where the source was floating-point.
      labels: int32 [N], None if the source has none.
      label_names: name of each label, None if unknown.
    """

    name: str
    split: str
    pixels: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"] | None
    label_names: tuple[str, ...] | None

    @property
    def images(self) -> Float32[np.ndarray, "n h w c"]:
        """The images as float32 [N, H, W, C] in [-1, 1], computed from the pixels at each call."""
        return pixels.to_float(self.pixels)

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite for it; nothing is known of images of one's own."""
        return dataset_references(self.name) if self.name in named_datasets() else ()

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.pixels)


def named_datasets() -> tuple[str, ...]:
    """The names that `load_dataset` knows, the embedded data set first."""
    return (_EMBEDDED, *tfds_source.SOURCES)


def dataset_references(name: str) -> tuple[Reference, ...]:
    """What to cite for a data set, one of `named_datasets`."""
    checks.one_of("name", name, named_datasets())
    return (tfds_source.SOURCES["mnist" if name == _EMBEDDED else name].reference,)


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """One named data set, as listed by `available_datasets`.

    Args:
      name: the name `load_dataset` takes.
      description: one line.
      splits: number of images by split.
      shape: native height, width and channels of an image.
      available: whether it can be loaded without preparing it first.
      where: where it lies, or where it was looked for.
    """

    name: str
    description: str
    splits: Mapping[str, int]
    shape: tuple[int, int, int]
    available: bool
    where: str


def load_dataset(
    name: str | os.PathLike[str],
    split: str = "train",
    limit: int | None = None,
    image_size: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Loads a data set into memory.

    TFDS data sets are decoded once and then cached, below ELSJAX_CACHE_DIR or in the user's cache
    directory. CelebA at its native size takes 19 GB: give image_size or limit.

    Args:
      name: "mnist5k" (embedded: 500 images of each digit), a TFDS data set ("mnist",
        "fashion_mnist", "cifar10", "celeb_a"), or the path of a folder of images (flat, or one
        sub-folder per class, and either below `train`, `test` or `val` or not), of an `.npz`
        archive (`images` uint8, or floating-point in [-1, 1], [N, H, W] or [N, H, W, C];
        optionally `labels`, integers [N]; other usual names too, as `x_train` and `y_train`) or of
        an `.npy` of images. A known name wins over a folder of that name; write "./mnist" for the
        folder.
      split: "train", "test" or "validation", where there is one; what has no splits is "train".
      limit: number of leading images to load, in a folder of classes those of each class; None for
        all.
      image_size: side in pixels of the square to resize to, bilinear as in the paper's code
        (torchvision `Resize((size, size))` on PIL images; the aspect ratio is not kept); None
        keeps the native size.
      data_dir: TFDS directory; None for the environment variable TFDS_DATA_DIR, or else
        `~/tensorflow_datasets`.
      skip_unreadable: leaves unreadable files of a folder out instead of raising.
      progress: called as `progress(done, total)` while a folder is read or a TFDS data set decoded.

    Returns:
      The data set, N images [H, W, C].

    Raises:
      ValueError: if an argument is not as described, or the data cannot be read.
    """
    if limit is not None:
        checks.positive_int("limit", limit)
    if image_size is not None:
        checks.positive_int("image_size", image_size)

    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise ValueError(f"name={name!r} must be a name or a path")
    name = os.fspath(name)
    path = Path(os.path.expanduser(name))
    if name in tfds_source.SOURCES:
        directory = tfds_source.resolve_data_dir(data_dir)
        arrays = tfds_source.load(
            name, split, directory, limit=limit, image_size=image_size, progress=progress
        )
    elif name == _EMBEDDED:
        checks.one_of("split", split, ("train",))
        arrays = _read_mnist5k(limit, image_size)
    elif name and os.path.isdir(path):
        arrays = image_files.read_folder(
            path, split, limit, image_size, skip_unreadable=skip_unreadable, progress=progress
        )
    elif path.suffix.lower() in (".npz", ".npy"):
        arrays = archives.read_archive(path, split, limit, image_size)
    else:
        raise ValueError(_unknown(name, path))
    return Dataset(name, split, *arrays)


def available_datasets(
    data_dir: str | os.PathLike[str] | None = None,
) -> list[DatasetSummary]:
    """Lists the named data sets and whether they are on this machine.

    Reads only their descriptions, never the images, and downloads nothing.

    Args:
      data_dir: TFDS directory; see `load_dataset`.

    Returns:
      One summary per named data set, the embedded one first.
    """
    summaries = [
        DatasetSummary(
            _EMBEDDED,
            "handwritten digits, 500 of each, from MNIST's training set",
            {"train": 5000},
            (28, 28, 1),
            True,
            "embedded",
        )
    ]
    directory = tfds_source.resolve_data_dir(data_dir)
    for name, source in tfds_source.SOURCES.items():
        prepared = tfds_source.find(name, directory)
        splits = prepared.splits if prepared else source.splits
        where = str(prepared.directory) if prepared else f"not prepared in {directory}"
        summaries.append(
            DatasetSummary(
                name, source.description, splits, source.shape, prepared is not None, where
            )
        )
    return summaries


def _unknown(name: str, path: Path) -> str:
    """Why a name is no data set."""
    found = "is not known"
    if name and os.path.isfile(path):
        image = path.suffix.lower() in image_files.IMAGE_SUFFIXES
        found = "is a single image" if image else "is a file of another kind"
    known = ", ".join(named_datasets())
    return (
        f"name={name!r} {found}; expected one of {known}, or the path of a folder of images, "
        "of an .npz archive or of an .npy file"
    )


def _read_mnist5k(limit: int | None, image_size: int | None) -> Arrays:
    resource = importlib.resources.files("elsjax") / "data" / "mnist5k.npz"
    with importlib.resources.as_file(resource) as path:
        images, labels, _ = archives.read_archive(path, "train", limit, image_size)
    return images, labels, tfds_source.SOURCES["mnist"].label_names
