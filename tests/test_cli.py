import json
import os
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest
from environment import FAST

import elsjax
from elsjax import cli
from elsjax.cli.bench import Bench
from elsjax.cli.experiment import class_numbers
from elsjax.experiments.runs import Run

SMALL = [
    "sample",
    *("--limit", "30", "--image-size", "8", "--window", "3,3,5"),
    *("--num-samples", "3", "--num-steps", "4", "--batch-size", "2"),
]


def _run(out, *options):
    return cli.main([*SMALL, "--out", str(out), *options])


def _arrays(out):
    with np.load(out / "samples.npz") as archive:
        return dict(archive)


def test_sample_writes_what_the_library_computes(tmp_path):
    out = tmp_path / "run"
    assert _run(out, "--seed", "5") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        ".elsjax-run",
        "config.json",
        "samples.npz",
        "samples.png",
    ]
    data = elsjax.load_dataset("mnist5k", limit=30, image_size=8)
    windows = elsjax.WindowSchedule((3, 3, 5))
    machine = elsjax.ScoreMachine("bbels", data.images, window=windows)
    noise = elsjax.initial_noise(jax.random.key(5), 3, (8, 8, 1))
    path = elsjax.sample(machine, noise, 4, return_trajectory=True)
    arrays = _arrays(out)
    np.testing.assert_array_equal(arrays["noise"], noise)
    np.testing.assert_allclose(arrays["samples"], path.x[-1], atol=1e-4)
    np.testing.assert_array_equal(arrays["x0_times"], [1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(arrays["x0"], path.x0, atol=1e-4)
    squares = ((data.images[None] - arrays["samples"][:, None]) ** 2).mean((2, 3, 4))
    np.testing.assert_array_equal(arrays["nearest_index"], squares.argmin(1))
    np.testing.assert_allclose(arrays["nearest_distance"], np.sqrt(squares.min(1)), rtol=1e-4)
    np.testing.assert_array_equal(arrays["nearest_images"], data.images[squares.argmin(1)])
    config = json.loads((out / "config.json").read_text())
    assert config["windows"] == [3, 3, 5]
    assert config["num_images"] == 30
    assert config["seed"] == 5
    picture = matplotlib.image.imread(out / "samples.png")
    assert picture.shape[0] > 300
    assert picture.std() > 0.1


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, monkeypatch, capsys, solver):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _run(whole, "--solver", solver) == 0
    taken = []
    save_arrays = Run.save_arrays

    def save_five_times(run, name, arrays):
        save_arrays(run, name, arrays)
        taken.append(name)
        if len(taken) == 5:  # In the second of two batches.
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_arrays", save_five_times)
    assert _run(cut, "--solver", solver) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not cut.exists()
    monkeypatch.undo()

    # Another configuration must not go on with it, nor overwrite it.
    assert _run(cut, "--solver", solver, "--seed", "1") == 2
    assert "unfinished run with another configuration" in capsys.readouterr().err
    assert _run(cut, "--solver", solver) == 0
    for name, array in _arrays(whole).items():
        np.testing.assert_array_equal(_arrays(cut)[name], array, err_msg=name)
    assert not list(tmp_path.glob("*.partial"))


def test_results_are_overwritten_on_request_only(tmp_path, capsys):
    out = tmp_path / "run"
    assert _run(out) == 0
    first = _arrays(out)["samples"]
    assert _run(out, "--seed", "1") == 2
    assert "exists; choose another or pass --overwrite" in capsys.readouterr().err
    np.testing.assert_array_equal(_arrays(out)["samples"], first)
    assert _run(out, "--seed", "1", "--overwrite") == 0
    assert np.abs(_arrays(out)["samples"] - first).max() > 0.1


def test_labels_restrict_each_sample_to_its_class(tmp_path):
    options = ("--machine", "ls", "--window", "1", "--num-steps", "2")
    assert _run(tmp_path / "each", *options, "--label", "0", "1", "7") == 0
    assert _run(tmp_path / "all", *options, "--label", "7") == 0
    each, same = _arrays(tmp_path / "each"), _arrays(tmp_path / "all")
    np.testing.assert_array_equal(each["labels"], [0, 1, 7])
    np.testing.assert_array_equal(same["labels"], [7, 7, 7])
    np.testing.assert_allclose(each["samples"][2], same["samples"][2], atol=1e-5)
    assert np.abs(each["samples"][0] - same["samples"][0]).max() > 0.1


def test_classes_have_names_where_the_data_has_them():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.arange(2, dtype=np.int32)
    named = elsjax.Dataset("pets", "train", images, labels, ("cat", "dog"))
    assert class_numbers(("dog", 0, "cat", 5), named) == (1, 0, 0, 5)
    with pytest.raises(ValueError, match="label='cow' is no class of dataset='pets'.*0 cat, 1 dog"):
        class_numbers(("cow",), named)
    with pytest.raises(ValueError, match="label='dog' is no class of dataset='x'; it is a number"):
        class_numbers(("dog",), elsjax.Dataset("x", "train", images, labels, None))


@pytest.mark.parametrize("dataset", ["cifar10", "fashion_mnist"])
@pytest.mark.parametrize("label", [(), ("--label", "3")])
def test_tfds_data_sets_conditional_and_not(tmp_path, monkeypatch, tfds_dir, dataset, label):
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / "cache"))
    options = ("--dataset", dataset, "--data-dir", tfds_dir, "--num-samples", "1", *label)
    assert _run(tmp_path / "run", *options) == 0
    data = elsjax.load_dataset(dataset, limit=30, image_size=8, data_dir=tfds_dir)
    arrays = _arrays(tmp_path / "run")
    assert arrays["samples"].shape == (1, *data.images.shape[1:])
    # The last step paints with centres of training patches: nothing beyond their range.
    chosen = data.images if not label else data.images[data.labels == 3]
    assert arrays["samples"].min() >= chosen.min() - 1e-5
    assert arrays["samples"].max() <= chosen.max() + 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "4"], "must be an odd positive integer"),
        (["--window", "mnist"], "window='mnist' is not known"),
        (["--machine", "is", "--window", "3"], "window='3' does not apply to machine='is'"),
        (["--machine", "els", "--window", "9"], "window=9 must be at most 8"),
        (["--label", "77"], "label=77 is no class of the data"),
        (
            ["--label", "x"],
            "label='x' is no class of dataset='mnist5k'; it is a number, or a name, of 0",
        ),
        (["--label", "1", "2"], "must be one class, or num_samples=3 of them"),
        (["--num-samples", "0"], "num_samples=0 must be an integer of at least 1"),
        (["--tolerance", "2"], "tolerance=2.0 must lie in (0, 1)"),
        (["--num-steps", "0"], "num_steps=0 must be"),
        (["--limit", "9999"], "limit=9999 is more than the 5000 images"),
        (["--split", "test"], "split='test' is not known"),
        (["--dataset", "nope"], "name='nope' is not known; expected one of mnist5k"),
        (["--machine", "elf"], "invalid choice 'elf'"),
        (["--seed", "x"], "--seed"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refuses, options, message):
    refuses([*SMALL, *options], message)


