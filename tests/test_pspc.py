import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import denoise_optimised
from oracle import denoise_pspc

import elsjax
from elsjax import PSPCDenoiser
from elsjax.analytic import pspc, streaming

SHAPE = (6, 5, 2)
LABELS = np.arange(11) % 3
MIXED = np.array([0, 2, 2, 1, 0])
TIMES = np.array([0.0, 0.1, 0.4, 0.8, 1.0])


def data(count=11, shape=SHAPE):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def noisy(batch=5, shape=SHAPE):
    return np.random.default_rng(1).standard_normal((batch, *shape))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_reference(x64, locality, name):
    pixels, labels, label = (locality[f"{name}/{key}"] for key in ("pixels", "labels", "label"))
    found = [key for key in locality if key.startswith(f"{name}/pspc/")]
    assert len(found) >= 10
    for key in found:
        _, _, side, time, *conditional = key.split("/")
        denoiser = PSPCDenoiser(pixels, labels, window=int(side[1:]), block_size=7)
        x0 = denoiser.denoise(
            locality[f"{name}/x/{time}"], float(time[1:]), label if conditional else None
        )
        np.testing.assert_allclose(x0, locality[key], atol=1e-11, err_msg=key)


@pytest.mark.parametrize("side", [2, 3, 5])
def test_the_definition(x64, side):
    images, x = data(), noisy()
    x0 = PSPCDenoiser(images, window=side, block_size=4).denoise(x, TIMES)
    for one, noise, t in zip(x0, x, TIMES, strict=True):
        alpha, sigma = map(float, elsjax.CosineSchedule()(t))
        expected = denoise_pspc(images / 127.5 - 1, noise, alpha, max(sigma, 1e-9), side)
        np.testing.assert_allclose(one, expected, atol=1e-11)


@pytest.mark.parametrize(("side", "kind", "window"), [(1, "ls", 1), (6, "is", None)])
def test_the_limits_are_score_machines(x64, side, kind, window):
    images, x = data(shape=(6, 6, 2)), noisy(shape=(6, 6, 2))
    machine = elsjax.ScoreMachine(kind, images, LABELS, window=window)
    denoiser = PSPCDenoiser(images, LABELS, window=side, block_size=4)
    for label in (None, MIXED):
        np.testing.assert_allclose(
            denoiser.denoise(x, TIMES, label), machine.denoise(x, TIMES, label), atol=1e-10
        )


def test_a_class_is_its_images_alone(x64):
    images, x = data(), noisy()
    alone = PSPCDenoiser(images[LABELS == 2], window=3)
    denoiser = PSPCDenoiser(images, LABELS, window=3)
    np.testing.assert_allclose(denoiser.denoise(x, TIMES, 2), alone.denoise(x, TIMES), atol=1e-12)
    assert np.abs(denoiser.denoise(x, 0.5) - alone.denoise(x, 0.5)).max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": (2, 2), "block_size": 2},
        {"mesh": (4, 1)},
        {"memory_budget": 1},
        {"memory_budget": 20_000},
    ],
    ids=str,
)
def test_neither_devices_blocks_order_nor_neighbours_matter(x64, options):
    options = dict(options)
    images, x = data(), noisy()
    windows = elsjax.WindowSchedule((2, 3, 4, 5))
    one = PSPCDenoiser(images, LABELS, window=windows)
    expected = np.concatenate(
        [one.denoise(x[[b]], TIMES[b], MIXED[b]) for b in range(5)]  # each without neighbours
    )
    mesh = options.pop("mesh", None)
    order = np.random.default_rng(2).permutation(11)
    many = PSPCDenoiser(images[order], LABELS[order], window=windows, **options)
    if mesh is not None:
        many = many.with_mesh(elsjax.make_mesh(*mesh))
    np.testing.assert_allclose(many.denoise(x, TIMES, MIXED), expected, atol=1e-12)


def test_float32_keeps_to_float64():
    images = elsjax.load_dataset("mnist5k", limit=60, image_size=16).pixels
    noise = noisy(4, (16, 16, 1))
    times = np.array([0.0, 0.02, 0.2, 0.9])
    alpha, sigma = (np.reshape(level, (4, 1, 1, 1)) for level in elsjax.CosineSchedule()(times))
    x = np.float32(alpha * (images[:4] / 127.5 - 1) + sigma * noise)
    x0 = denoise_optimised(PSPCDenoiser(images, window=5, block_size=23), x, times)
    assert x0.dtype == np.float32
    # At t = 0 every crop of a training image is its own nearest.
    np.testing.assert_allclose(x0[0], images[0] / 127.5 - 1, atol=1e-5)
    with jax.enable_x64(True):
        exact = PSPCDenoiser(images, window=5).denoise(x.astype(np.float64), times)
    np.testing.assert_allclose(x0, exact, atol=1e-4)


