"""The user's own images as files in a folder, and the resizing of images.

A reader returns `(pixels, labels, label_names)` with the types of the fields of
`elsjax.data.datasets.Dataset`.
"""

import contextlib
import functools
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Shaped, UInt8
from PIL import Image

from elsjax import checks

# What Pillow logs of a damaged file is heard where an application asks for it, not on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Pixels = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
Arrays = tuple[Pixels, Int32[np.ndarray, " n"] | None, tuple[str, ...] | None]
Progress = Callable[[int, int], None]

# What the parts of a data set are called here, and by the names of folders and arrays.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
IMAGE_SUFFIXES = tuple(
    ".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .gif .webp .avif .tif .tiff .tga "
    ".pbm .pgm .ppm .pnm".split()
)
_DEBRIS = ("thumbs.db", "desktop.ini", "__macosx")  # left by systems; so are hidden files
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def printable(name: object) -> str:
    """A name in one line, whatever characters it has."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))


def number_to_load(limit: int | None, available: int, source: object) -> int:
    """How many images a limit asks for.

    Raises:
      ValueError: if limit exceeds the number of available images.
    """
    if limit is not None and limit > available:
        raise ValueError(f"limit={limit} is more than the {available} images of {source}")
    return available if limit is None else int(limit)


def resize(image: Shaped[np.ndarray, "h w c"], size: int) -> Shaped[np.ndarray, "size size c"]:
    """Resizes an image to a square as torchvision's `Resize((size, size))` does a PIL image.

    Bilinear with Pillow's antialiasing, channel by channel; the aspect ratio is not kept. uint8
    gives uint8, rounded by Pillow; float32 gives float32.

    Args:
      image: uint8 or float32 [height, width, channels].
      size: side of the result in pixels.

    Returns:
      An array of the image's dtype [size, size, channels].
    """
    channels = [
        Image.fromarray(np.ascontiguousarray(channel)).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


class _Folder:
    """What lies in a folder, in natural order; hidden files and debris are passed over.

    Attributes:
      images: files by the names of images.
      others: all that is neither an image nor a folder.
      folders: sub-folders, looked into when asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        images, others, self._names = [], [], list[str]()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name.lower()
                    if name.startswith(".") or name in _DEBRIS:
                        continue
                    is_file = entry.is_file(follow_symlinks=False) or os.path.isfile(entry)
                    if is_file and name.endswith(IMAGE_SUFFIXES):
                        images.append(entry.name)
                    elif not is_file and os.path.isdir(entry):
                        self._names.append(entry.name)
                    else:
                        others.append(entry.name)
        except OSError as error:
            raise ValueError(f"{printable(path)} cannot be read: {error.strerror}") from error
        self.images = [path / name for name in sorted(images, key=_natural)]
        self.others = [path / name for name in sorted(others, key=_natural)]

    @functools.cached_property
    def folders(self) -> list["_Folder"]:
        return [_Folder(self.path / name) for name in sorted(self._names, key=_natural)]

    def holds_images(self) -> bool:
        """Whether there are images, at any depth; links further down are not followed."""
        inner = (folder for folder in self.folders if not folder.path.is_symlink())
        return bool(self.images) or any(folder.holds_images() for folder in inner)


