"""The index and its search: exact in the limit, honest about their error otherwise."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elsjax
from elsjax.pixels import to_uint8
from elsjax.posterior import index
from elsjax.posterior.answers import Question
from elsjax.posterior.dictionaries import Dictionary
from elsjax.posterior.evaluation import evaluate
from elsjax.posterior.index import build, clusters, packing, search
from elsjax.posterior.shares import Levels
from elsjax.posterior.training_set import TrainingSet


@pytest.fixture(autouse=True)
def index_dir(monkeypatch, tmp_path):
    """Indices of a test are its own, and few or large patches are looked up too, not all opened."""
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(search, "_FEWEST_PATCHES", 0)
    monkeypatch.setattr(search, "_MOST_ENTRIES", 150)
    monkeypatch.setattr(search, "_FEWEST", 128)
    return tmp_path / "indices"


@functools.cache
def digits(limit: int) -> elsjax.Dataset:
    return elsjax.load_dataset("mnist5k", limit=limit, image_size=20)


def noisy(images: np.ndarray, t: float, batch: int = 1) -> np.ndarray:
    alpha, sigma = elsjax.CosineSchedule()(t)
    noise = np.random.default_rng(0).standard_normal((batch, *images.shape[1:]))
    return np.asarray(alpha * images[:batch] + sigma * noise)


def random_pixels(num: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of few grey levels, so that patches repeat."""
    return np.random.default_rng(1).integers(0, 3, (num, *shape)).astype(np.uint8) * 127


@pytest.mark.parametrize(
    ("kind", "wrap", "shape", "window", "sigma"),
    [
        ("bbels", False, (12, 12, 1), 3, 0.6),
        ("bbels", False, (10, 13, 3), 5, 0.6),
        ("els", False, (12, 9, 3), 3, 0.6),
        ("els", True, (9, 12, 1), 5, 0.6),
        ("els", False, (9, 9, 1), 3, 0.01),  # patches far likelier than their clusters seem
    ],
)
def test_tolerance_zero_is_exact(x64, kind, wrap, shape, window, sigma):
    images = random_pixels(150, shape)
    part = Dictionary(kind, shape, window, wrap).parts[0]
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, *shape)))
    training_set = TrainingSet.of(images, None, None)
    alpha = 0.8
    built = build.build_index(images, part)
    levels = Levels(jnp.full(3, alpha), jnp.full(3, sigma))

    @jax.jit
    def both(x, training_set, built):
        origin = training_set.mean_pixel + 0.1
        patches = index.lay_out(built, training_set.pixels, part, 0, origin)
        dictionary = Dictionary(kind, shape, window, wrap)
        exact = evaluate(dictionary, Question(), x, levels, training_set, None)["mean"]
        return (
            *index.posterior_mean(part, x, alpha, sigma, origin, built, patches, 0.0),
            exact.reshape(3, -1, shape[2])[:, part.pixels],
        )

    mean, error, exact = both(x, training_set, built)
    np.testing.assert_allclose(mean, exact, atol=1e-10)
    assert (error == 0).all()


@pytest.mark.parametrize(("window", "t"), [(3, 0.2), (7, 0.35), (9, 0.55), (11, 0.6)])
def test_errors_keep_to_the_tolerance_and_the_estimates_cover_them(x64, window, t):
    images = digits(400).images
    tolerance = 0.01
    x = noisy(images, t, 2)
    exact = elsjax.ScoreMachine("bbels", images, window=window).denoise(x, t)
    machine = elsjax.ScoreMachine("bbels", images, window=window).with_index(tolerance)
    x0, estimate = machine.denoise_with_error(x, t)
    error = np.abs(x0 - exact).max(axis=-1)
    assert error.max() > 1e-6  # something was approximated
    assert error.mean() <= tolerance / 5
    assert np.quantile(error, 0.99) <= tolerance
    assert (error <= estimate + 1e-9).mean() >= 0.99
    assert (estimate <= tolerance).all()
    # Borders have patches of their own, which are always all looked at.
    assert (estimate[:, 0] == 0).all()
    np.testing.assert_allclose(machine.denoise(x, t), x0, atol=1e-12)


