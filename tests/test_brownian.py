"""The noise of the reverse SDE: one Brownian path a sample, on whatever grid."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import REFERENCE
from test_sampling import SHAPE, Gaussian

import elsjax
from elsjax.process import brownian
from elsjax.process.sampling import sample_keys

KEY = jax.random.key(0)
ORIGIN = 2.0**-64  # where B is 0


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "sde.npz") as archive:
        return dict(archive)


def path(root, *, num_samples=2000, shape=(16,), start=ORIGIN):
    """B at a root of the signal-to-noise ratio, less B where it starts."""
    keys = sample_keys(KEY, num_samples)
    root = np.float64(root)
    return root * np.asarray(brownian.increment(keys, jnp.array(start), jnp.array(root), shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("every", ["fine", "coarse"])
@pytest.mark.parametrize("images", ["one", "five"])
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_a_path_that_is_given(reference, monkeypatch, data, images, every):
    read = {name.removeprefix(f"{data}/"): value for name, value in reference.items()}
    stride = 1 if every == "fine" else int(read["coarse_every"])
    snr = read["snr"][::stride]
    steps = np.add.reduceat(read["increments"], np.arange(0, len(read["increments"]), stride))

    def stored(keys, root, next_root, shape):
        step = int(np.abs(snr / float(root) ** 2 - 1).argmin())
        np.testing.assert_allclose([root**2, next_root**2], snr[step : step + 2], rtol=1e-12)
        return steps[step] / next_root

    monkeypatch.setattr(brownian, "increment", stored)
    pixels = read["pixels"][: 1 if images == "one" else 5]
    found = elsjax.sample(
        elsjax.ScoreMachine("is", pixels),
        read["noise"],
        times=read["times"][::stride],
        solver="ancestral",
        key=KEY,
        return_trajectory=True,
    )
    np.testing.assert_allclose(found.x, read[f"{images}/{every}"], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_all_grids_see_the_same_path():
    # Of one training image x_0 is known, so a state is a function of the path up to it.
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
    machine = elsjax.ScoreMachine("is", pixels)
    noise = elsjax.initial_noise(KEY, 2, SHAPE)
    grids = [*(np.arange(n, -1, -1) / n for n in (5, 20, 23, 150)), np.array([1, 0.8, 0.2, 0.1, 0])]
    states = {}
    for grid in grids:
        found = elsjax.sample(
            machine, noise, times=grid, solver="ancestral", key=KEY, return_trajectory=True
        )
        for t, x in zip(grid, found.x, strict=True):
            states.setdefault(t, []).append(x)
    assert [len(states[t]) for t in (1.0, 0.8, 0.6, 0.2, 0.1, 0.0)] == [5, 4, 3, 4, 3, 5]
    for same in states.values():
        for x in same[1:]:
            np.testing.assert_allclose(x, same[0], rtol=0, atol=1e-12)
    assert np.abs(states[0.8][0] - states[0.6][0]).max() > 0.1


@pytest.mark.parametrize("root", [1e-15, 0.0125, 0.3, 0.999, 1.0, 1.001, 40.0, 1e9])
def test_variance_grows_as_the_clock(root):
    values = path(root) / root
    count = values.size
    # Five standard errors.
    assert abs(values.mean()) < 5 / np.sqrt(count)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / count)
    # Neither neighbours nor samples have to do with each other.
    for pair in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1])):
        assert abs(np.corrcoef(*map(np.ravel, pair))[0, 1]) < 5 / np.sqrt(count)


@pytest.mark.parametrize(
    ("roots"),
    [
        (0.5, 0.51, 0.9),
        (0.3, 0.4, 5.0),
        (1.0, 1.4142, 2.0),
        (0.7, 0.70007, 0.70014),
        (1e-4, 1.0, 2.0),
    ],
    ids=str,
)
def test_increments_are_independent_and_add_up(x64, roots):
    a, b, c = (path(root) for root in roots)
    lengths = np.diff(np.square(roots))
    steps = [b - a, c - b]
    for step, length in zip(steps, lengths, strict=True):
        assert abs(step.var() / length - 1) < 5 * np.sqrt(2 / step.size)
    for other in (steps[1], a):
        assert abs(np.corrcoef(steps[0].ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(a.size)
    np.testing.assert_allclose(path(roots[2], start=roots[1]), steps[1], atol=1e-12 * roots[2])


def test_nothing_moves_where_there_is_no_signal_or_no_noise():
    assert float(brownian.root_snr(jnp.array(0.0), jnp.array(1.0))) == ORIGIN
    assert float(brownian.root_snr(jnp.array(1.0), jnp.array(0.0))) == 1 / ORIGIN
    for root in (ORIGIN, 0.5, 1 / ORIGIN):
        np.testing.assert_array_equal(path(root, start=root), 0)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_whose_draws_depend_on_the_batch_are_refused(impl):
    gaussian, key = Gaussian(), jax.random.key(0, impl=impl)
    noise = np.zeros((2, *SHAPE), np.float32)
    elsjax.sample(gaussian, noise, 2, key=key)  # not used
    for keys in (key, jax.random.split(key)):
        with pytest.raises(ValueError, match=f"key is of {impl}; expected .* impl='threefry2x32'"):
            elsjax.sample(gaussian, noise, 2, solver="ancestral", key=keys)


@pytest.mark.usefixtures("x64")
def test_a_step_is_that_of_ddpm(monkeypatch):
    """Song et al. (2021), equation 16 with eta = 1."""
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 1, *SHAPE))
    gaussian = Gaussian()
    (alpha, sigma), (next_alpha, next_sigma) = (
        map(float, gaussian.schedule(t)) for t in (0.7, 0.4)
    )
    length = np.sqrt(1 - (alpha * next_sigma / (sigma * next_alpha)) ** 2)
    monkeypatch.setattr(brownian, "increment", lambda *_: length * z)
    found = elsjax.sample(gaussian, x, times=[0.7, 0.4], solver="ancestral", key=KEY)
    x0 = gaussian.posterior_mean(x, 0.7, None)
    eta = next_sigma / sigma * np.sqrt(1 - (alpha / next_alpha) ** 2)
    kept = np.sqrt(next_sigma**2 - eta**2) * (x - alpha * x0) / sigma
    np.testing.assert_allclose(found, next_alpha * x0 + kept + eta * z, atol=1e-12)


def variances(gaussian, times):
    """Of the states on the way from standard noise, by the formula of DDPM."""
    found = [1.0]
    for t, s in itertools.pairwise(times):
        alpha, sigma = map(float, gaussian.schedule(t))
        next_alpha, next_sigma = map(float, gaussian.schedule(s))
        of_x0 = float(gaussian.posterior_mean(1.0, t, None))
        eta = next_sigma / sigma * np.sqrt(1 - (alpha / next_alpha) ** 2)
        kept = np.sqrt(next_sigma**2 - eta**2) * (1 - alpha * of_x0) / sigma
        found.append((next_alpha * of_x0 + kept) ** 2 * found[-1] + eta**2)
    return found


def test_states_of_gaussian_data_have_the_variance_of_their_grid():
    gaussian = Gaussian(std=0.5, shape=(64, 64, 1))
    noise = elsjax.initial_noise(jax.random.key(1), 4, gaussian.image_shape)
    found = elsjax.sample(gaussian, noise, 10, solver="ancestral", key=KEY, return_trajectory=True)
    expected = variances(gaussian, np.arange(10, -1, -1) / 10)
    for x, variance in zip(found.x, expected, strict=True):
        assert float(x.var()) == pytest.approx(variance, rel=5 * np.sqrt(2 / x.size))
        assert abs(float(x.mean())) < 5 * np.sqrt(variance / x.size)
        neighbours = np.corrcoef(np.ravel(x[:, 1:]), np.ravel(x[:, :-1]))[0, 1]
        assert abs(neighbours) < 5 / np.sqrt(x.size)
    # As the grid gets finer, that of the data.
    fine = variances(gaussian, np.linspace(1, 0, 501))[-1]
    assert fine == pytest.approx(0.25, abs=0.005)
    assert abs(expected[-1] - 0.25) > 0.02


@pytest.mark.usefixtures("x64")
def test_strong_order_of_convergence():
    """Half the step, half the error along the same path: the noise is additive."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)
    machine = elsjax.ScoreMachine("is", pixels)
    noise = elsjax.initial_noise(KEY, 64, SHAPE)
    ends = [
        elsjax.sample(machine, noise, times=times, solver="ancestral", key=KEY)
        for times in (np.linspace(1, 0.3, n + 1) for n in (20, 40, 80, 160, 320))
    ]
    # Medians: a path on the border of two images errs by a whole image.
    errors = [
        np.median(np.abs(coarse - fine).max((1, 2, 3))) for coarse, fine in itertools.pairwise(ends)
    ]
    order = np.log2(errors[0] / errors[-1]) / 3
    assert order >= 0.9
