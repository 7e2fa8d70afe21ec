import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import denoise_optimised
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import denoise

import elsjax
from elsjax.posterior.dictionaries import Dictionary
from elsjax.posterior.methods import choose
from elsjax.posterior.methods.sliding import Sliding

# Every kind, with windows inside the image, reaching the borders and, where allowed, beyond.
CASES = [
    ("is", None, False),
    ("es", None, False),
    *[("ls", window, False) for window in (1, 3, 7, 25)],
    *[("els", window, wrapped) for window in (1, 3, 5) for wrapped in (False, True)],
    *[("bbels", window, False) for window in (1, 3, 5, 7, 25)],
]

# Windows whose products are passed on from row to row.
SLIDING_SHAPE = (12, 11, 3)
SLIDING = [("els", 7, False), ("els", 7, True), ("bbels", 7, False), ("els", 9, False)]


def _images(num, shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num, *shape))


def _machine(kind, images, window, wrapped=False, **options):
    return elsjax.ScoreMachine(kind, images, window=window, wrap_patches=wrapped, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "window", "wrapped"), CASES)
@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 8, 3)])
def test_denoise_is_the_definition(kind, window, wrapped, shape):
    images, x = _images(7, shape), _images(2, shape, seed=1)
    machine = _machine(kind, images, window, wrapped, block_size=3)
    for t in (0.1, 0.6):
        alpha, sigma = map(float, machine.schedule(t))
        expected = [denoise(kind, images, one, alpha, sigma, window, wrapped) for one in x]
        np.testing.assert_allclose(machine.denoise(x, t), expected, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "window", "wrapped"), SLIDING)
def test_passing_products_on_is_the_definition(kind, window, wrapped):
    part = Dictionary(kind, SLIDING_SHAPE, window, wrapped).parts[0]
    assert isinstance(choose(part), Sliding)
    images, x = _images(5, SLIDING_SHAPE), _images(3, SLIDING_SHAPE, seed=1)
    for t in (0.1, 0.6):
        alpha, sigma = map(float, elsjax.CosineSchedule()(t))
        expected = [denoise(kind, images, one, alpha, sigma, window, wrapped) for one in x]
        for options in ({}, {"block_size": 2}, {"memory_budget": 1}):
            machine = _machine(kind, images, window, wrapped, **options)
            np.testing.assert_allclose(machine.denoise(x, t), expected, atol=1e-11)


@pytest.mark.parametrize("t", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("kind", "window"), [("ls", 9), ("els", 3), ("els", 11), ("bbels", 11)])
def test_float32_keeps_to_float64(kind, window, t):
    images = elsjax.load_dataset("mnist5k", limit=25, image_size=32).pixels
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 2, (32, 32, 1)))
    alpha, sigma = map(float, elsjax.CosineSchedule()(t))
    x = np.float32(alpha * (images[:2] / 127.5 - 1) + sigma * noise)
    x0 = denoise_optimised(_machine(kind, images, window), x, t)
    assert x0.dtype == np.float32
    with jax.enable_x64(True):
        exact = _machine(kind, images, window).denoise(x.astype(np.float64), t)
    error = np.abs(np.asarray(x0) - np.asarray(exact))
    assert error.max() < 1e-3
    assert error.mean() < 1e-6


def test_long_sums_round_off_little():
    # Edges of bbELS have few rows, and 30 places of every training image to sum over.
    images = elsjax.load_dataset("mnist5k", limit=1000, image_size=32).pixels
    x = np.asarray(elsjax.initial_noise(jax.random.key(0), 1, (32, 32, 1)))
    x0 = denoise_optimised(_machine("bbels", images, 3), x, 0.8)
    with jax.enable_x64(True):
        exact = denoise_optimised(_machine("bbels", images, 3), x.astype(np.float64), 0.8)
    assert np.abs(np.asarray(x0) - np.asarray(exact)).max() < 1e-5


