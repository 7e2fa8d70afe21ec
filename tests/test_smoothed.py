import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import REFERENCE
from small_inputs import IMAGES, KEY, LABELS, PIXELS, X, machine

import elsjax

with np.load(REFERENCE / "smoothed.npz") as archive:
    STORED = dict(archive)
DATASETS = ("mnist", "cifar10")


def ideal(images=PIXELS, labels=None, **options):
    return elsjax.ScoreMachine("is", images, labels, **options)


def smoothed(base=None, **options):
    base = ideal() if base is None else base
    return elsjax.SmoothedDenoiser(base, **{"bandwidth": 0.5, "draws": 3} | options)


def noise(batch, seed=0, shape=(6, 6, 1)):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


def nearest(samples, candidates):
    """Largest difference in a pixel to the nearest of the candidates, for each sample."""
    apart = np.abs(np.asarray(samples)[:, None] - candidates[None]).max(axis=(2, 3, 4))
    return apart.min(axis=1)


# What it computes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(("kind", "window"), [("is", None), ("bbels", 3)])
def test_it_is_the_mean_over_the_draws(dataset, kind, window):
    base = elsjax.ScoreMachine(kind, STORED[f"{dataset}/pixels"], window=window)
    found = elsjax.SmoothedDenoiser(
        base,
        bandwidth=STORED[f"{dataset}/smoothed/bandwidth"].item(),
        draws=STORED[f"{dataset}/smoothed/draws"],
    )
    times = (0.2, 0.6)
    x = np.concatenate([STORED[f"{dataset}/x/t{t}"] for t in times])
    end = "" if window is None else f"/k{window}"
    expected = [STORED[f"{dataset}/smoothed/{kind}/t{t}{end}"] for t in times]
    x0 = found.denoise(x, np.repeat(times, 3))
    np.testing.assert_allclose(x0, np.concatenate(expected), rtol=0, atol=1e-8)


def test_without_a_bandwidth_it_is_the_base():
    base = machine()
    for t in (0.3, np.array([0.2, 0.9])):
        found = smoothed(base, bandwidth=0).denoise(X, t)
        np.testing.assert_array_equal(found, base.denoise(X, t))


def test_one_draw_moves_the_argument():
    base = machine()
    draws = noise(1, seed=2)
    t = np.array([0.2, 0.9])
    alpha, sigma = (np.asarray(level).reshape(-1, 1, 1, 1) for level in base.schedule(t))
    expected = base.denoise((X + 0.7 * (alpha + sigma) * draws).astype(np.float32), t)
    found = smoothed(base, bandwidth=0.7, draws=draws).denoise(X, t)
    # One rounding of x, 4e-7, changes the exponents by its product with pixels / sigma², 0.1.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_draws_are_a_function_of_the_key_and_their_number():
    few, many = smoothed(draws=2, key=KEY), smoothed(draws=5, key=KEY)
    np.testing.assert_array_equal(many.draws[:2], few.draws)
    np.testing.assert_array_equal(smoothed(draws=2).draws, few.draws)
    assert np.abs(smoothed(draws=2, key=jax.random.key(1)).draws - few.draws).max() > 0.1


def test_batch_neighbours_do_not_matter():
    denoiser = smoothed(ideal(labels=LABELS))
    t, label = np.array([0.2, 0.5]), np.array([2, 0])
    both = denoiser.denoise(X, t, label)
    for i in range(2):
        alone = denoiser.denoise(X[i : i + 1], t[i].item(), int(label[i]))
        np.testing.assert_allclose(both[i : i + 1], alone, rtol=0, atol=1e-5)


def test_labels_are_those_of_the_base():
    of_class = smoothed(ideal(PIXELS[LABELS == 1])).denoise(X, 0.5)
    conditional = smoothed(ideal(labels=LABELS))
    np.testing.assert_allclose(conditional.denoise(X, 0.5, 1), of_class, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="label=7 is no class of the data"):
        conditional.denoise(X, 0.5, 7)
    with pytest.raises(ValueError, match="label=1 needs labelled data"):
        smoothed().denoise(X, 0.5, 1)


# Samples: Scarvelis et al. 2023, Proposition 1


def test_of_one_draw_samples_are_training_images():
    samples = elsjax.sample(smoothed(draws=1, bandwidth=0.3), noise(4), num_steps=8)
    assert nearest(samples, IMAGES).max() < 1e-5


def test_of_two_draws_about_two_images_samples_are_these_or_halfway():
    a, b = IMAGES[:2]
    draws = np.concatenate([noise(1, seed=5), -noise(1, seed=5)])  # on both sides of the boundary
    denoiser = smoothed(ideal(PIXELS[:2]), draws=draws, bandwidth=1)
    samples = elsjax.sample(denoiser, noise(24), num_steps=8)
    ends = np.stack([a, b, (a + b) / 2])
    assert nearest(samples, ends).max() < 1e-5
    for end in range(3):  # each is reached
        assert nearest(samples, ends[end : end + 1]).min() < 1e-5


# Where and how it runs


def test_it_is_an_argument_of_a_compiled_function():
    denoiser = smoothed(machine())
    compiled = jax.jit(lambda denoiser, x: denoiser.denoise(x, 0.4))
    expected = denoiser.denoise(X, 0.4)
    np.testing.assert_allclose(compiled(denoiser, X), expected, rtol=0, atol=1e-5)
    with pytest.raises(AttributeError, match="'draws' cannot be set: a denoiser does not change"):
        denoiser.draws = jnp.zeros(1)


def test_devices_do_not_matter():
    denoiser = smoothed()
    expected = denoiser.denoise(X, 0.4)
    mesh = elsjax.make_mesh(2, 2)
    for spread in (denoiser.with_mesh(mesh), smoothed(ideal(mesh=mesh))):
        assert spread.mesh == mesh
        np.testing.assert_allclose(spread.denoise(X, 0.4), expected, rtol=0, atol=1e-5)


def test_signal_is_needed_where_the_base_needs_it():
    schedule = elsjax.CosineSchedule(0.008)  # alpha = 0 at t = 1
    base = elsjax.FunctionDenoiser(lambda x, t, label: x, (6, 6, 1), schedule=schedule)
    with pytest.raises(ValueError, match="no signal is left at t = 1"):
        smoothed(base).denoise(X, 1)


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "is"}, "base='is' must be a Denoiser"),
        ({"bandwidth": -0.1}, r"bandwidth=-0.1 must lie in \[0, 1e\+06\]"),
        ({"bandwidth": np.nan}, "bandwidth=nan must lie in"),
        ({"draws": 0}, "draws=0 must be an integer of at least 1"),
        ({"draws": 2.5}, "draws=2.5 must be an integer of at least 1"),
        ({"draws": noise(2, shape=(6, 5, 1))}, r"draws has shape \[2, 6, 5, 1\]; expected \[batch"),
        ({"draws": noise(2)[0]}, r"draws has shape \[6, 6, 1\]"),
        ({"draws": np.full((1, 6, 6, 1), np.inf)}, "draws must be finite"),
        ({"draws": noise(2), "key": KEY}, "key is for a number of draws"),
        ({"key": 0}, "key=0 must be a typed key"),
    ],
)
def test_wrong_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        smoothed(**options)