def test_it_is_an_argument_of_jit_with_traced_times_and_labels():
    denoiser = PSPCDenoiser(data(), LABELS, window=3)
    x = noisy().astype(np.float32)
    jitted = jax.jit(lambda denoiser, x, t, label: denoiser.denoise(x, t, label))
    found = jitted(denoiser, x, TIMES, jnp.asarray([*MIXED[:4], 9]))
    np.testing.assert_allclose(found[:4], denoiser.denoise(x, TIMES, MIXED)[:4], atol=1e-5)
    assert np.isnan(found[4]).all()  # class 9 is not known
    programs = streaming._compiled._cache_size()
    first = denoiser.denoise(x, 0.3, 1)
    assert np.abs(first - denoiser.denoise(x, 0.7, 2)).max() > 0
    assert streaming._compiled._cache_size() == programs + 1  # one for any time and class
    with pytest.raises(AttributeError, match="'window' cannot be set"):
        denoiser.window = 5


@pytest.mark.parametrize(("side", "batch"), [(3, 1), (15, 8), (1, 64)])
def test_memory_keeps_to_the_budget(monkeypatch, side, batch):
    budget, used = 2**24, []

    def measured(estimator, plan, *arrays):
        lowered = compiled.lower(estimator, plan, *arrays)
        used.append(lowered.compile().memory_analysis().temp_size_in_bytes)
        return arrays[0]

    compiled = streaming._compiled
    monkeypatch.setattr(streaming, "_compiled", measured)
    for count in (2000, 9000):
        images = np.zeros((count, 32, 32, 3), np.uint8)
        denoiser = PSPCDenoiser(images, window=side, memory_budget=budget)
        denoiser.denoise(np.zeros((batch, 32, 32, 3)), 0.5)
    assert max(used) <= budget
    assert used[1] <= used[0] * 1.01


@pytest.mark.parametrize("mesh", [None, (2, 2)])
def test_it_lowers_for_every_platform(mesh):
    denoiser = PSPCDenoiser(data(), window=3, mesh=mesh and elsjax.make_mesh(*mesh))
    export = jax.export.export(
        jax.jit(lambda x: denoiser.denoise(x, 0.5)), platforms=["cpu", "cuda", "tpu"]
    )
    module = export(jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)).mlir_module()
    products = re.findall(r"stablehlo\.dot_general.*", module)
    assert products
    assert all("HIGHEST" in product for product in products)


def test_a_sample_of_one_training_image_is_that_image():
    image = data(1)
    sample = elsjax.sample(PSPCDenoiser(image, window=2), noisy(2), num_steps=3)
    np.testing.assert_allclose(sample, np.repeat(image / 127.5 - 1, 2, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 6}, "window=6 must be at most 5, the side of the images"),
        ({"window": elsjax.WindowSchedule((3, 6))}, "window=6 must be at most 5"),
        ({"window": 0}, "window=0 must be an integer of at least 1"),
        ({"window": 3.0}, "window=3.0 must be an integer"),
        ({"window": None}, "window=None must be an integer"),
        ({"window": 3, "labels": [0, 1]}, r"labels has shape \[2\]; expected \[11\]"),
        ({"window": 3, "memory_budget": 0}, "memory_budget=0 must be"),
        ({"window": 3, "block_size": -1}, "block_size=-1 must be"),
        ({"window": 3, "schedule": "cosine"}, "schedule='cosine' must be a Schedule"),
        ({"window": 3, "mesh": 2}, "mesh=2 must be a Mesh"),
    ],
)
def test_wrong_denoisers_are_refused_before_any_work(monkeypatch, options, message):
    monkeypatch.delattr(pspc.TrainingSet, "of")
    with pytest.raises(ValueError, match=message):
        PSPCDenoiser(data(), **options)


def test_wrong_questions_are_refused():
    denoiser = PSPCDenoiser(data(), LABELS, window=elsjax.WindowSchedule((2, 3)))
    with pytest.raises(ValueError, match="label=3 is no class of the data"):
        denoiser.denoise(noisy(), 0.5, 3)
    with pytest.raises(ValueError, match=r"x has shape \[1, 6, 6, 2\]"):
        denoiser.denoise(np.zeros((1, 6, 6, 2)), 0.5)
    with pytest.raises(ValueError, match="t must be a value on the host"):
        jax.jit(denoiser.denoise)(noisy(), 0.5)
    with pytest.raises(ValueError, match="label=0 needs labelled data"):
        PSPCDenoiser(data(), window=3).denoise(noisy(), 0.5, 0)


def test_devices_without_an_image_of_the_class_add_nothing(x64):
    # Four devices, and a class of a single image: three of them have none of it.
    images, labels = data(), np.array([7, *[1] * 10])
    denoiser = PSPCDenoiser(images, labels, window=3, mesh=elsjax.make_mesh(4))
    expected = np.repeat(images[:1] / 127.5 - 1, 5, axis=0)
    np.testing.assert_allclose(denoiser.denoise(noisy(), 0.6, 7), expected, atol=1e-12)
