"""Checkpoints of training, by Orbax: whole or not at all, the newest two kept.

Each has a checksum over its files, without which it does not count: what an interrupted save or a
damaged disk left is passed over, and Orbax never sees it.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from elsjax import checks
from elsjax.nn.files import check_same_tensors
from elsjax.storage import write_whole

_KEPT = 2
_CHECKSUM = "elsjax.sha256"


class Checkpoints:
    """The checkpoints in one folder.

    Args:
      directory: the folder; it is made if it is missing. Checkpoints that are not whole are told in
        a warning and removed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for folder in sorted(directory.glob("[0-9]*")):
            if folder.is_dir() and not _is_whole(folder):
                checks.warn(
                    f"checkpoint {str(folder)!r} is damaged, or was not written to its end; "
                    "training goes on from the one before"
                )
                shutil.rmtree(folder)
        self._checkpointer = ocp.training.Checkpointer(
            directory.resolve(),
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any) -> None:
        """Writes a state, a pytree of arrays, as that of a step."""
        self._checkpointer.save(step, state, force=True)
        folder = self.directory / str(step)
        checksum = _checksum(folder)
        write_whole(folder / _CHECKSUM, lambda file: file.write(checksum.encode()))

    def latest(self, like: Any) -> Any | None:
        """Reads the newest state; None if there is none.

        Args:
          like: a state of the same structure, whose arrays have the expected shapes.

        Returns:
          The state, or None.

        Raises:
          ValueError: if what is there is not of that structure; the message says what differs.
        """
        newest = self._checkpointer.latest
        if newest is None:
            return None
        found = self._checkpointer.metadata(newest).metadata
        check_same_tensors(_shapes(like), _shapes(found), f"checkpoint {str(self.directory)!r}")
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), like
        )
        return self._checkpointer.load(newest, abstract)

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / _CHECKSUM).read_text() == _checksum(folder)
    except (OSError, ValueError):
        return False


def _checksum(folder: Path) -> str:
    """Checksum of names and contents of the files of a checkpoint."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _CHECKSUM:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
            total.update(f"{path.relative_to(folder).as_posix()}\n{content.hexdigest()}\n".encode())
    return total.hexdigest()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in leaves
    }
