import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elsjax
from elsjax.process.denoisers import LEAST_SIGNAL

SHAPE = (2, 3, 1)
MEAN, STD = 0.3, 0.5
SCHEDULE = elsjax.CosineSchedule()
TIMES = np.array([0.1, 0.6, 0.95])


def images(batch=3, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *SHAPE))


def levels(t, schedule=SCHEDULE):
    return (level.reshape(-1, 1, 1, 1) for level in schedule(t))


def score(x, t):
    """Of x_t where all pixels of x_0 are N(MEAN, STD²), independently."""
    alpha, sigma = levels(t)
    return (alpha * MEAN - x) / (alpha**2 * STD**2 + sigma**2)


def x0(x, t):
    alpha, sigma = levels(t)
    return (x + sigma**2 * score(x, t)) / alpha


def noise(x, t):
    _, sigma = levels(t)
    return -sigma * score(x, t)


def velocity(x, t):
    alpha, sigma = levels(t)
    return alpha * noise(x, t) - sigma * x0(x, t)


def edm(y, noise_level):
    variance = noise_level.reshape(-1, 1, 1, 1) ** 2
    return (STD**2 * y + variance * MEAN) / (STD**2 + variance)


GAUSSIAN = {"noise": noise, "x0": x0, "velocity": velocity, "score": score, "edm": edm}
PREDICTIONS = tuple(GAUSSIAN)


def gaussian(prediction):
    function = GAUSSIAN[prediction]
    return elsjax.FunctionDenoiser(lambda x, t, label: function(x, t), SHAPE, prediction=prediction)


def returning(output, **options):
    return elsjax.FunctionDenoiser(lambda x, t, label: output, SHAPE, **options)


# What follows from each kind of output


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [TIMES, 0.6])
def test_all_forms_follow_from_the_output(prediction, t):
    denoiser, x = gaussian(prediction), images()
    # A rounding error of 1e-16 is divided by alpha and sigma², 0.09 and 0.02 at the least.
    for found, exact in (
        (denoiser.denoise(x, t), x0(x, t)),
        (denoiser.predict_noise(x, t), noise(x, t)),
        (denoiser.score(x, t), score(x, t)),
    ):
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [SCHEDULE, elsjax.ExponentialSchedule()])
def test_one_training_image_is_all_that_is_seen(schedule):
    image = np.random.default_rng(1).uniform(-1, 1, (1, *SHAPE))
    machine = elsjax.ScoreMachine("is", image, schedule=schedule)
    x = images()
    alpha, sigma = levels(TIMES, schedule)
    eps = (x - alpha * image) / sigma
    outputs = {
        "noise": eps,
        "x0": np.broadcast_to(image, x.shape),
        "velocity": alpha * eps - sigma * image,
        "score": -eps / sigma,
        "edm": np.broadcast_to(image, x.shape),
    }
    for prediction, output in outputs.items():
        denoiser = returning(output, prediction=prediction, schedule=schedule)
        for method in ("denoise", "predict_noise", "score"):
            found, expected = (getattr(each, method)(x, TIMES) for each in (denoiser, machine))
            # Of the score, up to 100, a rounding error is divided by alpha and sigma² too.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_where_no_noise_is_left(prediction):
    denoiser, x = gaussian(prediction), images(1)
    np.testing.assert_allclose(denoiser.denoise(x, 0), x, atol=1e-6)
    if prediction in ("x0", "edm"):
        with pytest.raises(ValueError, match="t=0 must be positive here: no noise is left"):
            denoiser.predict_noise(x, 0)
    else:
        assert np.isfinite(denoiser.predict_noise(x, 0)).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_where_no_signal_is_left(prediction):
    schedule = elsjax.CosineSchedule(0.008)  # alpha = 0 at t = 1
    denoiser = returning(images(1), prediction=prediction, schedule=schedule)
    if prediction in ("x0", "velocity"):
        assert denoiser.least_alpha == 0
        assert np.isfinite(denoiser.denoise(images(1), 1)).all()
        return
    assert denoiser.least_alpha == LEAST_SIGNAL
    with pytest.raises(ValueError, match="no signal is left at t = 1"):
        elsjax.sample(denoiser, images(1), 2)