@pytest.mark.parametrize(("mantissa", "least", "most"), [(10, 3e-2, 1e-3), (7, 0.1, 1e-2)])
def test_products_need_their_precision_at_low_noise(monkeypatch, mantissa, least, most):
    # TF32 and bfloat16 keep 10 and 7 bits of what enters a product. Near t = 1 that would do; at
    # low noise it picks wrong patches. This is why every product states the highest precision.
    tensordot, einsum = jnp.tensordot, jnp.einsum

    def rounded(*arrays):
        return [jax.lax.reduce_precision(array, 8, mantissa) for array in arrays]

    images = elsjax.load_dataset("mnist5k", limit=41, image_size=32).pixels
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 2, (32, 32, 1)))
    t = np.array([0.05, 0.95])
    alpha, sigma = (np.reshape(level, (2, 1, 1, 1)) for level in elsjax.CosineSchedule()(t))
    x = np.float32(alpha * (images[40:] / 127.5 - 1) + sigma * noise)
    exact = np.asarray(_machine("els", images[:40], 11).denoise(x, t))
    monkeypatch.setattr(
        jnp, "tensordot", lambda a, b, *args, **kw: tensordot(*rounded(a, b), *args, **kw)
    )
    monkeypatch.setattr(
        jnp, "einsum", lambda spec, *args, **kw: einsum(spec, *rounded(*args), **kw)
    )
    jax.clear_caches()
    errors = np.abs(np.asarray(_machine("els", images[:40], 11).denoise(x, t)) - exact)
    jax.clear_caches()
    assert errors[0].max() > least
    assert 0 < errors[1].max() < most


def _reference_groups(reference):
    """Keys of the reference file's posterior means, by what one machine computes at once."""
    groups = {}
    for key in reference:
        data, kind, *rest = key.split("/")
        if len(rest) >= 2:
            _, _, *window_and_label = rest
            groups.setdefault((data, kind, *window_and_label), []).append(key)
    return groups


@pytest.mark.parametrize(
    ("double", "block_size", "tolerance"), [(True, 5, 1e-9), (False, None, 5e-4)]
)
def test_reference_posterior_means(reference, double, block_size, tolerance):
    seen = 0
    with jax.enable_x64(double):
        for (data, kind, *rest), keys in _reference_groups(reference).items():
            machine = elsjax.ScoreMachine(
                kind.split("_")[0],
                reference[f"{data}/images"],
                reference[f"{data}/labels"],
                window=int(rest[0][1:]) if rest else None,
                wrap_patches=kind.endswith("wrapped"),
                block_size=block_size,
            )
            inputs, times = zip(*(key.split("/")[2:4] for key in keys), strict=True)
            x = np.concatenate([reference[f"{data}/{name}"] for name in inputs])
            t = np.repeat([float(time[1:]) for time in times], 2)
            label = int(reference[f"{data}/label"]) if "conditional" in rest else None
            found = np.split(np.asarray(machine.denoise(x, t, label)), len(keys))
            for key, x0 in zip(keys, found, strict=True):
                np.testing.assert_allclose(x0, reference[key], rtol=0, atol=tolerance, err_msg=key)
            seen += len(keys)
    assert seen == 170


@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-9), (False, 5e-4)])
def test_reference_trajectories(reference, double, tolerance):
    windows = elsjax.WindowSchedule(reference["ddim10/windows_low_to_high_noise"].tolist())
    keys = [key for key in reference if key.endswith("/ddim10")]
    assert len(keys) == 6
    with jax.enable_x64(double):
        for key in keys if double else keys[:3]:
            data, kind, _ = key.split("/")
            machine = elsjax.ScoreMachine(kind, reference[f"{data}/images"], window=windows)
            sample = elsjax.sample(machine, reference[f"{data}/x_noise"][:1], num_steps=10)
            np.testing.assert_allclose(sample[0], reference[key], atol=tolerance, err_msg=key)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "window", "wrapped"), CASES)
def test_result_is_free_of_blocks_order_and_neighbours(kind, window, wrapped):
    images, x = _images(11, (6, 6, 2)), _images(3, (6, 6, 2), seed=1)
    t = np.array([0.2, 0.5, 0.9])
    whole = _machine(kind, images, window, wrapped).denoise(x, t)
    # A budget too small for anything cuts images and rows of queries into single ones.
    for options in ({"block_size": 4}, {"memory_budget": 1}):
        machine = _machine(kind, images[::-1], window, wrapped, **options)
        np.testing.assert_allclose(machine.denoise(x, t), whole, atol=1e-12)
    for b in range(3):
        np.testing.assert_allclose(machine.denoise(x[b : b + 1], t[b])[0], whole[b], atol=1e-12)


