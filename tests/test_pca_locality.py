import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import denoise_optimised
from oracle import denoise_pca_locality, locality_mask

import elsjax
from elsjax import PCALocalityDenoiser
from elsjax.analytic import pca_locality, streaming

SHAPE = (4, 3, 2)
LABELS = np.arange(41) % 3
MIXED = np.array([0, 2, 2, 1, 0])
TIMES = np.array([0.0, 0.1, 0.4, 0.8, 1.0])


def data(count=41, shape=SHAPE):
    """Images of neighbouring pixels that go together."""
    rng = np.random.default_rng(0)
    rough = rng.normal(size=(count, *shape))
    smooth = rough + np.roll(rough, 1, axis=1) + np.roll(rough, 1, axis=2)
    return np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)


def noisy(batch=5, shape=SHAPE):
    return np.random.default_rng(1).standard_normal((batch, *shape))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_reference(x64, locality, name):
    pixels, labels = locality[f"{name}/pixels"], locality[f"{name}/labels"]
    found = [key for key in locality if key.startswith(f"{name}/pca/")]
    assert len(found) == 6
    for key in found:
        _, _, threshold, time = key.split("/")
        denoiser = PCALocalityDenoiser(pixels, labels, threshold=float(threshold[3:]), block_size=7)
        x0 = denoiser.denoise(locality[f"{name}/x/{time}"], float(time[1:]))
        np.testing.assert_allclose(x0, locality[key], atol=1e-11, err_msg=key)


@pytest.mark.parametrize("normalized_by", ["output", "input"])
@pytest.mark.parametrize("count", [41, 7], ids=["more images than pixels", "fewer"])
def test_the_definition(x64, normalized_by, count):
    images, x = data(count), noisy()
    images[:, 0, 0, 0] = 255  # a pixel that does not vary
    images[:, 2, 1, 1] = 100 + (np.arange(count) == 3)  # one that hardly does
    options = {"threshold": 0.1, "normalized_by": normalized_by}
    denoiser = PCALocalityDenoiser(images, **options, block_size=4)
    x0 = denoiser.denoise(x[1:], TIMES[1:])
    for one, noise, t in zip(x0, x[1:], TIMES[1:], strict=True):
        levels = tuple(map(float, denoiser.schedule(t)))
        expected = denoise_pca_locality(images / 127.5 - 1, noise, *levels, **options)
        np.testing.assert_allclose(one, expected, atol=1e-9)
        mask = locality_mask(images / 127.5 - 1, *levels, **options)
        assert denoiser.mask_share(t) == pytest.approx(mask.mean(), rel=1e-6)
        assert mask[0].sum() == 1  # the constant pixel sees itself


def test_the_two_ways_to_normalise_differ():
    images, x = data(), noisy().astype(np.float32)
    images[..., 1] //= 8  # channels of unlike variance
    by = {
        name: PCALocalityDenoiser(images, threshold=0.1, normalized_by=name)
        for name in ("output", "input")
    }
    found, other = (denoiser.denoise(x, 0.5) for denoiser in by.values())
    assert np.abs(found - other).max() > 0.01
    assert by["output"].mask_share(0.5) == by["input"].mask_share(0.5)


def test_a_threshold_of_zero_is_the_ideal_machine(x64):
    images, x = data(), noisy()
    machine = elsjax.ScoreMachine("is", images, LABELS)
    denoiser = PCALocalityDenoiser(images, LABELS, threshold=0, block_size=4)
    for label in (None, MIXED):
        # At t = 0 the covariance of a class of 14 images, of 24 pixels, has no inverse.
        expected = machine.denoise(x, TIMES, label)
        np.testing.assert_allclose(denoiser.denoise(x, TIMES, label), expected, atol=1e-10)
    assert denoiser.mask_share(0.5) == denoiser.mask_share(0, 1) == 1


