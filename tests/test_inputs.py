"""Inputs beside the happy path: each is right, or refused by name before any work."""

import decimal

import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest
from small_inputs import IMAGES, KEY, LABELS, PIXELS, X, known, machine, network, resnet

import elsjax
from elsjax import pixels
from elsjax.training import loop as training
from elsjax.training.config import TrainingConfig

__all__ = ["known", "network"]  # fixtures


def test_annotations_are_enforced():
    with pytest.raises(jaxtyping.TypeCheckError, match="per_image"):
        elsjax.process.denoisers.per_image(jnp.zeros(3, bool))


# Keys

NO_KEYS = [0, None, jax.random.PRNGKey(0), np.array([0, 0], np.uint32), "key"]


@pytest.mark.parametrize("num_samples", [1, 2])
@pytest.mark.parametrize("key", NO_KEYS, ids=str)
def test_keys_are_typed(known, key, num_samples):
    with pytest.raises(ValueError, match="key=.* must be a typed key, such as jax.random.key"):
        elsjax.initial_noise(key, num_samples, (6, 6, 1))
    for solver in () if key is None else elsjax.process.sampling.SOLVERS:
        with pytest.raises(ValueError, match="key=.* must be a typed key, such as jax.random.key"):
            elsjax.reverse_process(known, X[:num_samples], solver=solver, key=key)


def test_keys_have_a_shape(known):
    with pytest.raises(ValueError, match=r"key has shape \[2\]; expected \[\]"):
        elsjax.initial_noise(jax.random.split(KEY), 2, (6, 6, 1))
    with pytest.raises(ValueError, match=r"key has shape \[3\]; expected \[\] or \[2\]"):
        elsjax.reverse_process(known, X, key=jax.random.split(KEY, 3))


# Training images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS.astype(np.float32), r"images has values from 0 to 255; .*/ 127.5 - 1"),
        (2.5 * IMAGES, r"images has values from -2.5 to 2.5; expected \[-1, 1\]"),
        (PIXELS.astype(np.int64), r"dtype int64; expected floating point in \[-1, 1\] or uint8"),
        (PIXELS > 99, "images has dtype bool"),
        (IMAGES + 0j, "images has dtype complex128"),
        (PIXELS.astype(object), "images has dtype object"),
        (np.zeros((2, 3, 3, 1), "M8[s]"), "images has dtype datetime64"),
        (np.zeros((2, 3, 3, 1), [("r", "u1")]), "images has dtype void8"),
        (np.zeros((4, 3, 16, 16)), r"16 channels of 3×16 pixels; .*moveaxis\(images, 1, -1\)"),
        (np.zeros((4, 1, 28, 28), np.uint8), r"28 channels of 1×28 .*moveaxis\(images, 1, -1\)"),
        (np.zeros((32, 32, 3, 90)), r"90 channels of 32×3 .*moveaxis\(images, -1, 0\)"),
        (None, r"images has shape \[\]"),
        ("images.npz", r"images has shape \[\]"),
        ([[1.0], [1.0, 2.0]], "images, of type list, is no array"),
        (np.ma.masked_less(np.zeros((2, 4, 4, 1)), 1), "images is a masked array"),
    ],
)
def test_images_of_another_scale_layout_or_type(images, message):
    with pytest.raises(ValueError, match=message):
        machine(images)
    with pytest.raises(ValueError, match=message):
        training.check_data(resnet(), images, None, TrainingConfig(batch_size=2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS / 255, "images has values from .* to 1, .*give 2 . images - 1"),
        ((PIXELS > 99).astype(np.float32), "images has values from 0 to 1"),
        ((PIXELS > 99).astype(np.uint8), "images has dtype uint8 and holds 0 and 1 only"),
    ],
)
def test_a_doubtful_scale_is_told_where_it_was_given(images, message):
    config = TrainingConfig(num_steps=1, warmup_steps=0, batch_size=6)
    for use in (
        lambda images: elsjax.ScoreMachine("els", images, window=3),
        lambda images: training.training_steps(resnet(), images, None, config),
    ):
        with pytest.warns(UserWarning, match=message) as caught:
            use(images)
        assert [warning.filename for warning in caught] == [__file__]


