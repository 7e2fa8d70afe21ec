"""Folders of runs: whose they are, when they exist, how they go on, and what the words mean."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax import checks, cli
from elsjax.cli.bench import Bench
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.datasets import Datasets
from elsjax.cli.experiment import Experiment, OtherData
from elsjax.cli.train import Train
from elsjax.data.datasets import Dataset
from elsjax.experiments import runs
from elsjax.experiments.heldout import HeldoutCurve
from elsjax.experiments.runs import Run
from elsjax.training.checkpoints import Checkpoints
from elsjax.training.loop import TrainingConfig, initial_state

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


def tree(folder):
    """All that lies in a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


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
        monkeypatch.setattr(runs, "_remove", remove)
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


# How it goes on


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "another configuration: seed 0 -> 1. Go on with the old one, or pass"),
        (
            {"versions": {"jax": "0.10.2", "elsjax": "1"}},
            'configuration: versions.jax "0.10.1" -> "0.10.2". Go on with the old versions, or',
        ),
        ({"tolerance": 0.1}, "tolerance absent -> 0.1."),
        ({"windows": [3] * 49 + [5]}, "windows [3, 3, 3"),
        ({"name": "\n"}, 'name "a" -> "\\n".'),
        ({str(n): n for n in range(8)}, "4 absent -> 4; and 3 more. Go on"),
        ({"jax_enable_x64": True}, "jax_enable_x64 false -> true."),
    ],
)
def test_another_configuration_is_told(tmp_path, changed, message):
    config = {
        "seed": 0,
        "versions": {"jax": "0.10.1", "elsjax": "1"},
        "windows": [3] * 50,
        "name": "a",
        "jax_enable_x64": False,
    }
    out = tmp_path / "run"
    folder = interrupted(out, config)
    before = tree(folder)
    with pytest.raises(ValueError, match=re.escape(message)), Run(out) as run:
        run.start(config | changed)
    assert tree(folder) == before
    with Run(out) as run:
        run.start(config)
        assert run.load_arrays("state.npz", {"x": (float, (6,))}) is not None
    with Run(out, overwrite=True) as run:
        run.start(config | changed)
        assert run.load_arrays("state.npz", {"x": (float, (6,))}) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"seed": NaN}',
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000,
    ],
)
def test_a_damaged_configuration(tmp_path, content):
    out = tmp_path / "run"
    folder = interrupted(out)
    (folder / "config.json").write_bytes(content)
    with (
        pytest.raises(ValueError, match=r"config.json is damaged; pass --overwrite"),
        Run(out) as run,
    ):
        run.start({"seed": 0})
    with Run(out, overwrite=True) as run:
        run.start({"seed": 0})
    assert not list(tmp_path.iterdir())


def test_another_precision_is_another_configuration(x64):
    data = Dataset("a", "train", np.zeros((1, 2, 2, 1), np.uint8), None, None)
    double = describe(data)
    with jax.enable_x64(False):
        single = describe(data)
    assert (single.pop("jax_enable_x64"), double.pop("jax_enable_x64")) == (False, True)
    assert single == double


def test_json_is_strict(tmp_path):
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        with pytest.raises(ValueError, match="JSON"):
            run.save_json("a.json", [float("nan")])
    assert not list(tmp_path.iterdir())


def _zero(content):
    return b""


