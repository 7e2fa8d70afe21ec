import math

import jax
import numpy as np
import pytest

import elsjax

SCHEDULES = [
    elsjax.CosineSchedule(),
    elsjax.CosineSchedule(offset=0.008),
    elsjax.LinearBetaSchedule(),
    elsjax.ExponentialSchedule(),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_variance_is_preserved_and_noise_grows(schedule):
    t = np.linspace(0, 1, 101)
    alpha, sigma = map(np.asarray, schedule(t))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    assert (np.diff(alpha) < 0).all()
    assert (np.diff(sigma) >= 0).all()
    for index in (0, 37, 100):
        np.testing.assert_allclose(schedule(t[index]), (alpha[index], sigma[index]), rtol=1e-6)


@pytest.mark.parametrize(
    ("t", "alpha_squared", "sigma_squared"),
    # Constants of the published schedule, to the digits given in the literature.
    [(0.0, 1.0, 0.0), (1.0, 1.554e-4, None), (0.95, 8.147e-3, None), (0.05, None, 6.06e-3)],
)
def test_published_cosine_schedule(t, alpha_squared, sigma_squared):
    alpha, sigma = elsjax.CosineSchedule()(t)
    if alpha_squared is not None:
        assert float(alpha) ** 2 == pytest.approx(alpha_squared, rel=5e-4)
    if sigma_squared is not None:
        assert float(sigma) ** 2 == pytest.approx(sigma_squared, rel=5e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_on_the_host_are_the_levels(schedule):
    for t in (0.3, np.array([0.0, 0.3, 1.0])):
        found = schedule.on_host(t)
        assert [type(level) for level in found] == [np.ndarray] * 2
        np.testing.assert_array_equal(found, schedule(t))
    # Known values are known while a function is traced, traced ones are not.
    known = jax.eval_shape(lambda t: (schedule.on_host(0.3), schedule.on_host(t)), 0.5)
    assert known[1] is None
    assert known[0] is not None


@pytest.mark.usefixtures("x64")
def test_schedules_are_their_formulas():
    alpha, _ = elsjax.CosineSchedule(offset=0.008)(0.3)
    assert float(alpha) == pytest.approx(math.cos(0.308 / 1.008 * math.pi / 2), abs=1e-14)
    alpha, _ = elsjax.LinearBetaSchedule()(0.25)
    product = math.prod(1 - (1e-4 + (0.02 - 1e-4) * k / 999) for k in range(250))
    assert float(alpha) ** 2 == pytest.approx(product, rel=1e-10)
    alpha, sigma = elsjax.ExponentialSchedule(horizon=3.0)(0.5)
    assert float(alpha) == pytest.approx(math.exp(-1.5), rel=1e-12)
    assert float(sigma) == pytest.approx(math.sqrt(1 - math.exp(-3.0)), rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (elsjax.CosineSchedule, {"offset": 0.1}, r"offset=0.1 must lie in \[0, 0.008\]"),
        (elsjax.LinearBetaSchedule, {"num_steps": 0}, "num_steps=0 must be an integer"),
        (elsjax.LinearBetaSchedule, {"num_steps": 10**9}, "must be an integer from 1 to 1000000"),
        (elsjax.LinearBetaSchedule, {"beta_last": 1.0}, r"beta_last=1.0 must lie in \(0, 1\)"),
        (elsjax.ExponentialSchedule, {"horizon": -1.0}, "horizon=-1.0 must lie in"),
        # In float32 this is infinite, and 0 times infinity no number.
        (elsjax.ExponentialSchedule, {"horizon": 1e39}, "horizon=1e\\+39 must lie in"),
    ],
)
def test_wrong_schedules_are_refused(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(**options)
