"""Files written whole or not at all, and the one place where caches lie."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import platformdirs


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


def cache_folder(name: str) -> Path:
    """Where a kind of cache lies: `ELSJAX_CACHE_DIR/name`, else in the user's cache directory.

    Args:
      name: kind of cache, "compiled", "datasets" or "indices".

    Returns:
      The folder, which need not exist.
    """
    chosen = os.environ.get("ELSJAX_CACHE_DIR")
    root = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("elsjax", False)
    return root / name


def _umask() -> int:
    """The mask of new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
