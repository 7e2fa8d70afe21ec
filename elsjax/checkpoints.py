"""Checkpoints of training, by Orbax: whole or not at all, the newest two kept."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from elsjax.nn.files import check_same_tensors

_KEPT = 2


class Checkpoints:
    """The checkpoints in one folder.

    Args:
      directory: the folder; it is made if it is missing. What an interrupted save left is removed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._checkpointer = ocp.training.Checkpointer(
            directory.resolve(),
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any) -> None:
        """Writes a state, a pytree of arrays, as that of a step."""
        self._checkpointer.save(step, state, force=True)

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


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in leaves
    }
