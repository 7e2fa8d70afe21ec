import json

import jax
import matplotlib.image
import numpy as np
import pytest

import elsjax
from elsjax import cli
from elsjax.runs import Run

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


@pytest.mark.parametrize("dataset", ["cifar10", "fashion_mnist"])
@pytest.mark.parametrize("label", [(), ("--label", "3")])
def test_tfds_data_sets_conditional_and_not(tmp_path, monkeypatch, tfds_dir, dataset, label):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
        (["--label", "1", "2"], "must be one class, or num_samples=3 of them"),
        (["--num-samples", "0"], "num_samples=0 must be an integer of at least 1"),
        (["--num-steps", "0"], "num_steps=0 must be"),
        (["--limit", "9999"], "limit=9999 is more than the 5000 images"),
        (["--split", "test"], "split='test' is not known"),
        (["--dataset", "nope"], "name='nope' is not known; expected one of mnist5k"),
        (["--machine", "elf"], "invalid choice 'elf'"),
        (["--seed", "x"], "--seed"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, capsys, options, message):
    assert _run(tmp_path / "run", *options) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("elsjax: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert not list(tmp_path.iterdir())


def test_datasets_lists_what_is_there(tmp_path, capsys):
    assert cli.main(["datasets", "--data-dir", str(tmp_path)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "yes" in rows["mnist5k"]
    assert "5,000 train" in rows["mnist5k"]
    assert f"not prepared in {tmp_path}" in rows["celeb_a"]