RIGHT = {
    "float64": IMAGES,
    "big-endian": IMAGES.astype(">f8"),
    "Fortran order": np.asfortranarray(IMAGES),
    "list": IMAGES.tolist(),
    "JAX": jnp.asarray(IMAGES),
    "p / 255 * 2 - 1": PIXELS / 255 * 2 - 1,
    "float32, (p / 255 - 0.5) / 0.5": (PIXELS / np.float32(255) - np.float32(0.5))
    / np.float32(0.5),
    "float32, p * (2 / 255) - 1": PIXELS * np.float32(2 / 255) - np.float32(1),
}


@pytest.mark.parametrize("images", RIGHT.values(), ids=RIGHT)
def test_images_of_8_bits_are_known_however_they_were_scaled(images):
    found = machine(images).training_set.pixels
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS)
    machine(images).with_index(0.1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("images", "kept"),
    [
        (IMAGES, np.uint8),
        (PIXELS / 255 * 2 - 1, np.uint8),
        (pixels.to_float(PIXELS), np.uint8),
        (IMAGES.astype(np.float32), np.float32),  # rounded elsewhere, and exact as given
        (IMAGES + 1e-9, np.float64),
    ],
)
def test_what_float64_tells_beyond_8_bits_is_kept(images, kept):
    assert machine(images).training_set.pixels.dtype == kept


@pytest.mark.parametrize("images", [IMAGES.astype(np.float16), IMAGES.astype(ml_dtypes.bfloat16)])
def test_images_of_half_precision_stay_what_they_are(images):
    assert machine(images).training_set.pixels.dtype == images.dtype
    with pytest.raises(ValueError, match="tolerance=0.1 needs images of 8 bits"):
        machine(images).with_index(0.1)


@pytest.mark.parametrize("double", [False, True])
def test_pixels_are_scaled_in_the_precision_of_what_follows(double):
    with jax.enable_x64(double):
        dtype = jnp.result_type(float)
        every = np.arange(256, dtype=np.uint8)
        exact = every.astype(dtype) / dtype.type(127.5) - dtype.type(1)
        for scale in (pixels.to_float, jax.jit(pixels.to_float, static_argnums=1)):
            found = scale(jnp.asarray(every), dtype)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, exact, rtol=0, atol=np.finfo(dtype).eps)
        np.testing.assert_array_equal(pixels.to_uint8(exact), every)
    for half in (np.float16, ml_dtypes.bfloat16):
        rounded = pixels.to_uint8(exact.astype(half)).astype(int)
        assert np.abs(rounded - every).max() <= (0 if half is np.float16 else 1)


@pytest.mark.parametrize("shape", [(4, 6, 6, 2), (4, 6, 6, 5), (4, 5, 6, 12), (4, 1, 9, 3)])
def test_any_number_of_channels_is_one(shape):
    assert elsjax.ScoreMachine("is", np.zeros(shape)).image_shape == shape[1:]


# Labels


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS.tolist(),
        LABELS.astype(np.uint64),
        LABELS.astype(np.int8),
        LABELS.astype(">i4"),
        jnp.asarray(LABELS),
    ],
)
def test_labels_of_any_integer_type(labels):
    assert machine(labels=labels).labels == (0, 1, 2)
    training.check_data(resnet(num_classes=3), PIXELS, labels, TrainingConfig(batch_size=2))


