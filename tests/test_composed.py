import jax
import numpy as np
import pytest
from small_inputs import LABELS, PIXELS, X, machine, resnet

import elsjax

SHAPE = (6, 6, 1)
TIMES = np.array([0.3, 0.9])


def composed(base=None, parts=None, weights=(0.7,)):
    base = machine(labels=LABELS) if base is None else base
    return elsjax.ComposedDenoiser(base, [(base, 1)] if parts is None else parts, weights)


def function(**options):
    """Of noise that tells the label: 0.1 (label + 1), and 0 without one."""

    def told(x, t, label):
        return 0 * x if label is None else 0 * x + 0.1 * (label.reshape(-1, 1, 1, 1) + 1)

    return elsjax.FunctionDenoiser(told, SHAPE, **options)


# What it computes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["predict_noise", "denoise", "score"])
def test_it_is_linear_in_the_noise(method):
    base, other = machine(labels=LABELS), machine(window=5)
    denoiser = composed(base, [(base, 1), (other, None), (base, 2)], [0.7, -1.5, 2.0])
    found = getattr(denoiser, method)(X, TIMES)
    eps = [
        getattr(one, method)(X, TIMES, label)
        for one, label in ((base, None), (base, 1), (other, None), (base, 2))
    ]
    expected = eps[0] + sum(
        w * (e - eps[0]) for w, e in zip((0.7, -1.5, 2.0), eps[1:], strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_of_weight_one_it_is_the_part_and_of_weight_zero_the_base():
    base = machine(labels=LABELS)
    for method in ("denoise", "predict_noise"):
        part = getattr(composed(base, weights=[1]), method)(X, 0.4)
        np.testing.assert_array_equal(part, getattr(base, method)(X, 0.4, 1))
        none = getattr(composed(base, weights=[0]), method)(X, 0.4)
        np.testing.assert_array_equal(none, getattr(base, method)(X, 0.4))


def test_what_has_no_weight_is_not_evaluated():
    def fails(x, t, label):
        raise RuntimeError

    broken, base = elsjax.FunctionDenoiser(fails, SHAPE), function()
    assert np.isfinite(composed(base, [(broken, None)], [0]).denoise(X, 0.4)).all()
    assert np.isfinite(
        composed(broken, [(base, None), (base, None)], [3, -2]).denoise(X, 0.4)
    ).all()
    with pytest.raises(RuntimeError):
        composed(base, [(broken, None)], [0.1]).denoise(X, 0.4)


@pytest.mark.usefixtures("x64")
def test_guidance_of_a_conditional_machine():
    base = machine(labels=LABELS)
    guided = composed(base, [(base, None)], [3])
    label = np.array([2, 0])
    free, told = base.predict_noise(X, TIMES), base.predict_noise(X, TIMES, label)
    found = guided.predict_noise(X, TIMES, label)
    np.testing.assert_allclose(found, free + 3 * (told - free), rtol=0, atol=1e-12)
    np.testing.assert_allclose(guided.denoise(X, TIMES), base.denoise(X, TIMES), atol=1e-12)


# Bradley et al. 2025: exact where the parts' scores are local and of other pixels than each other


def halves():
    """Two bright left halves, class 0, two bright right ones, class 1, and the background, grey.

    Between the halves are columns of background, so that no window of side 3 sees both.
    """
    bright = np.random.default_rng(3).integers(200, 256, (4, 6, 2, 1), np.uint8)
    images = np.full((4, 6, 6, 1), 128, np.uint8)
    images[:2, :, :2], images[2:, :, 4:] = bright[:2], bright[2:]
    return images, np.array([0, 0, 1, 1]), np.full((1, 6, 6, 1), 128, np.uint8)


@pytest.mark.parametrize("kind", ["ls", "bbels"])
def test_a_composition_carries_what_both_parts_are_about(kind):
    images, labels, background = halves()
    both = elsjax.ScoreMachine(kind, images, labels, window=3)
    base = elsjax.ScoreMachine(kind, background, window=3)
    denoiser = elsjax.ComposedDenoiser(base, [(both, 0), (both, 1)], [1, 1])
    noise = np.random.default_rng(4).standard_normal((3, *SHAPE)).astype(np.float32)
    if kind == "ls":  # every estimate, to rounding, is that of the part whose half it is in
        x0 = denoiser.denoise(noise, 0.5)
        apart = [both.denoise(noise, 0.5, label) for label in (0, 1)]
        np.testing.assert_allclose(x0[:, :, :3], apart[0][:, :, :3], rtol=0, atol=1e-5)
        np.testing.assert_allclose(x0[:, :, 3:], apart[1][:, :, 3:], rtol=0, atol=1e-5)
        sample = np.asarray(elsjax.sample(denoiser, noise, num_steps=6))
        lit = sample > 0.5
        assert lit[:, :, :2].all()
        assert lit[:, :, 4:].all()
        assert not lit[:, :, 2:4].any()
        alone = np.asarray(elsjax.sample(both, noise, num_steps=6, label=0)) > 0.5
        assert alone[:, :, :2].all()
        assert not alone[:, :, 2:].any()
    else:  # an equivariant machine may put a half elsewhere, but keeps to the edge's columns
        x0 = denoiser.denoise(noise, 0.5)
        apart = [both.denoise(noise, 0.5, label) for label in (0, 1)]
        expected = base.denoise(noise, 0.5)
        expected = expected + sum(part - expected for part in apart)
        np.testing.assert_allclose(x0, expected, rtol=0, atol=1e-5)


# Labels


def test_which_label_each_of_them_gets():
    knows = function(num_classes=4)
    denoiser = composed(knows, [(knows, 3), (knows, None)], [10, 100])
    # Of base, 3 and the call's label: 0, 0.4 and 0.1 (label + 1).
    found = denoiser.predict_noise(X, 0.5, np.array([0, 2]))
    np.testing.assert_allclose(found[:, 0, 0, 0], [4 + 10, 4 + 30], rtol=1e-5)
    np.testing.assert_allclose(denoiser.predict_noise(X, 0.5)[:, 0, 0, 0], 4, rtol=1e-5)


def test_a_base_that_needs_a_label_gets_that_of_the_call():
    network = resnet(num_classes=3)
    denoiser = composed(network, [(network, 2)], [0.5])
    halfway = (network.predict_noise(X, 0.5, 0) + network.predict_noise(X, 0.5, 2)) / 2
    found = denoiser.predict_noise(X, 0.5, 0)
    np.testing.assert_allclose(found, halfway, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="base: label=None: this network needs one"):
        denoiser.denoise(X, 0.5)


def test_labels_that_a_part_refuses_are_refused():
    known = machine(labels=LABELS)
    network = resnet(num_classes=3)
    denoiser = composed(known, [(known, 1), (known, None)], [1, 1])
    with pytest.raises(ValueError, match=r"parts\[1\]: label=7 is no class of the data"):
        denoiser.denoise(X, 0.5, 7)
    with pytest.raises(ValueError, match=r"parts\[0\]: label=1 needs labelled data"):
        composed(known, [(machine(), None)]).denoise(X, 0.5, 1)
    with pytest.raises(ValueError, match=r"parts\[0\]: label=None: this network needs one"):
        composed(resnet(), [(network, None)]).denoise(X, 0.5)
    with pytest.raises(ValueError, match="label=1 was given, but every part has a label"):
        composed(known).denoise(X, 0.5, 1)


# Where and how it runs


def test_it_is_an_argument_of_a_compiled_function():
    denoiser = composed(weights=[1.5])
    compiled = jax.jit(lambda denoiser, x: denoiser.denoise(x, 0.4))
    expected = denoiser.denoise(X, 0.4)
    np.testing.assert_allclose(compiled(denoiser, X), expected, rtol=0, atol=1e-5)
    with pytest.raises(AttributeError, match="'weights' cannot be set"):
        denoiser.weights = (1.0,)


def test_devices_do_not_matter():
    base, mesh = machine(labels=LABELS), elsjax.make_mesh(2, 2)
    denoiser = composed(base, [(base, None), (function(), None)], [1.5, 0.2])
    spread = composed(base, [(base, None)], [1.5]).with_mesh(mesh)
    assert spread.mesh == mesh
    expected = composed(base, [(base, None)], [1.5]).denoise(X, TIMES)
    np.testing.assert_allclose(spread.denoise(X, TIMES), expected, rtol=0, atol=1e-5)
    found = denoiser.with_mesh(mesh).predict_noise(X, TIMES)
    np.testing.assert_allclose(found, denoiser.predict_noise(X, TIMES), rtol=0, atol=1e-4)


def test_the_signal_that_each_of_them_needs():
    schedule = elsjax.CosineSchedule(0.008)  # alpha = 0 at t = 1
    noise, x0 = (function(schedule=schedule, prediction=p) for p in ("noise", "x0"))
    with pytest.raises(ValueError, match="no signal is left at t = 1"):
        composed(x0, [(noise, None)]).denoise(X, 1)
    assert np.isfinite(composed(noise, [(noise, None)]).predict_noise(X, 1)).all()


# Wrong input

KNOWN = machine(labels=LABELS)
OTHER_SCHEDULE = machine(schedule=elsjax.LinearBetaSchedule())
OTHER_SHAPE = machine(PIXELS[:, :5])
ON_MESH = machine(mesh=elsjax.make_mesh(2))


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ([(KNOWN, 1), (OTHER_SCHEDULE, None)], [1, 1], r"parts\[1\] has schedule=Linear"),
        ([(OTHER_SHAPE, None)], [1], r"parts\[0\] has image_shape=\(5, 6, 1\); expected the base"),
        ([(ON_MESH, None)], [1], r"parts\[0\] has mesh="),
        ([(KNOWN, 9)], [1], r"parts\[0\]: label=9 is no class of the data"),
        ([(KNOWN, 0.5)], [1], r"parts\[0\]\[1\]=0.5 must be an integer"),
        ([KNOWN], [1], r"parts\[0\]=.* must be a pair \(denoiser, label\)"),
        ([("is", 1)], [1], r"parts\[0\]\[0\]='is' must be a Denoiser"),
        (KNOWN, [1], "parts=.* must be a sequence of pairs"),
        ([], [], "parts is empty"),
        ([(KNOWN, 1)], [1, 2], "weights has 2 numbers; expected 1"),
        ([(KNOWN, 1)], [np.inf], r"weights\[0\]=inf must lie in"),
        ([(KNOWN, 1)], 1.0, "weights=1.0 must be a sequence"),
        ([(KNOWN, 1)], ["1"], r"weights\[0\]='1' must lie in"),
    ],
)
def test_wrong_input_is_refused(parts, weights, message):
    with pytest.raises(ValueError, match=message):
        elsjax.ComposedDenoiser(KNOWN, parts, weights)


def test_a_base_that_is_none_is_refused():
    with pytest.raises(ValueError, match="base='els' must be a Denoiser"):
        elsjax.ComposedDenoiser("els", [(KNOWN, 1)], [1])
