"""Runs damaged and absurd inputs, each made from a number, and judges how each ends.

    python tests/mutations.py 10000         # numbers 0 to 9,999
    python tests/mutations.py 12 7042       # these again, with all that they say

An input ends right (status 0, a whole result), or with one line and status 2, or 1 where numbers
overflow: no traceback, no warning of a library, nothing left behind, nothing foreign gone.
"""

import contextlib
import functools
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.image
import numpy as np
import pytest
import safetensors.numpy
from mutated_inputs import KINDS, Stock, case
from tqdm import tqdm

from elsjax import cli
from elsjax.nn import PRESETS, ResNet
from elsjax.posterior.index import search as near_far

# CPU seconds that a command may take, once its programs are compiled; when one is stopped.
_SECONDS, _STOPPED_AFTER = 20, 200
_BAR = re.compile(r"\d+%\||\d+\w* \[\d\d:\d\d")  # drawn by tqdm
# Measures that are undefined for constant images.
_UNDEFINED = re.compile(r"(pearson_r|r2)_")


class _Slow(BaseException):
    """A command takes too long; no Exception, so that no command catches it."""


class _Log(logging.Handler):
    """Keeps what libraries log, which they write past a redirected stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} logs: {record.getMessage()[:200]}")


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
      status: its exit status; None after a traceback.
      out: what it printed.
      err: what it complained of, without progress bars.
      problems: what should not be, in words.
      seconds: CPU time that it took.
    """

    status: int | None
    out: str
    err: str
    problems: list[str]
    seconds: float


class Outcome(NamedTuple):
    """What became of one input."""

    seed: int
    kind: str
    words: list[str]
    ended: Ended


class Harness:
    """Runs inputs one after another in a scratch folder.

    Args:
      folder: empty folder.
      patch: sets for how long home and caches lie in that folder, one device is used, and even few
        images have an index.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        for name, place in (
            ("HOME", "home"),
            ("XDG_CACHE_HOME", "cache"),
            ("ELSJAX_CACHE_DIR", "cache"),
            ("TFDS_DATA_DIR", "home/tfds"),
        ):
            patch.setenv(name, str(folder / place))
            (folder / place).mkdir(exist_ok=True)
        patch.setattr(near_far, "_FEWEST_PATCHES", 0)
        patch.setattr(jax, "device_count", lambda: 1)  # fewer and smaller programs
        patch.setitem(PRESETS, "resnet-small", functools.partial(ResNet, width=8, num_layers=2))
        self._stock = Stock(folder / "stock", folder / "cache", lambda *a: run(*a).status)

    def outcome(self, seed: int) -> Outcome:
        """Makes and runs one input, and judges it; a slow one twice, since it may have compiled."""
        found = self._outcome(seed)
        if found.ended.seconds > _SECONDS:
            found = self._outcome(seed)
        if found.ended.seconds > _SECONDS:
            found.ended.problems.append(f"takes {found.ended.seconds:.0f} s")
        return found

    def _outcome(self, seed: int) -> Outcome:
        folder = self._folder / "cases" / "case"
        shutil.rmtree(folder, ignore_errors=True)
        kind, words = case(seed, folder, self._stock)
        before = _tree(folder)
        ended = run(folder, words)
        after = _tree(folder)
        problems = ended.problems + _left(kind, words, ended.status, before, after)
        problems += [
            f"left in a cache: {path}" for path in _tree(self._folder / "cache") if ".tmp" in path
        ]
        if ended.status == 0:
            problems += _faults(folder, set(after) - set(before))
        return Outcome(seed, kind, words, ended._replace(problems=problems))


def run(folder: Path, words: list[str]) -> Ended:
    """Runs words of the command line in a folder."""
    out, err, problems, status = io.StringIO(), io.StringIO(), [], None
    start = time.process_time()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as warned,
        _limited(),
        _logged() as logged,
    ):
        warnings.simplefilter("always")
        try:
            status = cli.main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
            if stop.code not in (0, None) or "--help" not in words:
                problems.append(f"SystemExit({stop.code})")
        except _Slow:
            problems.append("hangs")
        except BaseException as error:
            problems.append("traceback: " + _where(error))
    seconds = time.process_time() - start
    problems += [f"warning: {w.category.__name__}: {w.message}" for w in warned] + logged
    text = re.sub(r"[^\n]*\r|\x1b\[A", "", err.getvalue())
    said = [line for line in text.splitlines() if line.strip() and not _BAR.search(line)]
    told = [line for line in said if not line.startswith("elsjax: warning: ")]
    if status == 0 and told:
        problems.append(f"status 0, but says {told[0]!r}")
    if status not in (0, None):
        diverged = status == 1 and words[0] in ("train", "calibrate")
        if status not in (2, 130) and not diverged:
            problems.append(f"status {status}")
        if len(told) != 1 or not told[0].startswith("elsjax: "):
            problems.append(f"not one line: {told[:3]}")
    return Ended(status, out.getvalue(), "\n".join(said), problems, seconds)


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """Gives what libraries log."""
    log = _Log()
    logging.getLogger().addHandler(log)
    try:
        yield log.lines
    finally:
        logging.getLogger().removeHandler(log)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raises _Slow in what takes too long, where the system has such a clock."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise _Slow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _STOPPED_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _where(error: BaseException) -> str:
    """An exception and the last of our lines that it passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/elsjax/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:200]}"