def test_a_smaller_tolerance_means_a_smaller_error(x64, monkeypatch):
    monkeypatch.setattr(build, "CLUSTER_SIZE", 16)
    images = digits(250).images
    x = noisy(images, 0.4)
    exact = elsjax.ScoreMachine("els", images, window=7).denoise(x, 0.4)
    errors = [
        np.abs(
            elsjax.ScoreMachine("els", images, window=7).with_index(tolerance).denoise(x, 0.4)
            - exact
        ).mean()
        for tolerance in (0.5, 0.02, 0.001)
    ]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2] > 0


def test_batch_neighbours_do_not_count():
    images = digits(300).images
    machine = elsjax.ScoreMachine("bbels", images, window=5).with_index(0.01)
    x = noisy(images, 0.25, 3)
    together, of_each = machine.denoise_with_error(x, [0.25, 0.4, 0.25])
    for place, t in enumerate([0.25, 0.4, 0.25]):
        alone, error = machine.denoise_with_error(x[place : place + 1], t)
        np.testing.assert_allclose(together[place], alone[0], atol=2e-5)
        np.testing.assert_allclose(of_each[place], error[0], atol=2e-4)


def test_labels_choose_the_images_of_their_class():
    images, labels = digits(400).images, digits(400).labels
    x = noisy(images, 0.3, 2)
    machine = elsjax.ScoreMachine("bbels", images, labels, window=5)
    machine = machine.with_index(0.01, labels=(3, 7))
    assert machine.labels == (3, 7)
    for label in (None, 5):
        with pytest.raises(ValueError, match=f"label={label} has no index; .* had 3, 7"):
            machine.denoise(x, 0.3, label)
    both = machine.denoise(x, 0.3, [3, 7])
    for place, label in enumerate((3, 7)):
        of_class = images[labels == label]
        alone = elsjax.ScoreMachine("bbels", of_class, window=5).with_index(0.01)
        np.testing.assert_allclose(both[place], alone.denoise(x[[place]], 0.3)[0], atol=2e-3)
        exact = elsjax.ScoreMachine("bbels", of_class, window=5).denoise(x[[place]], 0.3)[0]
        assert np.abs(both[place] - exact).mean() < 2e-3


@pytest.mark.parametrize(("mesh", "label"), [((2, 1), None), ((4, 1), 3), ((2, 2), 3)], ids=str)
def test_a_mesh_changes_nothing(x64, monkeypatch, mesh, label):
    monkeypatch.setattr(build, "CLUSTER_SIZE", 16)  # more clusters than a threshold starts from
    images, labels = digits(300).images[:299], digits(300).labels[:299]
    x = noisy(images, 0.3, 3)
    one, many = (
        elsjax.ScoreMachine("bbels", images, labels, window=5, mesh=mesh).with_index(
            0.01, labels=(label,)
        )
        for mesh in (None, elsjax.make_mesh(*mesh))
    )
    found, expected = (machine.denoise_with_error(x, 0.3, label) for machine in (many, one))
    assert expected[1].max() > 0  # something was approximated
    np.testing.assert_allclose(found[0], expected[0], atol=1e-10)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-10)


def test_devices_that_clusters_do_not_divide_by(x64):
    images = digits(300).images
    x = noisy(images, 0.3)
    exact = elsjax.ScoreMachine("bbels", images, window=5).denoise(x, 0.3)
    machine = elsjax.ScoreMachine("bbels", images, window=5, mesh=elsjax.make_mesh(3))
    machine = machine.with_index(0.01)
    x0, estimate = machine.denoise_with_error(x, 0.3)
    error = np.abs(x0 - exact).max(axis=-1)
    assert error.mean() <= 0.002
    assert (error <= estimate + 1e-9).mean() >= 0.99
    assert (estimate <= 0.01).all()


