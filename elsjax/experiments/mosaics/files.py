"""Mosaics in files, as `elsjax mosaic` writes them."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from elsjax.experiments.mosaics.mosaic import Mosaic
from elsjax.posterior.answers import Top

# Kind of numbers and axes of each array; S1 is S + 1.
_ARRAYS = {
    "times": ("f", "S1"),
    "windows": ("i", "S"),
    "states": ("f", "S1 B H W C"),
    "x0": ("f", "S B H W C"),
    "weight": ("f", "S B H W k"),
    "image": ("i", "S B H W k"),
    "row": ("i", "S B H W k"),
    "column": ("i", "S B H W k"),
    "effective_number": ("f", "S B H W"),
    "entropy": ("f", "S B H W"),
    "label": ("i", "B"),
    "left_out": ("i", "B"),
    "repainted": ("f", "B H W C"),
}


def load_mosaic(path: str | os.PathLike[str]) -> Mosaic:
    """Loads a mosaic from a file.

    Args:
      path: a mosaic.npz of `elsjax mosaic`, or of `numpy.savez(path, **mosaic.arrays())`. Other
        arrays in it are passed over.

    Returns:
      The mosaic, of NumPy arrays.

    Raises:
      ValueError: if the file cannot be read, or its arrays are not those of a mosaic.
    """
    said = f"path={str(path)!r}"
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS if name in archive}
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{said} cannot be read as a mosaic: {reason}") from error
    missing = [name for name in _ARRAYS if name not in arrays and name != "label"]
    if missing:
        raise ValueError(f"{said} is no mosaic: it lacks {', '.join(missing)}")
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        _check(said, name, array, sizes)
    top = {field.name: arrays.pop(field.name) for field in dataclasses.fields(Top)}
    return Mosaic(top=Top(**top), **{"label": None, **arrays})


def _check(said: str, name: str, array: np.ndarray, sizes: dict[str, int]) -> None:
    """Raises ValueError unless an array has its kind and axes, whose sizes it adds."""
    kind, axes = _ARRAYS[name]
    names = axes.split()
    found = dict(zip(names, array.shape, strict=False))
    if "S1" in found:
        found["S"] = found.pop("S1") - 1
    fits = array.ndim == len(names) and all(
        size > 0 and sizes.setdefault(axis, size) == size for axis, size in found.items()
    )
    if array.dtype.kind != kind or not fits:
        raise ValueError(
            f"{said} is no mosaic: {name} is {array.dtype} {list(array.shape)}; expected "
            f"{'floats' if kind == 'f' else 'integers'} [{axes.replace('S1', 'S+1')}]"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{said} is no mosaic: {name} must be finite")
