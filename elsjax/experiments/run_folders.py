"""What runs wrote in a folder, and which run may write there.

The names that a run wrote are listed in the folder, in the file `.elsjax-run`. Only what is listed
is ever removed.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

MARK = ".elsjax-run"


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Makes a folder; in the end, what was made of it and is empty is removed."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the lock of a folder, which ends with the process at the latest."""
    path = out.with_name(f".{out.name}.elsjax-lock")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            f"out={str(out)!r} is being written by another run; choose another --out"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes it as it is released
            path.unlink()
        lock.release()


def listed_in(folder: Path) -> set[str] | None:
    """The names that a run listed as written by it; None for what is no folder of a run."""
    try:
        return set((folder / MARK).read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return None


def is_interrupted_write(name: str, listed: set[str]) -> bool:
    """Whether a file is what an interrupted `write_whole` of a listed name left."""
    match = re.fullmatch(r"(.+)\.\w{8}\.tmp", name)
    return match is not None and match[1] in {*listed, MARK}


def check_written(folder: Path, said: str) -> None:
    """Raises ValueError if a folder holds anything that no run wrote; `said` names the folder."""
    listed = listed_in(folder)
    names = listed or set()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            steps = [child.name for child in os.scandir(entry)]
            own = f"{entry.name}/" in names and all(name[0].isdigit() for name in steps)
        else:
            own = entry.name in {*names, MARK} or is_interrupted_write(entry.name, names)
        if not own:
            why = f"holds {entry.name!r}, which no run of elsjax wrote"
            if listed is None:
                why = f"holds {entry.name!r} and no list of what a run wrote ({MARK})"
            raise ValueError(f"{said} {why}; move it away or choose another --out")


def remove_written(folder: Path) -> None:
    """Removes the folder of a run; ValueError if it holds anything else."""
    check_written(folder, repr(str(folder)))
    # The list last, so that a removal that is interrupted can be taken up again.
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name == MARK):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        else:
            os.unlink(entry)
    folder.rmdir()
