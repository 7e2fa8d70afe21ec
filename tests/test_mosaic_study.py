"""`elsjax study mosaics`: its numbers against direct calls, interrupted, and of wrong words."""

import dataclasses
import json

import jax
import matplotlib.image
import numpy as np
import pytest
from run_folders import saved_arrays
from small_inputs import PIXELS, machine, trousers

import elsjax
from elsjax import cli
from elsjax.cli.studies import StudyMosaics
from elsjax.cli.studies.mosaics_account import MosaicAccount
from elsjax.data.datasets import Dataset
from elsjax.experiments.heldout import heldout_images
from elsjax.experiments.mosaics.findings import median
from elsjax.experiments.mosaics.limb_study import LimbStudy, Rate, Trousers
from elsjax.experiments.mosaics.resumable_pieces import (
    ResumablePieces,
    pieces_as_maps,
    pieces_of_maps,
)
from elsjax.experiments.mosaics.study import MosaicPlan
from elsjax.experiments.mosaics.toy import entropy_per_pixel

SMALL = ["study", "mosaics", "--machine-window", "3", "--num-samples", "2", "--batch-size", "1"]
SMALL += ["--steps", "2", "3", "--tolerance", "0.1", "0.4"]
SOURCES = ("training", "heldout", "network", "is", "ls", "bbels")
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)


@pytest.fixture(autouse=True, scope="module")
def _one_device():
    """Commands and direct calls share their programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        yield


@pytest.fixture(scope="module")
def words(small_network, tfds_dir):
    return [*SMALL, "--network", small_network, "--data-dir", tfds_dir]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The folder of a study that was not interrupted."""
    out = tmp_path_factory.mktemp("study") / "run"
    assert cli.main([*words, "--out", str(out)]) == 0
    return out


def _arrays(out):
    with np.load(out / "study.npz") as archive:
        return dict(archive)


def _data():
    return elsjax.load_dataset("mnist5k", limit=40, image_size=8)


def test_samples_are_those_of_network_and_machines(whole, small_network, tfds_dir):
    arrays, data = _arrays(whole), _data()
    noise = elsjax.initial_noise(jax.random.key(0), 2, (8, 8, 1))
    np.testing.assert_array_equal(arrays["noise"], noise)
    held = heldout_images(data, None, 2, image_size=8, data_dir=tfds_dir)
    np.testing.assert_array_equal(arrays["images_heldout_2"], held.pixels)
    np.testing.assert_array_equal(arrays["images_training_2"], data.pixels[:1])
    denoisers = {"network": elsjax.load_network(small_network)}
    for kind in ("is", "ls", "bbels"):
        window = None if kind == "is" else 3
        denoisers[kind] = elsjax.ScoreMachine(kind, data.pixels, window=window)
    for name, denoiser in denoisers.items():
        for steps in (2, 3):
            times = np.arange(steps - 1, -1, -1) / steps
            path = elsjax.sample(denoiser, noise, times=times, return_trajectory=True)
            found = arrays[f"images_{name}_{steps}"]
            np.testing.assert_allclose(found, path.x[-1], atol=1e-4)
            if name != "network":
                top = denoiser.posterior(path.x[-2], times[-2], top=1).top
                tiles = elsjax.source_pieces(top)
                np.testing.assert_array_equal(arrays[f"tile_{name}_{steps}"], tiles.tile)
                found = arrays[f"ambiguous_{name}_{steps}"]
                np.testing.assert_array_equal(found, tiles.ambiguous)
    config = json.loads((whole / "config.json").read_text())
    assert (config["command"], config["steps"]) == ("study mosaics", [2, 3])
    assert (config["window"], config["heldout"]) == (3, "mnist, train")


def test_pieces_and_consistency_are_those_of_direct_calls(whole):
    arrays, pixels = _arrays(whole), _data().pixels
    for name in SOURCES:
        kind = name if name in ("is", "ls") else "bbels"
        for place, tolerance in enumerate((0.1, 0.4)):
            for number, image in enumerate(arrays[f"images_{name}_2"]):
                pieces = elsjax.fewest_pieces(image, pixels, tolerance=tolerance)
                maps = pieces_as_maps(pieces)
                np.testing.assert_array_equal(arrays[f"piece_{name}"][place, number], maps["piece"])
                found = arrays[f"label_of_piece_{name}"][place, number]
                np.testing.assert_array_equal(found, maps["label"])
            for steps in (2, 3):
                images = arrays.get(f"images_{name}_{steps}", arrays[f"images_{name}_2"])
                window = None if kind == "is" else 3
                expected = elsjax.local_consistency(
                    images, pixels, window=window, tolerance=tolerance, kind=kind
                )
                found = arrays[f"difference_{name}_{steps}"] <= tolerance + 1e-6
                np.testing.assert_array_equal(found, expected)


