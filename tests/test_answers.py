"""What the posterior says: reference numbers, definitions, and the same however the work is cut."""

import dataclasses
import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import REFERENCE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import ranked

import elsjax
from elsjax.posterior import evaluation
from elsjax.posterior.answers import ANSWERS, Question
from elsjax.posterior.methods import choose
from elsjax.posterior.methods.fourier import Fourier
from elsjax.posterior.methods.lines import Lines
from elsjax.posterior.methods.products import Products
from elsjax.posterior.methods.sliding import Sliding

WINDOWS = [(kind, window) for kind in ("ls", "els", "els_wrapped", "bbels") for window in (3, 5, 7)]
REFERENCES = [
    (data, kind, window, conditional)
    for data in ("mnist", "cifar10")
    for kind, window, conditional in [
        ("is", None, False),
        ("es", None, False),
        *[(*one, False) for one in WINDOWS],
        ("bbels", 5, True),
    ]
]
# Training images of a block, and devices.
SETTINGS = [*itertools.product((None, 1, 3), (None, (2, 1), (2, 2))), (1, (4, 1))]
ALL = [(*one, *setting) for one, setting in itertools.product(REFERENCES, SETTINGS)]
# A few reference numbers in other settings.
OTHER = {
    ("mnist", "is", None, False): (1, (4, 1)),
    ("mnist", "es", None, False): (3, (2, 2)),
    ("mnist", "ls", 5, False): (1, (2, 1)),
    ("mnist", "els", 3, False): (3, None),
    ("mnist", "els", 5, False): (1, (2, 2)),
    ("mnist", "els_wrapped", 3, False): (None, (2, 1)),
    ("mnist", "bbels", 5, False): (1, None),
    ("mnist", "bbels", 5, True): (3, (2, 1)),
}
COLOURED = [("es", None, False), ("ls", 3, False), ("els", 7, False), ("bbels", 5, True)]
SOME = [
    (*one, *OTHER.get(one, (None, None)))
    for one in REFERENCES
    if one[0] == "mnist" or one[1:] in COLOURED
]
EVERY_SETTING = os.environ.get("ELSJAX_ALL_ANSWERS") == "1"  # minutes

SHAPE = (5, 4, 2)
LABELS = np.array([1, 0, 1, 0, 1])
MACHINES = [
    ("is", None, False),
    ("es", None, False),
    ("ls", 3, False),
    ("els", 3, False),
    ("els", 3, True),
    ("bbels", 3, False),
]


@functools.partial(jax.jit, static_argnames=("label", "top", "answers"))
def ask(machine, x, t, label=None, top=0, answers=ANSWERS):
    """`machine.posterior` as one program, of one window."""
    return machine.posterior(x, t, label, top, answers=answers)


def make(kind, images=None, labels=None, window=None, wrapped=False, mesh=None, **options):
    if images is None:
        images = np.random.default_rng(0).uniform(-1, 1, (5, *SHAPE))
    if mesh is not None:
        options["mesh"] = elsjax.make_mesh(*mesh)
    return elsjax.ScoreMachine(kind, images, labels, window=window, wrap_patches=wrapped, **options)


def noisy(batch=2, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, *shape))


def same(found, expected, atol=1e-10):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=atol, atol=atol)


@pytest.fixture(scope="module")
def answers():
    with np.load(REFERENCE / "answers.npz") as archive:
        return dict(archive)


def test_all_reference_answers_are_held(answers):
    held = {key.rsplit("/", 1)[0] for key in answers if key.endswith("mean")}
    assert held == {name for one in REFERENCES for name, _ in _names(answers, *one)}


