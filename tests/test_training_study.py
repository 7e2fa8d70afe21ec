"""`elsjax study training`: its numbers against direct calls, interrupted, and of wrong words."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from run_folders import tree
from small_inputs import PIXELS, resnet

import elsjax
from elsjax import cli
from elsjax.experiments.heldout import TIMES, heldout_error, heldout_images
from elsjax.experiments.learning import SECOND, LearningStudy
from elsjax.experiments.runs import Run
from elsjax.experiments.snapshots import snapshot_steps, train_snapshots
from elsjax.nn import PRESETS
from elsjax.training.checkpoints import Checkpoints

SMALL = ["study", "training", "--network", "resnet-small", "--image-size", "8", "--limit", "12"]
SMALL += ["--window", "3", "--num-steps", "50", "--batch-size", "4", "--warmup-steps", "5"]
SMALL += ["--checkpoints", "3", "--num-samples", "6", "--sampling-steps", "4", "--machine", "is"]
SMALL += ["--num-heldout", "5", "--num-pieces", "2"]
FILES = [f"network-{step:06d}.safetensors" for step in (10, 30, 45)]


@pytest.mark.parametrize(
    ("num_steps", "count", "expected"),
    [
        (8000, 4, (40, 230, 1370, 8000)),  # 40 * 200^(1/3) = 233.9, 40 * 200^(2/3) = 1368.0
        (1000, 3, (10, 100, 1000)),
        (105, 2, (10, 105)),
        (30, 9, (10, 20, 30)),
        (7, 3, (7,)),
        (500, 1, (500,)),
    ],
)
def test_steps_are_even_on_a_logarithmic_scale(num_steps, count, expected):
    assert snapshot_steps(num_steps, count) == expected


def _study(samples, second, denoisers, **options):
    shape = samples.shape[:2]
    return LearningStudy(
        **{
            "steps": np.arange(1, shape[0] + 1),
            "samples": samples,
            "second": second,
            "denoisers": denoisers,
            "machine": "bbels",
            "wiener": np.ones(2),
            "training": np.ones((shape[0], 2)),
            "heldout": None,
            "memorized": np.zeros(shape, bool),
            "memorized_shifted": np.zeros(shape, bool),
            "nearest": np.zeros(shape, int),
            "pieces": np.zeros((shape[0], 0, 2)),
            "reference_pieces": {},
        }
        | options
    )


def test_partial_agreement_is_that_of_what_a_fit_of_the_machine_leaves():
    rng = np.random.default_rng(0)
    machine, ideal = rng.normal(size=(2, 3, 5, 6, 1))
    second = rng.normal(size=(2, 3, 5, 6, 1)) + machine
    samples = np.stack([machine + 0.5 * ideal, second[1] - machine])
    study = _study(samples, second, {"bbels": machine, "is": ideal})

    def left(images, b):
        """What is left of an image when the machine's is fitted to it."""
        basis = np.stack([machine[b].ravel(), np.ones(30)], axis=1)
        return images.ravel() - basis @ np.linalg.lstsq(basis, images.ravel(), rcond=None)[0]

    for name, others in (("is", np.stack([ideal, ideal])), (SECOND, second)):
        found = study.partial_agreement(name)
        for e, b in np.ndindex(2, 3):
            expected = np.corrcoef(left(samples[e, b], b), left(others[e, b], b))[0, 1]
            assert found[e, b] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(study.partial_agreement("is")[0], 1, atol=1e-4)
    with pytest.raises(ValueError, match="name='bbels' is not known"):
        study.partial_agreement("bbels")
    # Of the machine itself nothing is left.
    alone = _study(np.stack([machine]), None, {"bbels": machine, "is": ideal})
    assert SECOND not in alone.others
    assert np.isnan(alone.partial_agreement("is")).all() or (
        np.abs(alone.partial_agreement("is")).max() < 1
    )