def test_the_summary_is_of_the_arrays(whole):
    arrays = _arrays(whole)
    summary = json.loads((whole / "summary.json").read_text())
    rows = summary["rows"]
    assert [(row["source"], row["tolerance"]) for row in rows] == [
        (name, tolerance) for name in SOURCES for tolerance in (0.1, 0.4)
    ]
    assert [row["pieces"] for row in rows[:2]] == [1, 1]
    for row in rows:
        name, place = row["source"], (0.1, 0.4).index(row["tolerance"])
        piece = arrays[f"piece_{name}"][place]
        assert row["num_images"] == len(piece) == (1 if name == "training" else 2)
        assert row["pieces"] == np.median(piece.max((1, 2)) + 1)
        assert row["uncovered"] == pytest.approx((piece < 0).mean())  # of two, median and mean
        in_place = (arrays[f"label_of_piece_{name}"][place, ..., 1:] == 0).all(-1) & (piece >= 0)
        assert row["in_place"] == pytest.approx(in_place.mean())
        needed = []
        for of_one in piece:
            counts = np.cumsum(np.bincount(of_one[of_one >= 0], minlength=1))
            enough = np.flatnonzero(counts >= 0.95 * of_one.size)
            needed.append(enough[0] + 1 if len(enough) else np.inf)
        expected = np.median(needed)
        assert row["pieces_95"] == (expected if np.isfinite(expected) else None)
        assert row["pieces_interval"] is None
        difference = arrays[f"difference_{name}_3"]
        assert row["consistent_3"] == pytest.approx((difference <= row["tolerance"] + 1e-6).mean())
        if name in ("is", "ls", "bbels"):
            tile, ambiguous = arrays[f"tile_{name}_3"], arrays[f"ambiguous_{name}_3"]
            tiles = [len(set(t[~a])) for t, a in zip(tile, ambiguous, strict=True)]
            assert row["tiles_3"] == np.median(tiles)
            assert row["ambiguous_3"] == pytest.approx(ambiguous.mean())
    assert summary["limbs"] == {}
    assert summary["toy"]["consistent_images"] == {"3": 2, "4": 188, "5": 2142}
    assert summary["toy"]["entropy_per_pixel"]["4"] == entropy_per_pixel(4)


def test_the_report_has_the_table_and_the_pictures(whole):
    page = (whole / "report.html").read_text()
    assert "The check: the first training image is 1 piece." in page
    assert "188 of 4 × 4" in page
    assert '<th scope="col">tiles, 3 steps</th>' in page
    assert page.count("data:image/png") == 4
    for file in ("pieces.png", "coverage.png", "consistency.png", "pictures.png"):
        assert matplotlib.image.imread(whole / file).std() > 0.05


def test_an_interrupted_study_goes_on_and_ends_the_same(
    words, whole, tmp_path, monkeypatch, capsys
):
    saved = []
    out = tmp_path / "cut"
    # In the sampling of a machine; between differences; in the pieces.
    for writes, last in ((9, "is-3-"), (24, "-difference-"), (15, "-pieces-")):
        saved += saved_arrays(monkeypatch, [*words, "--out", str(out)], writes)
        assert last in saved[-1]
    # What is damaged is computed again, and nothing else.
    path = tmp_path / "cut.partial" / saved[-1]
    with np.load(path) as archive:
        maps = dict(archive)
    np.savez(path, **{**maps, "piece": maps["piece"] + 2})
    capsys.readouterr()
    names = saved_arrays(monkeypatch, [*words, "--out", str(out)])
    assert f"{path.name}' is damaged (no state of this run)" in capsys.readouterr().err
    assert names[0] == saved.pop()
    # 1 + 2 steps of 4 denoisers in 2 batches; differences; pieces of 11 images; the results.
    assert len(saved + names) == 24 + 19 + 22 + 1
    assert sum("-pieces-" in name for name in saved + names) == 22
    found, expected = _arrays(out), _arrays(whole)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    summaries = [(one / "summary.json").read_text() for one in (out, whole)]
    assert summaries[0] == summaries[1]
    files = [{path.name for path in one.iterdir()} for one in (out, whole)]
    assert files[0] == files[1]