def test_datasets_lists_what_is_there(tmp_path, capsys):
    assert cli.main(["datasets", "--data-dir", str(tmp_path)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "yes" in rows["mnist5k"]
    assert "5,000 train" in rows["mnist5k"]
    assert f"not prepared in {tmp_path}" in rows["celeb_a"]


BENCH = [
    "bench",
    *("--machine", "is", "bbels", "--window", "3", "5", "--image-size", "8"),
    *("--num-images", "4", "6", "--repetitions", "2"),
]


def test_bench_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    time_row, timed = Bench._time, []

    def time_three_rows(bench, case):
        if len(timed) == 3:
            raise KeyboardInterrupt
        timed.append(case)
        return time_row(bench, case)

    monkeypatch.setattr(Bench, "_time", time_three_rows)
    assert cli.main([*BENCH, "--out", str(out)]) == 130
    early = json.loads((tmp_path / "run.partial" / "bench.json").read_text())
    monkeypatch.undo()
    assert cli.main([*BENCH, "--out", str(out)]) == 0
    rows = json.loads((out / "bench.json").read_text())
    assert rows[:3] == early
    cases = [(row["machine"], row["window"], row["num_images"]) for row in rows]
    assert cases == [
        *[("is", None, 4), ("is", None, 6)],
        *[("bbels", 3, 4), ("bbels", 5, 4), ("bbels", 3, 6), ("bbels", 5, 6)],
    ]
    for row in rows:
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) <= row["median_s"] <= max(row["seconds"])
        assert row["gflop_per_s"] > 0
        assert row["peak_gflop_per_s"] > 1
    # 3 x 3 windows: the interior sees 36 places, an edge 6 of its own row, a corner its own.
    pairs = (36 * 36 + 4 * 6 * 6 + 4) * 4
    assert rows[2]["gpairs_per_s"] * rows[2]["median_s"] * 1e9 == pytest.approx(pairs)
    table = capsys.readouterr().out
    assert table.count("bbels") == 1 + 4  # What the first start timed is shown again.
    assert matplotlib.image.imread(out / "bench.png").std() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "4"], "window=4 must be an odd"),
        (["--machine", "els", "--window", "9"], "window=9 must be at most 8"),
        (["--num-images", "0"], "num_images=0 must be an integer of at least 1"),
        (["--devices", "99"], "devices=99; there are 4"),
        (["--repetitions", "0"], "repetitions=0 must be"),
    ],
)
def test_bench_refuses_wrong_input_before_timing(refuses, options, message):
    refuses([*BENCH, *options], message)


def test_compiled_programs_are_kept(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": FAST,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "ELSJAX_CACHE_DIR": str(tmp_path / "cache"),
    }
    kept, samples = [], []
    for out in (tmp_path / "first", tmp_path / "second"):
        words = [*SMALL, "--out", str(out)]
        code = f"import sys; from elsjax import cli; sys.exit(cli.main({words}))"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        programs = (tmp_path / "cache" / "compiled").glob("*-cache")
        kept.append(sorted(path.name for path in programs))
        samples.append(_arrays(out)["samples"])
    assert kept[0]
    assert kept[1] == kept[0]
    np.testing.assert_array_equal(*samples)