def _names(answers, data, kind, window, conditional):
    """The start of reference keys and their times, one for each time."""
    end = ("" if window is None else f"/k{window}") + "/conditional" * conditional
    names = [(f"{data}/{kind}/x/t{t}{end}", t) for t in (0.1, 0.7)]
    return [(name, t) for name, t in names if f"{name}/mean" in answers]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("data", "kind", "window", "conditional", "block_size", "mesh"),
    ALL if EVERY_SETTING else SOME,
)
def test_reference_answers(answers, data, kind, window, conditional, block_size, mesh):
    machine = make(
        kind.split("_")[0],
        answers[f"{data}/images"],
        answers[f"{data}/labels"],
        window=window,
        wrapped=kind.endswith("wrapped"),
        block_size=block_size,
        mesh=mesh,
    )
    names = _names(answers, data, kind, window, conditional)
    x = np.concatenate([answers[f"{data}/x/t{t}"] for _, t in names])
    label = int(answers[f"{data}/label"]) if conditional else None
    found = ask(machine, x, np.repeat([t for _, t in names], 2), label, top=6)
    for (name, _), start in zip(names, (0, 2), strict=False):
        of_time = jax.tree.map(lambda array, start=start: array[start : start + 2], found)
        for answer in ANSWERS:
            expected = answers[f"{name}/{answer}"]
            np.testing.assert_allclose(
                getattr(of_time, answer), expected, rtol=1e-8, atol=1e-8, err_msg=answer
            )
        top = of_time.top
        np.testing.assert_allclose(top.weight[..., :5], answers[f"{name}/top_weight"], atol=1e-8)
        np.testing.assert_allclose(top.weight[..., 5], answers[f"{name}/next_weight"], atol=1e-8)
        for source in ("image", "row", "column"):
            expected = answers[f"{name}/top_{source}"]
            np.testing.assert_array_equal(getattr(top, source)[..., :5], expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["is", "els", "bbels"])
def test_jacobian_is_a_covariance(answers, kind):
    x, t = answers["mnist/jacobian/x"], float(answers["mnist/jacobian/t"])
    window = None if kind == "is" else int(answers["mnist/jacobian/window"])
    machine = make(kind, answers["mnist/images"], window=window, block_size=16)
    # All columns at once, as a batch.
    units = np.eye(x.size).reshape(-1, *x.shape)
    mean = functools.partial(ask, answers=("mean",))
    _, columns = jax.jvp(
        lambda x: mean(machine, x, t).mean, (np.broadcast_to(x, units.shape),), (units,)
    )
    found = np.moveaxis(np.asarray(columns).reshape(*x.shape, *x.shape), (0, 1, 2), (3, 4, 5))
    np.testing.assert_allclose(found, answers[f"mnist/{kind}/jacobian"], atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "window", "wrapped"), MACHINES)
def test_score_is_the_derivative_of_the_log_evidence(kind, window, wrapped):
    machine = make(kind, window=window, wrapped=wrapped, block_size=2)
    x, t = noisy(1), 0.4
    units = np.eye(x.size).reshape(-1, *SHAPE)

    @jax.jit
    def log_evidence(x):
        return machine.posterior(x, t, answers=("log_evidence",)).log_evidence

    # By pixel i and channel c: that of i's window, by x(i, c).
    _, slopes = jax.jvp(log_evidence, (np.repeat(x, len(units), 0),), (units,))
    found = np.einsum("bhw,bhwc->hwc", slopes, units)
    score = machine.score(x, t)[0]
    np.testing.assert_allclose(found, score, atol=1e-9)
    if kind == "is":
        slope = jax.grad(lambda x: log_evidence(x)[0, 0, 0])(jnp.asarray(x))[0]
        np.testing.assert_allclose(slope, score, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "window", "wrapped", "double", "label"),
    [*[(*one, True, 1) for one in MACHINES], ("els", 3, False, False, None)],
)
def test_all_entries_together_are_the_answers(kind, window, wrapped, double, label):
    tolerance = 1e-11 if double else 1e-5
    images = np.random.default_rng(0).uniform(-1, 1, (5, *SHAPE))
    with jax.enable_x64(double):
        machine = make(kind, images, LABELS, window=window, wrapped=wrapped, block_size=2)
        parts = machine.dictionary(window).parts
        counted = np.arange(5) if label is None else np.flatnonzero(label == LABELS)
        largest = len(counted) * max(part.keys_per_image for part in parts)
        found = ask(machine, noisy(), 0.5, label, top=largest)
        top = jax.tree.map(np.asarray, found.top)
    exists = top.image >= 0
    num_entries = np.empty(SHAPE[0] * SHAPE[1])
    for part in parts:
        num_entries[part.pixels] = len(counted) * part.keys_per_image
    np.testing.assert_array_equal(exists.sum(-1), np.tile(num_entries, 2).reshape(2, *SHAPE[:2]))
    assert set(top.image[exists]) == set(counted)
    for source in (top.weight, top.image + 1, top.row + 1, top.column + 1):
        assert (source[~exists] == 0).all()
    weights, values = top.weight[..., None], images[top.image, top.row, top.column]
    mean = np.sum(weights * values, axis=-2)
    np.testing.assert_allclose(found.mean, mean, atol=tolerance)
    np.testing.assert_allclose(weights.sum(-2), 1, atol=tolerance)
    variance = np.sum(weights * (values - mean[..., None, :]) ** 2, axis=-2)
    np.testing.assert_allclose(found.variance, variance, atol=tolerance)
    np.testing.assert_allclose(
        found.effective_number, 1 / np.sum(top.weight**2, -1), rtol=10 * tolerance
    )
    entropy = -np.sum(np.where(top.weight > 0, top.weight * np.log(top.weight + ~exists), 0), -1)
    np.testing.assert_allclose(found.entropy, entropy, atol=10 * tolerance)