def _half(content):
    return content[: len(content) // 2]


def _flipped(content):
    place = content.index(np.arange(6.0).tobytes()) + 20
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def _npy(content):
    return content[content.index(b"\x93NUMPY") :]


def _text(content):
    return b"not an archive"


@pytest.mark.parametrize("damage", [_zero, _half, _flipped, _npy, _text])
def test_damaged_arrays_are_told_and_not_used(tmp_path, damage):
    folder = interrupted(tmp_path / "run")
    path = folder / "state.npz"
    path.write_bytes(damage(path.read_bytes()))
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        with pytest.warns(UserWarning, match="state.npz' is damaged .*; what it held is computed"):
            assert run.load_arrays("state.npz", {"x": (float, (6,))}) is None


@pytest.mark.parametrize(
    "like",
    [
        {"x": (float, (5,))},
        {"x": (np.float32, (6,))},
        {"x": (">f8", (6,))},
        {"x": (float, (None, None))},
        {"x": (float, (6,)), "y": (float, ())},
        {},
    ],
)
def test_arrays_of_another_run(tmp_path, like):
    interrupted(tmp_path / "run")
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        assert run.load_arrays("nothing.npz", like) is None
        assert run.load_arrays("state.npz", {"x": (float, (None,))}) is not None
        with pytest.warns(UserWarning, match="other shapes"):
            assert run.load_arrays("state.npz", like) is None


def test_objects_are_not_unpickled(tmp_path):
    folder = interrupted(tmp_path / "run")
    np.savez(folder / "state.npz", x=np.array([{}], object))
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        with pytest.warns(UserWarning, match="is damaged"):
            assert run.load_arrays("state.npz", {"x": (object, (1,))}) is None


def test_a_damaged_state_is_computed_again(tmp_path, monkeypatch, capsys):
    def no_images(data):
        raise AssertionError("the whole data set as float32")

    monkeypatch.setattr(Dataset, "images", property(no_images))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([*SAMPLE, "--out", str(whole)]) == 0
    save_arrays, saved = Run.save_arrays, []

    def save_four_times(run, name, arrays):
        save_arrays(run, name, arrays)
        saved.append(name)
        if len(saved) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_arrays", save_four_times)
    assert cli.main([*SAMPLE, "--out", str(cut)]) == 130
    monkeypatch.undo()
    first, second = sorted(set(saved))
    with np.load(tmp_path / "cut.partial" / first) as archive:
        state = dict(archive)
    np.savez(tmp_path / "cut.partial" / first, **{**state, "taken": np.asarray(7)})
    with np.load(tmp_path / "cut.partial" / second) as archive:
        state = dict(archive)
    np.savez(tmp_path / "cut.partial" / second, **{**state, "x": state["x"] * np.inf})
    capsys.readouterr()
    assert cli.main([*SAMPLE, "--out", str(cut)]) == 0
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("elsjax: warning: ")]
    assert [first in line or second in line for line in told] == [True, True]
    with np.load(whole / "samples.npz") as one, np.load(cut / "samples.npz") as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def _tiny(seed=0):
    network = elsjax.nn.ResNet((4, 4, 1), width=8, num_layers=1, rngs=nnx.Rngs(seed))
    return network, TrainingConfig(num_steps=9, batch_size=2, warmup_steps=1)


