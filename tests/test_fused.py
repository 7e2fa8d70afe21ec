"""The GPU's kernel, run by Pallas's interpreter: what it computes, not how fast."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from oracle import denoise

import elsjax
from elsjax.posterior.dictionaries import Dictionary
from elsjax.posterior.methods import choose, fused

GREY, COLOURED = (10, 12, 1), (9, 9, 3)
CASES = [
    ("ls", 3, False, GREY),
    ("ls", 3, False, COLOURED),
    ("els", 3, False, COLOURED),
    ("els", 7, True, GREY),
    ("bbels", 5, False, GREY),
    ("bbels", 9, False, COLOURED),
]


@pytest.fixture
def interpreted(monkeypatch):
    """Machines use the kernel, on this CPU, which takes the time of whole tiles for parts of them.

    So tiles are small, and several where a GPU has one.
    """
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    monkeypatch.setattr(fused, "runs_on", lambda device: True)
    monkeypatch.setattr(fused, "_ROWS", 8)
    monkeypatch.setattr(fused, "_KEYS", 16)
    yield
    jax.clear_caches()


def _pixels(num, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), np.uint8)


def _noisy(num, shape, seed=1):
    return np.random.default_rng(seed).normal(0, 1, (num, *shape)).astype(np.float32)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("kind", "window", "wrapped", "shape"), CASES)
def test_is_the_definition(kind, window, wrapped, shape):
    images, x = _pixels(7, shape), _noisy(2, shape)
    machine = elsjax.ScoreMachine(kind, images, window=window, wrap_patches=wrapped, block_size=3)
    scaled = images / 127.5 - 1
    for t in (0.2, 0.7):
        alpha, sigma = map(float, machine.schedule(t))
        expected = [denoise(kind, scaled, one, alpha, sigma, window, wrapped) for one in x]
        np.testing.assert_allclose(machine.denoise(x, t), expected, atol=2e-5)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("window", "tile"), [(3, (64, 128)), (11, (8, 16)), (17, (8, 16))])
def test_keeps_to_float64(monkeypatch, window, tile):
    monkeypatch.setattr(fused, "_ROWS", tile[0])
    monkeypatch.setattr(fused, "_KEYS", tile[1])
    images = elsjax.load_dataset("mnist5k", limit=10, image_size=24).pixels
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 3, (24, 24, 1)))
    t = np.array([0.02, 0.1, 0.5])
    alpha, sigma = (np.reshape(level, (3, 1, 1, 1)) for level in elsjax.CosineSchedule()(t))
    x = np.float32(alpha * (images[:1] / 127.5 - 1) + sigma * noise)
    x0 = elsjax.ScoreMachine("bbels", images, window=window).denoise(x, t)
    with jax.enable_x64(True):
        exact = elsjax.ScoreMachine("bbels", images, window=window).denoise(x.astype("f8"), t)
    error = np.abs(np.asarray(x0) - np.asarray(exact))
    assert error.max() < 1e-3
    assert (error.mean((1, 2, 3)) < 1e-6).all()


@pytest.mark.usefixtures("interpreted")
def test_is_free_of_devices_labels_and_neighbours(monkeypatch):
    # Pallas's interpreter does not pass the check; that the kernel does is a test below.
    monkeypatch.setattr(jax, "shard_map", functools.partial(jax.shard_map, check_vma=False))
    images, x = _pixels(13, (8, 9, 1)), _noisy(3, (8, 9, 1))
    labels = np.array([4, 9, 4, 1, 9, 9, 4, 1, 9, 9, 4, 9, 9])

    def machines(kind):
        for mesh in (None, elsjax.make_mesh(2, 2)):
            yield elsjax.ScoreMachine(kind, images, labels, window=5, mesh=mesh)

    alone, shared = machines("bbels")
    np.testing.assert_allclose(shared.denoise(x, 0.4), alone.denoise(x, 0.4), atol=1e-5)
    alone, shared = machines("els")
    for label in (None, 1, np.array([9, 1, 9])):
        expected = alone.denoise(x, 0.4, label)
        np.testing.assert_allclose(shared.denoise(x, 0.4, label), expected, atol=1e-5)
        for b in range(3):
            one = None if label is None else np.broadcast_to(label, 3)[b]
            found = alone.denoise(x[b : b + 1], 0.4, one)
            np.testing.assert_allclose(found[0], expected[b], atol=1e-5)


@pytest.mark.usefixtures("interpreted")
def test_derivatives_in_both_modes(monkeypatch):
    images, (x, direction, weights) = _pixels(5, (9, 9, 1)), _noisy(3, (9, 9, 1))[:, None]

    def slopes():
        machine = elsjax.ScoreMachine("bbels", images, window=5)
        _, forwards = jax.jvp(lambda x: machine.denoise(x, 0.7), (x,), (direction,))
        backwards = jax.grad(lambda x: jnp.vdot(weights, machine.denoise(x, 0.7)))(x)
        return forwards, backwards

    found = slopes()
    monkeypatch.setattr(fused, "runs_on", lambda device: False)
    jax.clear_caches()
    for one, other in zip(found, slopes(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("interpreted")
def test_a_tolerance_is_not_needed():
    images, x = _pixels(6, (9, 9, 1)), _noisy(2, (9, 9, 1))
    exact = elsjax.ScoreMachine("els", images, window=3).denoise(x, 0.4)
    machine = elsjax.ScoreMachine("els", images, window=3).with_index(0.5)
    x0, error = machine.denoise_with_error(x, 0.4)
    np.testing.assert_allclose(x0, exact, atol=1e-5)
    assert not np.any(error)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("kind", "window", "wrapped", "shape"), CASES[1::2])
def test_evidence_and_nearest_entry_are_those_of_the_other_methods(
    monkeypatch, kind, window, wrapped, shape
):
    images, x = _pixels(7, shape), _noisy(2, shape)
    images[5:] = images[:2]  # the nearest is often in two images
    machine = elsjax.ScoreMachine(kind, images, window=window, wrap_patches=wrapped, block_size=3)
    asked = {"t": 0.3, "top": 1, "answers": ("mean", "log_evidence")}
    found = machine.posterior(x, **asked)
    monkeypatch.setattr(fused.Fused, "applies", staticmethod(lambda part: False))
    jax.clear_caches()
    expected = machine.posterior(x, **asked)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-4)
    np.testing.assert_allclose(found.top.weight, expected.top.weight, atol=1e-3)
    for name in ("image", "row", "column"):
        np.testing.assert_array_equal(getattr(found.top, name), getattr(expected.top, name))
    assert (found.top.image < 5).all()


@pytest.mark.parametrize("window", [3, 7, 11, 17])
@pytest.mark.parametrize("kind", ["ls", "bbels"])
def test_blocks_fit_their_budget(kind, window):
    budget = 2**28
    for part in Dictionary(kind, (32, 32, 1), window).parts:
        for batch in (1, 100):
            method = choose(part, use_fused=True)
            assert isinstance(method, fused.Fused)
            plan = method.plan(batch, 60000, 4, budget)
            keys = plan.images * part.num_groups * part.keys_per_image
            size = window**2
            assert 6 * keys * size <= budget or plan.images == 1
            assert keys * size < 2**31
            assert plan.rows <= 2**14


# JAX 0.12 still has the backend, and says that it will go.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mesh", [None, (2, 2)])
@pytest.mark.parametrize(("window", "channels"), [(3, 3), (11, 1), (17, 1)])
def test_lowers_for_cuda(monkeypatch, window, channels, mesh):
    monkeypatch.setattr(fused, "runs_on", lambda device: True)
    if hasattr(triton, "get_gpu_info"):  # JAX 0.12 lowers for the GPU that it finds
        found = triton.get_gpu_info_from_version(triton.GpuVersion.H100)
        module = sys.modules[triton.GpuInfo.__module__]
        monkeypatch.setattr(module, "get_gpu_info", lambda: found)
    mesh = mesh and elsjax.make_mesh(*mesh)
    machine = elsjax.ScoreMachine("els", _pixels(8, (32, 32, channels)), window=window, mesh=mesh)
    call = "__gpu$xla.gpu.triton"
    exported = jax.export.export(
        jax.jit(lambda x: machine.denoise(x, 0.5)),
        platforms=["cuda"],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(call)],
    )(jax.ShapeDtypeStruct((2, 32, 32, channels), jnp.float32))
    assert exported.mlir_module().count(f"@{call}") == 1
    jax.clear_caches()