COPIED = [("is", None), ("es", None), ("ls", 3), ("els", 7), ("bbels", 7)]
CUTS = [
    (False, None, None),
    (False, 1, None),
    (False, 3, (2, 1)),
    (False, 1, (4, 1)),
    (False, None, (2, 2)),
    (True, 3, None),
]


@functools.cache
def _copied(kind, window):
    """Images three times each, black in part or of two rows by turns; what ranks first."""
    shape = (10, 9, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    pixels[:2, :5] = 0
    if kind != "es":  # no image is a translate of itself
        pixels[2:] = np.tile(pixels[2:, :2], (1, 5, 1, 1))
    pixels = np.concatenate([pixels, pixels[::-1], pixels])
    x = np.float32(noisy(1, shape))
    alpha, sigma = map(float, elsjax.CosineSchedule()(0.5))
    first = ranked(kind, pixels / 127.5 - 1, x[0], alpha, sigma, window)
    rows = [first[i, j][:7] for i in range(shape[0]) for j in range(shape[1])]
    return pixels, x, np.stack(rows).reshape(*shape[:2], 7, 3)


@pytest.mark.parametrize(
    ("kind", "window", "double", "block_size", "mesh"),
    [
        (*one, *cut)
        for place, one in enumerate(COPIED)
        for number, cut in enumerate(CUTS)
        if one == ("els", 7) or (place + number) % 2
    ],
)
def test_of_equal_entries_the_smallest_sources_come_first(kind, window, double, block_size, mesh):
    pixels, x, expected = _copied(kind, window)
    with jax.enable_x64(double):
        machine = make(kind, pixels, window=window, block_size=block_size, mesh=mesh)
        top = ask(machine, x, 0.5, top=7, answers=()).top
    assert top.weight.dtype == (np.float64 if double else np.float32)
    found = np.stack([top.image, top.row, top.column], axis=-1)[0]
    np.testing.assert_array_equal(found, expected)


def test_copies_are_looked_at_by_every_method():
    used = set()
    for kind, window in COPIED:
        machine = make(kind, np.zeros((1, 10, 9, 3), np.uint8), window=window)
        parts = machine.dictionary(window).parts
        used |= {type(choose(part, Question(top=7).request)) for part in parts}
    assert used == {Products, Sliding, Lines, Fourier}


@pytest.mark.usefixtures("x64")
def test_only_what_is_asked_for_is_there():
    machine, x = make("els", window=3), jnp.asarray(noisy())
    everything = ask(machine, x, 0.4, top=2)
    for answer in ANSWERS:
        found = ask(machine, x, 0.4, answers=(answer,))
        assert found.top is None
        for other in ANSWERS:
            if other == answer:
                same(getattr(found, other), getattr(everything, other), 1e-12)
            else:
                assert getattr(found, other) is None
    found = ask(machine, x, 0.4, top=2, answers=())
    assert all(getattr(found, answer) is None for answer in ANSWERS)
    same(found.top, everything.top, 1e-12)
    of_mean = jax.make_jaxpr(lambda x: machine.posterior(x, 0.4, answers=("mean",)).mean)(x)
    assert str(of_mean) == str(jax.make_jaxpr(lambda x: machine.denoise(x, 0.4))(x))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "window"), [("es", None), ("ls", 3), ("els", 3)])
@settings(max_examples=6)
@given(t=st.floats(0.01, 1), scale=st.sampled_from([0.1, 1.0, 30.0]), seed=st.integers(0, 99))
@example(t=1e-6, scale=1.0, seed=0)
def test_numbers_of_patches_have_bounds(kind, window, t, scale, seed):
    machine = make(kind, window=window)
    found = ask(machine, scale * noisy(seed=seed), t)
    (part,) = machine.dictionary(window).parts
    most = 5 * part.keys_per_image
    for number in (found.effective_number, np.exp(found.entropy)):
        assert np.all(number >= 1 - 1e-9)
        assert np.all(number <= most * (1 + 1e-9))
    assert np.all(np.asarray(found.effective_number) <= np.exp(found.entropy) * (1 + 1e-9))
    assert np.all(found.variance >= 0)
    assert np.all(np.abs(found.mean) <= 1)