def _tree(folder: Path) -> dict[str, Any]:
    """All below a folder, by path: content of a file, target of a link, None for a folder."""
    found: dict[str, Any] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = os.readlink(path)
            else:
                found[key] = None if path.is_dir() else path.read_bytes()
    return found


def _left(
    kind: str, words: list[str], status: int | None, before: dict[str, Any], after: dict[str, Any]
) -> list[str]:
    """What is left behind, gone or changed, but for the results of a run and what it resumes."""
    ours = "run.partial/" if kind == "partial" else "nothing/"
    empty = {p for p in ("run", "run.partial") if not any(q.startswith(f"{p}/") for q in before)}
    empty = {p for p in empty if p in before and before[p] is None}  # nothing is lost with them
    gone = [p for p in before if p not in {*after, *empty} and not f"{p}/".startswith(ours)]
    changed = [p for p in before if p in after and before[p] != after[p] and not p.startswith(ours)]
    if "--overwrite" in words:  # a file of ours, which may be replaced
        changed = [p for p in changed if not p.endswith(".safetensors")]
    problems = [f"gone: {p}" for p in gone] + [f"changed: {p}" for p in changed]
    new = [p for p in after if p not in before]
    if status == 0:
        new = [p for p in new if p.endswith((".tmp", ".partial"))]
    else:  # a killed run, or a training that diverged, goes as far as it can
        ours = "run.partial/" if status == 1 else ours
        new = [p for p in new if not f"{p}/".startswith(ours) or p.endswith(".tmp")]
    problems += [f"left behind: {path}" for path in new]
    kept = {"run.partial/notes.txt", "run/notes.txt"} & set(after)
    if "run.partial/notes.txt" in before and not kept and "--overwrite" not in words:
        problems.append("gone: run.partial/notes.txt")
    return problems


def _faults(folder: Path, new: set[str]) -> list[str]:
    """What is wrong with the files of a result."""
    problems = []
    for name in sorted(new):
        path = folder / name
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(), parse_constant=_refuse)
            elif path.suffix == ".png":
                matplotlib.image.imread(path)
            elif path.suffix == ".npz":
                with np.load(path) as archive:
                    problems += [
                        f"not finite: {name}: {key}"
                        for key in archive
                        if archive[key].dtype.kind == "f"
                        and not _UNDEFINED.match(key)
                        and not np.isfinite(archive[key]).all()
                    ]
            elif path.suffix == ".safetensors":
                safetensors.numpy.load_file(path)
        except Exception as error:
            problems.append(f"unreadable: {name}: {error}")
    return problems


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def main(arguments: list[str]) -> int:
    """Runs all numbers below one, or some again."""
    numbers = [int(argument) for argument in arguments]
    again = len(numbers) > 1
    seeds = numbers if again else range(numbers[0])
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", 1)
    jax.devices()
    counts: Counter[tuple[str, Any]] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        harness = Harness(Path(folder), patch)
        for seed in tqdm(seeds, unit="input", disable=again):
            if seed % 500 == 499:  # each compiled program holds memory mappings
                jax.clear_caches()
            _, kind, words, ended = harness.outcome(seed)
            counts[kind, "failed" if ended.problems else ended.status] += 1
            if ended.problems or again:
                failed += bool(ended.problems)
                tqdm.write(f"{seed} {kind}: {' '.join(map(ascii, words))}: {ended.status}")
                for text in [*ended.problems, *([ended.out, ended.err] if again else [])]:
                    tqdm.write(f"    {text}")
    for kind in [kind.__name__ for kind in KINDS]:
        row = [f"{status}: {n}" for (k, status), n in sorted(counts.items(), key=str) if k == kind]
        print(f"{kind:>12}  {', '.join(row)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