@pytest.mark.parametrize("damage", ["flip", "empty", "gone", "checksum"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    network, config = _tiny()
    state = initial_state(network, config)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state._replace(step=state.step + 1))
    checkpoints.save(2, state._replace(step=state.step + 2))
    checkpoints.close()
    path = max((tmp_path / "2" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    if damage == "flip":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        (tmp_path / "2" / "elsjax.sha256").unlink()
    with pytest.warns(UserWarning, match="2' is damaged, or was not written to its end"):
        checkpoints = Checkpoints(tmp_path)
    assert int(checkpoints.latest(state).step) == 1
    checkpoints.close()


def test_training_without_its_losses_starts_anew(tmp_path):
    network, config = _tiny()
    state = initial_state(network, config)
    command = Train(config=config)
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        checkpoints = Checkpoints(run.folder("checkpoints"))
        checkpoints.save(3, state._replace(step=state.step + 3))
        checkpoints.close()
        run.save_arrays("losses.npz", {"losses": np.ones(4, np.float32)})
        checkpoints, found, losses = command._earlier(run, network, None)
        checkpoints.close()
        assert int(found.step) == 3
        assert [len(part) for part in losses] == [3]
        run.save_arrays("losses.npz", {"losses": np.ones(2, np.float32)})
        with pytest.warns(UserWarning, match="losses of the unfinished run are lost"):
            checkpoints, found, losses = command._earlier(run, network, None)
        checkpoints.close()
        assert (found, losses) == (None, [])


def test_training_without_its_heldout_errors_starts_anew(tmp_path):
    network, config = _tiny()
    state = initial_state(network, config)
    command = Train(config=config, evaluate_every=2)
    nothing = HeldoutCurve(np.array([0.5]), np.ones(1), np.empty(0, int), np.empty((0, 1)))
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        checkpoints = Checkpoints(run.folder("checkpoints"))
        checkpoints.save(3, state._replace(step=state.step + 3))
        checkpoints.close()
        run.save_arrays("losses.npz", {"losses": np.ones(4, np.float32)})
        measured = nothing.extended(2, np.ones(1)).extended(4, np.ones(1))
        checkpoints, found, _ = command._earlier(run, network, measured)
        checkpoints.close()
        assert int(found.step) == 3
        with pytest.warns(UserWarning, match="held-out errors of the unfinished run are lost"):
            checkpoints, found, losses = command._earlier(run, network, nothing)
        checkpoints.close()
        assert (found, losses) == (None, [])


def test_rows_of_another_bench(tmp_path):
    bench = Bench(machine=("is", "ls"), window=(3, 5), repetitions=1)
    cases = bench._cases()
    timed = {"seconds": [1.0], "median_s": 1.0, "gpairs_per_s": 1.0, "gflop_per_s": 1.0}
    timed |= {"peak_gflop_per_s": 1.0, "process_peak_mb": None, "images_mb": 1.0}
    rows = [{**case, **timed} for case in cases]
    wrong = [
        {"a": 1},
        [1],
        [{}],
        [*rows, rows[0]],
        rows[1:],
        [{**rows[0], "median_s": "1"}],
        [{**rows[0], "seconds": 1}],
        [{**rows[0], "gflop_per_s": -1}],
        [{**rows[0], "more": 1}],
    ]
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        assert bench._rows(run, cases) == []
        for right in ([], rows[:2], rows):
            run.save_json("bench.json", right)
            assert bench._rows(run, cases) == right
        for values in wrong:
            run.save_json("bench.json", values)
            with pytest.warns(UserWarning, match="bench.json' is damaged"):
                assert bench._rows(run, cases) == []
        for content in (b"", b"[{", b"\xff", b"[NaN]"):
            (run.partial / "bench.json").write_bytes(content)
            with pytest.warns(UserWarning, match="bench.json' is damaged"):
                assert bench._rows(run, cases) == []


# What the network was made with


@pytest.fixture
def trained(tmp_path):
    """A network of images [8, 8, 1] beside its own data: (experiment, network, their archive)."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    archive = tmp_path / "data.npz"
    np.savez(archive, images=pixels, labels=np.arange(12) % 3)
    network = elsjax.nn.UNet(
        (8, 8, 1), widths=(4, 8), embedding_width=8, num_classes=3, rngs=nnx.Rngs(0)
    )
    file = tmp_path / "network.safetensors"
    elsjax.save_network(network, file)
    options = DataOptions(str(archive), limit=10, image_size=None)
    config = {**dataclasses.asdict(options), **describe(options.load())}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return Experiment(network=str(file)), network, archive


def load(experiment, network):
    return experiment.load_data(network, experiment.data_options(network))


def _with(experiment, **data):
    return dataclasses.replace(experiment, data=OtherData(**data))


def test_the_images_are_those_of_the_network(trained, small_network):
    experiment, network, archive = trained
    options = experiment.data_options(network)
    assert options == DataOptions(str(archive), "train", 10, None)
    assert len(load(experiment, network)) == 10
    assert len(load(_with(experiment, limit=4, image_size=8), network)) == 4
    # Named on purpose: other images, of the network's size.
    assert _with(experiment, dataset="mnist5k").data_options(network).image_size == 8
    assert load(_with(experiment, dataset="mnist5k", limit=6), elsjax.load_network(small_network))
    zoo = Experiment().data_options(elsjax.load_pretrained("mnist5k/unet/zeros"))
    assert zoo == DataOptions("mnist5k", "train", zoo.limit, 32)


@pytest.mark.parametrize("size", [4, 16, 32, 0, -8])
def test_another_image_size_is_refused(trained, size):
    experiment, network, archive = trained
    message = f"image_size={size} differs from 8, the size of the network's images"
    for dataset in (None, str(archive)):
        with pytest.raises(ValueError, match=message):
            _with(experiment, dataset=dataset, image_size=size).data_options(network)


def test_other_channels_sides_and_classes_are_refused(trained, tmp_path):
    experiment, network, _ = trained
    rng = np.random.default_rng(0)

    def refused(message, network=network, **arrays):
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            load(_with(experiment, dataset=str(tmp_path / "other.npz")), network)

    colour = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    refused("are 8×8×3; those of the network are 8×8×1", images=colour)
    grey = colour[..., :1]
    refused("conditional, on 3 classes, but dataset=.* has no labels", images=grey)
    refused("has labels up to 3; those of the network are 0 to 2", images=grey, labels=np.arange(4))
    oblong = elsjax.nn.ResNet((8, 6, 1), width=8, num_layers=1, rngs=nnx.Rngs(0))
    refused("are 8×8×1; those of the network are 8×6×1", oblong, images=grey)
    with pytest.raises(ValueError, match="image_size=8 differs from 8×6"):
        _with(experiment, dataset="mnist5k", image_size=8).data_options(oblong)


def test_images_that_changed_since_are_refused(trained):
    experiment, network, archive = trained
    with np.load(archive) as old:
        arrays = dict(old)
    arrays["images"][3, 2, 1] ^= 1
    np.savez(archive, **arrays)
    with pytest.raises(ValueError, match="checksum differs.*pass --dataset to take them as they"):
        load(experiment, network)
    assert load(_with(experiment, dataset=str(archive)), network)
    assert load(_with(experiment, limit=3), network)


def test_paths_are_recorded_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = DataOptions("folder/../data.npz", data_dir="tfds").absolute()
    assert Path(options.dataset).is_absolute()
    assert options.data_dir == str(tmp_path / "tfds")
    assert DataOptions("~/x").absolute().dataset == os.path.expanduser("~/x")
    assert DataOptions("cifar10").absolute() == DataOptions("cifar10")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b'"dataset"',
        b"\xff",
        b"[" * 100_000,
        b'{"dataset": "mnist5k", "split": "train"}',
        b'{"dataset": 5, "split": "train", "num_images": 3}',
        b'{"dataset": "mnist5k", "split": "train", "num_images": true}',
        b'{"dataset": "mnist5k", "split": "train", "num_images": 3, "image_size": "8"}',
        b'{"dataset": "mnist5k", "split": "train", "num_images": 3, "images_sha256": 4}',
    ],
)
def test_a_damaged_configuration_beside_a_network(trained, content):
    experiment, network, _ = trained
    Path(experiment.network).with_name("config.json").write_bytes(content)
    with pytest.raises(ValueError, match="has no config.json of `elsjax train` beside it"):
        experiment.data_options(network)


@pytest.mark.parametrize("command", ["compare", "calibrate"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "16"], "image_size=16 differs from 8"),
        (["--network", "."], "network='.' is a folder; expected a file"),
        (["--label", "-1"], "label=-1 must lie in"),
        (["--seed", "-1"], "seed=-1 must be an integer from 0 to"),
        (["--num-samples", "9" * 30], "must lie in [1, 2.14748e+09]"),
    ],
)
def test_experiments_refuse_early(refuses, small_network, command, options, message):
    refuses([command, "--network", small_network, *options], message)


@pytest.mark.parametrize("command", ["compare", "calibrate"])
def test_a_window_wider_than_the_images_leaves_nothing(refuses, tmp_path_factory, command):
    folder = tmp_path_factory.mktemp("circular")
    network = elsjax.nn.ResNet((8, 8, 1), width=8, padding="circular", rngs=nnx.Rngs(0))
    assert network.receptive_field > 9
    elsjax.save_network(network, folder / "network.safetensors")
    option = ("--window", "3,3,3,9") if command == "compare" else ("--candidates", "3", "9", "7")
    data = ("--dataset", "mnist5k", "--limit", "4")
    words = [command, "--network", str(folder / "network.safetensors"), *data, *option]
    refuses(words, "window=9 must be at most 8")


def test_labels_of_a_folder_are_told(tmp_path, capsys):
    names = tuple(f"class{number}" for number in range(22))
    data = Dataset("a", "train", np.zeros((1, 2, 2, 1), np.uint8), None, names)
    DataOptions("mnist5k").print_labels(data)
    assert capsys.readouterr().out == ""
    DataOptions(str(tmp_path)).print_labels(data)
    line = capsys.readouterr().out
    assert line.startswith("labels: 0 class0, 1 class1, ")
    assert line.endswith("19 class19 and 2 more\n")
    assert describe(data)["label_names"] == list(names)


# What the words mean


@pytest.mark.parametrize("columns", ["20", "80"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command; expected one of compare, sample, calibrate"),
        (["nope"], "not understood: nope"),
        (["--nope"], "not understood: --nope"),
        (["sample", "--colour", "red"], "not understood: --colour red"),
        (["sample", "--seed"], "--seed: its value is missing"),
        (["sample", "--seed", "x"], "--seed: invalid literal for int() with base 10: 'x'"),
        (["sample", "--seed", "9" * 5000], "--seed: Exceeds the limit"),
        (["sample", "--machine", "elf"], "--machine: invalid choice 'elf'; expected one of is, es"),
        (["sample", "│ ── ╯"], "not understood: │ ── ╯"),
        (["sample", "a\nb"], "not understood: a b"),
        (["sample", "y" * 900], "y" * 900),
        (["train", "--learning-rate", "3"], "learning_rate=3.0 must lie in (0, 1)"),
        (["import-torch"], "missing: file"),
        (["bench", "--window"], "window=() must hold at least one value"),
        (["bench", "--machine"], "machine=() must hold at least one value"),
        (["sample", "--num-steps", "9" * 13], "num_steps=9999999999999 must lie in"),
        (["train", "--weights", "nowhere"], "weights='nowhere' is not a file"),
    ],
)
def test_words_that_are_no_command(tmp_path, monkeypatch, capsys, columns, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("elsjax: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert not list(tmp_path.iterdir())


def _raises(error):
    def call(command):
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("one\n  two"), 2, "elsjax: one two\n"),
        (OSError(28, "No space left"), 2, "elsjax: [Errno 28] No space left\n"),
        (RecursionError("deep"), 2, "elsjax: the input is too large: deep\n"),
        (OverflowError("big"), 2, "elsjax: the input is too large: big\n"),
        (MemoryError(), 2, "elsjax: the input is too large: MemoryError\n"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
            2,
            "elsjax: not enough memory: RESOURCE_EXHAUSTED: out of memory\n",
        ),
        (FloatingPointError("diverged"), 1, "elsjax: diverged\n"),
        (KeyboardInterrupt(), 130, "elsjax: interrupted; the same command goes on where"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, error, status, line):
    monkeypatch.setattr(Datasets, "__call__", _raises(error))
    assert cli.main(["datasets"]) == status
    assert capsys.readouterr().err.startswith(line)


def test_warnings_of_ours_are_one_line_and_others_hidden(monkeypatch, capsys):
    def warn(command):
        checks.warn("ours\n is long")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("theirs", stacklevel=1)

    monkeypatch.setattr(Datasets, "__call__", warn)
    assert cli.main(["datasets"]) == 0
    assert capsys.readouterr().err == "elsjax: warning: ours is long\n"


def test_nobody_reads_the_output():
    code = "import sys; from elsjax import cli; sys.exit(cli.main(['datasets']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


def test_bench_without_the_module_resource(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert sys.modules["elsjax.cli.bench"]._peak_memory_mb() is None


def test_import_torch_replaces_networks_only(tmp_path, small_network, capsys):
    source, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
    source.write_bytes(b"no network")

    def refused(message, *words, out=out):
        before = tree(tmp_path)
        assert cli.main(["import-torch", str(source), "--out", str(out), *words]) == 2
        assert message in capsys.readouterr().err
        assert tree(tmp_path) == before

    refused("there is no folder", out=tmp_path / "below" / "out.safetensors")
    for content in (b"mine", b"", b"\xff" * 100, np.uint64(2**60).tobytes()):
        out.write_bytes(content)
        refused("exists; choose another or pass --overwrite")
        refused("is no network that elsjax wrote", "--overwrite")
    out.unlink()
    out.symlink_to(small_network)
    refused("is no network that elsjax wrote", "--overwrite")
    out.unlink()
    out.mkdir()
    refused("is no network that elsjax wrote", "--overwrite")
    out.rmdir()
    out.write_bytes(Path(small_network).read_bytes())
    refused("a.pt", "--overwrite")  # it may be replaced, but what is to replace it is none
