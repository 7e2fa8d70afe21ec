"""Where every pixel of a sample came from."""

import collections
import dataclasses

import jax
import numpy as np
import oracle
import pytest
from small_inputs import IMAGES, KEY, LABELS, PIXELS, X

import elsjax
from elsjax.process.sampling import sample_keys

SHAPE = X.shape[1:]
WINDOWS = elsjax.WindowSchedule((3, 3, 5))


def make(kind, images=PIXELS, labels=None, window=None, **options):
    window = None if kind in ("is", "es") else window or 3
    return elsjax.ScoreMachine(kind, images, labels, window=window, **options)


@pytest.fixture(scope="module")
def els():
    """A mosaic of all entries of an ELS machine, in float64."""
    with jax.enable_x64(True):
        return elsjax.mosaic(make("els"), X, num_steps=3, top=6 * 36)


@pytest.mark.parametrize(
    ("kind", "window", "label", "solver", "times"),
    [
        ("is", None, None, "ancestral", None),
        ("es", None, 2, "ddim", (0.8, 0.3, 0)),
        ("ls", WINDOWS, (0, 2), "heun", None),
        ("bbels", 3, None, "ancestral", (0.9, 0.4, 0.1)),
    ],
)
def test_it_is_what_sampling_computes(kind, window, label, solver, times):
    machine = make(kind, labels=LABELS, window=window)
    steps = None if times else 3
    label = None if label is None else np.array(label)
    process = {"solver": solver, "times": times}
    told = []
    mosaic = elsjax.mosaic(
        machine,
        X,
        num_steps=steps,
        label=label,
        key=KEY,
        **process,
        top=2,
        batch_size=1 if window is WINDOWS else None,
        progress=lambda *progress: told.append(progress),
    )
    path = elsjax.sample(machine, X, steps, label, key=KEY, **process, return_trajectory=True)
    np.testing.assert_allclose(mosaic.times, path.times, rtol=1e-6)
    np.testing.assert_allclose(mosaic.states, path.x, atol=1e-4)
    np.testing.assert_allclose(mosaic.x0, path.x0, atol=1e-4)
    np.testing.assert_array_equal(mosaic.samples, mosaic.states[-1])
    if label is not None:
        label = np.broadcast_to(label, 2)
        np.testing.assert_array_equal(mosaic.label, label)
    sides = [5, 3, 3] if window is WINDOWS else [window or 0] * len(path.x0)
    np.testing.assert_array_equal(mosaic.windows, sides)
    for step, (x, t) in enumerate(zip(mosaic.states[:-1], mosaic.times[:-1].tolist(), strict=True)):
        expected = machine.posterior(x, t, label, 2)
        np.testing.assert_allclose(mosaic.top.weight[step], expected.top.weight, atol=1e-4)
        for name in ("image", "row", "column"):
            np.testing.assert_array_equal(
                getattr(mosaic.top, name)[step], getattr(expected.top, name)
            )
        np.testing.assert_allclose(
            mosaic.effective_number[step], expected.effective_number, rtol=1e-4
        )
        np.testing.assert_allclose(mosaic.entropy[step], expected.entropy, atol=1e-4)
    for sample, number in enumerate(mosaic.left_out):
        one = slice(sample, sample + 1)
        less = elsjax.sample(
            machine.without([number]),
            X[one],
            steps,
            None if label is None else label[one],
            key=sample_keys(KEY, 2)[one],
            **process,
        )
        np.testing.assert_allclose(mosaic.repainted[one], less, atol=1e-4)
    assert all(isinstance(array, np.ndarray) for array in jax.tree.leaves(mosaic))
    count = 2 * len(mosaic.windows)
    assert told[0] == (0, 2 * count)
    assert told[-1] == (2 * count, 2 * count)
    assert told == sorted(told)


