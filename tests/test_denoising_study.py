"""`elsjax study denoising`: its numbers against direct calls, interrupted, and of wrong words."""

import json

import jax
import numpy as np
import pytest

import elsjax
from elsjax import cli
from elsjax.experiments.denoising import DenoisingStudy, study_denoising
from elsjax.experiments.heldout import heldout_images
from elsjax.experiments.states import States

TIMES = (0.2, 0.7)


def _denoiser(factor, shape=(3, 4, 1), **options):
    """Shrinks x_t by a factor."""
    return elsjax.FunctionDenoiser(
        lambda x, _t, _label: factor * x, shape, prediction="x0", **options
    )


def _study(images, count=None, **options):
    counts = None if count is None else {"small": count}
    return study_denoising(
        {"net": _denoiser(0.9)},
        {"large": _denoiser(0.5), "small": _denoiser(0.1)},
        _denoiser(0.3),
        images,
        TIMES,
        jax.random.key(3),
        num_images=counts,
        batch_size=2,
        **options,
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-1, 1, (5, 3, 4, 1)).astype(np.float32)


def test_errors_and_agreement_are_those_of_the_definitions(images):
    study = _study(images, count=3)
    noise = np.asarray(elsjax.initial_noise(jax.random.key(3), 5, (3, 4, 1)))
    for place, t in enumerate(TIMES):
        alpha, sigma = (float(level) for level in elsjax.CosineSchedule()(t))
        x = alpha * images + sigma * noise

        def error(factor, count=5, x=x):
            return np.mean((factor * x - images)[:count] ** 2, (1, 2, 3))

        np.testing.assert_allclose(study.unit[place], error(0.3), rtol=1e-5)
        np.testing.assert_allclose(study.errors["net"][place], error(0.9), rtol=1e-5)
        np.testing.assert_allclose(study.errors["small"][place], error(0.1, 3), rtol=1e-5)
        ratio = error(0.1, 3).mean() / error(0.3, 3).mean()
        assert study.relative("small")[place, 0] == pytest.approx(ratio, rel=1e-5)
        # All are multiples of x_t: perfectly correlated, and short by their factors.
        found = study.agreement["large"]["net"]
        np.testing.assert_allclose(found["pearson_r"][place], 1, atol=1e-5)
        rest = x - x.mean((1, 2, 3), keepdims=True)
        left = (0.4 * x) ** 2
        expected = 1 - left.sum((1, 2, 3)) / (0.9 * rest**2 * 0.9).sum((1, 2, 3))
        np.testing.assert_allclose(found["r2"][place], expected, rtol=1e-4)
    assert set(study.errors) == {"net", "large", "small"}
    assert study.agreement["small"]["net"]["r2"].shape == (2, 3)
    assert (study.seconds["net"] > 0).all()


def test_the_interval_of_a_ratio_holds_it_and_narrows(images):
    few, many = _study(images), _study(np.tile(images, (8, 1, 1, 1)))
    for study in (few, many):
        ratio, low, high = study.relative("small").T
        assert ((low < ratio) & (ratio < high)).all()
    widths = [np.ptp(study.relative("small")[:, 1:], axis=1) for study in (few, many)]
    assert (widths[1] < widths[0]).all()
    # Of the unit itself there is nothing to be uncertain of.
    same = DenoisingStudy(few.times, few.unit, {"unit": few.unit}, {}, {})
    np.testing.assert_allclose(same.relative("unit"), 1)