def test_without_held_out_images_their_row_is_left_out(words, tmp_path, capsys):
    nowhere = [*words, "--data-dir", str(tmp_path), "--steps", "2", "--tolerance", "0.4"]
    assert cli.main([*nowhere, "--num-samples", "1", "--out", str(tmp_path / "run")]) == 0
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["rows"]
    assert [row["source"] for row in rows] == [name for name in SOURCES if name != "heldout"]
    for said in (capsys.readouterr().out, (tmp_path / "run" / "report.html").read_text()):
        assert "Held-out images, the control, are left out: none are at hand" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "4"], "window=4 must be an odd positive integer"),
        (["--window", "-1"], "window=-1 must be an odd positive integer"),
        (["--machine-window", "4"], "machine_window='4': windows[0]=4 must be an odd"),
        (["--machine-window", "nope"], "machine_window='nope' is not known"),
        (["--machine-window", "no.json"], "machine_window='no.json' cannot be read"),
        (["--tolerance", "0.1", "2.5"], "tolerance=2.5 must lie in [0, 2]"),
        (["--tolerance", "nan"], "tolerance=nan must lie in [0, 2]"),
        (["--tolerance"], "tolerance=() must hold at least one"),
        (["--steps"], "steps=() must hold at least one"),
        (["--steps", "20", "0"], "steps=0 must be an integer from 2"),
        (["--steps", "1"], "steps=1 must be an integer from 2"),
        (["--num-samples", "0"], "num_samples=0 must be an integer of at least 1"),
        (["--num-trousers", "0"], "num_trousers=0 must be an integer of at least 1"),
        (["--batch-size", "0"], "batch_size=0 must be an integer of at least 1"),
        (["--seed", "-1"], "seed=-1 must be an integer"),
        (["--network", "nothing"], "network='nothing' is neither a file nor one of"),
        (["--dataset", "nothing"], "name='nothing' is not known"),
        (["--image-size", "5"], "image_size=5 differs from 8"),
        (["--solver", "heun"], "not understood: --solver heun"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refuses, words, options, message):
    refuses([*words, *options], message)


def test_studies_are_a_group(refuses, capsys):
    assert cli.main(["study"]) == 2
    told = capsys.readouterr().err
    expected = "attention, denoising, mosaics, receptive-field, switch, training"
    assert f"expected one of {expected}" in told
    refuses(["study", "nothing"], "not understood: nothing")
    assert cli.parse(["study", "mosaics", "--steps", "9"]).steps == (9,)


def training(labels=LABELS):
    return Dataset("mine", "train", PIXELS, labels, None)


NOISE = np.random.default_rng(1).normal(size=(2, 6, 6, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ls"}, "kind='ls' is not known; expected one of els, bbels"),
        ({"kind": "els", "window": 7}, "window=7 must be at most 6"),
        ({"machine_window": 4}, "machine_window=4: window=4 must be an odd"),
        ({"tolerance": 0.1}, "tolerance=0.1 must be a sequence"),
        ({"steps": "20"}, "steps='20' must be a sequence"),
        ({"label": 3}, "label=3 is no class"),
        ({"heldout": PIXELS}, "heldout="),
        (
            {"heldout": Dataset("a", "test", PIXELS[:, 1:], None, None)},
            "heldout has images [5, 6, 1]",
        ),
        (
            {"heldout": Dataset("a", "test", PIXELS, None, None), "label": 1},
            "heldout has no labels",
        ),
        ({"heldout": Dataset("a", "test", PIXELS, LABELS + 1, None), "label": 1}, "label=3 is no"),
        ({"trousers": Trousers(NOISE[:, 1:])}, "[2, 5, 6, 1]"),
    ],
)
def test_wrong_arguments(known, options, message):
    with pytest.raises(ValueError) as error:
        MosaicPlan(known, training(), NOISE, **{"machine_window": 3, **options})
    assert message in str(error.value)


@pytest.fixture(scope="module")
def known():
    return machine(labels=LABELS)


def test_images_are_held_against_those_of_their_class(known):
    held = Dataset("mine", "test", PIXELS[[1, 4]], LABELS[[1, 4]], None)
    plan = MosaicPlan(
        known,
        training(),
        NOISE,
        3,
        kind="els",
        label=[2, 0],
        heldout=held,
        tolerance=[0.3],
        steps=[2],
    )
    found = plan.study()
    assert list(found.sources) == ["training", "heldout", "network", "is", "ls", "els"]
    # A training image is one piece; patches of "els" wrap around.
    for name, numbers in (("training", [0]), ("heldout", [1, 4])):
        pieces = found.sources[name].pieces[0]
        assert [one.labels.tolist() for one in pieces] == [[[n, 0, 0]] for n in numbers]
    for name in ("is", "els"):
        for label, one in zip([2, 0], found.sources[name].pieces[0], strict=True):
            assert set(LABELS[one.labels[:, 0]]) <= {label}
    # IS replays images; it is its own nearest.
    np.testing.assert_allclose(found.measures("is", 0.3)["consistent_2"], 1)
    # The network is an ELS machine itself.
    np.testing.assert_allclose(
        found.sources["network"].images, found.sources["els"].images, atol=1e-5
    )
    with pytest.raises(ValueError, match="tolerance=0.1 is none of 0.3"):
        found.measures("is", 0.1)
    with pytest.raises(ValueError, match="source='nobody' is not known"):
        found.measures("nobody", 0.3)
    arrays = found.arrays()
    np.testing.assert_array_equal(arrays["labels_els"], [2, 0])
    with_limbs = dataclasses.replace(found, limbs={"training": Rate(1, 8), "els-wide": Rate(0, 4)})
    np.testing.assert_array_equal(with_limbs.arrays()["limbs_training"], [1, 8])
    said = MosaicAccount(with_limbs, "mine", 6).remarks()[-1]
    assert "training 1 of 8 [2.2, 47.1 %]; ELS of windows from 7 on 0 of 4 [0.0, 49.0 %]." in said
    assert "training images: a piece is one training image of its class" in " ".join(
        MosaicAccount(with_limbs, "mine", 6).paragraphs()
    )


