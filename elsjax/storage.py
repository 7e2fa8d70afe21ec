"""Files written whole or not at all, and the one place where caches lie.

A cache saves time and nothing else: what cannot be read is built again, what cannot be written is
done without, and each costs a warning.
"""

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs

from elsjax import checks


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file, whole or not at all; a write that fails leaves nothing.

    Args:
      path: the file; what is there is replaced.
      write: called with the open file.

    Raises:
      OSError: if the file cannot be written.
    """
    handle, temporary = tempfile.mkstemp(".tmp", f"{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def cache_folder(cache: str) -> Path:
    """Where a cache lies: below `ELSJAX_CACHE_DIR`, else in the user's cache directory.

    Args:
      cache: "compiled", "datasets" or "indices".

    Returns:
      The folder, which need not exist.

    Raises:
      FileNotFoundError: if there is no home directory and ELSJAX_CACHE_DIR is not set.
    """
    chosen = os.environ.get("ELSJAX_CACHE_DIR")
    if chosen:
        return Path(os.path.expanduser(chosen), cache)
    root = platformdirs.user_cache_path("elsjax", appauthor=False)
    if not root.is_absolute():
        raise FileNotFoundError("no home directory to keep caches in; set ELSJAX_CACHE_DIR")
    return root / cache


def read_cached(cache: str, name: str) -> dict[str, np.ndarray] | None:
    """Arrays that `keep` left; every byte of them is verified.

    Args:
      cache: as for `cache_folder`.
      name: says what the arrays are; the same for the same arrays only.

    Returns:
      The arrays by their names; None if there are none, or with a warning, if they are damaged.
    """
    try:
        path = cache_folder(cache) / f"{name}.npz"
    except FileNotFoundError:
        return None  # `keep` says so
    if not os.path.lexists(path):
        return None
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's and zipfile's, of what is damaged
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        if str(arrays.pop("sha256", None)) != _checksum(name, arrays):
            raise ValueError("its checksum is another")
        return arrays
    except Exception as error:  # damage surfaces as whatever zipfile, zlib or NumPy raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        checks.warn(f"{path} is damaged ({reason}); building it again")
        return None


def keep(cache: str, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Leaves arrays for `read_cached`; where that cannot be done it costs a warning.

    Args:
      cache: as for `cache_folder`.
      name: says what the arrays are; the same for the same arrays only.
      arrays: by names that are none of `np.savez`'s arguments.
    """
    content: dict[str, Any] = {**arrays, "sha256": np.asarray(_checksum(name, arrays))}
    try:
        folder = cache_folder(cache)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.npz", lambda file: np.savez(file, **content))
    except OSError as error:
        checks.warn(f"{name} is not cached in {cache}, only in memory: {error}")


def _checksum(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all that is in a cached file, its name included."""
    digest = hashlib.sha256(name.encode())
    for key, array in sorted(arrays.items()):
        digest.update(repr((key, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _umask() -> int:
    """The mask of new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