def test_what_the_function_is_called_with():
    def function(x, t, label):
        called.append((x, t, label))
        return x

    called = []
    x = images(2)
    elsjax.FunctionDenoiser(function, SHAPE, num_classes=4).denoise(x, 0.5, 3)
    elsjax.FunctionDenoiser(function, SHAPE, prediction="edm").denoise(x, np.array([0.5, 0.7]))
    for array in (each for arguments in called for each in arguments[:2]):
        assert isinstance(array, jax.Array)
        assert array.dtype == jnp.float32
    (found, t, label), (y, noise_level, unconditional) = called
    np.testing.assert_allclose(found, x, rtol=1e-7)
    np.testing.assert_array_equal(t, np.float32([0.5, 0.5]))
    np.testing.assert_array_equal(label, [3, 3])
    assert label.dtype == jnp.int32
    alpha = np.cos(np.array([0.5, 0.7]) / 1.008 * np.pi / 2)
    np.testing.assert_allclose(y, x / alpha[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(noise_level, np.sqrt(1 - alpha**2) / alpha, rtol=1e-6)
    assert unconditional is None


# In place of a network and of a machine


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_samples_of_a_network_by_what_it_might_predict(solver):
    network = elsjax.load_pretrained("mnist/resnet/zeros")

    def of_noise(form):
        def function(x, t, label):
            return form(x, network.predict_noise(x, t), *levels(t))

        return function

    def of_edm(y, noise_level, label):
        angle = jnp.arctan(noise_level)  # the schedule's, which is linear in t
        return network.denoise(y * jnp.cos(angle).reshape(-1, 1, 1, 1), angle * 2.016 / np.pi)

    functions = {
        "noise": of_noise(lambda x, eps, alpha, sigma: eps),
        "x0": lambda x, t, label: network.denoise(x, t),
        "velocity": of_noise(lambda x, eps, alpha, sigma: (eps - sigma * x) / alpha),
        "score": of_noise(lambda x, eps, alpha, sigma: -eps / sigma),
        "edm": of_edm,
    }
    assert functions.keys() == set(PREDICTIONS)
    start = elsjax.initial_noise(jax.random.key(0), 2, network.image_shape)
    times = [0.9, 0.6, 0.3, 0]
    expected = elsjax.sample(network, start, times=times, solver=solver)
    assert np.std(expected) > 0.1
    for prediction, function in functions.items():
        denoiser = elsjax.FunctionDenoiser(function, network.image_shape, prediction=prediction)
        found = elsjax.sample(denoiser, start, times=times, solver=solver)
        # Rounding of 1e-7 is divided by alpha = 0.17 at first, and then passed on by the network.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=prediction)


def test_a_comparison_with_a_machine():
    pixels = np.random.default_rng(2).integers(0, 256, (5, *SHAPE), np.uint8)
    machine = elsjax.ScoreMachine("is", pixels, np.array([0, 0, 1, 1, 1]))
    denoiser = elsjax.FunctionDenoiser(
        machine.predict_noise, SHAPE, schedule=machine.schedule, num_classes=2
    )
    start = elsjax.initial_noise(jax.random.key(0), 3, SHAPE)
    label = np.array([0, 1, 1])
    found = elsjax.compare(
        denoiser, {"is": machine}, start, label=label, num_steps=5, network_steps=(5,)
    )
    assert found.network[5].images.std() > 0.1
    np.testing.assert_allclose(found.network[5].images, found.machines["is"].images, atol=1e-5)


# Labels

CLASS_MEANS = np.array([-0.5, 0.0, 0.7], np.float32)


def of_class(x, t, label):
    """The mean image of the class, and 9 where there is none."""
    if label is None:
        return jnp.full_like(x, 9)
    return jnp.broadcast_to(jnp.asarray(CLASS_MEANS)[label].reshape(-1, 1, 1, 1), x.shape)


CONDITIONAL = elsjax.FunctionDenoiser(of_class, SHAPE, prediction="x0", num_classes=3)


@pytest.mark.parametrize("label", [2, np.int8(2), [2, 0, 1], np.array([[2], [0], [1]], np.uint8)])
def test_labels_of_each_image(label):
    expected = of_class(images(), 0.5, np.broadcast_to(np.ravel(label), 3))
    np.testing.assert_array_equal(CONDITIONAL.denoise(images(), 0.5, label), expected)
    traced = jax.jit(lambda label: CONDITIONAL.denoise(images(), 0.5, label))(jnp.asarray(label))
    np.testing.assert_array_equal(traced, expected)
    np.testing.assert_array_equal(CONDITIONAL.denoise(images(), 0.5, None), 9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_unknown_label_inside_jit_gives_nan_to_its_image_alone(prediction):
    denoiser = elsjax.FunctionDenoiser(of_class, SHAPE, prediction=prediction, num_classes=3)
    denoise = jax.jit(lambda label: denoiser.denoise(images(), 0.5, label))
    found = np.isnan(denoise(jnp.array([3, 2, -1])))
    np.testing.assert_array_equal(found.all((1, 2, 3)), [True, False, True])
    np.testing.assert_array_equal(found.any((1, 2, 3)), [True, False, True])
    assert np.isnan(denoise(jnp.asarray(7))).all()


@pytest.mark.usefixtures("x64")
def test_an_unknown_label_of_64_bits_is_no_other_of_32():
    found = jax.jit(lambda label: CONDITIONAL.denoise(images(), 0.5, label))(2**32 + 1)
    assert np.isnan(found).all()


@pytest.mark.parametrize("method", ["denoise", "predict_noise", "score"])
@pytest.mark.parametrize(
    ("num_classes", "label", "message"),
    [
        (None, 0, "label=0 was given, but FunctionDenoiser knows no classes: it was made"),
        (3, 3, "label=3 must lie in 0 to 2"),
        (3, [0, -1, 2], r"label=\[0, -1, 2\] must lie in 0 to 2"),
        (3, [0, 1], r"label has shape \[2\]; expected \[\] or \[3\]"),
        (3, 1.0, "label=1.0 must be integers"),
        (3, True, "label=True must be integers"),
    ],
)
def test_labels_that_do_not_fit(method, num_classes, label, message):
    denoiser = elsjax.FunctionDenoiser(of_class, SHAPE, num_classes=num_classes)
    with pytest.raises(ValueError, match=message):
        getattr(denoiser, method)(images(), 0.5, label)
    with pytest.raises(ValueError, match=message):
        elsjax.sample(denoiser, images(), label=label)


# Compilation, and functions that cannot be compiled


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_part_of_a_compiled_computation(prediction):
    denoiser, x = gaussian(prediction), images().astype(np.float32)
    expected = denoiser.denoise(x, 0.5)
    closed_over = jax.jit(lambda x, t: denoiser.denoise(x, t))(x, 0.5)
    argument = jax.jit(lambda denoiser, x, t: denoiser.denoise(x, t))(denoiser, x, 0.5)
    mapped = jax.vmap(lambda x: denoiser.denoise(x[None], 0.5)[0])(x)
    for found in (closed_over, argument, mapped):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    slope = jax.grad(lambda x: denoiser.denoise(x, 0.5).sum())(jnp.asarray(x))
    alpha, sigma = levels(0.5)
    exact = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    np.testing.assert_allclose(slope, np.broadcast_to(exact, x.shape), rtol=1e-5)


def test_the_function_is_compiled_once_if_its_owner_compiles_it():
    traced = []

    @jax.jit
    def function(x, t, label):
        traced.append(x.shape)
        return x

    elsjax.sample(elsjax.FunctionDenoiser(function, SHAPE), images(), 4)
    assert traced == [(3, *SHAPE)]


RIGHT = {
    "NumPy, float64": lambda x: 2 * np.asarray(x, np.float64),
    "big-endian": lambda x: (2 * np.asarray(x)).astype(">f4"),
    "list": lambda x: (2 * np.asarray(x)).tolist(),
    "half precision": lambda x: (2 * x).astype(jnp.bfloat16),
    "list of JAX arrays": lambda x: [2 * image for image in x],
    "integers": lambda x: (2 * np.asarray(x)).astype(np.int64),
}


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_results_of_any_kind_of_array_get_the_precision_of_x(function):
    denoiser = elsjax.FunctionDenoiser(lambda x, t, label: function(x), SHAPE, prediction="x0")
    x = np.round(images())  # small integers are exact in every precision
    found = denoiser.denoise(x, 0.5)
    assert isinstance(found, jax.Array)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, 2 * x)


def test_a_function_on_the_host_cannot_be_traced():
    denoiser = elsjax.FunctionDenoiser(lambda x, t, label: np.asarray(x), SHAPE)
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(lambda x: denoiser.denoise(x, 0.5))(images())


def test_a_denoiser_does_not_change():
    with pytest.raises(AttributeError):
        CONDITIONAL.prediction = "noise"


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": None}, r"function=None must be callable, as function\(x, t, label\)"),
        ({"function": np.zeros(3)}, "function=.* must be callable"),
        ({"image_shape": (8, 8)}, r"image_shape=\(8, 8\) must be \(height, width, channels\)"),
        ({"image_shape": 8}, "image_shape=8 must be"),
        ({"image_shape": (8, 8, 0)}, "image_shape=0 must be an integer of at least 1"),
        ({"prediction": "eps"}, "prediction='eps' is not known; expected one of noise, x0, vel"),
        ({"prediction": None}, "prediction=None is not known"),
        ({"num_classes": 0}, "num_classes=0 must be an integer of at least 1"),
        ({"schedule": "cosine"}, "schedule='cosine' must be a Schedule, such as CosineSchedule"),
        ({"schedule": elsjax.WindowSchedule((3,))}, "schedule=.* must be a Schedule"),
    ],
)
def test_wrong_arguments(options, message):
    right = {"function": of_class, "image_shape": SHAPE}
    with pytest.raises(ValueError, match=message):
        elsjax.FunctionDenoiser(**(right | options))