@pytest.mark.usefixtures("x64")
@settings(max_examples=15, deadline=None)
@given(shift=st.tuples(st.integers(-5, 5), st.integers(-6, 6)), t=st.floats(0.02, 1.0))
@pytest.mark.parametrize(
    ("kind", "window", "wrapped"), [("es", None, False), ("els", 3, False), ("els", 3, True)]
)
def test_equivariant_kinds_commute_with_circular_shifts(kind, window, wrapped, shift, t):
    with jax.enable_x64(True):
        machine = _machine(kind, _images(4, (5, 6, 1)), window, wrapped)
        x = _images(1, (5, 6, 1), seed=1)
        shifted = machine.denoise(np.roll(x, shift, (1, 2)), t)
        expected = np.roll(machine.denoise(x, t), shift, (1, 2))
    np.testing.assert_allclose(shifted, expected, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["ls", "bbels"])
def test_window_beyond_the_image_is_the_ideal_machine(kind):
    images, x = _images(6, (5, 7, 1)), _images(2, (5, 7, 1), seed=1)
    ideal = _machine("is", images, None).denoise(x, 0.3)
    for window in (13, 15, 99):  # 2 * 7 - 1 = 13
        np.testing.assert_allclose(
            _machine(kind, images, window).denoise(x, 0.3), ideal, atol=1e-12
        )
    assert np.abs(_machine(kind, images, 9).denoise(x, 0.3) - ideal).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_high_noise_gives_the_mean_of_the_dictionary():
    images, x = _images(6, (6, 6, 2)), _images(1, (6, 6, 2), seed=1)
    endless = elsjax.ExponentialSchedule(horizon=25.0)
    means = {
        ("is", None): images.mean(0),
        ("ls", 3): images.mean(0),
        ("es", None): np.broadcast_to(images.mean((0, 1, 2)), (6, 6, 2)),
        ("els", 3): np.broadcast_to(images[:, 1:5, 1:5].mean((0, 1, 2)), (6, 6, 2)),
    }
    for (kind, window), mean in means.items():
        x0 = _machine(kind, images, window, schedule=endless).denoise(x, 1.0)
        np.testing.assert_allclose(x0[0], mean, atol=1e-8)