def test_labels_may_be_negative():
    assert machine(labels=-LABELS).labels == (-2, -1, 0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(float), "labels has dtype float64; expected integers"),
        (LABELS > 0, "labels has dtype bool"),
        (list("aabbcc"), "labels has dtype str32"),
        ([None] * 6, "labels has dtype object"),
        (np.eye(6, dtype=int), r"labels has shape \[6, 6\]; expected \[6\]"),
        (3, r"labels has shape \[\]; expected \[6\]"),
        (LABELS * 10**12, "labels has classes from 0 to 2000000000000; expected integers of 32"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        machine(labels=labels)
    with pytest.raises(ValueError, match=message):
        training.check_data(resnet(num_classes=3), PIXELS, labels, TrainingConfig(batch_size=2))


@pytest.mark.parametrize("label", [1.0, True, "1", [0, None], np.array([0.0, 1.0]), 2**70])
def test_a_label_is_an_integer(known, network, label):
    for denoiser in (known, network):
        with pytest.raises(ValueError, match="label.*integers"):
            denoiser.denoise(X, 0.5, label)
        with pytest.raises(ValueError, match="label.*integers"):
            elsjax.reverse_process(denoiser, X, label=label)


def test_labels_as_archives_keep_them(known, network):
    for denoiser in (known, network):
        expected = denoiser.denoise(X, 0.5, [0, 2])
        for label in ([[0], [2]], np.array([0, 2], ">i8"), np.array([0, 2], np.uint8)):
            np.testing.assert_array_equal(denoiser.denoise(X, 0.5, label), expected)


@pytest.mark.parametrize("devices", [1, 2])
def test_an_unknown_label_under_jit_gives_nan(devices):
    some = machine(labels=2 * LABELS, mesh=elsjax.make_mesh(devices) if devices > 1 else None)
    found = jax.jit(lambda label: some.denoise(X, 0.5, label))
    expected = some.denoise(X, 0.5, [2, 4])
    np.testing.assert_allclose(found(jnp.array([2, 4])), expected, atol=1e-6)
    for unknown in (-1, 1, 3, 5):
        x0 = found(jnp.array([unknown, 4]))
        assert np.isnan(x0[0]).all()
        np.testing.assert_allclose(x0[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_an_unknown_label_of_a_network_under_jit_gives_nan(num_classes):
    network = resnet(num_classes=num_classes)
    found = jax.jit(lambda label: network.denoise(X, 0.5, label))
    for label in (-1, num_classes):
        x0 = found(jnp.array([0, label]))
        assert np.isnan(x0[1]).all()
        np.testing.assert_allclose(x0[0], network.denoise(X, 0.5, 0)[0], atol=1e-6)


# Noisy images and times


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (PIXELS[:2], "x has dtype uint8; expected floating point, in units where clean pixels"),
        (X.astype(np.int32), "x has dtype int32"),
        (X > 0, "x has dtype bool"),
        (X + 0j, "x has dtype complex64"),
        (X.astype(object), "x has dtype object"),
        ("noise", r"x has shape \[\]"),
        (None, r"x has shape \[\]"),
        ([X[0], X[0, :3]], "x, of type list, is no array"),
    ],
)
def test_noisy_images_are_real(known, network, x, message):
    for use in (known.denoise, known.posterior, known.score, network.predict_noise):
        with pytest.raises(ValueError, match=message):
            use(x, 0.5, 0)
    with pytest.raises(ValueError, match=message):
        elsjax.sample(known, x)


def test_noisy_images_of_any_float_type(known):
    expected = known.denoise(X, 0.5)
    frozen = X.copy()
    frozen.flags.writeable = False
    for x in (X.astype(np.float64), X.astype(">f4"), X.tolist(), np.asfortranarray(X), frozen):
        np.testing.assert_array_equal(known.denoise(x, 0.5), expected)
    for half in (X.astype(np.float16), jnp.asarray(X, jnp.bfloat16)):
        same = known.denoise(np.asarray(half, np.float32), 0.5)
        np.testing.assert_array_equal(known.denoise(half, 0.5), same)


@pytest.mark.parametrize(
    "t", ["0.5", None, 0.5j, True, [0.1, None], decimal.Decimal("0.5"), float("nan"), 2, b"1"]
)
def test_a_time_is_a_number(known, network, t):
    for use in (known.denoise, known.predict_noise, known.score, network.score):
        with pytest.raises(ValueError, match="t=.* must (be a number|lie) in"):
            use(X, t, 0)


def test_times_of_any_real_type(known):
    expected = known.denoise(X, [0.25, 0.5])
    for t in (
        np.array([0.25, 0.5], ">f8"),
        np.array([0.25, 0.5], np.float16),
        jnp.array([0.25, 0.5]),
        (np.float32(0.25), 0.5),
    ):
        np.testing.assert_array_equal(known.denoise(X, t), expected)
    np.testing.assert_array_equal(known.denoise(X, 1), known.denoise(X, np.array([1, 1])))