def test_the_summary_tells_shares_and_medians_with_intervals():
    rng = np.random.default_rng(1)
    machine = rng.normal(size=(8, 4, 4, 1))
    memorized = np.array([[True] * 6 + [False] * 2])
    pieces = np.stack([np.arange(8.0), np.arange(8) / 10], axis=1)[None]
    (row,) = _study(
        machine[None],
        None,
        {"bbels": machine},
        memorized=memorized,
        pieces=pieces,
        training=np.array([[1.0, 3.0]]),
        wiener=np.array([2.0, 4.0]),
    ).summary()
    assert row["memorized"] == 0.75
    low, high = row["memorized_interval"]
    # Wilson, 95 %: (6 + z²/2 ± z sqrt(6 * 2 / 8 + z²/4)) / (8 + z²), z = 1.96
    assert (low, high) == pytest.approx((0.4093, 0.9285), abs=1e-4)
    assert row["r_bbels"] == pytest.approx(1)
    assert row["pieces"] == 3.5
    assert row["unexplained"] == pytest.approx(0.35)
    assert row["pieces_interval"] == (0, 7)  # 8 values: all but 2 / 2^8 < 5 %
    assert row["training_error"] == pytest.approx((0.5 + 0.75) / 2)
    assert "heldout_error" not in row


# The command


@pytest.fixture(scope="module")
def words(tfds_dir):
    return [*SMALL, "--data-dir", tfds_dir, "--heldout", "mnist"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "run"
    assert cli.main([*words, "--out", str(out)]) == 0
    return out


def _arrays(out):
    with np.load(out / "study.npz") as archive:
        return dict(archive)


def test_the_networks_are_those_of_plain_training(whole):
    data = elsjax.load_dataset("mnist5k", limit=24, image_size=8)
    for place, (name, pixels) in enumerate(
        (("network", data.pixels[:12]), ("second", data.pixels[12:]))
    ):
        network = PRESETS["resnet-small"](
            (8, 8, 1), padding="zeros", prediction="velocity", rngs=nnx.Rngs(place)
        )
        config = elsjax.TrainingConfig(
            num_steps=50,
            batch_size=4,
            warmup_steps=5,
            learning_rate_decay=1.0,
            clip_norm=1.0,
            seed=place,
        )
        kept = {}
        elsjax.train(
            network,
            pixels,
            config=config,
            report=lambda result, kept=kept: kept.update(
                {len(result.losses): jax.tree.leaves(nnx.state(result.network, nnx.Param))}
            ),
        )
        for step in (10, 20, 50):
            found = elsjax.load_network(whole / f"{name}-{step:06d}.safetensors")
            for one, other in zip(
                jax.tree.leaves(nnx.state(found, nnx.Param)), kept[step], strict=True
            ):
                np.testing.assert_array_equal(one, other)


def test_the_command_measures_what_the_library_does(whole, words, tfds_dir):
    arrays = _arrays(whole)
    assert arrays["steps"].tolist() == [10, 20, 50]
    data = elsjax.load_dataset("mnist5k", limit=12, image_size=8)
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 6, (8, 8, 1)))
    times = np.array([0.75, 0.5, 0.25, 0])
    network = elsjax.load_network(whole / "network-000020.safetensors")
    machine = elsjax.ScoreMachine("bbels", data.pixels, window=3)
    samples = np.asarray(elsjax.sample(network, noise, times=times))
    painted = np.asarray(elsjax.sample(machine, noise, times=times))
    np.testing.assert_allclose(arrays["samples"][1], samples, atol=1e-5)
    np.testing.assert_allclose(arrays["denoisers/bbels"], painted, atol=1e-5)
    other = elsjax.load_network(whole / "second-000050.safetensors")
    np.testing.assert_allclose(
        arrays["second"][2], elsjax.sample(other, noise, times=times), atol=1e-5
    )
    rows = json.loads((whole / "summary.json").read_text())
    r = np.median(elsjax.pearson_r(samples, painted))
    assert rows[1]["r_bbels"] == pytest.approx(float(r), abs=1e-4)
    assert rows[1]["images_seen"] == 80
    found = elsjax.memorized(samples, data.pixels, shifts=True)
    np.testing.assert_array_equal(arrays["memorized_shifted"][1], found.memorized)
    counted = [elsjax.fewest_pieces(sample, data.pixels) for sample in samples[:2]]
    expected = [(one.count, one.uncovered_share) for one in counted]
    np.testing.assert_allclose(arrays["pieces"][1], expected)
    heldout = heldout_images(data, "mnist", 5, image_size=8, data_dir=tfds_dir)
    for name, denoiser, images in (
        ("wiener", elsjax.WienerDenoiser(data.pixels), heldout.pixels),
        ("heldout", network, heldout.pixels),
        ("training", network, data.pixels[:5]),
    ):
        errors = heldout_error(denoiser, images, TIMES, jax.random.key(0)).mean(1)
        same = arrays[name] if name == "wiener" else arrays[name][1]
        np.testing.assert_allclose(same, errors, rtol=1e-3)
    page = (whole / "report.html").read_text()
    assert page.count("<figure>") == 2