@pytest.mark.parametrize("t", [0.0, 1e-4])
def test_no_noise_gives_the_centre_of_the_nearest_patch(t):
    images, x = _images(6, (6, 6, 1)), _images(1, (6, 6, 1), seed=1)
    x0 = _machine("els", images, 3).denoise(x, t)
    padded = np.pad(x[0, :, :, 0], 1, "wrap")
    view = np.lib.stride_tricks.sliding_window_view
    patches = view(images[..., 0], (3, 3), (1, 2)).reshape(-1, 9)
    queries = view(padded, (3, 3)).reshape(-1, 9)
    nearest = ((queries[:, None] - patches[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_allclose(x0[0].ravel(), patches[nearest, 4], atol=1e-6)


def _black_and_white(numbers, side):
    """Images [side, side, N] of 0 and 1, by the bits of their numbers."""
    bits = (numbers >> np.arange(side * side)[:, None]) & 1
    return bits.astype(np.int8).reshape(side, side, -1)


@pytest.mark.parametrize(("side", "count"), [(3, 2), (4, 188), (5, 2142)])
def test_toy_has_the_known_number_of_consistent_images(side, count):
    """Black and white training images: fixed points of the sigma -> 0 flow, 3 x 3 windows."""
    consistent = []  # each pixel has the colour of most of its window
    # The last pixel stays black: inverting an image inverts the answer.
    for first in range(0, 2 ** (side * side - 1), 2**16):
        numbers = np.arange(first, min(first + 2**16, 2 ** (side * side - 1)), dtype=np.int32)
        pixels = _black_and_white(numbers, side)
        rows = pixels + np.roll(pixels, 1, 0) + np.roll(pixels, -1, 0)
        white = rows + np.roll(rows, 1, 1) + np.roll(rows, -1, 1)
        consistent.append(((white > 4) == pixels).all((0, 1)))
    consistent = np.concatenate(consistent)
    assert 2 * consistent.sum() == count

    # The machine keeps those, and those only: all images of the small sides, some of the large.
    numbers = np.arange(consistent.size)
    if side == 5:
        some = np.random.default_rng(0).choice(numbers, 2**13)
        numbers = np.union1d(np.flatnonzero(consistent), some)
    x = 2.0 * np.moveaxis(_black_and_white(numbers, side), 2, 0)[..., None] - 1.0
    images = np.stack([np.full((side, side, 1), colour, np.float32) for colour in (-1, 1)])
    machine = _machine("els", images, 3, memory_budget=2**28)
    stays = (np.abs(machine.denoise(x, 0.0) - x) < 1e-5).all((1, 2, 3))
    np.testing.assert_array_equal(stays, consistent[numbers])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["is", "ls", "els", "bbels", "es"])
def test_label_restricts_the_dictionary_to_its_class(kind):
    window = None if kind in ("is", "es") else 3
    images, x = _images(13, (5, 5, 1)), _images(3, (5, 5, 1), seed=1)
    labels = np.array([4, 9, 4, 1, 9, 9, 4, 1, 9, 9, 4, 9, 9])
    machine = elsjax.ScoreMachine(kind, images, labels, window=window, block_size=4)
    assert machine.labels == (1, 4, 9)
    expected = {
        label: _machine(kind, images[labels == label], window).denoise(x, 0.3)
        for label in (1, 4, 9)
    }
    for label in (1, 4, 9):
        np.testing.assert_allclose(machine.denoise(x, 0.3, label), expected[label], atol=1e-12)
    mixed = machine.denoise(x, 0.3, np.array([9, 1, 9]))
    np.testing.assert_allclose(mixed, [expected[9][0], expected[1][1], expected[9][2]], atol=1e-12)


def test_window_schedule_gives_each_time_its_window():
    images, x = _images(5, (8, 8, 1)), _images(4, (8, 8, 1), seed=1)
    machine = _machine("bbels", images, elsjax.WindowSchedule((3, 5, 7)))
    t = np.array([1.0, 0.3, 0.7, 0.31])
    x0 = machine.denoise(x, t)
    for b, window in enumerate((7, 3, 5, 3)):
        alone = _machine("bbels", images, window).denoise(x[b : b + 1], t[b])
        np.testing.assert_allclose(x0[b], alone[0], atol=1e-5)


def test_score_and_noise_are_forms_of_the_posterior_mean():
    machine = _machine("els", _images(5, (6, 6, 1)), 3)
    x = _images(2, (6, 6, 1), seed=1).astype(np.float32)
    t = np.array([0.3, 0.8])
    alpha, sigma = (np.asarray(level)[:, None, None, None] for level in machine.schedule(t))
    x0 = np.asarray(machine.denoise(x, t))
    np.testing.assert_allclose(machine.predict_noise(x, t), (x - alpha * x0) / sigma, rtol=1e-5)
    np.testing.assert_allclose(machine.score(x, t), (alpha * x0 - x) / sigma**2, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_score_is_the_gradient_of_the_log_density():
    images, x = _images(5, (3, 3, 1)), _images(1, (3, 3, 1), seed=1)
    machine = _machine("is", images, None)
    alpha, sigma = machine.schedule(0.4)

    def log_density(x):
        squares = ((x - alpha * jnp.asarray(images)) ** 2).sum((1, 2, 3))
        return jax.nn.logsumexp(-squares / (2 * sigma**2))

    np.testing.assert_allclose(machine.score(x, 0.4), jax.grad(log_density)(x), rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "window"), [("ls", 5), ("els", 3), ("els", 7), ("bbels", 7)])
def test_derivatives_in_both_modes(kind, window):
    machine = _machine(kind, _images(5, SLIDING_SHAPE), window)
    x, direction, weights = _images(3, SLIDING_SHAPE, seed=1)[:, None]
    step = 1e-5
    ahead, behind = (machine.denoise(x + sign * step * direction, 0.7) for sign in (1, -1))
    _, forwards = jax.jvp(lambda x: machine.denoise(x, 0.7), (x,), (direction,))
    backwards = jax.grad(lambda x: jnp.vdot(weights, machine.denoise(x, 0.7)))(x)
    np.testing.assert_allclose(forwards, (ahead - behind) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(jnp.vdot(backwards, direction), jnp.vdot(weights, forwards))


def test_uint8_images_and_their_floats_are_the_same_images():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 6, 3), np.uint8)
    floats = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    from_pixels, from_floats = (_machine("els", images, 3) for images in (pixels, floats))
    x = _images(1, (6, 6, 3), seed=1)
    assert jax.tree.leaves(from_floats)[0].dtype == np.uint8
    np.testing.assert_array_equal(from_pixels.denoise(x, 0.3), from_floats.denoise(x, 0.3))


IMAGES = np.zeros((4, 6, 6, 1), np.float32)
X = np.zeros((2, 6, 6, 1), np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("elf", IMAGES), {"window": 3}, "kind='elf' is not known; expected one of is, es, ls"),
        (("els", IMAGES), {}, "window=None must be an odd positive integer"),
        (("els", IMAGES), {"window": 4}, "window=4 must be an odd"),
        (("ls", IMAGES), {"window": -3}, "window=-3 must be an odd"),
        (("els", IMAGES), {"window": 7}, "window=7 must be at most 6 for kind='els'"),
        (("els", IMAGES), {"window": elsjax.WindowSchedule((3, 9))}, "window=9 must be at most 6"),
        (("ls", IMAGES), {"window": elsjax.WindowSchedule((3, 4))}, "window=4 must be an odd"),
        (("is", IMAGES), {"window": 3}, "window=3 must be None: kind='is'"),
        (("ls", IMAGES), {"window": 3, "wrap_patches": True}, "wrap_patches=True applies to"),
        (("is", IMAGES[0]), {}, r"images has shape \[6, 6, 1\]; expected \[batch, height"),
        (("is", IMAGES[:0]), {}, "images is empty"),
        (("is", IMAGES.astype(int)), {}, "images has dtype int64; expected floating point"),
        (("is", np.where(np.arange(6)[:, None] == 2, np.nan, IMAGES)), {}, "images must be finite"),
        (("is", IMAGES, [0, 1]), {}, r"labels has shape \[2\]; expected \[4\]"),
        (("is", IMAGES, np.zeros(4)), {}, "labels has .*dtype float64"),
        (("is", IMAGES), {"block_size": 0}, "block_size=0 must be an integer of at least 1"),
        (("is", IMAGES), {"memory_budget": 0.5}, "memory_budget=0.5 must be"),
    ],
)
def test_wrong_machines_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        elsjax.ScoreMachine(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], 0.5), r"x has shape \[6, 6, 1\]; expected \[batch, 6, 6, 1\]"),
        ((np.zeros((2, 6, 6, 3)), 0.5), r"x has shape \[2, 6, 6, 3\]; expected \[batch, 6, 6, 1\]"),
        ((X + np.inf, 0.5), r"x must be finite, but x\[0, 0, 0, 0\] is inf"),
        ((jnp.asarray(X) + jnp.nan, 0.5), "x must be finite"),
        ((X, 1.5), r"t=1.5 must lie in \[0, 1\]"),
        ((X, -0.1), "t=-0.1 must lie in"),
        ((X, np.nan), "t=nan must lie in"),
        ((X, [0.1, 0.2, 0.3]), r"t has shape \[3\]; expected \[\] or \[2\]"),
        ((X, 0.5, 7), "label=7 is no class of the data"),
        ((X, 0.5, [0, 5]), "label=5 is no class of the data"),
        ((X, 0.5, [0, 1, 1]), r"label has shape \[3\]; expected \[\] or \[2\]"),
    ],
)
def test_wrong_questions_are_refused(arguments, message):
    machine = elsjax.ScoreMachine("els", IMAGES, [0, 0, 1, 1], window=3)
    with pytest.raises(ValueError, match=message):
        machine.denoise(*arguments)


def test_questions_without_an_answer_are_refused():
    machine = elsjax.ScoreMachine("els", IMAGES, window=elsjax.WindowSchedule((3,)))
    with pytest.raises(ValueError, match="label=1 needs labelled data"):
        machine.denoise(X, 0.5, 1)
    with pytest.raises(ValueError, match="t=0 must be positive here"):
        machine.predict_noise(X, 0)
    with pytest.raises(ValueError, match="t must be a value on the host"):
        jax.jit(machine.denoise)(X, 0.5)