def test_patches_beyond_the_memory_are_refused(monkeypatch):
    # No two patches are the same: 70,560 and 144,000 bytes.
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), np.uint8)
    machine = elsjax.ScoreMachine("els", images, window=elsjax.WindowSchedule((3, 5)))
    x = noisy(images / 127.5 - 1, 0.3)

    def little_memory(most_bytes):
        monkeypatch.setattr(index, "MOST_BYTES", most_bytes)
        monkeypatch.setattr(search, "MOST_BYTES", most_bytes)

    little_memory(160_000)
    with pytest.raises(ValueError, match="patches of 2 indices take 0.0 GiB, more than 0.0001"):
        machine.with_index(0.01)
    (indexed,) = machine.with_window(5).with_index(0.01).indices[None][5]
    assert indexed is not None
    little_memory(20_000)  # too little for any: exact
    x0, error = machine.with_index(0.01).denoise_with_error(x, 0.4)
    np.testing.assert_allclose(x0, machine.denoise(x, 0.4), atol=1e-5)
    assert (error == 0).all()


def test_no_noise_is_exact():
    images = digits(100).images
    machine = elsjax.ScoreMachine("els", images, window=3).with_index(0.01)
    x0, error = machine.denoise_with_error(images[:1], 0.0)
    np.testing.assert_allclose(x0, images[:1], atol=1e-6)
    assert (error == 0).all()


def test_index_counts_every_patch_once_and_summarises_clusters():
    images = to_uint8(digits(80).images)
    part = Dictionary("bbels", (20, 20, 1), 5).parts[0]
    built = build.build_index(images, part)
    assert built.counts.sum() == 80 * 16 * 16
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0], (5, 5), (1, 2))
    patches = windows.reshape(-1, 25)
    chosen = patches[np.asarray(built.places)] / 127.5 - 1
    weights = np.asarray(built.counts, np.float64)
    distinct = np.unique(patches, axis=0, return_counts=True)
    taken = weights > 0
    assert taken.sum() == len(distinct[1])  # no patch occurs more often than a count can say
    np.testing.assert_array_equal(np.sort(weights[taken]), np.sort(distinct[1]))
    means = (weights[..., None] * chosen).sum(1) / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(built.centres, means, atol=1e-5)
    variance = (weights[..., None] * (chosen - means[:, None]) ** 2).sum((1, 2)) / weights.sum(1)
    rest = (25 - 16) * built.residuals
    np.testing.assert_allclose(built.variances.sum(1) + rest, variance, atol=1e-4)


def test_a_patch_more_frequent_than_a_count_can_say_gets_several_places(monkeypatch):
    monkeypatch.setattr(build, "_MOST", 1000)
    images = np.zeros((50, 8, 8, 1), np.uint8)
    part = Dictionary("els", (8, 8, 1), 3).parts[0]
    built = build.build_index(images, part)
    assert built.counts.sum() == 50 * 36
    assert built.counts.max() <= 1000


def test_progress_is_told_while_an_index_is_built(capsys):
    images = random_pixels(300, (12, 12, 1))
    part = Dictionary("els", (12, 12, 1), 5).parts[0]
    told = []
    built = index.load_or_build(images, part, progress=lambda *done: told.append(done))
    assert told == sorted(told)
    assert told[0] == (0, 100)
    assert told[-1] == (100, 100)
    assert len(told) > 5
    told.clear()
    cached = index.load_or_build(images, part, progress=lambda *done: told.append(done))
    assert told == []
    jax.tree.map(np.testing.assert_array_equal, cached, built)
    assert capsys.readouterr() == ("", "")


def traces_of(monkeypatch, module, name):
    """A list that grows with each call of a function, which compiled code does not call."""
    calls, function = [], getattr(module, name)

    def traced(*args):
        calls.append(name)
        return function(*args)

    monkeypatch.setattr(module, name, traced)
    return calls


@pytest.mark.parametrize("num_devices", [None, 2])
def test_laying_out_again_compiles_nothing(monkeypatch, num_devices):
    mesh = None if num_devices is None else elsjax.make_mesh(num_devices)
    part = Dictionary("els", (7, 11, 1), 3).parts[0]
    images = jnp.asarray(random_pixels(30, (7, 11, 1)))
    built = build.build_index(np.asarray(images[10:]), part)
    if mesh is not None:
        built = index.spread(built, mesh)
        images = jax.device_put(images, jax.NamedSharding(mesh, jax.P()))
    traces = traces_of(monkeypatch, clusters, "_cut_out")
    for start in (10, 0):
        index.lay_out(built, images, part, start, jnp.full(1, start / 100), mesh)
        assert len(traces) == 1


