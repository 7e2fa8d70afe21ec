"""Inputs beside the happy path: each is right, or refused by name before any work."""

import decimal

import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax import pixels
from elsjax.experiments.calibration import similarities
from elsjax.nn import AttentionUNet, ResNet, UNet, layers
from elsjax.nn.embedding import Embedding
from elsjax.training import loop as training

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 6, 6, 1), np.uint8)
IMAGES = PIXELS / 127.5 - 1
LABELS = np.array([0, 0, 1, 1, 2, 2])
X = np.random.default_rng(1).standard_normal((2, 6, 6, 1)).astype(np.float32)
KEY = jax.random.key(0)


def machine(images=PIXELS, labels=None, **options):
    return elsjax.ScoreMachine("els", images, labels, **{"window": 3} | options)


def resnet(**options):
    return ResNet((6, 6, 1), **{"width": 8, "num_layers": 1, "rngs": nnx.Rngs(0)} | options)


@pytest.fixture(scope="module")
def known():
    return machine(labels=LABELS)


@pytest.fixture(scope="module")
def network():
    return resnet(num_classes=3)


def same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def test_annotations_are_enforced():
    with pytest.raises(jaxtyping.TypeCheckError, match="per_image"):
        elsjax.process.denoisers.per_image(jnp.zeros(3, bool))


# Draws belong to the seed, not to the precision


def of_both_precisions(draw):
    single = draw()
    with jax.enable_x64(True):
        return single, draw()


def test_noise_is_the_same_in_both_precisions():
    single, double = of_both_precisions(lambda: elsjax.initial_noise(KEY, 3, (4, 5, 2)))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    same(double, single)
    np.testing.assert_array_equal(
        single[1], jax.random.normal(jax.random.fold_in(KEY, 1), (4, 5, 2))
    )


def test_noise_of_the_sde_is_the_same_in_both_precisions():
    keys = elsjax.process.sampling.sample_keys(KEY, 3)
    levels = elsjax.process.sampling._Levels(
        jnp.zeros(()), jnp.ones(()), jnp.zeros(()), jnp.ones(())
    )

    def step():
        x = jnp.zeros((3, 4, 5, 2), jnp.result_type(float))
        return elsjax.process.sampling._ancestral(x, x, levels, keys, 2)

    same(*of_both_precisions(step))


def test_what_training_draws_is_the_same_in_both_precisions():
    keys = jax.random.split(KEY, 3)
    same(*of_both_precisions(lambda: training._draws(keys, (4, 5, 2))))
    same(*of_both_precisions(lambda: training._order(KEY, 3, 50)))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_weights_start_the_same_in_every_precision(dtype):
    def weights(dtype):
        options = {"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)}
        parts = (
            layers.conv(2, 4, 1, "zeros", **options),
            layers.linear(2, 4, **options),
            layers.Upsample(1, 2, **options),
            Embedding(4, 2, **options),
        )
        return [nnx.state(part, nnx.Param) for part in parts]

    single = weights("float32")
    with jax.enable_x64(True):
        other = weights(dtype)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(other)} == {dtype}
        same(other, jax.tree.map(lambda leaf: leaf.astype(dtype), single))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "a", None])
def test_seeds_that_would_depend_on_the_precision(seed):
    with pytest.raises(ValueError, match=f"seed={seed!r} must be an integer from 0 to 4294967295"):
        training.TrainingConfig(seed=seed)


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
        training.check_data(resnet(), images, None, training.TrainingConfig(batch_size=2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS / 255, "images has values from .* to 1, .*give 2 . images - 1"),
        ((PIXELS > 99).astype(np.float32), "images has values from 0 to 1"),
        ((PIXELS > 99).astype(np.uint8), "images has dtype uint8 and holds 0 and 1 only"),
    ],
)
def test_a_doubtful_scale_is_told_where_it_was_given(images, message):
    config = training.TrainingConfig(num_steps=1, warmup_steps=0, batch_size=6)
    for use in (machine, lambda images: training.train(resnet(), images, None, config)):
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
    found = machine(images, tolerance=0.1)
    assert found._images.dtype == np.uint8
    np.testing.assert_array_equal(found._images, PIXELS)


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
    assert machine(images)._images.dtype == kept


@pytest.mark.parametrize("images", [IMAGES.astype(np.float16), IMAGES.astype(ml_dtypes.bfloat16)])
def test_images_of_half_precision_stay_what_they_are(images):
    assert machine(images)._images.dtype == images.dtype
    with pytest.raises(ValueError, match="tolerance=0.1 needs images of 8 bits"):
        machine(images, tolerance=0.1)


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
    training.check_data(
        resnet(num_classes=3), PIXELS, labels, training.TrainingConfig(batch_size=2)
    )


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
        training.check_data(
            resnet(num_classes=3), PIXELS, labels, training.TrainingConfig(batch_size=2)
        )


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
    for use in (known.denoise, known.denoise_with_error, known.score, network.predict_noise):
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


# Other arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({"window": window}, "window=.* must be an odd positive integer")
            for window in ("3", 3.0, True, [3, 5], np.array(3))
        ],
        *[({"block_size": size}, "block_size=.* must be an int") for size in (True, 2.0, "3")],
        ({"memory_budget": "1"}, "memory_budget='1' must be"),
        ({"tolerance": "0.1"}, r"tolerance='0.1' must lie in \(0, 1\)"),
        ({"tolerance": float("nan")}, "tolerance=nan must lie"),
        ({"tolerance": True}, "tolerance=True must lie"),
        ({"wrap_patches": "no"}, "wrap_patches='no' must be True or False"),
        ({"schedule": elsjax.CosineSchedule}, "schedule=<class .* must be a Schedule, such as"),
        ({"schedule": "cosine"}, "schedule='cosine' must be a Schedule"),
        ({"mesh": 2}, "mesh=2 must be a Mesh, such as elsjax.make_mesh"),
        ({"mesh": jax.make_mesh((2, 2), ("data", "sample"))}, "axis types .*; expected Auto"),
    ],
)
def test_wrong_options_of_a_machine(options, message):
    with pytest.raises(ValueError, match=message):
        machine(**options)