def test_the_weights_paint_with_other_colours(els):
    """Each training pixel of a colour of its own: the weights are of grey windows."""
    rng = np.random.default_rng(3)
    colours = rng.uniform(size=(*PIXELS.shape[:3], 3))
    for step in range(3):
        t = els.times[step].item()
        alpha, sigma = elsjax.CosineSchedule().on_host(t)
        top = jax.tree.map(lambda array, step=step: array[step], els.top)
        painted = np.sum(top.weight[..., None] * colours[top.image, top.row, top.column], axis=-2)
        for sample, x in enumerate(els.states[step]):
            expected = np.empty((*SHAPE[:2], 3))
            for pixel, query, keys, sources in oracle.entries("els", IMAGES, x, 3):
                logits = -((query - alpha * keys) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
                weights = np.exp(logits - logits.max())
                expected[pixel] = weights @ colours[tuple(sources.T)] / weights.sum()
            np.testing.assert_allclose(painted[sample], expected, atol=1e-6)


def test_offsets_lead_from_pixels_to_their_sources(els):
    assert els.offset.shape == (*els.top.image.shape, 2)
    exists = els.top.image >= 0
    assert 0 < exists.mean() < 1
    for place in np.argwhere(exists)[::97].tolist():
        _, _, row, column, _ = place
        down, right = els.offset[tuple(place)]
        found = els.top.row[tuple(place)], els.top.column[tuple(place)]
        assert found == (row + down, column + right)
    assert (els.offset[~exists] == 0).all()


def test_commitment_is_when_the_last_source_comes_to_stay(els):
    sources = np.stack([els.top.image, els.top.row, els.top.column], -1)[..., 0, :].tolist()
    for place in np.ndindex(els.commitment.shape):
        b, row, column = place
        of_pixel = [of_step[b][row][column] for of_step in sources]
        stays = [all(s == of_pixel[-1] for s in of_pixel[first:]) for first in range(3)]
        assert els.commitment[place] == stays.index(True)
    assert set(np.unique(els.commitment)) == {0, 1, 2}


def test_the_image_that_gave_most_is_left_out(els):
    for sample in range(2):
        given = collections.Counter()
        for place in np.ndindex(els.top.weight[:, sample].shape):
            place = (place[0], sample, *place[1:])
            given[int(els.top.image[place])] += els.top.weight[place] ** 2
        assert given[int(els.left_out[sample])] == pytest.approx(max(given.values()))


def test_what_is_flat_in_all_images_is_from_none_of_them():
    images = np.zeros((4, *SHAPE), np.uint8)
    for number, place in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        images[number, place[0] : place[0] + 2, place[1] : place[1] + 2] = 255
    machine = make("ls", images, window=1)
    mosaic = elsjax.mosaic(machine, images[2:3] / 127.5 - 1, times=[0.05, 0], top=1)
    # Of the flat pixels the first image is the likeliest source, with a third of the weight.
    assert (mosaic.top.image == 0).sum() == 28
    np.testing.assert_array_equal(mosaic.left_out, [2])
    np.testing.assert_array_equal(mosaic.repainted, np.full((1, *SHAPE), -1))
    np.testing.assert_array_equal(mosaic.changed, [4])


def test_changed_pixels_differ_by_more_than_half_a_level(els):
    repainted = els.samples.copy()
    repainted[0, 0, 0] += 0.9 / 255
    repainted[1, :2, 0] -= 1.1 / 255
    changed = dataclasses.replace(els, repainted=repainted).changed
    np.testing.assert_array_equal(changed, [0, 2])


def test_one_training_image_is_the_source_of_everything():
    mosaic = elsjax.mosaic(make("els", PIXELS[:1]), X, num_steps=2, top=1)
    assert (mosaic.top.image == 0).all()
    np.testing.assert_array_equal(mosaic.left_out, [-1, -1])
    np.testing.assert_array_equal(mosaic.repainted, mosaic.samples)
    np.testing.assert_array_equal(mosaic.changed, [0, 0])


def test_a_class_of_one_image_is_not_left_empty():
    labels = np.array([0, 0, 0, 0, 0, 1])
    mosaic = elsjax.mosaic(make("ls", labels=labels), X, num_steps=2, label=np.array([1, 0]), top=1)
    assert (mosaic.top.image[:, 0] == 5).all()
    assert (mosaic.top.image[:, 1] < 5).all()
    assert mosaic.left_out[0] == -1
    assert mosaic.left_out[1] in range(5)
    assert mosaic.changed[0] == 0 < mosaic.changed[1]


@pytest.mark.parametrize("kind", ["is", "es"])
def test_whole_images_are_of_one_piece(kind):
    mosaic = elsjax.mosaic(make(kind), X, num_steps=2)
    for numbers in mosaic.top.image.reshape(4, -1, 5).tolist():
        assert len(set(map(tuple, numbers))) == 1
    offsets = mosaic.offset[..., 0, :] % 6
    np.testing.assert_array_equal(offsets, np.broadcast_to(offsets[:, :, :1, :1], offsets.shape))
    assert kind == "es" or (offsets == 0).all()
    assert set(mosaic.left_out.tolist()) <= set(mosaic.top.image[..., 0].ravel().tolist())


def test_a_machine_on_a_mesh():
    mesh = elsjax.make_mesh(2, 2)
    found, expected = (
        elsjax.mosaic(make("ls", mesh=one), X, num_steps=2, top=3) for one in (mesh, None)
    )
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 0}, "top=0 must be an integer from 1 to 1024"),
        ({"top": 1025}, "top=1025 must be"),
        ({"num_steps": 0}, "num_steps=0 must be an integer of at least 1"),
        ({"num_steps": 3, "times": [1, 0]}, "num_steps=3, but times has 1 steps"),
        ({"times": [0, 1]}, "must be at least two times in"),
        ({"label": 1}, "label=.* needs labelled data, but labels=None was given"),
        ({"solver": "euler"}, "solver='euler' is not known"),
        ({"solver": "ancestral"}, "key=None: solver='ancestral' needs one"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"noise": X[0]}, "noise has shape"),
        ({"noise": X[:, :5]}, "shape"),
        ({"machine": "els"}, "machine='els' must be a ScoreMachine"),
    ],
)
def test_wrong_input_is_refused_before_any_work(changes, message):
    arguments = {"machine": make("els"), "noise": X, "num_steps": 2}
    if "times" in changes:
        del arguments["num_steps"]
    arguments |= changes
    told = []
    with pytest.raises(ValueError, match=message):
        elsjax.mosaic(**arguments, progress=lambda *progress: told.append(progress))
    assert not told