class Unreadable:
    """As a tensor that needs a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("use detach()\nfirst")


EXPECTED = r"expected real numbers of shape \[3, 2, 3, 1\]"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "function returned NoneType of dtype object and shape .*; "),
        ("x0", "function returned str of dtype str.*; "),
        ({"sample": images()}, "function returned dict of dtype object and shape .*; "),
        (1.0, r"function returned float of dtype float64 and shape \[\]; "),
        (images()[..., 0], r"function returned ndarray of .* shape \[3, 2, 3\]; "),
        (jnp.zeros((3, 1, 2, 3)), r"function returned .* float32 and shape \[3, 1, 2, 3\]; "),
        (images(2), r"function returned ndarray of .* shape \[2, 2, 3, 1\]; "),
        ((images(), images()), r"function returned tuple of .* shape \[2, 3, 2, 3, 1\]; "),
        (images() + 0j, "function returned ndarray of dtype complex128 and shape .*; "),
        (jnp.zeros((3, *SHAPE), jnp.complex64), "function returned .* complex64 and shape .*; "),
        (images() > 0, "function returned ndarray of dtype bool and .*; "),
        (images().astype(str), "function returned ndarray of dtype str.*; "),
        (jax.random.split(jax.random.key(0), (3, *SHAPE)), "function returned .* dtype key<.*; "),
        (np.ma.masked_less(images(), 0), "what function returned is a masked array.*; "),
        ([[1.0], [1.0, 2.0]], "what function returned, of type list, is no array: .*; "),
        (Unreadable(), r"what function returned, .*, is no array: use detach\(\); "),
    ],
)
def test_wrong_results(output, message):
    with pytest.raises(ValueError, match=message + EXPECTED):
        returning(output).denoise(images(), 0.5)
    with pytest.raises(ValueError, match=message + EXPECTED):
        jax.jit(lambda x: returning(output).denoise(x, 0.5))(images())


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (images()[..., [0, 0]], 0.5, r"x has shape \[3, 2, 3, 2\]; expected \[batch, 2, 3, 1\]"),
        (images(), 1.5, "t=1.5 must lie in"),
        (images(), [0.5], r"t has shape \[1\]; expected \[\] or \[3\]"),
    ],
)
def test_wrong_images_and_times_reach_no_function(x, t, message):
    def function(x, t, label):
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        elsjax.FunctionDenoiser(function, SHAPE).denoise(x, t)
