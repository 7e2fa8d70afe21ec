"""The user's own images as arrays: an `.npz` archive or an `.npy` file.

What can be read in one way only is read; what cannot is refused, and told how to store it.
"""

import contextlib
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from elsjax import checks
from elsjax.data.image_files import SPLITS, Arrays, Pixels, number_to_load, printable, resize

# Names of arrays, in any case. Those of a split carry its name, as `x_train` or `train_images`.
_IMAGE_NAMES = ("images", "image", "x", "data", "arr_0")
_LABEL_NAMES = ("labels", "label", "y", "targets", "target", "arr_1")
_ROUNDING = 1e-5  # how far beyond [-1, 1] a float image may lie; it is then clipped


def read_archive(path: Path, split: str, limit: int | None, image_size: int | None) -> Arrays:
    """Reads images and labels, if there are any; pickled objects are refused.

    Images are uint8, other integers within 0..255, or floating-point in [-1, 1], [N, H, W] or
    [N, H, W, C]. Labels are integers [N] or [N, 1], non-negative; whole numbers may be stored as
    floats.

    Args:
      path: an `.npy` of images; or an `.npz` with images by the name `images`, `image`, `x`, `data`
        or `arr_0`, and labels by `labels`, `label`, `y`, `targets`, `target` or `arr_1`. With
        `_train`, `_test` or `_val` after a name, or before it, there are splits.
      split: "train", "test" or "validation"; without splits, all is "train".
      limit: number of leading images to keep; None for all.
      image_size: side to resize to, in pixels; None for the native size.

    Returns:
      `(pixels, labels, None)`; pixels uint8, or float32 where the file holds floats.

    Raises:
      ValueError: if the file cannot be read or does not hold what is described above.
    """
    where = printable(path)
    if not path.is_file():
        raise ValueError(f"{where} does not exist; expected an {path.suffix.lower()} file")
    if path.suffix.lower() == ".npy":
        checks.one_of("split", split, ("train",))
        pixels, labels = _checked_images(where, _read_npy(path)), None
    else:
        image_name, label_name, images, labels = _read_npz(path, split)
        pixels = _checked_images(f"{where}: {image_name!r}", images)
        if labels is not None:
            labels = _checked_labels(f"{where}: {label_name!r}", labels, len(pixels))
    pixels = pixels[: number_to_load(limit, len(pixels), where)]
    if image_size is not None:
        pixels = np.stack([resize(image, image_size) for image in pixels])
    if labels is not None:
        classes, loaded = (len(np.unique(some)) for some in (labels, labels[: len(pixels)]))
        labels = labels[: len(pixels)]
        if loaded < classes <= len(pixels):
            checks.warn(
                f"{where}: the first {len(pixels)} images are of {loaded} of {classes} classes; "
                "shuffle the archive for some of each"
            )
    return pixels, labels, None


@contextlib.contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Makes one error of what zipfile, zlib and NumPy raise of a damaged file, and no warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{printable(path)} cannot be read as {form} ({reason})") from error


def _read_npy(path: Path) -> np.ndarray:
    with _reading(path, "an .npy file"), path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path, split: str) -> tuple[str, str | None, np.ndarray, np.ndarray | None]:
    """Names of the images and labels of a split, and both."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{printable(path)} is not an .npz archive, or it is truncated")
    with contextlib.ExitStack() as opened:
        with _reading(path, "an .npz archive"):  # which NumPy would leave open in some cases
            file = opened.enter_context(path.open("rb"))
            archive = opened.enter_context(np.load(file, allow_pickle=False))
        image_name, label_name = _names(path, archive.files, split)
        with _reading(path, "an .npz archive"):
            images = archive[image_name]
            labels = None if label_name is None else archive[label_name]
    return image_name, label_name, images, labels


def _names(path: Path, names: list[str], split: str) -> tuple[str, str | None]:
    """Which arrays are the images and labels of a split."""
    where = printable(path)
    holds = "it holds " + (", ".join(map(repr, names)) or "nothing")
    found = {name: meaning for name in names if (meaning := _meaning(name)) is not None}
    splits = {part for meaning, part in found.values() if meaning == "images"}
    if not splits:
        raise ValueError(
            f"{where} has no array 'images', nor any of {', '.join(_IMAGE_NAMES[1:])} or, for a "
            f"split, x_train or train_images; {holds}"
        )
    if None in splits and len(splits) > 1:
        raise ValueError(f"{where} has images with a split and without; expected either; {holds}")
    if None in splits:
        checks.one_of("split", split, ("train",))
    else:
        checks.one_of("split", split, [name for name in SPLITS if name in splits])
    part = None if None in splits else split

    def named(meaning: str) -> list[str]:
        candidates = [name for name in found if found[name] == (meaning, part)]
        if meaning in candidates:
            return [meaning]
        if len(candidates) > 1:
            raise ValueError(
                f"{where}: any of {', '.join(map(repr, candidates))} may be the {meaning}; "
                f"name one of them {meaning!r}; {holds}"
            )
        return candidates

    return named("images")[0], next(iter(named("labels")), None)


def _meaning(name: str) -> tuple[str, str | None] | None:
    """Whether an array's name says images or labels, and of which split; None if neither."""
    base, part = name.lower(), None
    for canonical, aliases in SPLITS.items():
        for alias in aliases:
            if base.endswith(f"_{alias}") or base.startswith(f"{alias}_"):
                part = canonical
                base = base.removesuffix(f"_{alias}").removeprefix(f"{alias}_")
    if base in _IMAGE_NAMES:
        return "images", part
    return ("labels", part) if base in _LABEL_NAMES else None