def test_a_sample_that_is_not_finite_is_told(known):
    broken = elsjax.FunctionDenoiser(lambda x, t, label: x * np.nan, (6, 6, 1), prediction="x0")
    with pytest.raises(FloatingPointError, match="sample 0 of network is not finite"):
        MosaicPlan(broken, training(None), NOISE, 3, steps=[2]).study()


def test_medians_of_what_may_be_infinite():
    assert median(np.array([1.0, np.inf])) == (None, None)
    assert median(np.array([1.0, 2, np.inf])) == (2, None)
    assert median(np.array([3.0, 1, 2, 4, 5, np.inf])) == (3.5, (1, None))


def test_pieces_as_maps_and_back():
    image = np.where(np.arange(6)[:, None, None] < 3, PIXELS[2], PIXELS[5])
    pieces = elsjax.fewest_pieces(image, PIXELS[1:], tolerance=0.1)
    assert pieces.uncovered.any()
    again = pieces_of_maps(pieces_as_maps(pieces))
    for name, value in vars(pieces).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    none = pieces_of_maps(pieces_as_maps(elsjax.fewest_pieces(255 - image, PIXELS[1:])))
    assert (none.count, none.uncovered_share) == (0, 1)


def test_progress_begins_with_what_was_kept():
    calls = []
    ResumablePieces(PIXELS[1:], tolerance=(0.1, 0.2)).of_all(
        {"a": PIXELS[:1], "b": PIXELS[1:3]}, {"a": None, "b": None}, lambda *a: calls.append(a)
    )
    assert calls == [(done, 6) for done in range(7)]


# Limbs


def legs(*numbers):
    return np.stack([trousers(number, height=12)[:, 4:24] for number in numbers])


def test_excess_limbs_are_counted():
    labels = np.array([0, 1, 1, 1], np.int32)
    data = Dataset("mine", "train", legs(4, 2, 3, 4), labels, None)
    network = elsjax.ScoreMachine("is", data.pixels[[0, 2]], [0, 1])
    noise = np.random.default_rng(0).normal(size=(3, 12, 20, 1)).astype(np.float32)
    calls = []
    study = LimbStudy(network, data, Trousers(noise, legs(2, 2, 4)), 3, "ls", 2)
    rates = study.rates(lambda *a: calls.append(a))
    assert rates["training"] == (2, 3)  # of class 1
    assert rates["heldout"] == (1, 3)
    assert rates["network"] == (3, 3)  # its only image of the class has three legs
    assert set(rates) == {"training", "heldout", "network", "ls", "ls-wide"}
    assert calls[-1] == ("trousers, ls-wide", 1, 1)
    assert "ls-wide" not in LimbStudy(network, data, Trousers(noise), 9, "ls", 2)._denoisers
    with pytest.raises(ValueError, match="training has no images of class 1"):
        LimbStudy(
            network, dataclasses.replace(data, labels=labels * 2), Trousers(noise), 3, "ls", 2
        )


def test_trousers_are_of_conditional_networks_of_fashion(tfds_dir):
    study = StudyMosaics(num_trousers=5)
    data = elsjax.load_dataset("fashion_mnist", "train", 20, 32, tfds_dir)
    network = elsjax.load_pretrained("fashion_mnist/unet/zeros")
    found = study._trousers(network, data, tfds_dir)
    assert found.noise.shape == (5, 32, 32, 1)
    test = elsjax.load_dataset("fashion_mnist", "test", None, 32, tfds_dir)
    np.testing.assert_array_equal(found.heldout, test.pixels[test.labels == 1])
    assert study._trousers(elsjax.load_pretrained("mnist/unet/zeros"), data, tfds_dir) is None
    assert study._trousers(network, dataclasses.replace(data, name="mnist"), tfds_dir) is None
