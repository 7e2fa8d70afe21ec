"""What an unfinished computation keeps, so that it goes on where it stopped."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np


class Store(Protocol):
    """Keeps named arrays from one start of a computation to the next: a started `Run` does."""

    def load_arrays(
        self, name: str, like: Mapping[str, tuple[Any, tuple[int | None, ...]]]
    ) -> dict[str, np.ndarray] | None:
        """The arrays of a name, of these dtypes and shapes; None if there are none."""

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays under a name, in place of earlier ones."""

    def warn_damaged(self, name: str, reason: str) -> None:
        """Says in a warning that what was kept under a name cannot be used."""

    def remove(self, name: str) -> None:
        """Removes what was kept under a name."""


class States:
    """The states of a computation, which are forgotten once its results are kept.

    Args:
      store: where they are kept; None to keep none.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._names: set[str] = set()

    def load(
        self, name: str, new: dict[str, np.ndarray], check: Callable[[dict[str, np.ndarray]], bool]
    ) -> dict[str, np.ndarray]:
        """The state of a name as it was saved last.

        Args:
          name: of the state, a part of a file's name.
          new: the state at the beginning, returned where no good one was saved.
          check: whether a state of the dtypes and shapes of the new one is good.

        Returns:
          The state.
        """
        if self._store is None:
            return new
        file = self._file(name)
        like = {key: (array.dtype, array.shape) for key, array in new.items()}
        state = self._store.load_arrays(file, like)
        if state is None:
            return new
        if not check(state):
            self._store.warn_damaged(file, "no state of this run")
            return new
        return state

    def save(self, name: str, state: Mapping[str, np.ndarray]) -> None:
        """Keeps a state under a name."""
        if self._store is not None:
            self._store.save_arrays(self._file(name), state)

    def forget(self) -> None:
        """Removes the states that were loaded or saved."""
        if self._store is not None:
            for file in self._names:
                self._store.remove(file)

    def _file(self, name: str) -> str:
        file = f"state-{name}.npz"
        self._names.add(file)
        return file
