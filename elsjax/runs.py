"""A folder for the results of a run: written as the run goes, resumed, and never half finished.

While it lasts, a run keeps its files in `<out>.partial`; the folder takes its name `out` only when
all of it is there. Its configuration is `config.json`; a partial run goes on only under the same.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from elsjax.storage import write_whole


class Run:
    """The folder of one run.

    Args:
      out: the folder to write.
      config: everything that determines the results, as JSON values.
      overwrite: replace what exists, finished or partial.

    Raises:
      ValueError: if out exists, or a partial run with another configuration does.
    """

    def __init__(self, out: Path, config: dict[str, Any], *, overwrite: bool = False) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        check_free(out, overwrite=overwrite)
        started = self.partial / "config.json"
        self.resumes = started.is_file() and json.loads(started.read_text()) == config
        if self.partial.exists() and not self.resumes:
            if started.is_file() and not overwrite:
                raise ValueError(
                    f"{str(self.partial)!r} holds an unfinished run with another configuration; "
                    "repeat its command to go on with it, or pass --overwrite"
                )
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        for cut_short in self.partial.glob("*.tmp"):
            cut_short.unlink()
        self.save_json("config.json", config)

    def write(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Writes one file of the run, whole or not at all."""
        write_whole(self.partial / name, write)

    def save_json(self, name: str, values: Any) -> None:
        """Writes JSON values, whole or not at all."""
        text = json.dumps(values, indent=2) + "\n"
        self.write(name, lambda file: file.write(text.encode()))

    def save_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Writes arrays as an `.npz`, whole or not at all."""
        self.write(name, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def load_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """Reads arrays that an earlier start of this run wrote; None if there are none."""
        path = self.partial / name
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)

    def remove(self, name: str) -> None:
        """Removes a file of the run."""
        (self.partial / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Gives the folder its name, in place of what was there."""
        if self.out.is_dir():
            shutil.rmtree(self.out)
        elif self.out.exists():
            self.out.unlink()
        os.replace(self.partial, self.out)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError if a run may not be written to out because something is there."""
    if out.exists() and not overwrite:
        raise ValueError(f"out={str(out)!r} exists; choose another or pass --overwrite")