def test_the_same_for_any_batch_and_after_an_interruption(images, monkeypatch):
    monkeypatch.setattr("elsjax.experiments.denoising._SAVED_EVERY", 0)
    kept = {}

    class Store:
        def load_arrays(self, name, like):
            return kept.get(name)

        def save_arrays(self, name, arrays):
            kept[name] = {key: value.copy() for key, value in arrays.items()}
            if len(kept) == 5 and arrays["taken"] == 4:  # in the midst of a batch of five
                raise KeyboardInterrupt

        def warn_damaged(self, name, reason):
            raise AssertionError(reason)

        def remove(self, name):
            del kept[name]

    with pytest.raises(KeyboardInterrupt):
        _study(images, states=States(Store()))
    asked = []
    states = States(Store())
    resumed = _study(images, states=states, progress=lambda *told: asked.append(told))
    whole = _study(images)
    for name, array in resumed.arrays().items():
        if not name.startswith("seconds"):
            np.testing.assert_array_equal(array, whole.arrays()[name])
    assert ("large", 4, 10) in asked
    assert ("large", 2, 10) not in asked  # done before
    states.forget()
    assert kept == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": {"other": 2}}, "num_images='other' is not known"),
        ({"num_images": {"small": 6}}, r"num_images\['small'\]=6 must be"),
        ({"times": (0.5, 1.5)}, "times=1.5 must"),
        ({"label": np.zeros(4, int)}, "label has shape"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"networks": {"small": _denoiser(0.9)}}, "must have names of their own"),
        ({"wiener": _denoiser(0.9, (4, 4, 1))}, "expected"),
    ],
)
def test_wrong_arguments(images, change, message):
    given = {
        "networks": {"net": _denoiser(0.9)},
        "denoisers": {"small": _denoiser(0.1)},
        "wiener": _denoiser(0.3),
        "images": images,
        "times": TIMES,
        "key": jax.random.key(0),
    } | change
    with pytest.raises(ValueError, match=message):
        study_denoising(**given)


# The command

SMALL = ["study", "denoising", "--window", "3", "--num-images", "5", "--batch-size", "2"]
SMALL += ["--times", "0.2", "0.7", "--machine", "is", "bbels", "wiener-bbels"]
SMALL += ["--few", "bbels", "--num-few", "3"]


@pytest.fixture(scope="module")
def words(small_network, tfds_dir):
    return [*SMALL, "--network", small_network, "--data-dir", tfds_dir]


def test_the_command_writes_what_the_library_computes(words, small_network, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    network = elsjax.load_network(small_network)
    config = json.loads((out / "config.json").read_text())
    data = elsjax.load_dataset(config["dataset"], limit=config["limit"], image_size=8)
    heldout = heldout_images(data, None, 5, image_size=8, data_dir=config["data_dir"])
    with np.load(out / "study.npz") as archive:
        arrays = dict(archive)
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 5, (8, 8, 1)))
    alpha, sigma = (float(level) for level in network.schedule(0.7))
    x = (alpha * heldout.images + sigma * noise).astype(np.float32)
    machine = elsjax.ScoreMachine("bbels", data.pixels, window=3)
    for name, denoiser, count in [
        ("bbels", machine, 3),
        (small_network, network, 5),
        ("wiener-bbels", elsjax.WienerDenoiser(data.pixels, kind="bbels", window=3), 5),
        ("wiener-unit", elsjax.WienerDenoiser(data.pixels), 5),
    ]:
        found = np.asarray(denoiser.denoise(x[:count], 0.7))
        expected = np.mean((found - heldout.images[:count]) ** 2, (1, 2, 3))
        np.testing.assert_allclose(arrays[f"error/{name}"][1], expected, rtol=1e-3)
    rows = json.loads((out / "summary.json").read_text())
    assert {(row["name"], row["num_images"]) for row in rows} >= {("bbels", 3), ("is", 5)}
    assert "Wiener bbELS" in printed
    assert "high-pass R²" in printed
    page = (out / "report.html").read_text()
    assert page.count("<dt>") == 3
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        *("config.json", "denoising.png", "report.html", "study.npz", "summary.json")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--times", "1.5"], "times=1.5 must"),
        (["--times", "0.5", "0.5"], "must differ"),
        (["--few", "pspc"], "few='pspc' is not known"),
        (["--num-few", "0"], "num_few=0 must be"),
        (["--network", "mnist/unet/zeros", "cifar10/resnet/zeros"], "expected the same"),
        (["--heldout", "nothing"], "nothing"),
        (["--threshold", "2"], "threshold=2.0 must"),
        (["--guidance", "1"], "guidance=1.0 needs classes"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(words, tmp_path, capsys, options, message):
    assert cli.main([*words, *options, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told
    assert not (tmp_path / "run").exists()