@pytest.mark.parametrize("double", [True, False])
def test_without_noise_it_is_the_limit(double):
    with jax.enable_x64(double):
        images = data()
        full = PCALocalityDenoiser(images, threshold=0.05)
        # W is the identity: each pixel copies the nearest value that it has in the data.
        assert full.mask_share(0) == pytest.approx(1 / 24)
        values = (images / 127.5 - 1).reshape(41, -1)
        x = np.clip(noisy(), -1.5, 1.5)
        nearest = np.argmin(np.abs(x.reshape(5, 1, -1) - values), axis=1)
        expected = np.take_along_axis(values, nearest, axis=0).reshape(x.shape)
        np.testing.assert_allclose(full.denoise(x, 0), expected, atol=1e-5)
        # Of fewer images than pixels W projects on what they span; the limit is there in float32.
        few = PCALocalityDenoiser(images[:7], threshold=0.05)
        assert few.mask_share(0) == few.mask_share(1e-3) > 0.2


def test_a_class_is_its_images_alone(x64):
    images, x = data(), noisy()
    images[LABELS == 2, ..., 1] = images[LABELS == 2, ..., 0] // 2  # a covariance of its own
    alone = PCALocalityDenoiser(images[LABELS == 2], threshold=0.2)
    denoiser = PCALocalityDenoiser(images, LABELS, threshold=0.2)
    np.testing.assert_allclose(denoiser.denoise(x, TIMES, 2), alone.denoise(x, TIMES), atol=1e-10)
    assert denoiser.mask_share(0.4, 2) == alone.mask_share(0.4) != denoiser.mask_share(0.4)


@pytest.mark.parametrize(
    "options",
    [{"mesh": (2, 2), "block_size": 2}, {"mesh": (4, 1)}, {"memory_budget": 24**2 * 32 + 1}],
    ids=str,
)
def test_neither_devices_blocks_order_nor_neighbours_matter(x64, options):
    options = dict(options)
    images, x = data(), noisy()
    one = PCALocalityDenoiser(images, LABELS, threshold=0.1)
    expected = np.concatenate(
        [one.denoise(x[[b]], TIMES[b], MIXED[b]) for b in range(5)]  # each without neighbours
    )
    mesh = options.pop("mesh", None)
    order = np.random.default_rng(2).permutation(41)
    many = PCALocalityDenoiser(images[order], LABELS[order], threshold=0.1, **options)
    if mesh is not None:
        many = many.with_mesh(elsjax.make_mesh(*mesh))
    np.testing.assert_allclose(many.denoise(x, TIMES, MIXED), expected, atol=1e-10)


def test_float32_keeps_to_float64():
    images = elsjax.load_dataset("mnist5k", limit=200, image_size=12).pixels
    noise = noisy(4, (12, 12, 1))
    times = np.array([0.02, 0.2, 0.5, 0.9])
    alpha, sigma = (np.reshape(level, (4, 1, 1, 1)) for level in elsjax.CosineSchedule()(times))
    x = np.float32(alpha * (images[:4] / 127.5 - 1) + sigma * noise)
    denoiser = PCALocalityDenoiser(images, threshold=0.05, block_size=23)
    found = [denoise_optimised(denoiser, x[[b]], times[b]) for b in range(4)]
    assert found[0].dtype == np.float32
    with jax.enable_x64(True):
        exact = PCALocalityDenoiser(images, threshold=0.05).denoise(x.astype(np.float64), times)
    # A different mask, by a single entry, moves a pixel by some hundredths.
    np.testing.assert_allclose(np.concatenate(found), exact, atol=1e-4)


def test_it_is_an_argument_of_jit_with_traced_times():
    denoiser = PCALocalityDenoiser(data(), LABELS, threshold=0.1)
    x = noisy().astype(np.float32)
    jitted = jax.jit(lambda denoiser, x, t: denoiser.denoise(x, t, 1))
    with jax.checking_leaks():
        found = jitted(denoiser, x, TIMES)  # the first question about this class
    np.testing.assert_allclose(found, denoiser.denoise(x, TIMES, 1), atol=1e-5)
    np.testing.assert_allclose(jitted(denoiser, x, 0.4), denoiser.denoise(x, 0.4, 1), atol=1e-5)
    programs = streaming._compiled._cache_size()
    first = denoiser.denoise(x, 0.3, 1)
    assert np.abs(first - denoiser.denoise(x, 0.7, 2)).max() > 0
    assert streaming._compiled._cache_size() == programs
    with pytest.raises(AttributeError, match="'threshold' cannot be set"):
        denoiser.threshold = 0.5


