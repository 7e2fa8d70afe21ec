"""Folders of runs, finished and interrupted."""

import contextlib

import numpy as np

from elsjax import cli
from elsjax.experiments.runs import Run

SAMPLE = [
    "sample",
    *("--machine", "is", "--limit", "6", "--image-size", "4"),
    *("--num-samples", "2", "--num-steps", "3", "--batch-size", "1"),
]


def finished(out, content=b"result", config=None):
    """The folder of a finished run."""
    with Run(out) as run:
        run.start(config or {"seed": 0})
        run.write("result.bin", lambda file: file.write(content))
        run.finish()


def interrupted(out, config=None):
    """The partial folder of a run that was interrupted."""
    with contextlib.suppress(KeyboardInterrupt), Run(out) as run:
        run.start(config or {"seed": 0})
        run.save_arrays("state.npz", {"x": np.arange(6.0)})
        raise KeyboardInterrupt
    return out.with_name(out.name + ".partial")


def saved_arrays(monkeypatch, words, writes=None):
    """Runs a command, up to its n-th file of arrays; returns the names of these."""
    saved, save_arrays = [], Run.save_arrays

    def save(run, name, arrays):
        save_arrays(run, name, arrays)
        saved.append(name)
        if len(saved) == writes:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_arrays", save)
        assert cli.main(words) == (0 if writes is None else 130)
    return saved


def tree(folder):
    """All that lies in a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
