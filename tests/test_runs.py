"""Folders of runs: whose they are, and when they exist."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import SAMPLE, finished, interrupted, tree

from elsjax import cli
from elsjax.experiments import runs
from elsjax.experiments.runs import Run

# Whose a folder is


def _notes(folder):
    (folder / "notes.txt").write_text("mine")


def _below(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(b"mine")


def _hidden(folder):
    (folder / ".notes").write_text("mine")


def _like_a_result(folder):
    """A folder of someone's, where a run once wrote a file of that name."""
    (folder / "result.bin").unlink(missing_ok=True)
    (folder / "result.bin").mkdir()
    (folder / "result.bin" / "a").write_text("mine")


def _like_a_leftover(folder):
    (folder / "notes.abcdefgh.tmp").write_text("mine")


FOREIGN = [_notes, _below, _hidden, _like_a_result, _like_a_leftover]


@pytest.mark.parametrize("put", FOREIGN)
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", ["run", "run.partial"])
def test_what_no_run_wrote_is_never_removed(refuses, tmp_path, put, marked, name):
    if marked and name == "run":
        finished(tmp_path / "run")
    elif marked:
        interrupted(tmp_path / "run", {"seed": 5})
    else:
        (tmp_path / name).mkdir()
    put(tmp_path / name)
    refuses([*SAMPLE, "--overwrite"], "move it away or choose another --out")
    if name == "run.partial":
        refuses(SAMPLE, "run.partial")


def test_a_list_of_what_lies_elsewhere_removes_nothing(tmp_path):
    finished(tmp_path / "run")
    (tmp_path / "notes.txt").write_text("mine")
    with (tmp_path / "run" / ".elsjax-run").open("a") as file:
        file.write(f"../notes.txt\n{tmp_path}/notes.txt\n../\n")
    with contextlib.suppress(ValueError), Run(tmp_path / "run", overwrite=True) as run:
        run.start({"seed": 1})
        run.finish()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_partial_folder_of_someone_else_is_not_taken_over(refuses, tmp_path):
    folder = tmp_path / "run.partial"
    folder.mkdir()
    (folder / "config.json").write_text("{}")  # as runs before the list wrote it
    refuses(SAMPLE, "holds 'config.json' and no list of what a run wrote (.elsjax-run)")


def test_checkpoints_of_someone_else(tmp_path):
    out = tmp_path / "run"
    with contextlib.suppress(KeyboardInterrupt), Run(out) as run:
        run.start({"seed": 0})
        (run.folder("checkpoints") / "10").mkdir(parents=True)
        raise KeyboardInterrupt
    (tmp_path / "run.partial" / "checkpoints" / "best").mkdir()
    with pytest.raises(ValueError, match="holds 'checkpoints', which no run"):
        Run(out, overwrite=True).__enter__()
    (tmp_path / "run.partial" / "checkpoints" / "best").rmdir()
    with Run(out, overwrite=True) as run:
        run.start({"seed": 1})
        assert not (run.partial / "checkpoints").exists()


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("name", ["run", "run.partial"])
def test_links_are_left_alone(refuses, tmp_path, name, broken):
    finished(tmp_path / "real")
    (tmp_path / name).symlink_to(tmp_path / ("nowhere" if broken else "real"))
    refuses([*SAMPLE, "--overwrite"], "is a link")


@pytest.mark.parametrize("name", ["run", "run.partial"])
def test_files_are_left_alone(refuses, tmp_path, name):
    (tmp_path / name).write_text("mine")
    refuses([*SAMPLE, "--overwrite"], "is not a folder")


@pytest.mark.parametrize("words", [".", "..", "", "/", "../run", "../../run", "../../run/../run"])
def test_the_folder_one_stands_in(tmp_path, monkeypatch, capsys, words):
    finished(tmp_path / "run")
    here = tmp_path / "run" if words == "../run" else tmp_path / "run" / "below"
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    before = tree(tmp_path)
    assert cli.main([*SAMPLE, "--overwrite", "--out", words]) == 2
    message = capsys.readouterr().err
    assert re.search("is the current folder, or holds it|must end with the name", message)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_the_name_of_an_unfinished_run(tmp_path, capsys, overwrite):
    interrupted(tmp_path / "run")
    before = tree(tmp_path)
    for out in (tmp_path / "run.partial", tmp_path / "new.partial"):
        assert cli.main([*SAMPLE, *overwrite, "--out", str(out)]) == 2
        assert "is what an unfinished run is called" in capsys.readouterr().err
        assert tree(tmp_path) == before


