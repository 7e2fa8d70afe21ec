import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from environment import REFERENCE
from small_inputs import IMAGES, LABELS, PIXELS, X

import elsjax

with np.load(REFERENCE / "golden.npz") as archive:
    STORED = dict(archive)
DATASETS = ("mnist", "cifar10")
SCHEDULE = elsjax.CosineSchedule()
MANY = np.random.default_rng(2).integers(0, 256, (60, 5, 4, 1), np.uint8)


def golden(images=PIXELS, labels=None, **options):
    return elsjax.GoldenSubsetDenoiser(images, labels, **options)


def ideal(images=PIXELS, labels=None):
    return elsjax.ScoreMachine("is", images, labels)


def noisy(pixels, t, seed=0):
    """A noisy image [1, H, W, C] for each time, of the training images in turn."""
    rng = np.random.default_rng(seed)
    clean = pixels[np.arange(len(t)) % len(pixels)] / 127.5 - 1
    alpha, sigma = (np.asarray(level).reshape(-1, 1, 1, 1) for level in SCHEDULE(t))
    return (alpha * clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)


# What it computes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dataset", DATASETS)
def test_it_keeps_the_published_subset(dataset):
    denoiser = golden(STORED[f"{dataset}/pixels"])
    times = np.repeat([0.2, 0.6], 3)
    stored = {
        name: np.concatenate([STORED[f"{dataset}/{start}/t{t}{end}"] for t in (0.2, 0.6)])
        for name, (start, end) in {
            "x": ("x", ""),
            "x0": ("golden", ""),
            "kept": ("golden", "/kept"),
            "certificate": ("golden", "/certificate"),
        }.items()
    }
    x0, bound = denoiser.denoise_with_bound(stored["x"], times)
    np.testing.assert_allclose(x0, stored["x0"], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(denoiser.kept(stored["x"], times), stored["kept"])
    np.testing.assert_allclose(bound, stored["certificate"], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(denoiser.denoise(stored["x"], times), x0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tolerance", [None, 0.3])
def test_the_bound_is_above_the_error(tolerance):
    rng = np.random.default_rng(1)
    x0, bound, exact = [], [], []
    for pool in (2, 3):
        t = rng.uniform(0.01, 1, 50)
        x = noisy(MANY, t, pool)
        for found, array in zip(
            golden(MANY, pool=pool, tolerance=tolerance).denoise_with_bound(x, t),
            (x0, bound),
            strict=True,
        ):
            array.append(found)
        exact.append(ideal(MANY).denoise(x, t))
    error = np.abs(np.concatenate(x0) - np.concatenate(exact)).max((1, 2, 3))
    bound = np.concatenate(bound)
    assert (error <= bound + 1e-9).all()
    assert (bound <= (2 if tolerance is None else tolerance)).all()
    assert ((bound > 0) & (bound < 2)).sum() > 10  # some say something
    assert error.max() > 1e-4  # of something


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tolerance", [0.01, 1])
def test_with_a_tolerance_it_keeps_no_more_than_it_has_to(tolerance):
    t = np.linspace(0.05, 0.95, 8)
    x = noisy(MANY, t)
    kept = np.asarray(golden(MANY, tolerance=tolerance).kept(x, t))
    clean = MANY / 127.5 - 1
    for i, (alpha, sigma) in enumerate(zip(*map(np.asarray, SCHEDULE(t)), strict=True)):
        _, bounds = oracle.lower_bounds(clean, x[i], alpha, 2)
        squares = ((x[i] - alpha * clean) ** 2).sum((1, 2, 3))
        order = np.argsort(bounds, kind="stable")
        inside = np.cumsum(np.exp((squares.min() - squares[order]) / (2 * sigma**2)))
        left = np.exp((squares.min() - bounds[order]) / (2 * sigma**2))
        outside = np.append(np.cumsum(left[::-1])[::-1][1:], 0)
        number = np.argmax(2 * outside / inside <= tolerance) + 1
        expected = np.zeros(len(clean), bool)
        expected[order[:number]] = True
        np.testing.assert_array_equal(kept[i], expected)
    assert 1 <= kept.sum(1).min() < kept.sum(1).max()


def test_of_no_tolerance_it_is_the_ideal_machine():
    t = np.array([0.3, 0.9])
    x0, bound = golden(tolerance=0).denoise_with_bound(X, t)
    np.testing.assert_allclose(x0, ideal().denoise(X, t), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(bound, 0)


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_where_no_noise_is_left_it_is_the_nearest_image(tolerance):
    x0, bound = golden(tolerance=tolerance).denoise_with_bound(X, 0)
    squares = ((X[:, None] - IMAGES) ** 2).sum((2, 3, 4))
    np.testing.assert_allclose(x0, IMAGES[squares.argmin(1)], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(bound, 0)


def test_of_images_equally_far_the_first_counts():
    # By classes, as they are stored, the last is first; one of 20 is kept.
    images = np.repeat(PIXELS[:2], 10, axis=0)
    denoiser = golden(images, np.arange(20)[::-1])
    alpha, _ = SCHEDULE(0.01)
    kept = denoiser.kept(alpha * IMAGES[1:2].astype(np.float32), 0.01)
    np.testing.assert_array_equal(kept[0], np.arange(20) == 10)


# Classes


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_of_a_class_it_is_made_of_its_images(tolerance):
    labels = np.arange(60) % 3
    x, label, t = noisy(MANY, np.array([0.4, 0.7])), np.array([2, 0]), np.array([0.4, 0.7])
    denoiser = golden(MANY, labels, tolerance=tolerance)
    x0, bound = denoiser.denoise_with_bound(x, t, label)
    kept = np.asarray(denoiser.kept(x, t, label))
    for i, one in enumerate(label):
        own = golden(MANY[labels == one], tolerance=tolerance)
        x0_own, bound_own = own.denoise_with_bound(x, t)
        np.testing.assert_allclose(x0[i], x0_own[i], rtol=0, atol=1e-5)
        np.testing.assert_allclose(bound[i], bound_own[i], rtol=1e-3)
        np.testing.assert_array_equal(kept[i, labels == one], own.kept(x, t)[i])
        assert not kept[i, labels != one].any()


def test_labels_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="label=7 is no class of the data; it has"):
        golden(labels=LABELS).denoise(X, 0.5, 7)
    with pytest.raises(ValueError, match="label=1 needs labelled data"):
        golden().denoise_with_bound(X, 0.5, 1)
    for tolerance in (None, 0.1):
        denoiser = golden(labels=LABELS, tolerance=tolerance)
        traced = jax.jit(lambda label, d=denoiser: d.denoise(X, 0.5, label))
        assert np.isnan(traced(7)).all()
        np.testing.assert_allclose(traced(1), denoiser.denoise(X, 0.5, 1), rtol=0, atol=1e-5)


# What results do not depend on


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_neighbours_blocks_order_and_devices_do_not_matter(tolerance):
    t = np.linspace(0.1, 0.9, 5)
    x = noisy(MANY, t)
    denoiser = golden(MANY, tolerance=tolerance)
    expected, kept = denoiser.denoise(x, t), np.asarray(denoiser.kept(x, t))
    alone = np.concatenate([denoiser.denoise(x[i : i + 1], t[i]) for i in range(5)])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-6)
    order = np.random.default_rng(0).permutation(60)
    others = {
        "blocks": golden(MANY, tolerance=tolerance, memory_budget=7 * 3 * 20 * 4),
        "order": golden(MANY[order], tolerance=tolerance),
        "devices": denoiser.with_mesh(elsjax.make_mesh(2, 2)),
    }
    for name, other in others.items():
        np.testing.assert_allclose(other.denoise(x, t), expected, rtol=0, atol=1e-5, err_msg=name)
        found = np.asarray(other.kept(x, t))
        if name == "order":
            found = found[:, np.argsort(order)]
        np.testing.assert_array_equal(found, kept, err_msg=name)


def test_it_is_an_argument_of_a_compiled_function_compiled_once():
    denoiser, traced = golden(), []

    @jax.jit
    def compiled(denoiser, x, t):
        traced.append(t)
        return denoiser.denoise(x, t)

    for t in (0.2, 0.8):
        expected = denoiser.denoise(X, t)
        np.testing.assert_allclose(compiled(denoiser, X, t), expected, rtol=0, atol=1e-5)
    assert len(traced) == 1
    with pytest.raises(AttributeError, match="'pool' cannot be set: a denoiser does not change"):
        denoiser.pool = 3


def test_it_lowers_for_accelerators():
    for tolerance in (None, 0.1):
        denoise = jax.jit(golden(tolerance=tolerance).denoise)
        denoise.trace(jnp.asarray(X), 0.5).lower(lowering_platforms=("cpu", "cuda", "tpu"))


def test_samples_are_training_images():
    noise = np.random.default_rng(0).standard_normal((3, 6, 6, 1)).astype(np.float32)
    for tolerance in (None, 0.01):
        samples = np.asarray(elsjax.sample(golden(tolerance=tolerance), noise, num_steps=8))
        apart = np.abs(samples[:, None] - IMAGES).max((2, 3, 4)).min(1)
        assert apart.max() < 1e-5


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": PIXELS[0]}, r"images has shape \[6, 6, 1\]"),
        ({"images": 3 * IMAGES}, "images has values from"),
        ({"labels": LABELS[:3]}, r"labels has shape \[3\]; expected \[6\]"),
        ({"pool": 0}, "pool=0 must be an integer of at least 1"),
        ({"pool": 1.5}, "pool=1.5 must be an integer"),
        ({"tolerance": -0.1}, r"tolerance=-0.1 must lie in \[0, 2\]"),
        ({"tolerance": np.nan}, r"tolerance=nan must lie in \[0, 2\]"),
        ({"memory_budget": 0}, "memory_budget=0 must be an integer of at least 1"),
        ({"schedule": "cosine"}, "schedule='cosine' must be a Schedule"),
    ],
)
def test_wrong_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        golden(**options)