@pytest.mark.parametrize("kind", [None, 1, ["els"], b"els"])
def test_kinds_are_names(kind):
    with pytest.raises(ValueError, match="kind=.* is not known"):
        elsjax.ScoreMachine(kind, PIXELS, window=3)


def test_numbers_of_numpy_are_numbers():
    one = machine(window=np.int64(3), block_size=np.int32(2), tolerance=np.float32(0.5))
    assert (type(one.window), type(one.block_size), type(one.tolerance)) == (int, int, float)
    windows = elsjax.WindowSchedule([np.int8(3), 5])
    assert windows == elsjax.WindowSchedule((3, 5))
    assert windows(jnp.float32(1)) == 5
    assert type(elsjax.CosineSchedule(np.float32(0.008)).offset) is float
    network = resnet(num_layers=np.int64(1), kernel_size=np.int8(3), num_classes=np.int16(2))
    assert {type(n) for n in (network.num_layers, network.kernel_size, network.num_classes)} == {
        int
    }


WRONG = [
    *[(lambda v=v: elsjax.WindowSchedule(v), "windows=.* sequence") for v in (5, "35", None)],
    *[(lambda v=v: elsjax.WindowSchedule([v]), r"windows\[0\]=") for v in ("3", 3.0, True)],
    *[(lambda v=v: elsjax.WindowSchedule((3,))(v), "t=") for v in ("1", None, np.nan, 2, [0.5])],
    *[(lambda v=v: elsjax.published_windows(v), "name=") for v in (None, 3, ["mnist/unet/zeros"])],
    *[(lambda v=v: elsjax.CosineSchedule(v), "offset=") for v in ("0", None, np.nan, False)],
    *[
        (lambda v=v: elsjax.ExponentialSchedule(v), "horizon=")
        for v in ("5", np.nan, np.inf, 10**400)
    ],
    (lambda: elsjax.LinearBetaSchedule(beta_last="0.1"), "beta_last='0.1' must lie"),
    (lambda: elsjax.LinearBetaSchedule(num_steps=10.0), "num_steps=10.0 must be"),
    (lambda: elsjax.make_mesh("2"), "data='2' must be"),
    (lambda: elsjax.make_mesh(sample=None), "sample=None must be"),
    (lambda: elsjax.make_mesh(devices="cpu"), "devices='c' must be a Device"),
    (lambda: elsjax.make_mesh(devices=3), "devices=3 must be a sequence"),
    (lambda: elsjax.initial_noise(KEY, 2.0, (6, 6, 1)), "num_samples=2.0"),
    (lambda: elsjax.initial_noise(KEY, True, (6, 6, 1)), "num_samples=True"),
    *[
        (lambda v=v: elsjax.initial_noise(KEY, 2, v), "image_shape=")
        for v in ((6, 6), 6, "661", (6.0, 6, 1))
    ],
    (lambda: resnet(rngs=0), "rngs=0 must be a Rngs"),
    (lambda: resnet(schedule=elsjax.CosineSchedule), "schedule=.* must be a Schedule"),
    (lambda: resnet(padding=None), "padding=None is not known"),
    (lambda: resnet(dtype="float99"), "dtype='float99' must be floating point"),
    (lambda: resnet(dtype="float64"), "dtype=float64 needs jax_enable_x64"),
    (lambda: resnet(num_classes=True), "num_classes=True must be"),
    (lambda: ResNet(6, rngs=nnx.Rngs(0)), "image_shape=6 must be"),
    (lambda: UNet((8, 8, 1), widths=8, rngs=nnx.Rngs(0)), "widths=8 must be a sequence"),
    (lambda: UNet((8, 8, 1), widths="88", rngs=nnx.Rngs(0)), "widths='88' must be a sequence"),
    (
        lambda: AttentionUNet((8, 8, 1), attention_levels=1, rngs=nnx.Rngs(0)),
        "attention_levels=1 must be some of 0 to",
    ),
    (
        lambda: AttentionUNet((8, 8, 1), attention_levels=(1.0,), rngs=nnx.Rngs(0)),
        "attention_levels=1.0 must be an integer",
    ),
    (lambda: training.TrainingConfig(learning_rate="1e-3"), "learning_rate='1e-3' must lie"),
    (lambda: training.TrainingConfig(ema_decay=float("nan")), "ema_decay=nan must lie"),
    (lambda: training.TrainingConfig(warmup_steps=1.5), "warmup_steps=1.5 must be an integer"),
    (lambda: similarities(machine(), None, (3,), X), "machine=None must be a ScoreMachine"),
    (lambda: similarities(machine(), machine(), 3, X), "windows=3 must be a sequence"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_wrong_numbers_and_names(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tensors_are_arrays_and_what_fails_to_be_one_is_named():
    class Broken:
        def __array__(self, *_, **__):
            raise RuntimeError("on another device\nsecond line")

    with pytest.raises(ValueError, match="^x, of type Broken, is no array: on another device$"):
        machine().denoise(Broken(), 0.5)


def test_what_is_traced_cannot_be_training_data():
    with pytest.raises(ValueError, match="images must be values, not traced"):
        jax.jit(lambda images: machine(images).denoise(X, 0.5))(PIXELS)
    with pytest.raises(ValueError, match="labels must be values, not traced"):
        jax.jit(lambda labels: machine(labels=labels).denoise(X, 0.5))(LABELS)
