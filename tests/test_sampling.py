import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax.nn import ResNet

SHAPE = (4, 4, 1)


class Gaussian(elsjax.Denoiser):
    """The exact denoiser of independent Gaussian pixels, whose reverse ODE is solved by hand."""

    def __init__(self, std=0.5, shape=SHAPE):
        self.schedule = elsjax.CosineSchedule()
        self.image_shape = shape
        self.std = std

    def marginal(self, t):
        alpha, sigma = self.schedule(t)
        return np.sqrt(float(alpha) ** 2 * self.std**2 + float(sigma) ** 2)

    def posterior_mean(self, x, t, label):
        alpha, sigma = self.schedule(t)
        return alpha * self.std**2 * x / (alpha**2 * self.std**2 + sigma**2)

    def check_label(self, label, batch):
        pass


@pytest.fixture
def machine():
    images = np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 1))
    windows = elsjax.WindowSchedule((3, 3, 5))
    return elsjax.ScoreMachine("bbels", images, [0, 0, 0, 1, 1, 1], window=windows)


@pytest.fixture
def noise():
    return elsjax.initial_noise(jax.random.key(0), 3, SHAPE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_order_of_convergence(solver, order):
    gaussian = Gaussian()
    noise = np.ones((1, *SHAPE))
    exact = gaussian.marginal(0.1) / gaussian.marginal(0.9)
    errors = []
    for num_steps in (40, 80, 160):
        times = np.linspace(0.9, 0.1, num_steps + 1)
        x = elsjax.sample(gaussian, noise, solver=solver, times=times)
        errors.append(float(jnp.abs(x - exact).max()))
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(rates, order, atol=0.15)


@pytest.mark.parametrize("solver", ["ddim", "heun", "ancestral"])
def test_trajectory_holds_every_state_and_ends_on_the_posterior_mean(machine, noise, solver):
    key = jax.random.key(7)
    path = elsjax.sample(machine, noise, 4, None, solver, key, return_trajectory=True)
    np.testing.assert_allclose(path.times, [1, 0.75, 0.5, 0.25, 0])
    assert path.x.shape == (5, 3, *SHAPE)
    assert path.x0.shape == (4, 3, *SHAPE)
    np.testing.assert_array_equal(path.x[0], noise)
    np.testing.assert_array_equal(path.x[-1], path.x0[-1])
    np.testing.assert_array_equal(path.x[-1], elsjax.sample(machine, noise, 4, None, solver, key))
    for index, t in enumerate((1, 0.75, 0.5, 0.25)):
        np.testing.assert_allclose(path.x0[index], machine.denoise(path.x[index], t), atol=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "heun", "ancestral"])
def test_a_sample_depends_on_its_own_noise_only(machine, noise, solver):
    key = jax.random.key(7)
    label = np.array([0, 1, 0])
    together = elsjax.sample(machine, noise, 5, label, solver, key)
    fewer = elsjax.sample(machine, noise[:2], 5, label[:2], solver, key)
    np.testing.assert_allclose(fewer, together[:2], atol=1e-5)
    keys = elsjax.process.sampling.sample_keys(key, 3)
    alone = elsjax.sample(machine, noise[2:], 5, label[2:], solver, keys[2:])
    np.testing.assert_allclose(alone, together[2:], atol=1e-5)