def test_approximate_weights_are_refused(cache_dir):
    with pytest.raises(ValueError, match="machine is an IndexedMachine, of approximate weights"):
        elsjax.mosaic(make("els").with_index(0.03), X)


def test_files_hold_all_of_it(els, tmp_path):
    for mosaic in (els, dataclasses.replace(els, label=np.array([1, 2]))):
        np.savez(tmp_path / "mosaic.npz", **mosaic.arrays(), network=mosaic.samples)
        found = elsjax.load_mosaic(tmp_path / "mosaic.npz")
        assert jax.tree.structure(found) == jax.tree.structure(mosaic)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(mosaic), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    np.testing.assert_array_equal(els.arrays()["changed"], els.changed)
    np.testing.assert_array_equal(els.arrays()["commitment"], els.commitment)


def _without(name):
    return lambda arrays: arrays.pop(name)


def _with(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("row"), "is no mosaic: it lacks row"),
        (_with("image", lambda a: a.astype(float)), "image is float64 .* expected integers"),
        (_with("states", lambda a: a[:-1]), "states is float64 .* floats \\[S\\+1 B H W C\\]"),
        (_with("times", lambda a: a[:1]), "times is float64 .* expected floats \\[S\\+1\\]"),
        (_with("repainted", lambda a: a[..., 0]), "repainted is .* expected floats \\[B H W C\\]"),
        (_with("entropy", lambda a: a * np.nan), "entropy must be finite"),
        (_with("left_out", lambda a: a[:0]), "left_out is int32 \\[0\\]"),
        (_with("x0", lambda a: np.array([{}])), "cannot be read as a mosaic"),
    ],
)
def test_what_is_no_mosaic_is_refused(els, tmp_path, damage, message):
    arrays = els.arrays()
    damage(arrays)
    np.savez(tmp_path / "mosaic.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        elsjax.load_mosaic(tmp_path / "mosaic.npz")


@pytest.mark.parametrize("content", [None, b"", b"PK", b"text"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "mosaic.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="mosaic.npz' cannot be read as a mosaic"):
        elsjax.load_mosaic(path)
