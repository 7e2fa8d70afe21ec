"""Analytic denoisers by the names of the command line: what is made, and wrong options."""

import jax
import numpy as np
import pytest

import elsjax
from elsjax import cli
from elsjax.cli.denoisers import DENOISERS, DenoiserOptions, sees_window
from elsjax.cli.window import parse_crops
from elsjax.pages import DENOISERS as WORDS
from elsjax.posterior.dictionaries import KINDS

DATA = elsjax.Dataset(
    "one's own",
    "train",
    np.random.default_rng(0).integers(0, 256, (9, 6, 6, 1), np.uint8),
    np.array([0, 1, 2] * 3, np.int32),
    None,
)
X = np.random.default_rng(1).standard_normal((2, 6, 6, 1)).astype(np.float32)
SCHEDULE = elsjax.LinearBetaSchedule()


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    """Direct calls have one."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def direct(name):
    """What a name stands for, made by hand."""
    images = (DATA.pixels, DATA.labels)
    family, _, kind = name.rpartition("-")
    own = {"schedule": SCHEDULE, "window": 3 if kind in ("ls", "els", "bbels") else None}
    if family in ("", "smoothed"):
        machine = elsjax.ScoreMachine(kind, *images, **own)
        return elsjax.SmoothedDenoiser(machine, bandwidth=0.3, draws=2) if family else machine
    if family == "wiener":
        return elsjax.WienerDenoiser(*images, kind=kind, **own)
    return elsjax.PCALocalityDenoiser(*images, threshold=0.1, schedule=SCHEDULE)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_name_stands_for_the_denoiser(name):
    options = DenoiserOptions(threshold=0.1, crop="4", bandwidth=0.3, draws=2)
    found = options.make(name, DATA, schedule=SCHEDULE, window=3)
    if name == "pspc":
        expected = elsjax.PSPCDenoiser(DATA.pixels, DATA.labels, window=4, schedule=SCHEDULE)
    elif name == "golden":
        expected = elsjax.GoldenSubsetDenoiser(DATA.pixels, DATA.labels, schedule=SCHEDULE)
    else:
        expected = direct(name)
    assert type(found) is type(expected)
    for label in (None, 1):
        a, b = (one.denoise(X, 0.4, label) for one in (found, expected))
        np.testing.assert_array_equal(a, b)
    assert name in WORDS
    assert sees_window(name) == name.endswith("ls")


def test_guidance_goes_from_all_images_to_the_class():
    plain = DenoiserOptions().make("ls", DATA, schedule=SCHEDULE, window=3)
    guided = DenoiserOptions(guidance=3.0).make("ls", DATA, schedule=SCHEDULE, window=3)
    x0, of_class = plain.denoise(X, 0.4), plain.denoise(X, 0.4, 2)
    np.testing.assert_allclose(guided.denoise(X, 0.4, 2), x0 + 3 * (of_class - x0), atol=1e-5)


def test_thresholds_are_the_published_ones():
    for dataset, threshold in (("mnist5k", 0.005), ("cifar10", 0.05), ("one's own", 0.02)):
        data = elsjax.Dataset(dataset, "train", DATA.pixels, None, None)
        made = DenoiserOptions().make("pca-locality", data, schedule=SCHEDULE, window=None)
        assert made.threshold == threshold


def test_crops_are_the_published_ones_at_their_noise_levels():
    schedule = elsjax.CosineSchedule()
    crops = parse_crops(None, schedule, 32)
    # EDM's 18 levels of sigma / alpha (Karras et al. 2022, equation 5), and the sides at them.
    steps = np.arange(18) / 17
    levels = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    sides = [32] * 7 + [23, 15, 11, 7, 5] + [3] * 6
    for level, side in zip(levels[1:-4], sides[1:-4], strict=True):
        t = np.arctan(level) * 2 * 1.008 / np.pi  # of the cosine schedule
        if t > 0.015:  # the finest that the schedule of windows resolves
            assert crops(min(t, 1.0)) == side
    assert max(parse_crops(None, schedule, 6).windows) == 6
    assert parse_crops("4", schedule, 32) == 4
    assert parse_crops("3,4,8", schedule, 32) == elsjax.WindowSchedule((3, 4, 8))
    with pytest.raises(ValueError, match="crop='3,33' must be at most 32"):
        parse_crops("3,33", schedule, 32)
    with pytest.raises(ValueError, match="crop='1.5' is not known"):
        parse_crops("1.5", schedule, 32)


@pytest.mark.parametrize("name", ["wiener-els", "pspc", "golden"])
def test_samples_are_those_of_the_library(tmp_path, name):
    words = ["sample", "--limit", "20", "--image-size", "8", "--num-steps", "3", "--label", "3"]
    words += ["--machine", name, "--num-samples", "2", "--out", str(tmp_path / "run")]
    words += {"wiener-els": ["--window", "3"], "pspc": ["--crop", "4"], "golden": []}[name]
    assert cli.main(words) == 0
    data = elsjax.load_dataset("mnist5k", limit=20, image_size=8)
    options = DenoiserOptions(crop="4")
    denoiser = options.make(name, data, schedule=elsjax.CosineSchedule(), window=3)
    with np.load(tmp_path / "run" / "samples.npz") as found:
        expected = elsjax.sample(denoiser, found["noise"], 3, 3)
        np.testing.assert_allclose(found["samples"], expected, atol=1e-4)


def test_names_are_those_of_all_kinds():
    assert set(DENOISERS) >= {f"{family}{kind}" for family in ("", "wiener-") for kind in KINDS}
    assert set(WORDS) == set(DENOISERS)