def test_noise_of_a_sample_does_not_depend_on_their_number():
    few, many = (elsjax.initial_noise(jax.random.key(3), n, SHAPE) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    assert np.abs(many[0] - many[1]).max() > 0.1


@pytest.mark.parametrize("solver", ["ddim", "heun", "ancestral"])
def test_going_on_from_any_step_gives_the_same_bits(machine, noise, solver):
    key = jax.random.key(7)
    steps = list(elsjax.reverse_process(machine, noise, 5, None, solver, key))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    rest = elsjax.reverse_process(machine, steps[2].x, 5, None, solver, key, first_step=3)
    np.testing.assert_array_equal(list(rest)[-1].x, steps[-1].x)


def test_a_grid_may_start_and_end_anywhere(machine, noise):
    path = elsjax.sample(machine, noise, times=[0.95, 0.5, 0.2], return_trajectory=True)
    np.testing.assert_allclose(path.times, [0.95, 0.5, 0.2], rtol=1e-6)
    alpha, sigma = machine.schedule(0.5)
    next_alpha, next_sigma = machine.schedule(0.2)
    x0 = path.x0[1]
    eps = (path.x[1] - alpha * x0) / sigma
    np.testing.assert_allclose(path.x[2], next_alpha * x0 + next_sigma * eps, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 must be an integer of at least 1"),
        ({"solver": "euler"}, "solver='euler' is not known; expected one of ddim, heun, ancestral"),
        ({"solver": "ancestral"}, "key=None: solver='ancestral' needs one"),
        (
            {"solver": "ancestral", "key": jax.random.split(jax.random.key(0), 2)},
            r"key has shape \[2\]; expected \[\] or \[3\]",
        ),
        ({"label": 9}, "label=9 is no class of the data"),
        ({"times": [0.1, 0.9]}, "times=.* must be at least two times in .* falling"),
        ({"times": [1.0]}, "times=.* must be at least two times"),
        ({"times": [2.0, 1.0]}, "times=.* must be at least two times"),
        ({"times": [1.0, float("nan"), 0.0]}, "times=.* must be at least two times"),
        ({"times": 0.5}, "times=0.5 must be at least two times"),
        ({"times": "10"}, "times='10' must be numbers"),
        ({"times": [1.0, None]}, "times=.* must be numbers"),
        ({"times": [True, False]}, "times=.* must be numbers"),
        ({"times": [1.0, 1e-50, 1e-60]}, "no noise is left at t = 1e-50"),
        ({"num_steps": 5, "times": [1.0, 0.5, 0.0]}, "num_steps=5, but times has 2 steps"),
        ({"num_steps": 2.0}, "num_steps=2.0 must be"),
        ({"num_steps": True, "times": [1.0, 0.0]}, "num_steps=True must be"),
        ({"first_step": 1.0}, "first_step=1.0 must be an integer from 0 to 19"),
        ({"first_step": True}, "first_step=True must be"),
        ({"denoiser": lambda x, t, label: x}, "denoiser=.* must be a Denoiser"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_step(machine, noise, options, message):
    with pytest.raises(ValueError, match=message):
        elsjax.reverse_process(**{"denoiser": machine, "noise": noise} | options)


def test_wrong_noise_and_first_step_are_refused(machine, noise):
    with pytest.raises(ValueError, match=r"x has shape \[3, 4, 4\]"):
        elsjax.sample(machine, noise[..., 0])
    with pytest.raises(ValueError, match="x must be finite"):
        elsjax.sample(machine, noise + jnp.nan)
    with pytest.raises(ValueError, match="first_step=5 must be an integer from 0 to 4"):
        elsjax.reverse_process(machine, noise, 5, first_step=5)


def test_steps_are_twenty_or_those_of_the_times():
    count = [
        len(list(elsjax.reverse_process(Gaussian(), np.ones((1, *SHAPE)), **options)))
        for options in ({}, {"times": [1, 0.5, 0]}, {"times": [1, 0.5, 0], "num_steps": 2})
    ]
    assert count == [20, 2, 2]


NO_SIGNAL = [
    elsjax.CosineSchedule(offset=0.008),
    elsjax.ExponentialSchedule(horizon=200.0),
    elsjax.LinearBetaSchedule(0.5, 0.9),
]


@pytest.mark.parametrize("schedule", [*NO_SIGNAL, elsjax.CosineSchedule()], ids=str)
@pytest.mark.parametrize("solver", elsjax.process.sampling.SOLVERS)
def test_a_machine_without_signal_stays_finite_or_is_refused(noise, schedule, solver):
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
    machine = elsjax.ScoreMachine("ls", images, window=3, schedule=schedule)
    options = {"solver": solver, "key": jax.random.key(0), "num_steps": 4}
    if solver == "heun" and schedule in NO_SIGNAL:
        with pytest.raises(ValueError, match="no signal is left at t = 1 .alpha = 0.: start below"):
            elsjax.reverse_process(machine, noise, **options)
        return
    path = elsjax.sample(machine, noise, return_trajectory=True, **options)
    assert np.abs(path.x).max() < 10
    assert np.abs(path.x0).max() <= 1
    for t in (0.0, 1.0):
        assert np.abs(machine.denoise(noise, t)).max() <= 1
    assert np.abs(machine.predict_noise(noise, 1.0)).max() < 10


def test_a_network_without_signal_is_refused(noise):
    network = ResNet(SHAPE, width=8, num_layers=1, rngs=nnx.Rngs(0))
    for schedule in NO_SIGNAL:
        network.schedule = schedule
        for solver in elsjax.process.sampling.SOLVERS:
            with pytest.raises(ValueError, match="no signal is left at t = 1") as error:
                elsjax.reverse_process(network, noise, solver=solver, key=jax.random.key(0))
        with pytest.raises(ValueError, match="no signal is left at t = 1"):
            network.denoise(noise, [0.0, 1.0, 0.5])
        # What the message says to do.
        start, _, steps = eval(str(error.value).split("numpy.linspace")[1])
        elsjax.reverse_process(network, noise, times=np.linspace(start, 0, steps))
    assert np.isfinite(network.predict_noise(noise, 1.0)).all()
