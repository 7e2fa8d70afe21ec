import json

import jax
import matplotlib.image
import numpy as np
import pytest
from run_folders import saved_arrays

import elsjax
from elsjax import cli
from elsjax.cli import mosaic as command
from elsjax.cli.sampling import Start

SMALL = [
    "mosaic",
    *("--limit", "30", "--image-size", "8", "--machine", "ls", "--window", "3", "--top", "2"),
    *("--num-samples", "2", "--num-steps", "4", "--batch-size", "1"),
]


def _arrays(out):
    with np.load(out / "mosaic.npz") as archive:
        return dict(archive)


def _data():
    return elsjax.load_dataset("mnist5k", limit=30, image_size=8)


def test_it_writes_what_the_library_computes(tmp_path, small_network, capsys):
    out = tmp_path / "run"
    words = ["--seed", "5", "--network", small_network, "--out", str(out)]
    assert cli.main([*SMALL, *words]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        ".elsjax-run",
        *("config.json", "mosaic.html", "mosaic.npz", "mosaic.png"),
    ]
    machine = elsjax.ScoreMachine("ls", _data().pixels, window=3)
    noise = elsjax.initial_noise(jax.random.key(5), 2, (8, 8, 1))
    times = [0.75, 0.5, 0.25, 0]
    expected = elsjax.mosaic(machine, noise, times=times, top=2, batch_size=1)
    found = elsjax.load_mosaic(out / "mosaic.npz")
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, rtol=1e-4, atol=1e-4)
    network = elsjax.sample(elsjax.load_network(small_network), noise, times=times)
    np.testing.assert_allclose(_arrays(out)["network"], network, atol=1e-4)
    config = json.loads((out / "config.json").read_text())
    assert (config["command"], config["network"], config["top"]) == ("mosaic", small_network, 2)
    assert config["windows"] == [3]
    lines = capsys.readouterr().out.splitlines()
    for sample, (number, changed) in enumerate(
        zip(expected.left_out, expected.changed, strict=True), 1
    ):
        told = f"image {number} gave most; without it {changed} pixels change"
        assert lines[sample - 1] == f"sample {sample}: {told}"
    assert matplotlib.image.imread(out / "mosaic.png").std() > 0.1


def test_all_pages_are_written(tmp_path, monkeypatch):
    seen = {}

    def pages(mosaic, images, **options):
        seen.update(options, mosaic=mosaic, images=images)
        return ["one", "two", "\udcff three"]

    monkeypatch.setattr("elsjax.cli.account.mosaic_page", pages)
    out = tmp_path / "run"
    options = ("--machine", "is", "--num-steps", "1", "--protocol", "aligned", "--label", "7")
    words = [word for word in SMALL if word not in ("--window", "3")]
    assert cli.main([*words, *options, "--out", str(out)]) == 0
    files = [(out / f"mosaic{end}.html").read_text() for end in ("", "-2", "-3")]
    assert files == ["one", "two", "? three"]
    data = _data()
    np.testing.assert_array_equal(seen["images"], data.pixels)
    np.testing.assert_array_equal(seen["labels"], data.labels)
    assert set(data.labels[seen["mosaic"].top.image.ravel()]) == {7}
    assert (seen["network"], seen["config"]["network"]) == (None, "none")
    np.testing.assert_array_equal(seen["mosaic"].times, [1, 0])
    np.testing.assert_array_equal(_arrays(out)["label"], [7, 7])


def _same(out, expected):
    found = _arrays(out)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, monkeypatch, capsys, small_network):
    words = [*SMALL, "--solver", "ancestral", "--network", small_network]
    names = saved_arrays(monkeypatch, [*words, "--out", str(tmp_path / "whole")])
    whole = _arrays(tmp_path / "whole")
    # Three steps of two batches, of the network and of the machine; then less one image.
    for writes, last in ((2, "network-0"), (11, "mosaic-1-1"), (14, "without-")):
        out = tmp_path / f"cut-{writes}"
        saved = saved_arrays(monkeypatch, [*words, "--out", str(out)], writes)
        assert saved[-1].startswith(f"state-{last}")
        assert saved + saved_arrays(monkeypatch, [*words, "--out", str(out)]) == names
        _same(out, whole)
    assert not list(tmp_path.glob("*.partial"))

    out = tmp_path / "damaged"
    saved_arrays(monkeypatch, [*words, "--out", str(out)], 9)
    path = tmp_path / "damaged.partial" / "state-mosaic-0-1.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "x": arrays["x"] * np.nan})
    capsys.readouterr()
    assert saved_arrays(monkeypatch, [*words, "--out", str(out)]) == names[7:]
    assert "state-mosaic-0-1.npz' is damaged" in capsys.readouterr().err
    _same(out, whole)


@pytest.mark.parametrize(
    ("options", "shape", "schedule", "expected"),
    [
        ([], (32, 32, 1), elsjax.CosineSchedule(), "mnist5k/unet/zeros"),
        ([], (8, 8, 1), elsjax.CosineSchedule(), "none"),
        ([], (32, 32, 1), elsjax.LinearBetaSchedule(), "none"),
        ([3], (32, 32, 1), elsjax.CosineSchedule(), "none"),
    ],
)
def test_the_network_beside_it_is_one_that_suits(options, shape, schedule, expected):
    machine = elsjax.ScoreMachine("is", np.zeros((1, *shape), np.uint8), schedule=schedule)
    mosaic = command.Mosaic(label=tuple(options))
    name, network = mosaic._own_network(Start(None, machine, None, {}))
    assert name == expected
    assert (network is None) == (expected == "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "0"], "top=0 must be an integer from 1 to 1024"),
        (["--top", "9999"], "top=9999 must be an integer from 1 to 1024"),
        (["--num-steps", "1"], "num_steps=1 must be at least 2 for protocol='late'"),
        (["--num-samples", "0"], "num_samples=0 must be an integer of at least 1"),
        (["--label", "77"], "label=77 is no class of the data"),
        (["--label", "1", "2", "3"], "must be one class, or num_samples=2 of them"),
        (["--machine", "is"], "window='3' does not apply to machine='is'"),
        (["--window", "4"], "must be an odd positive integer"),
        (["--schedule", "cubic"], "schedule='cubic' is not known"),
        (["--network", "nothing"], "network='nothing' is neither a file nor one of"),
        (["--network", "mnist5k/unet/zeros"], "are 8×8×1; those of the network are 32×32×1"),
        (["--tolerance", "0.03"], "--tolerance"),
        (["--protocol", "published"], "invalid choice 'published'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refuses, options, message):
    refuses([*SMALL, *options], message)


def test_a_network_must_be_of_the_same_process(refuses, small_network):
    words = [*SMALL, "--network", small_network]
    refuses([*words, "--schedule", "linear"], "schedule=LinearBetaSchedule(beta_first=0.0001")
    refuses([*words, "--label", "7"], "but this network is unconditional")
