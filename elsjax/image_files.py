"""The user's own images, a folder of image files or an `.npz` archive, and their resizing.

A reader returns `(pixels, labels, label_names)` with the types of the fields of
`elsjax.datasets.Dataset`.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Shaped, UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
Arrays = tuple[Pixels, Int32[np.ndarray, " n"] | None, tuple[str, ...] | None]
Progress = Callable[[int, int], None]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_ROUNDING = 1e-5  # how far beyond [-1, 1] a float image may lie; it is then clipped


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


def read_npz(path: Path, limit: int | None, image_size: int | None) -> Arrays:
    """Reads images and optional labels from an `.npz` archive; pickled objects are refused.

    Args:
      path: archive with `images`, uint8 or floating-point in [-1, 1], [N, H, W] or [N, H, W, C],
        and optionally `labels`, non-negative integers [N].
      limit: number of leading images to keep; None for all.
      image_size: side to resize to, in pixels; None for the native size.

    Returns:
      `(pixels, labels, None)`; pixels uint8, or float32 where the archive holds floats.

    Raises:
      ValueError: if the file cannot be read or does not hold what is described above.
    """
    arrays = _read_arrays(path)
    if "images" not in arrays:
        raise ValueError(f"{path} has no array 'images'; expected 'images' and optionally 'labels'")
    pixels = _checked_images(path, arrays["images"])
    labels = _checked_labels(path, arrays["labels"], len(pixels)) if "labels" in arrays else None
    pixels = pixels[: number_to_load(limit, len(pixels), path)]
    if image_size is not None:
        pixels = np.stack([resize(image, image_size) for image in pixels])
    return pixels, None if labels is None else labels[: len(pixels)], None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected an .npz archive")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz archive, or it is truncated")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in ("images", "labels") if key in archive}
    except Exception as error:  # damaged members raise whatever zipfile, zlib or NumPy raise
        raise ValueError(f"{path} cannot be read as an .npz archive: {error}") from error


def _checked_images(path: Path, images: np.ndarray) -> Pixels:
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{path}: 'images' has shape {list(images.shape)}; expected [N, H, W] or [N, H, W, C]"
        )
    if images.size == 0:
        raise ValueError(f"{path}: 'images' is empty: shape {list(images.shape)}")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"{path}: 'images' has dtype {images.dtype}; expected uint8, or floats in [-1, 1]"
        )
    if not np.isfinite(images).all():
        raise ValueError(f"{path}: 'images' holds NaN or infinity; expected floats in [-1, 1]")
    low, high = float(images.min()), float(images.max())
    if low < -1 - _ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"{path}: 'images' ranges from {low:g} to {high:g}; "
            "expected floats in [-1, 1], or uint8"
        )
    return np.clip(images.astype(np.float32), -1, 1)


def _checked_labels(path: Path, labels: np.ndarray, count: int) -> Int32[np.ndarray, " n"]:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: 'labels' has shape {list(labels.shape)} and dtype {labels.dtype}; "
            f"expected integers [{count}], one for each image"
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise ValueError(
            f"{path}: 'labels' ranges from {labels.min()} to {labels.max()}; "
            "expected 0 or more, within int32"
        )
    return labels.astype(np.int32)


def read_folder(
    path: Path,
    limit: int | None,
    image_size: int | None,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Arrays:
    """Reads a folder of images, or of one sub-folder of images per class.

    Files and classes come in sorted order, class by class; hidden ones, and sub-folders without
    images, are passed over. If all loaded images are grey they get one channel, otherwise three.
    Alpha is dropped, the first frame of an animation counts, EXIF rotation is not applied.

    Args:
      path: the folder.
      limit: number of leading (readable) images to load; None for all.
      image_size: side to resize to, in pixels; None if all images have one size.
      skip_unreadable: leaves unreadable files out instead of raising.
      progress: called as `progress(done, total)` after each image.

    Returns:
      `(pixels, labels, label_names)`; the last two None for a flat folder.

    Raises:
      ValueError: if there are no images, images lie both beside and in sub-folders, a file cannot
        be read, sizes differ without image_size, or limit exceeds the number of images.
    """
    files, labels, label_names = _list_folder(path)
    wanted = number_to_load(limit, len(files), path)
    images: list[np.ndarray] = []
    loaded: list[int] = []
    for index, file in enumerate(files):
        if len(images) == wanted:
            break
        try:
            image = _read_image(file)
        except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
            if skip_unreadable:
                continue
            raise ValueError(
                f"{file} cannot be read as an image ({error}); "
                "skip_unreadable=True leaves such files out"
            ) from error
        if image_size is not None:
            image = resize(image, image_size)
        elif images and image.shape[:2] != images[0].shape[:2]:
            (h, w), (h0, w0) = image.shape[:2], images[0].shape[:2]
            raise ValueError(
                f"{file} is {w}x{h} but {files[loaded[0]]} is {w0}x{h0} (width x height); "
                "expected one size, or pass image_size"
            )
        images.append(image)
        loaded.append(index)
        if progress is not None:
            progress(len(images), wanted)
    if not images:
        raise ValueError(f"{path} holds no readable image")
    number_to_load(limit, len(images), f"{path} that can be read")
    channels = max(image.shape[-1] for image in images)
    pixels = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    return pixels, None if labels is None else labels[loaded], label_names


def _list_folder(
    path: Path,
) -> tuple[list[Path], Int32[np.ndarray, " n"] | None, tuple[str, ...] | None]:
    flat = _images_in(path)
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    classes = {folder: found for folder in folders if (found := _images_in(folder))}
    if flat and classes:
        raise ValueError(
            f"{path} holds images ({flat[0].name}) as well as sub-folders of images "
            f"({next(iter(classes)).name}); expected one or the other"
        )
    if flat:
        return flat, None, None
    if not classes:
        raise ValueError(
            f"{path} holds no images, nor do its sub-folders; expected {' '.join(IMAGE_SUFFIXES)}"
        )
    files = [file for found in classes.values() for file in found]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    return files, labels.astype(np.int32), tuple(folder.name for folder in classes)


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
    )


def _read_image(file: Path) -> UInt8[np.ndarray, "h w c"]:
    with Image.open(file) as image:
        if image.mode in _GREY_MODES:
            return np.asarray(image.convert("L"))[..., None]
        if image.mode not in _COLOUR_MODES:
            raise ValueError(f"pixels of mode {image.mode!r}, expected 8 bits a channel")
        # By way of RGBA: Pillow warns when a palette with transparency becomes RGB at once.
        palette = image.mode in ("P", "PA")
        return np.asarray((image.convert("RGBA") if palette else image).convert("RGB"))