def _interrupted_save(monkeypatch, at):
    """Has the n-th checkpoint interrupt; returns the numbers of all that are saved."""
    save, saved = Checkpoints.save, []

    def interrupted(checkpoints, step, state):
        save(checkpoints, step, state)
        saved.append(step)
        if len(saved) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr("elsjax.experiments.snapshots._SAVED_EVERY", 20)
    monkeypatch.setattr(Checkpoints, "save", interrupted)
    return saved


def test_killed_and_repeated_it_ends_the_same(whole, words, tmp_path, monkeypatch):
    saved = _interrupted_save(monkeypatch, at=5)
    out = tmp_path / "run"
    assert cli.main([*words, "--out", str(out)]) == 130
    assert saved == [20, 40, 50, 20, 40]  # in the midst of the second training
    save_arrays, written = Run.save_arrays, []

    def interrupted(run, name, arrays):
        save_arrays(run, name, arrays)
        written.append(name)
        if len(written) == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_arrays", interrupted)
        assert cli.main([*words, "--out", str(out)]) == 130  # in the midst of the samples
    assert cli.main([*words, "--out", str(out)]) == 0
    assert saved[5:] == [50]  # what was trained is not trained again
    for name, array in _arrays(whole).items():
        np.testing.assert_array_equal(array, _arrays(out)[name], err_msg=name)
    assert tree(out).keys() == tree(whole).keys()
    for name in ("summary.json", "network-000050.safetensors", "second-000020.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_training_starts_anew_where_a_network_is_lost(tmp_path, monkeypatch):
    saved = _interrupted_save(monkeypatch, at=2)
    config = elsjax.TrainingConfig(num_steps=45, batch_size=4, warmup_steps=5)
    arguments = resnet(), PIXELS, config, (10, 30, 45)
    found = []
    for out in (tmp_path / "whole", tmp_path / "run"):
        with Run(out) as run:
            run.start({})
            if out.name == "run":
                saved.clear()
                with pytest.raises(KeyboardInterrupt):
                    train_snapshots(*arguments, run, "network")
                (run.partial / "network-000010.safetensors").unlink()
                with pytest.warns(UserWarning, match="network-000010.safetensors' of the"):
                    train_snapshots(*arguments, run, "network")
            else:
                saved.append(0)  # no interruption
                saved.append(0)
                train_snapshots(*arguments, run, "network")
            found.append([(run.partial / name).read_bytes() for name in FILES])
    assert saved == [20, 40, 20, 40, 45]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "2501"], "twice limit=2501 images: limit=5002 is more than the 5000"),
        (["--limit", "-3"], "limit=-3 must be an integer of at least 1"),
        (["--checkpoints", "0"], "checkpoints=0 must be"),
        (["--sampling-steps", "1"], "sampling_steps=1 must be"),
        (["--num-samples", "0"], "num_samples=0 must be"),
        (["--num-heldout", "0"], "num_heldout=0 must be"),
        (["--num-pieces", "-1"], "num_pieces=-1 must be"),
        (["--batch-size", "13"], "batch_size=13 is larger than the data, 12 images"),
        (["--tolerance", "0"], "tolerance=0.0 must"),
        (["--window", "even"], "window='even' is not known"),
        (["--heldout", "nothing"], "nothing"),
        (["--network", "unet-small", "--image-size", "7"], "image_shape has sides 7×7"),
        (["--warmup-steps", "51"], "warmup_steps=51 must be"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(refuses, words, options, message):
    refuses([*words, *options], message)