def test_one_image_leaves_no_choice_and_noise_every():
    one = ask(make("ls", np.full((1, *SHAPE), 0.5) * [1, -1], window=3), noisy(), 0.3, top=2)
    np.testing.assert_allclose(one.entropy, 0, atol=1e-6)
    np.testing.assert_allclose(one.effective_number, 1, rtol=1e-6)
    np.testing.assert_array_equal(one.top.image, np.broadcast_to([0, -1], (2, *SHAPE[:2], 2)))
    noise = ask(make("els", window=3), noisy(), 0.9999)
    np.testing.assert_allclose(noise.effective_number, 5 * 3 * 2, rtol=1e-2)
    np.testing.assert_allclose(noise.entropy, np.log(5 * 3 * 2), rtol=1e-2)


def test_posterior_inside_jit_and_a_second_call_of_it():
    machine, x = make("els", labels=LABELS, window=3), jnp.asarray(noisy())
    expected = machine.posterior(x, 0.3, 1, top=2)
    programs = evaluation._compiled._cache_size()
    other = machine.posterior(2 * x, 0.7, 0, top=2)
    assert evaluation._compiled._cache_size() == programs
    assert set(np.unique(other.top.image)) <= {1, 3}
    with jax.checking_leaks():
        same(jax.jit(lambda x: machine.posterior(x, 0.3, 1, top=2))(x), expected, 1e-4)
    same(ask(machine, x, 0.3, 1, top=2), expected, 1e-4)


def test_each_of_a_batch_has_its_own_time_label_and_window(monkeypatch):
    windows = elsjax.WindowSchedule((1, 3))
    machine, x = make("els", labels=LABELS, window=windows, block_size=2), noisy(4)
    times, labels = np.array([0.9, 0.2, 0.3, 0.2]), np.array([1, 1, 0, 1])
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return evaluate(*arguments, **options)

    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", counted)
    found = machine.posterior(x, times, labels, top=2)
    assert len(calls) == 3  # two have both in common
    for place, (t, label) in enumerate(zip(times, labels, strict=True)):
        alone = machine.posterior(x[place : place + 1], t, label, top=2)
        same(jax.tree.map(lambda array, place=place: array[place : place + 1], found), alone, 1e-4)
    # Labels that are traced, each for itself.
    machine = machine.with_window(3)
    calls.clear()
    traced = jax.jit(lambda label: machine.posterior(x, times, label, top=2))(labels)
    assert len(calls) == 1
    same(traced, machine.posterior(x, times, labels, top=2), 1e-4)


@pytest.mark.parametrize("mesh", [None, (2, 1)])
def test_a_machine_without_some_images(mesh):
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
    labels, kept = np.array([1, 0, 1, 0, 2, 1]), np.array([0, 1, 3, 5])
    x = noisy()
    less = make("els", images, labels, window=3, mesh=mesh).without([4]).without((np.int32(2),))
    other = make("els", images[kept], labels[kept], window=3, mesh=mesh)
    assert (less.num_images, less.labels, less.image_shape) == (4, (0, 1), other.image_shape)
    for label in (None, 1):
        found, expected = (machine.posterior(x, 0.4, label, top=3) for machine in (less, other))
        numbered = dataclasses.replace(expected.top, image=kept[np.asarray(expected.top.image)])
        same(found, dataclasses.replace(expected, top=numbered), 1e-4)
    with pytest.raises(ValueError, match="label=2 is no class of the data"):
        less.denoise(x, 0.4, 2)
    with pytest.raises(ValueError, match="images=4 is the number of no training image"):
        less.without([4])
    with pytest.raises(ValueError, match="images holds the numbers of all 4 training images"):
        less.without([0, 1, 3, 5, 5])


def test_without_noise_there_is_a_nearest_patch_but_no_density():
    rest = tuple(answer for answer in ANSWERS if answer != "log_evidence")
    images = np.random.default_rng(0).uniform(-1, 1, (5, *SHAPE))
    found = make("is", images).posterior(images[3:4], 0, top=1, answers=rest)
    np.testing.assert_allclose(found.mean[0], images[3], atol=1e-6)
    np.testing.assert_allclose(found.top.weight, 1)
    assert np.all(found.top.image == 3)
    assert np.all(np.asarray(found.entropy) == 0)