def read_folder(
    path: Path,
    split: str,
    limit: int | None,
    image_size: int | None,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Arrays:
    """Reads a folder of images, or of one sub-folder of images per class.

    Sub-folders named `train`, `test`, `val` and the like are splits, each flat or of classes;
    classes are numbered through all splits. Files and classes come in natural order ("2" before
    "10"), class by class. What is left out is said in a warning. If all loaded images are grey they
    get one channel, otherwise three. Alpha is dropped, the first frame of an animation counts, EXIF
    rotation is not applied.

    Args:
      path: the folder.
      split: "train", "test" or "validation"; without splits, all is "train".
      limit: number of (readable) images to load, evenly the first of each class; None for all.
      image_size: side to resize to, in pixels; None if all images have one size.
      skip_unreadable: leaves unreadable files out instead of raising.
      progress: called as `progress(done, total)` after each image.

    Returns:
      `(pixels, labels, label_names)`; the last two None for a flat folder.

    Raises:
      ValueError: if there are no images or not that split, images lie in more than one level, a
        file cannot be read, sizes differ without image_size, or limit exceeds the number of images.
    """
    where = printable(path)
    files, labels, label_names, left_out = _list_split(path, split)
    count = number_to_load(limit, len(files), where)
    images, unreadable = _read_images(
        files, _evenly(labels, len(files)), count, image_size, skip_unreadable, progress
    )
    if not images:
        raise ValueError(f"{where} holds no readable image")
    number_to_load(limit, len(images), f"{where} that can be read")
    _warn_of_left_out(path, left_out, unreadable)
    loaded = sorted(images)
    if labels is not None and label_names is not None:
        labels = labels[loaded]
        if limit is not None:
            _warn_of_missing_classes(where, limit, labels, label_names)
    channels = max(image.shape[-1] for image in images.values())
    pixels = np.stack(
        [np.broadcast_to(images[i], (*images[i].shape[:2], channels)) for i in loaded]
    )
    return pixels, labels, label_names


def _read_images(
    files: list[Path],
    order: list[int],
    count: int,
    image_size: int | None,
    skip_unreadable: bool,
    progress: Progress | None,
) -> tuple[dict[int, UInt8[np.ndarray, "h w c"]], list[Path]]:
    """The first images of an order that can be read, by their numbers; and unreadable files."""
    images: dict[int, np.ndarray] = {}
    unreadable = []
    for index in order:
        if len(images) == count:
            break
        try:
            image = _read_image(files[index])
        except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
            if skip_unreadable:
                unreadable.append(files[index])
                continue
            raise ValueError(
                f"{printable(files[index])} cannot be read as an image ({printable(error)}); "
                "skip_unreadable=True leaves such files out"
            ) from error
        if image_size is not None:
            image = resize(image, image_size)
        elif images:
            _check_same_size(files, images, index, image)
        images[index] = image
        if progress is not None:
            progress(len(images), count)
    return images, unreadable


def _evenly(labels: Int32[np.ndarray, " n"] | None, count: int) -> list[int]:
    """The order in which images are taken: the first of each class, then the second of each, ..."""
    if labels is None:
        return list(range(count))
    first = np.searchsorted(labels, labels)  # of its class; labels ascend
    return np.argsort(np.arange(count) - first, kind="stable").tolist()


def _check_same_size(
    files: list[Path], images: dict[int, np.ndarray], index: int, image: np.ndarray
) -> None:
    other, first = next(iter(images.items()))
    if image.shape[:2] != first.shape[:2]:
        (h, w), (h0, w0) = image.shape[:2], first.shape[:2]
        raise ValueError(
            f"{printable(files[index])} is {w}x{h} but {printable(files[other])} is {w0}x{h0} "
            "(width x height); expected one size, or pass image_size"
        )


def _warn_of_left_out(path: Path, left_out: list[Path], unreadable: list[Path]) -> None:
    parts = []
    for group, reason in ((left_out, "without an image"), (unreadable, "unreadable")):
        if group:
            names = _some(f"{name.relative_to(path)}{'/' * name.is_dir()}" for name in group)
            parts.append(f"{len(group)} {reason} ({names})")
    if parts:
        checks.warn(f"{printable(path)}: left out: {'; '.join(parts)}")


def _warn_of_missing_classes(
    where: str, limit: int, labels: Int32[np.ndarray, " n"], label_names: tuple[str, ...]
) -> None:
    missing = sorted({*range(len(label_names))}.difference(labels.tolist()))
    if missing:
        names = _some(label_names[index] for index in missing)
        checks.warn(
            f"{where}: no image of {len(missing)} of the {len(label_names)} classes is among "
            f"the limit={limit} that are loaded: {names}"
        )


def _some(names: Iterable[object]) -> str:
    """The first few names, in one line."""
    shown = [printable(name) for name in names]
    return ", ".join(shown[:4] + ["..."] * (len(shown) > 4))


def _list_split(
    path: Path, split: str
) -> tuple[list[Path], Int32[np.ndarray, " n"] | None, tuple[str, ...] | None, list[Path]]:
    """Files of a split, their labels, the names of all classes, and what is left out."""
    root = _Folder(path)
    splits = _splits_of(root)
    if splits is None:
        checks.one_of("split", split, ("train",))
        return _list_classes(root, root.folders)
    checks.one_of("split", split, [name for name in SPLITS if name in splits])
    classes = [folder for part in splits.values() for folder in part.folders]
    files, labels, label_names, left_out = _list_classes(splits[split], classes)
    return files, labels, label_names, root.others + left_out


def _splits_of(root: _Folder) -> dict[str, _Folder] | None:
    """The splits that a folder is divided into, None if it is not."""
    canonical = {alias: name for name, aliases in SPLITS.items() for alias in aliases}
    where = printable(root.path)
    splits: dict[str, _Folder] = {}
    beside = [root.images[0].name] if root.images else []
    for folder in root.folders:
        if not folder.holds_images():
            continue
        name = canonical.get(folder.path.name.lower())
        if name is None:
            beside.append(folder.path.name)
        elif name in splits:
            raise ValueError(
                f"{where} holds {splits[name].path.name} and {folder.path.name}, which are both "
                f"the split {name!r}"
            )
        else:
            splits[name] = folder
    if splits and beside:
        raise ValueError(
            f"{where} holds a split ({next(iter(splits.values())).path.name}) beside what is none "
            f"({_some(beside)}); expected either splits or classes, which must not be named like "
            "a split"
        )
    return splits or None


def _list_classes(
    root: _Folder, all_classes: list[_Folder]
) -> tuple[list[Path], Int32[np.ndarray, " n"] | None, tuple[str, ...] | None, list[Path]]:
    """As `_list_split`, of a folder without splits; labels number all classes that hold images."""
    where = printable(root.path)
    left_out = list(root.others)
    for folder in root.folders:
        for inner in folder.folders:
            if inner.holds_images():
                raise ValueError(
                    f"{where}: {printable(inner.path.relative_to(root.path))} holds images, one "
                    "level below the folders of classes; expected none there"
                )
        if folder.images:
            left_out += folder.others + [inner.path for inner in folder.folders]
        else:
            left_out.append(folder.path)
    classes = [folder for folder in root.folders if folder.images]
    if root.images and classes:
        raise ValueError(
            f"{where} holds images ({printable(root.images[0].name)}) as well as sub-folders of "
            f"images ({printable(classes[0].path.name)}); expected one or the other"
        )
    if root.images:
        return root.images, None, None, left_out
    if not classes:
        raise ValueError(
            f"{where} holds no images, nor do its sub-folders; expected {' '.join(IMAGE_SUFFIXES)}"
        )
    names = sorted({folder.path.name for folder in all_classes if folder.images}, key=_natural)
    files = [file for folder in classes for file in folder.images]
    numbers = [names.index(folder.path.name) for folder in classes]
    labels = np.repeat(numbers, [len(folder.images) for folder in classes])
    return files, labels.astype(np.int32), tuple(names), left_out


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sorts names in natural order: digits count as numbers, "2" before "10"."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _read_image(file: Path) -> UInt8[np.ndarray, "h w c"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            with _without_stderr() if image.format == "TIFF" else contextlib.nullcontext():
                image.load()
            if image.mode in _GREY_MODES:
                return np.asarray(image.convert("L"))[..., None]
            if image.mode not in _COLOUR_MODES:
                raise ValueError(f"pixels of mode {image.mode!r}, expected 8 bits a channel")
            palette = image.mode in ("P", "PA")
            return np.asarray((image.convert("RGBA") if palette else image).convert("RGB"))


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drops what libtiff writes there itself of a damaged file, beside the error that it gives."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