def test_eigenvectors_are_computed_once(monkeypatch):
    computed, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda a: computed.append(len(a)) or eigh(a))
    denoiser = PCALocalityDenoiser(data(), LABELS, threshold=0.1)
    assert computed == []
    for _ in range(2):
        denoiser.denoise(noisy(), TIMES, MIXED)
        denoiser.with_mesh(elsjax.make_mesh(2)).denoise(noisy(), 0.5, 1)
    assert computed == [24] * 3


@pytest.mark.parametrize("batch", [1, 40])
def test_memory_keeps_to_the_budget(monkeypatch, batch):
    budget, used = 2**21, []

    def measured(estimator, plan, *arrays):
        lowered = compiled.lower(estimator, plan, *arrays)
        used.append(lowered.compile().memory_analysis().temp_size_in_bytes)
        return arrays[0]

    compiled = streaming._compiled
    monkeypatch.setattr(streaming, "_compiled", measured)
    for count in (1000, 4000):
        images = np.zeros((count, 12, 12, 1), np.uint8)
        denoiser = PCALocalityDenoiser(images, memory_budget=budget)
        denoiser.denoise(np.zeros((batch, 12, 12, 1)), 0.5)
    assert max(used) <= budget
    assert used[1] <= used[0] * 1.01


@pytest.mark.parametrize("mesh", [None, (2, 2)])
def test_it_lowers_for_every_platform(mesh):
    denoiser = PCALocalityDenoiser(data(), mesh=mesh and elsjax.make_mesh(*mesh))
    export = jax.export.export(
        jax.jit(lambda x: denoiser.denoise(x, 0.5)), platforms=["cpu", "cuda", "tpu"]
    )
    module = export(jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)).mlir_module()
    products = re.findall(r"stablehlo\.dot_general.*", module)
    assert len(products) >= 3
    assert all("HIGHEST" in product for product in products)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, r"threshold=-0.1 must lie in \[0, 1\]"),
        ({"threshold": 1.5}, r"threshold=1.5 must lie in \[0, 1\]"),
        ({"threshold": "0.1"}, "threshold='0.1' must lie in"),
        ({"threshold": np.nan}, "threshold=nan must lie in"),
        (
            {"normalized_by": "both"},
            "normalized_by='both' is not known; expected one of output, in",
        ),
        ({"normalized_by": None}, "normalized_by=None is not known"),
        ({"labels": [0, 1]}, r"labels has shape \[2\]; expected \[41\]"),
        ({"memory_budget": 9216}, r"memory_budget=9216 is too small: the mask .* 24×24 .* 9216 b"),
        ({"images": np.zeros((1, 160, 160, 1), np.uint8)}, r"budget=4294967296 .* \(9.77 GiB\)"),
        ({"schedule": 1}, "schedule=1 must be a Schedule"),
    ],
)
def test_wrong_denoisers_are_refused_before_any_work(monkeypatch, options, message):
    monkeypatch.delattr(pca_locality.TrainingSet, "of")
    with pytest.raises(ValueError, match=message):
        PCALocalityDenoiser(**{"images": data(), **options})


def test_wrong_questions_are_refused():
    denoiser = PCALocalityDenoiser(data(), LABELS)
    with pytest.raises(ValueError, match="label=3 is no class of the data"):
        denoiser.denoise(noisy(), 0.5, 3)
    with pytest.raises(ValueError, match="label must be a value on the host, not traced"):
        jax.jit(lambda label: denoiser.denoise(noisy(), 0.5, label))(1)
    with pytest.raises(ValueError, match="label=0 needs labelled data"):
        PCALocalityDenoiser(data()).denoise(noisy(), 0.5, 0)
    with pytest.raises(ValueError, match=r"t=1.1 must lie in \[0, 1\]"):
        denoiser.mask_share(1.1)
    with pytest.raises(ValueError, match=r"t=array\(\[0.1, 0.2\]\) must lie in"):
        denoiser.mask_share(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="label=3 is no class"):
        denoiser.mask_share(0.5, 3)
    with pytest.raises(ValueError, match="label='a' must be an integer"):
        denoiser.mask_share(0.5, "a")
