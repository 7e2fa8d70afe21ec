"""Runs that go on: under which configuration, and with what is damaged."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import nnx
from run_folders import SAMPLE, interrupted, tree

import elsjax
from elsjax import cli
from elsjax.cli.bench import Bench
from elsjax.cli.data import describe
from elsjax.cli.train import Train
from elsjax.data.datasets import Dataset
from elsjax.experiments.heldout import HeldoutCurve
from elsjax.experiments.runs import Run
from elsjax.training.checkpoints import Checkpoints
from elsjax.training.config import TrainingConfig
from elsjax.training.step import initial_state


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
    beginning = elsjax.TrainingResult(network, state, np.empty(0, np.float32), None)
    with Run(tmp_path / "run") as run:
        run.start({"seed": 0})
        checkpoints = Checkpoints(run.folder("checkpoints"))
        checkpoints.save(3, state._replace(step=state.step + 3))
        checkpoints.close()
        run.save_arrays("losses.npz", {"losses": np.ones(4, np.float32)})
        checkpoints, found = command._earlier(run, beginning)
        checkpoints.close()
        assert (int(found.state.step), len(found.losses)) == (3, 3)
        run.save_arrays("losses.npz", {"losses": np.ones(2, np.float32)})
        with pytest.warns(UserWarning, match="losses of the unfinished run are lost"):
            checkpoints, found = command._earlier(run, beginning)
        checkpoints.close()
        assert (int(found.state.step), len(found.losses)) == (0, 0)


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
        beginning = elsjax.TrainingResult(network, state, np.empty(0, np.float32), measured)
        checkpoints, found = command._earlier(run, beginning)
        checkpoints.close()
        assert int(found.state.step) == 3
        np.testing.assert_array_equal(found.heldout.steps, [2])
        beginning = dataclasses.replace(beginning, heldout=nothing)
        with pytest.warns(UserWarning, match="held-out errors of the unfinished run are lost"):
            checkpoints, found = command._earlier(run, beginning)
        checkpoints.close()
        assert (int(found.state.step), len(found.losses)) == (0, 0)


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