def test_two_runs_of_one_folder(tmp_path, capsys):
    out = tmp_path / "run"
    with Run(out) as run:
        assert cli.main([*SAMPLE, "--out", str(out)]) == 2
        assert "is being written by another run" in capsys.readouterr().err
        run.start({"seed": 0})
        assert cli.main([*SAMPLE, "--overwrite", "--out", str(tmp_path / "." / "run")]) == 2
        run.save_json("result.json", [1])
        run.finish()
        with Run(tmp_path / "other") as other:
            other.start({"seed": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((out / "result.json").read_text()) == [1]


def test_the_lock_of_a_dead_process_does_not_block(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from elsjax.experiments.runs import Run\n"
        "run = Run(Path(sys.argv[1])).__enter__(); run.start({'seed': 0})\n"
        "run.save_json('a.json', 1); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run.partial" / "a.json").is_file()
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        assert run.load_json("a.json") == 1
        run.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# When it exists


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    out = tmp_path / "a" / "b" / "run"
    for config in (None, {"seed": 0}):
        with contextlib.suppress(ValueError), Run(out) as run:
            if config is not None:
                run.start(config)
                run.folder("checkpoints").mkdir()
            raise ValueError("too late")
        assert not list(tmp_path.iterdir())

    def fail(file):
        file.write(b"half")
        raise OSError("full")

    with Run(out) as run:
        run.start({"seed": 0})
        with pytest.raises(OSError, match="full"):
            run.write("result.bin", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "out", ["file/run", "file/below/run", "a\0b", "x" * 300, "no/" + "x" * 300]
)
def test_a_place_where_nothing_can_be_written(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert cli.main([*SAMPLE, "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_run_replaces_what_a_run_wrote(tmp_path):
    out = tmp_path / "run"
    finished(out, b"old")
    with pytest.raises(ValueError, match="exists; choose another or pass --overwrite"), Run(out):
        pass
    with Run(out, overwrite=True) as run:
        run.start({"seed": 1})
        assert (out / "result.bin").read_bytes() == b"old"
        run.write("other.bin", lambda file: file.write(b"new"))
        run.finish()
    assert sorted(path.name for path in out.iterdir()) == [
        ".elsjax-run",
        "config.json",
        "other.bin",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_crash_while_replacing_loses_neither(tmp_path, monkeypatch, renames):
    out = tmp_path / "run"
    finished(out, b"old")
    replace, done = os.replace, []

    def cut(old, new):
        if Path(old).is_dir():
            if len(done) == renames:
                raise KeyboardInterrupt
            done.append(new)
        replace(old, new)

    def remove(folder):
        raise KeyboardInterrupt

    with Run(out, overwrite=True) as run:
        run.start({"seed": 1})
        run.write("result.bin", lambda file: file.write(b"new"))
        monkeypatch.setattr(os, "replace", cut)
        monkeypatch.setattr(runs, "remove_written", remove)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    contents = {path.read_bytes() for path in tmp_path.rglob("result.bin")}
    assert contents == {b"old", b"new"}
    monkeypatch.undo()

    with Run(out, overwrite=True) as run:
        assert (out / "result.bin").read_bytes() == (b"old" if renames == 1 else b"new")
        run.start({"seed": 1})
        if renames == 2:
            run.write("result.bin", lambda file: file.write(b"new"))
        run.finish()
    assert (out / "result.bin").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "run"
    with Run(out) as run:
        run.start({"seed": 0})
        run.save_json("a.json", 1)
        out.mkdir()
        with pytest.raises(ValueError, match="exists; .*; the results are in"):
            run.finish()
    with Run(out, overwrite=True) as run:
        run.start({"seed": 0})
        (out / "notes").write_text("mine")
        with pytest.raises(ValueError, match="holds 'notes'"):
            run.finish()
    assert (out / "notes").read_text() == "mine"
    assert (tmp_path / "run.partial" / "a.json").is_file()
