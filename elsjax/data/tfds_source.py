"""Data sets of TensorFlow Datasets (TFDS), read without TensorFlow.

A set has to be prepared as array_record under `<data_dir>/<name>/<version>`. What is there is known
from its `dataset_info.json` alone. A whole split is decoded once and kept, uncompressed, in the
cache of "datasets". TFDS itself is imported only to decode or to prepare.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from elsjax import checks, storage
from elsjax.data.image_files import Arrays, Progress, number_to_load, resize
from elsjax.references import Reference


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of a TFDS data set before it is prepared.

    Args:
      description: one line.
      splits: number of images by split.
      shape: height, width and channels of an image.
      label_names: names of the classes, None for a set without labels.
      reference: what to cite for it.
    """

    description: str
    splits: dict[str, int]
    shape: tuple[int, int, int]
    label_names: tuple[str, ...] | None
    reference: Reference


SOURCES = {
    "mnist": Source(
        "handwritten digits",
        {"train": 60_000, "test": 10_000},
        (28, 28, 1),
        tuple("0123456789"),
        Reference("lecun1998", "MNIST"),
    ),
    "fashion_mnist": Source(
        "articles of clothing",
        {"train": 60_000, "test": 10_000},
        (28, 28, 1),
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        Reference("xiao2017", "FashionMNIST"),
    ),
    "cifar10": Source(
        "natural images in 10 classes",
        {"train": 50_000, "test": 10_000},
        (32, 32, 3),
        tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        Reference("krizhevsky2009", "CIFAR10"),
    ),
    "celeb_a": Source(
        "faces, aligned and cropped",
        {"train": 162_770, "validation": 19_867, "test": 19_962},
        (218, 178, 3),
        None,
        Reference("liu2015", "CelebA"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set prepared on this machine: `<data_dir>/<name>/<version>`."""

    directory: Path
    splits: dict[str, int]


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    """The TFDS directory: the argument, else `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
      ValueError: if it is no directory.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = os.path.realpath(os.path.expanduser(chosen))
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"data_dir={path!r} is a file; expected a directory")
    return Path(path)


def find(name: str, data_dir: Path) -> Prepared | None:
    """The newest version of a data set prepared as array_record under data_dir, None if none is."""
    found = []
    for path in (data_dir / name).glob("*.*.*/dataset_info.json"):
        # What cannot be understood, for whatever reason, is not a finished preparation.
        with contextlib.suppress(Exception):
            info = json.loads(path.read_text(encoding="utf-8"))
            version = tuple(int(part) for part in path.parent.name.split("."))
            splits = {str(s["name"]): sum(map(int, s["shardLengths"])) for s in info["splits"]}
            if info["fileFormat"] == "array_record" and splits and min(splits.values()) > 0:
                found.append((version, Prepared(path.parent, splits)))
    return max(found, key=lambda item: item[0])[1] if found else None


def load(
    name: str,
    split: str,
    data_dir: Path,
    *,
    limit: int | None,
    image_size: int | None,
    progress: Progress | None,
) -> Arrays:
    """Loads a split of a TFDS data set, from the cache if it is there.

    Decoding a whole split fills the cache. With a limit and no cache only the images asked for are
    decoded, and not cached.

    Args:
      name: one of `SOURCES`.
      split: a split of the data set.
      data_dir: TFDS directory, resolved.
      limit: number of leading images to load; None for all.
      image_size: side to resize to, in pixels; None for the native size.
      progress: called as `progress(done, total)` after each decoded image.

    Returns:
      `(pixels, labels, label_names)`; the last two None for a set without labels.

    Raises:
      ValueError: if split or limit does not fit, or the data set is not prepared and cannot be
        prepared here, or its files are damaged.
    """
    source = SOURCES[name]
    prepared = find(name, data_dir)
    splits = prepared.splits if prepared else source.splits
    checks.one_of("split", split, splits)
    count = number_to_load(limit, splits[split], f"{name}, split {split!r}")
    prepared = prepared or _prepare(name, data_dir)

    if (image_size, image_size) == source.shape[:2]:
        image_size = None
    key = _cache_name(prepared, split, image_size)
    cached = storage.read_cached("datasets", key)
    if cached is not None:
        labels = cached.get("labels")
        return (
            cached["pixels"][:count],
            None if labels is None else labels[:count],
            source.label_names,
        )
    pixels, labels = _decode(source, prepared, split, count, image_size, progress)
    if count == splits[split]:
        arrays = {"pixels": pixels} if labels is None else {"pixels": pixels, "labels": labels}
        storage.keep("datasets", key, arrays)
    return pixels, labels, source.label_names


def _decode(
    source: Source,
    prepared: Prepared,
    split: str,
    count: int,
    image_size: int | None,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The first images of a split, and their labels."""
    height, width, channels = source.shape
    size = (height, width) if image_size is None else (image_size, image_size)
    pixels = np.empty((count, *size, channels), np.uint8)
    names = source.label_names
    labels = None if names is None else np.empty(count, np.int32)
    for index, record in enumerate(_records(prepared, split, count)):
        image, label = np.asarray(record.get("image")), record.get("label", -1)
        if image.shape != source.shape or image.dtype != np.uint8:
            raise ValueError(
                f"{prepared.directory}, split {split!r}: image {index} is {image.dtype} "
                f"{list(image.shape)}; expected uint8 {list(source.shape)}"
            )
        pixels[index] = image if image_size is None else resize(image, image_size)
        if names is not None and labels is not None:
            if label not in range(len(names)):
                raise ValueError(
                    f"{prepared.directory}, split {split!r}: image {index} has label {label}; "
                    f"expected 0 to {len(names) - 1}"
                )
            labels[index] = label
        if progress is not None:
            progress(index + 1, count)
    return pixels, labels


def _records(prepared: Prepared, split: str, count: int) -> Iterator[dict[str, Any]]:
    for library in ("array_record", "tensorflow_datasets"):
        if importlib.util.find_spec(library) is None:  # TFDS would print a banner instead
            raise ValueError(
                f"{prepared.directory} cannot be read without the library {library}, which is not "
                "installed; there is no array_record for Windows"
            )
    try:
        import tensorflow_datasets as tfds

        records = tfds.builder_from_directory(prepared.directory).as_data_source(split=split)
        for index in range(count):
            with _without_advice():
                record = records[index]
            yield record
    except Exception as error:  # of any type: TFDS, array_record and the image decoders
        raise ValueError(
            f"{prepared.directory}, split {split!r}, cannot be read: {_one_line(error)}"
        ) from error


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps TFDS from recommending other decoders of images on stderr."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl.setLevel(level)


def _cache_name(prepared: Prepared, split: str, image_size: int | None) -> str:
    """Name of a decoded split; ends in a digest of where it comes from and how long it is."""
    directory = prepared.directory
    name = f"{directory.parent.name}-{directory.name}-{split}"
    if image_size is not None:
        name += f"-{image_size}x{image_size}"
    origin = f"{directory} {prepared.splits[split]}"
    return f"{name}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:16]}"


def _writable(directory: Path) -> bool:
    """Whether a directory may be written to, or created: by its mode too, which root ignores."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return bool(existing.stat().st_mode & 0o222) and os.access(existing, os.W_OK)


def _prepare(name: str, data_dir: Path) -> Prepared:
    """Downloads and prepares a data set with TFDS, if that can work; whole or not at all."""
    try:
        obstacle = _obstacle(name, data_dir)
        if obstacle is None:
            _download(name, data_dir)
    except Exception as error:  # of any type: network, archives, TFDS, TensorFlow
        obstacle = _one_line(error)
    prepared = find(name, data_dir)
    if prepared is None:
        raise ValueError(
            f"name={name!r} is not prepared as array_record in data_dir={str(data_dir)!r} and "
            f"cannot be prepared now ({obstacle}); where TensorFlow and a network are at hand, run "
            f"tfds build {name} --file_format=array_record --data_dir={data_dir}"
        )
    return prepared


def _obstacle(name: str, data_dir: Path) -> str | None:
    """Why preparing would fail, found without a long wait; None if nothing speaks against it."""
    if (data_dir / name).exists():
        return f"{data_dir / name} exists, but unfinished, damaged or in another format"
    if importlib.util.find_spec("tensorflow") is None:
        return "TFDS needs TensorFlow to prepare data, though not to read it"
    if not _writable(data_dir):
        return "data_dir is not writable"
    # TFDS retries a dead connection for three minutes.
    import tensorflow_datasets as tfds

    url = next(iter(tfds.builder_cls(name).url_infos))
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return None  # the server answers, if not to HEAD
    except OSError as error:
        return f"{url} cannot be reached: {_one_line(error)}"
    return None


def _download(name: str, data_dir: Path) -> None:
    """Prepares in a scratch directory, quietly, and moves the finished data set into place."""
    import tensorflow_datasets as tfds

    data_dir.mkdir(parents=True, exist_ok=True)
    quiet = io.StringIO()
    with (
        tempfile.TemporaryDirectory(
            prefix=".elsjax-", dir=data_dir, ignore_cleanup_errors=True
        ) as scratch,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        builder = tfds.builder(name, data_dir=scratch, file_format="array_record")
        builder.download_and_prepare()
        os.replace(Path(scratch) / name, data_dir / name)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