def test_searching_again_compiles_nothing(monkeypatch):
    traces = traces_of(monkeypatch, search, "_refine")
    images = random_pixels(30, (7, 11, 1))
    machine = elsjax.ScoreMachine("els", images, window=3).with_index(0.01)
    x = noisy(images / 127.5 - 1, 0.3)
    machine.denoise(x, 0.3)
    once = len(traces)
    assert once > 0
    machine.denoise(-x, 0.4)
    assert len(traces) == once


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 1])
def test_requests_are_packed_each_into_one_slot(share):
    rng = np.random.default_rng(0)
    mask = rng.random((96, 40)) < share
    requests = jax.jit(packing.pack)(mask)
    turns = [jax.tree.map(np.asarray, requests.turn(turn)) for turn in range(requests.num_turns)]
    assert len(turns) == -(-sum(-(-mask.sum(axis=0) // packing.SLOTS)) // packing.UNITS)
    found = np.zeros(mask.shape, int)
    for units in turns:
        unit, slot = np.nonzero(units.taken)
        np.add.at(found, (units.query[unit, slot], units.cluster[unit]), 1)
        values = rng.standard_normal((*units.query.shape, 3))
        expected = np.zeros((96, 3))
        np.add.at(expected, units.query, values)
        sums = packing.sum_by_query(jnp.asarray(values), units.query, 96)
        np.testing.assert_allclose(sums, expected, atol=1e-4)
    np.testing.assert_array_equal(found, mask)


def test_lowers_for_every_platform():
    images = random_pixels(60, (10, 10, 3))
    part = Dictionary("bbels", (10, 10, 3), 5).parts[0]
    built = build.build_index(images, part)

    @jax.jit
    def evaluate(x, level, images, built):
        patches = index.lay_out(built, images, part, 0, jnp.zeros(3))
        return index.posterior_mean(
            part, x, level, level, jnp.zeros(3), built, patches, level / 100
        )

    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype),
        (jnp.zeros((2, 10, 10, 3)), jnp.asarray(0.5), jnp.asarray(images), built),
    )
    exported = jax.export.export(evaluate, platforms=["cpu", "cuda", "tpu"])(*shapes)
    assert exported.out_avals[0].shape == (2, 36, 3)
    products = re.findall(r"stablehlo\.dot_general.*", exported.mlir_module())
    assert products
    assert all("HIGHEST" in product for product in products)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"tolerance=0.0 must lie in \(0, 1\)"),
        ({"tolerance": 2.0}, r"tolerance=2.0 must lie in \(0, 1\)"),
        ({"images": np.full((2, 8, 8, 1), -0.123)}, "tolerance=0.01 needs images of 8 bits"),
    ],
)
def test_wrong_arguments(options, message):
    arguments = {"images": random_pixels(4, (8, 8, 1)), "tolerance": 0.01} | options
    machine = elsjax.ScoreMachine("els", arguments["images"], window=3)
    with pytest.raises(ValueError, match=message):
        machine.with_index(arguments["tolerance"])


def test_a_machine_is_an_argument_of_a_jitted_function_or_closed_over():
    exact = elsjax.ScoreMachine("els", random_pixels(4, (8, 8, 1)), window=3)
    machine = exact.with_index(0.01)
    x = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(ValueError, match="t and label must be values on the host"):
        jax.jit(machine.denoise)(x, 0.5)
    as_argument = jax.jit(lambda machine, x: machine.denoise(x, 0.5))
    closed_over = jax.jit(lambda x: machine.denoise(x, 0.5))
    for inside in (as_argument(machine, x), closed_over(x)):
        np.testing.assert_allclose(inside, machine.denoise(x, 0.5), atol=1e-6)
    with jax.checking_leaks():
        jax.jit(lambda x: machine.denoise(2 * x, 0.5))(x)
    np.testing.assert_allclose(machine.denoise(x, 0.5), exact.denoise(x, 0.5), atol=0.01)
    batched = jax.vmap(lambda x: machine.denoise(x[None], 0.5)[0])(x)
    np.testing.assert_allclose(batched, machine.denoise(x, 0.5), atol=1e-5)
