"""A folder for the results of a run: written as the run goes, resumed, and never half finished.

While it lasts, a run keeps its files in `<out>.partial`; the folder takes its name `out` only when
all of it is there. Its configuration is `config.json`; a partial run goes on only under the same.

What a run wrote is listed in the folder, in the file `.elsjax-run`. Only what is listed there is
ever removed, and a folder that holds anything else is neither replaced nor removed.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

import elsjax
from elsjax import checks
from elsjax.experiments.run_folders import (
    MARK,
    check_written,
    is_interrupted_write,
    listed_in,
    locked,
    made_folder,
    remove_written,
)
from elsjax.storage import write_whole

_CONFIG = "config.json"
_PARTIAL = ".partial"
_NEW = "pass --overwrite to start anew"


class Run:
    """The folder of one run, locked against other runs while it lasts.

        with Run(out) as run:
            ...                # check and load everything; nothing is written yet
            run.start(config)
            ...                # run.save_arrays(...), again and again
            run.finish()

    A run that ends with an error before it wrote a result leaves nothing.

    Args:
      out: the folder to write.
      overwrite: replace what an earlier run wrote there, finished or partial.

    Raises:
      ValueError: if out exists, is not the folder of a run, or another run is writing it.
      OSError: if nothing can be written there.
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        self.out = out
        self._overwrite = overwrite
        if out.name in ("", ".."):
            raise ValueError(f"out={str(out)!r} must end with the name of a folder")
        if out.name.endswith(_PARTIAL):
            raise ValueError(
                f"out={str(out)!r} is what an unfinished run is called; choose another"
            )
        self.partial = out.with_name(out.name + _PARTIAL)
        self._replaced = out.with_name(f".{out.name}.elsjax-replaced")
        self._written: set[str] = set()  # names of files; those of folders end with "/"
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Locks the folder and checks that it may be written."""
        with contextlib.ExitStack() as undo:
            self._check()
            undo.enter_context(made_folder(self.out.parent))
            undo.enter_context(locked(self.out))
            if self._replaced.is_dir():  # an earlier run ended while it replaced out
                if listed_in(self._replaced) is None or self.out.exists():
                    remove_written(self._replaced)
                else:
                    os.replace(self._replaced, self.out)
            self._check()
            undo.callback(self._discard_if_empty)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlocks the folder."""
        self._undo.close()

    def start(self, config: dict[str, Any]) -> None:
        """Makes the folder, or goes on with that of an interrupted run.

        Args:
          config: everything that determines the results, as JSON values.

        Raises:
          ValueError: if there is a partial run with another configuration, or one that cannot be
            read, and it may not be overwritten.
        """
        config = json.loads(_json(config))
        resumes = False
        if self.partial.is_dir() and (listed_in(self.partial) or set()) - {_CONFIG}:
            found = self._config_found()
            resumes = found == config
            if not resumes and not self._overwrite:
                raise ValueError(self._difference(found, config))
        if not resumes and self.partial.is_dir():
            remove_written(self.partial)
        self.partial.mkdir(exist_ok=True)
        self._written = listed_in(self.partial) or set()
        for entry in os.scandir(self.partial):
            if is_interrupted_write(entry.name, self._written):
                os.unlink(entry)
        self.save_json(_CONFIG, config)

    def write(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Writes one file of the run, whole or not at all."""
        self._list(name)
        write_whole(self.partial / name, write)

    def save_bytes(self, name: str, content: bytes) -> None:
        """Writes bytes, whole or not at all."""
        self.write(name, lambda file: file.write(content))

    def save_json(self, name: str, values: Any) -> None:
        """Writes JSON values, whole or not at all; ValueError if one is NaN or infinite."""
        self.save_bytes(name, _json(values).encode())

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes arrays as an `.npz`, whole or not at all."""
        self.write(name, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def load_json(self, name: str) -> Any:
        """Reads JSON values of an earlier start of this run; None if there are none.

        Those that are damaged are told in a warning, and None is returned.
        """
        path = self.partial / name
        if not path.is_file():
            return None
        try:
            return _parse(path)
        except ValueError as error:
            self.warn_damaged(name, str(error))
            return None

    def load_arrays(
        self, name: str, like: Mapping[str, tuple[Any, tuple[int | None, ...]]]
    ) -> dict[str, np.ndarray] | None:
        """Reads arrays of an earlier start of this run; None if there are none.

        Those that are damaged are told in a warning, and None is returned.

        Args:
          name: the file.
          like: dtype and shape of each array; an axis of None has any length.

        Returns:
          The arrays, or None.
        """
        path = self.partial / name
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            found = {key: (array.dtype, array.shape) for key, array in arrays.items()}
            same = found.keys() == like.keys() and all(
                np.dtype(dtype) == found[key][0]
                and len(shape) == len(found[key][1])
                and all(n in (None, m) for n, m in zip(shape, found[key][1], strict=True))
                for key, (dtype, shape) in like.items()
            )
            if not same:
                raise ValueError("its arrays are of other shapes")
        except Exception as error:  # zipfile, zlib and NumPy raise almost anything
            self.warn_damaged(name, str(error) or type(error).__name__)
            return None
        return arrays

    def warn_damaged(self, name: str, reason: str) -> None:
        """Says in a warning that a file of an earlier start cannot be used."""
        checks.warn(
            f"{str(self.partial / name)!r} is damaged ({reason}); what it held is computed again"
        )

    def folder(self, name: str) -> Path:
        """A folder of the run for files that something else writes: numbered checkpoints."""
        self._list(f"{name}/")
        return self.partial / name

    def remove(self, name: str) -> None:
        """Removes a file or folder of the run."""
        path = self.partial / name
        if f"{name}/" in self._written:
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Gives the folder its name, in place of what an earlier run wrote there.

        Raises:
          ValueError: if what is not of an earlier run appeared there meanwhile.
        """
        self._written = {name for name in self._written if (self.partial / name).exists()}
        self._write_mark()
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"{error}; the results are in {str(self.partial)!r}") from error
        if not self.out.exists():
            os.replace(self.partial, self.out)
            return
        # At every moment one of the two is whole, and the next run finds what is left over.
        os.replace(self.out, self._replaced)
        os.replace(self.partial, self.out)
        remove_written(self._replaced)

    def _list(self, name: str) -> None:
        """Lists a name as written by this run, before it is."""
        if name not in self._written:
            self._written.add(name)
            self._write_mark()

    def _write_mark(self) -> None:
        text = "".join(f"{name}\n" for name in sorted(self._written))
        write_whole(self.partial / MARK, lambda file: file.write(text.encode()))

    def _check(self) -> None:
        """Raises ValueError if something is in the way."""
        if os.path.lexists(self.out) and not self._overwrite:
            raise ValueError(f"out={str(self.out)!r} exists; choose another or pass --overwrite")
        for path, said in (
            (self.out, f"out={str(self.out)!r}"),
            (self.partial, repr(str(self.partial))),
            (self._replaced, repr(str(self._replaced))),
        ):
            if path.is_symlink():
                raise ValueError(f"{said} is a link; choose another --out")
            if not os.path.lexists(path):
                continue
            if not path.is_dir():
                raise ValueError(f"{said} is not a folder; move it away or choose another --out")
            if Path.cwd().is_relative_to(path.resolve()):
                raise ValueError(f"{said} is the current folder, or holds it; choose another --out")
            if path != self.partial or self._overwrite or listed_in(path) is None:
                check_written(path, said)

    def _config_found(self) -> Any:
        """The configuration of the partial run; None if it cannot be read."""
        try:
            return _parse(self.partial / _CONFIG)
        except (ValueError, OSError):
            return None

    def _difference(self, found: Any, config: dict[str, Any]) -> str:
        """Why a partial run does not go on."""
        what = f"{str(self.partial)!r} holds an unfinished run"
        if not isinstance(found, dict):
            return f"{what} whose {_CONFIG} is damaged; {_NEW}"
        old, new = _flat(found), _flat(config)
        names = [
            name
            for name in {**old, **new}
            if name not in old or name not in new or old[name] != new[name]
        ]
        told = [f"{name} {_said(old, name)} -> {_said(new, name)}" for name in names]
        more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
        way = "Go on with the old one"
        if all(name.startswith("versions.") for name in names):
            way = "Go on with the old versions"
        return f"{what} with another configuration: {'; '.join(told[:5])}{more}. {way}, or {_NEW}"

    def _discard_if_empty(self) -> None:
        """Removes the partial folder, once it is started, if no result is in it."""
        with contextlib.suppress(ValueError, OSError):
            results = [self.partial / name for name in self._written - {_CONFIG}]
            some = any(any(path.iterdir()) if path.is_dir() else path.exists() for path in results)
            if self._written and not some and self.partial.is_dir():
                remove_written(self.partial)


def environment() -> dict[str, Any]:
    """What a run records of the software that computes it, as JSON values."""
    return {
        "versions": {"elsjax": elsjax.__version__, "jax": jax.__version__},
        "jax_enable_x64": jnp.result_type(float) == np.float64,
    }


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _parse(path: Path) -> Any:
    """The JSON values of a file; ValueError if it holds none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(path.read_bytes(), parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _said(values: Mapping[str, Any], name: str) -> str:
    """An entry, as a short text."""
    if name not in values:
        return "absent"
    text = json.dumps(values[name])
    return text if len(text) <= 60 else f"{text[:30]}...{text[-20:]}"
