from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elsjax
from elsjax.analytic import linear, wiener
from elsjax.analytic.tiles import tiles_of
from elsjax.posterior.dictionaries import Dictionary

with np.load(Path(__file__).parent / "reference" / "wiener.npz") as _archive:
    REFERENCE = dict(_archive)
OUTPUTS = sorted(key for key in REFERENCE if "/wiener/" in key and "/t0.2" in key)
SHAPE = (6, 5, 2)
KINDS = {"is": None, "es": None, "ls": 3, "els": 3, "bbels": 3}


def pixels(count=200, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def noisy(count=3, seed=1, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((count, *shape))


@pytest.mark.parametrize("key", OUTPUTS)
def test_every_kind_is_the_reference(x64, key):
    name, _, kind, _, *more = key.split("/")
    conditional = "conditional" in more
    denoiser = elsjax.WienerDenoiser(
        REFERENCE[f"{name}/pixels"],
        REFERENCE[f"{name}/labels"] if conditional else None,
        kind=kind.removesuffix("_wrapped"),
        window=int(more[0][1:]) if more else None,
        wrap_patches=kind == "els_wrapped",
    )
    label = int(REFERENCE[f"{name}/label"]) if conditional else None
    for t in (0.2, 0.6):
        found = denoiser.denoise(REFERENCE[f"{name}/x/t{t}"], t, label)
        expected = REFERENCE[key.replace("t0.2", f"t{t}")]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def by_definition(images, x, alpha, sigma, row, column, reach):
    """LS at one pixel."""
    height, width, _ = x.shape
    window = (
        slice(max(0, row - reach), min(height, row + reach + 1)),
        slice(max(0, column - reach), min(width, column + reach + 1)),
    )
    patches = images[:, *window].reshape(len(images), -1)
    centres = images[:, row, column]
    apart = patches - patches.mean(0)
    cross = (centres - centres.mean(0)).T @ apart / len(images)
    matrix = alpha**2 * apart.T @ apart / len(images) + sigma**2 * np.eye(apart.shape[1])
    seen = x[window].reshape(-1) - alpha * patches.mean(0)
    return centres.mean(0) + alpha * cross @ np.linalg.solve(matrix, seen)


@pytest.mark.parametrize(("window", "shape"), [(7, (9, 11, 1)), (9, (9, 11, 1)), (15, (9, 11, 1))])
def test_what_neighbours_share_changes_nothing(x64, window, shape):
    images, x = pixels(60, shape=shape) / 127.5 - 1, noisy(1, shape=shape)
    (part,) = Dictionary("ls", shape, window).parts
    tiles = tiles_of(part)
    assert tiles.own.shape[1] > 1  # several pixels share
    denoiser = elsjax.WienerDenoiser(images, kind="ls", window=window)
    alpha, sigma = map(float, denoiser.schedule(0.4))
    found = np.asarray(denoiser.denoise(x, 0.4))[0]
    for row, column in [(0, 0), (4, 5), (8, 10), (3, 9), (8, 2)]:
        expected = by_definition(images, x[0], alpha, sigma, row, column, window // 2)
        np.testing.assert_allclose(found[row, column], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_limits(x64, kind):
    denoiser = elsjax.WienerDenoiser(
        pixels(), kind=kind, window=KINDS[kind], schedule=elsjax.ExponentialSchedule(20)
    )
    # Without noise nothing is lost: 200 images span all 60 directions.
    np.testing.assert_allclose(denoiser.denoise(noisy(), 0), noisy(), rtol=0, atol=1e-7)
    # Of noise alone nothing is learnt: the mean of what the dictionary holds.
    found = np.asarray(denoiser.denoise(noisy(), 1))
    images = pixels() / 127.5 - 1
    expected = {
        "is": images.mean(0),
        "ls": images.mean(0),
        "es": images.mean((0, 1, 2)),
        "els": images[:, 1:-1, 1:-1].mean((0, 1, 2)),
        "bbels": images[:, 1:-1, 1:-1].mean((0, 1, 2)),
    }[kind]
    expected = np.broadcast_to(expected, SHAPE)
    inside = np.s_[:, 1:-1, 1:-1] if kind == "bbels" else np.s_[:]
    np.testing.assert_allclose(found[inside], expected[None][inside].repeat(3, 0), atol=1e-7)


@pytest.mark.parametrize("kind", ["is", "ls"])
def test_few_images_span_few_directions(x64, kind):
    images = pixels(5) / 127.5 - 1
    window = None if kind == "is" else 11
    found = np.asarray(elsjax.WienerDenoiser(images, kind=kind, window=window).denoise(noisy(), 0))
    mean = images.mean(0)
    basis = np.linalg.qr((images - mean).reshape(5, -1).T)[0][:, :4]
    projected = (noisy() - mean).reshape(3, -1) @ basis @ basis.T
    # The noise that counts least, 1e-11 of the trace, is what rounding of 1e-16 is compared with.
    np.testing.assert_allclose((found - mean).reshape(3, -1), projected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_constant(kind):
    one = np.full((3, *SHAPE), 51, np.uint8)
    denoiser = elsjax.WienerDenoiser(one, kind=kind, window=KINDS[kind])
    for t in (0, 0.3, 1):
        np.testing.assert_allclose(denoiser.denoise(noisy(), t), -0.6, atol=1e-5)


def test_a_constant_pixel_among_others(x64):
    images = pixels()
    images[:, 2, 3] = 51
    for kind in ("is", "ls"):
        found = elsjax.WienerDenoiser(images, kind=kind, window=KINDS[kind]).denoise(noisy(), 0)
        np.testing.assert_allclose(found[:, 2, 3], -0.6, atol=1e-4)
        np.testing.assert_allclose(found[:, 4], noisy()[:, 4], atol=1e-6)


def test_a_window_over_everything_is_the_image(x64):
    whole = elsjax.WienerDenoiser(pixels()).denoise(noisy(), 0.4)
    for kind, window in (("ls", 11), ("bbels", 11), ("ls", 101)):
        denoiser = elsjax.WienerDenoiser(pixels(), kind=kind, window=window)
        np.testing.assert_allclose(denoiser.denoise(noisy(), 0.4), whole, rtol=0, atol=1e-12)
    # Of the next smaller window that is true of the pixel in the middle.
    denoiser = elsjax.WienerDenoiser(pixels(shape=(5, 5, 1)), kind="ls", window=5)
    whole = elsjax.WienerDenoiser(pixels(shape=(5, 5, 1)))
    x = noisy(shape=(5, 5, 1))
    one, other = denoiser.denoise(x, 0.4), whole.denoise(x, 0.4)
    np.testing.assert_allclose(one[:, 2, 2], other[:, 2, 2], rtol=0, atol=1e-12)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("kind", ["is", "es", "ls", "els"])
def test_results_depend_on_nothing_else(x64, kind):
    images, labels, x = pixels(60), np.arange(60) % 3, noisy(4)
    options = {"kind": kind, "window": KINDS[kind]}
    denoiser = elsjax.WienerDenoiser(images, labels, **options)
    near = {"rtol": 0, "atol": 1e-10}
    together = denoiser.denoise(x, [0.2, 0.5, 0.6, 0.7], [0, 2, 0, 1])
    for n, (t, label) in enumerate([(0.2, 0), (0.5, 2), (0.6, 0), (0.7, 1)]):
        # A class is the images of that class, in any order.
        alone = elsjax.WienerDenoiser(images[labels == label][::-1], **options)
        np.testing.assert_allclose(alone.denoise(x[n : n + 1], t)[0], together[n], **near)
    all_of_them = denoiser.denoise(x, 0.5)
    assert np.abs(all_of_them[1] - together[1]).max() > 1e-3
    # Times and labels that are traced; an unknown class is not known before.
    jitted = jax.jit(lambda denoiser, *arguments: denoiser.denoise(*arguments))
    found = jitted(denoiser, x, jnp.array([0.2, 0.5, 0.6, 0.7]), jnp.array([0, 2, 0, 3]))
    np.testing.assert_allclose(found[:3], together[:3], **near)
    assert np.isnan(found[3]).all()
    found = jax.vmap(lambda t: denoiser.denoise(x, t))(jnp.array([0.7, 0.5]))
    np.testing.assert_allclose(found[1], all_of_them, **near)


@pytest.mark.parametrize("kind", ["is", "es", "bbels"])
def test_it_is_linear_but_for_the_mean(x64, kind):
    denoiser = elsjax.WienerDenoiser(pixels(), kind=kind, window=KINDS[kind])
    x = noisy(2)
    found = denoiser.denoise(np.stack([x[0], x[1], 2 * x[0] - 3 * x[1], 0 * x[0]]), 0.5)
    apart = np.asarray(found - found[3:])
    np.testing.assert_allclose(apart[2], 2 * apart[0] - 3 * apart[1], rtol=0, atol=1e-10)


def test_it_does_not_matter_how_much_is_looked_at_at_once(x64, monkeypatch):
    for kind in ("ls", "els"):
        denoiser = elsjax.WienerDenoiser(pixels(), kind=kind, window=3)
        expected = denoiser.denoise(noisy(), 0.5)
        for limit in (1, 20_000):
            monkeypatch.setattr(linear, "_AT_ONCE", limit)
            wiener._estimate.clear_cache()
            np.testing.assert_allclose(denoiser.denoise(noisy(), 0.5), expected, atol=1e-10)
        monkeypatch.undo()
        wiener._estimate.clear_cache()


def test_windows_of_a_schedule():
    windows = elsjax.WindowSchedule((1, 3))
    denoiser = elsjax.WienerDenoiser(pixels(), kind="ls", window=windows)
    found = denoiser.denoise(noisy(2), [0.5, 1.0])
    for n, (side, t) in enumerate([(1, 0.5), (3, 1.0)]):
        one = elsjax.WienerDenoiser(pixels(), kind="ls", window=side)
        np.testing.assert_allclose(found[n], one.denoise(noisy(2)[n : n + 1], t)[0], atol=1e-6)
    with pytest.raises(ValueError, match="t must be a value on the host"):
        jax.jit(denoiser.denoise)(noisy(2), 0.5)


def test_another_time_or_class_is_the_same_program():
    denoiser = elsjax.WienerDenoiser(pixels(), np.arange(200) % 2, kind="ls", window=3)
    denoiser.denoise(noisy(), 0.3, 0)
    programs = wiener._estimate._cache_size()
    denoiser.denoise(noisy(), 0.7, 1)
    elsjax.WienerDenoiser(pixels(seed=2), np.arange(200) % 2, kind="ls", window=3).denoise(
        noisy(), 0.1, 1
    )
    assert wiener._estimate._cache_size() == programs


@pytest.mark.parametrize(("kind", "window"), [("is", None), ("ls", 3)])
def test_noisy_images_on_many_devices(kind, window):
    denoiser = elsjax.WienerDenoiser(pixels(), np.arange(200) % 2, kind=kind, window=window)
    expected = denoiser.denoise(noisy(5), 0.4, 1)
    on_devices = denoiser.with_mesh(elsjax.make_mesh(2, 2))
    np.testing.assert_allclose(on_devices.denoise(noisy(5), 0.4, 1), expected, atol=1e-5)
    with pytest.raises(ValueError, match="mesh"):
        denoiser.with_mesh(2)


@pytest.mark.parametrize("kind", ["is", "es", "bbels", "els_wrapped"])
def test_programs_lower_for_every_platform(kind):
    wrapped = kind == "els_wrapped"
    kind = kind.removesuffix("_wrapped")
    options = {"window": None if KINDS[kind] is None else 5, "wrap_patches": wrapped}
    shape = (8, 8, 1)
    denoiser = elsjax.WienerDenoiser(pixels(3, shape=shape), kind=kind, **options)
    export = jax.export.export(
        jax.jit(lambda x: denoiser.denoise(x, 0.5)), platforms=["cpu", "cuda", "tpu"]
    )
    text = export(jax.ShapeDtypeStruct((2, *shape), jnp.float32)).mlir_module()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products)


def test_memory_is_the_budget():
    shape = (12, 12, 1)
    needed = 144 * 145 * 4 + linear.bytes_needed(Dictionary("ls", shape, 5))
    options = {"kind": "ls", "window": 5}
    denoiser = elsjax.WienerDenoiser(pixels(4, shape=shape), memory_budget=needed, **options)
    with pytest.raises(ValueError, match=rf"memory_budget={needed - 1} .* at least {needed} "):
        elsjax.WienerDenoiser(pixels(4, shape=shape), memory_budget=needed - 1, **options)
    dictionary, level = Dictionary("ls", shape, 5), jnp.array(0.5)
    x = jnp.zeros((1, *shape))
    lowered = wiener._estimate.lower(dictionary, denoiser.moments, x, level, level, None)
    assert lowered.compile().memory_analysis().temp_size_in_bytes <= needed


def test_wrong_arguments():
    for wrong in (pixels()[0], pixels(0), np.full((2, *SHAPE), np.nan), pixels().astype(int)):
        with pytest.raises(ValueError, match="images"):
            elsjax.WienerDenoiser(wrong)
    for name, wrong, message in [
        ("kind", "pca", "kind='pca' is not known"),
        ("window", 3, "window=3 must be None: kind='is' sees the whole image"),
        ("memory_budget", 0, "memory_budget=0 must be an integer of at least 1"),
        ("schedule", "cosine", "schedule='cosine' must be a Schedule"),
        ("wrap_patches", True, "wrap_patches=True applies to kind='els' only"),
        ("labels", [1, 2], r"labels has shape \[2\]; expected \[200\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            elsjax.WienerDenoiser(pixels(), **{name: wrong})
    for window in (None, 2, 7, elsjax.WindowSchedule((3, 7))):
        with pytest.raises(ValueError, match="window="):
            elsjax.WienerDenoiser(pixels(), kind="els", window=window)
    denoiser = elsjax.WienerDenoiser(pixels())
    with pytest.raises(ValueError, match="label=1 needs labelled data"):
        denoiser.denoise(noisy(), 0.5, 1)
    denoiser = elsjax.WienerDenoiser(pixels(), np.arange(200) % 2)
    with pytest.raises(ValueError, match=r"label=2 is no class of the data; it has \(0, 1\)"):
        denoiser.denoise(noisy(), 0.5, 2)
    with pytest.raises(AttributeError, match="'kind' cannot be set"):
        denoiser.kind = "ls"