def _checked_images(what: str, images: np.ndarray) -> Pixels:
    """Images [N, H, W, C], uint8 or float32 in [-1, 1]."""
    shape = list(images.shape)
    if images.ndim == 2 and images.size:
        side = round(images.shape[1] ** 0.5)
        hint = f"reshape(-1, {side}, {side})" if side**2 == images.shape[1] else "reshape"
        raise ValueError(
            f"{what} has shape {shape}; expected [N, H, W] or [N, H, W, C]: {hint} them"
        )
    if images.ndim not in (3, 4):
        raise ValueError(f"{what} has shape {shape}; expected [N, H, W] or [N, H, W, C]")
    if images.size == 0:
        raise ValueError(f"{what} is empty: shape {shape}")
    if images.ndim == 3 and images.shape[2] == 3 < images.shape[1]:
        raise ValueError(
            f"{what} has shape {shape}, that of a single colour image; "
            "expected [N, H, W] or [N, H, W, C]: images[None] is a batch of one"
        )
    if images.ndim == 4 and images.shape[1] <= 4 < images.shape[3]:
        raise ValueError(
            f"{what} has shape {shape}, with the channels first; expected [N, H, W, C]: "
            "store images.transpose(0, 2, 3, 1)"
        )
    if images.ndim == 3:
        images = images[..., None]
    if np.issubdtype(images.dtype, np.integer):
        return _checked_integers(what, images)
    if np.issubdtype(images.dtype, np.floating):
        return _checked_floats(what, images)
    hint = ": store 255 * images.astype(np.uint8)" if images.dtype == bool else ""
    raise ValueError(f"{what} has dtype {images.dtype}; expected uint8, or floats in [-1, 1]{hint}")


def _checked_integers(what: str, images: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"{what} is {images.dtype} from {low} to {high}; expected 0 to 255: scale it and store "
            "uint8, or floats in [-1, 1]"
        )
    if high == 1:
        checks.warn(
            f"{what} is read as 0 to 255, nearly black, but its largest value is 1; if 1 is white, "
            "store 255 * images"
        )
    return np.ascontiguousarray(images, np.uint8)


def _checked_floats(what: str, images: np.ndarray) -> Pixels:
    if not np.isfinite(images).all():
        raise ValueError(f"{what} holds NaN or infinity; expected floats in [-1, 1]")
    low, high = float(images.min()), float(images.max())
    if low < -1 - _ROUNDING or high > 1 + _ROUNDING:
        scale = ": for 0 to 255, store np.rint(images).astype(np.uint8)"
        raise ValueError(
            f"{what} ranges from {low:g} to {high:g}; expected floats in [-1, 1], or uint8"
            + (scale if low >= 0 and 2 <= high <= 255 else "")
        )
    if low >= 0:
        checks.warn(
            f"{what} lies in [0, 1] and is read as [-1, 1], though either reading is possible; if "
            "it is scaled to [0, 1], store 2 * images - 1, or uint8"
        )
    return np.clip(np.ascontiguousarray(images, np.float32), -1, 1)


def _checked_labels(what: str, labels: np.ndarray, count: int) -> Int32[np.ndarray, " n"]:
    """Labels as int32 [N]."""
    expected = f"expected integers [{count}], one for each image"
    shape = f"{what} has shape {list(labels.shape)} and dtype {labels.dtype}; {expected}"
    if labels.ndim == 2 and len(labels) == count and labels.shape[1] > 1:
        raise ValueError(f"{shape}: for one-hot labels, store labels.argmax(1)")
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(shape)
    labels = labels.reshape(count)
    if labels.dtype.kind in "US":
        raise ValueError(f"{shape}: np.unique(labels, return_inverse=True)[1] numbers names")
    if labels.dtype.kind not in "biuf":
        raise ValueError(shape)
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == np.rint(labels))).all():
        raise ValueError(f"{shape}, but not all are whole numbers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ValueError(f"{what} ranges from {low} to {high}; expected 0 or more, within int32")
    return labels.astype(np.int32)
