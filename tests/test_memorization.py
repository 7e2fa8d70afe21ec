import dataclasses

import numpy as np
import pytest
from environment import REFERENCE
from small_inputs import IMAGES, PIXELS

import elsjax

with np.load(REFERENCE / "memorization.npz") as archive:
    STORED = dict(archive)


def fields(found):
    return {name: np.asarray(value) for name, value in dataclasses.asdict(found).items()}


def samples(batch=4, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    return IMAGES[np.arange(batch) % len(IMAGES)] + noise * rng.standard_normal((batch, 6, 6, 1))


# What it computes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("shifts", [False, True])
def test_it_is_the_criterion(dataset, shifts):
    stored = f"{dataset}/gu/{'shifted' if shifts else 'plain'}/"
    found = elsjax.memorized(
        STORED[f"{dataset}/gu/samples"], STORED[f"{dataset}/gu/pixels"], shifts=shifts
    )
    for name, value in fields(found).items():
        expected = STORED[stored + name.replace("memorized", "memorised")]
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-8, err_msg=name)


def test_where_a_sample_begins_to_be_memorized():
    images = np.zeros((2, 6, 6, 1))
    images[0, 0, 0], images[1, 0, 0] = -1, 1
    # At -0.5 the distances are 1/2 and 3/2: a third of it is not less.
    place = np.zeros((3, 6, 6, 1))
    place[:, 0, 0, 0] = -0.51, -0.5, -0.49
    found = elsjax.memorized(place, images)
    np.testing.assert_array_equal(found.memorized, [True, False, False])
    np.testing.assert_array_equal(found.nearest, 0)
    np.testing.assert_array_equal(found.second, 1)
    np.testing.assert_allclose(found.second_distance, [1.51, 1.5, 1.49], rtol=1e-6)


def test_what_is_nearly_equally_near_is_told_apart():
    # Their squared distances, of 1e-6, differ by 1e-9; norms rounded to float32 by some 1e-6.
    rng = np.random.default_rng(3)
    images = rng.uniform(-0.9, 0.9, (200, 6, 6, 1))
    near = rng.permutation(200)[:2]
    sample = images[near[:1]].copy()
    images[near[1]] = sample[0]
    images[near[0], 0, 0] += 1e-3
    images[near[1], 5, 5] -= 1e-3 - 5e-7
    for shifts in (False, True):
        found = elsjax.memorized(sample, images, shifts=shifts)
        assert (found.nearest[0], found.second[0]) == (near[1], near[0])
        np.testing.assert_allclose(found.distance, 1e-3 - 5e-7, rtol=1e-6)
        np.testing.assert_allclose(found.second_distance, 1e-3, rtol=1e-6)


# Duplicates


def test_duplicates_do_not_count():
    alone = elsjax.memorized(samples(), PIXELS)
    twice = elsjax.memorized(samples(), np.concatenate([PIXELS, PIXELS[::-1]]))
    assert (alone.duplicates, twice.duplicates) == (0, 6)
    for name, value in fields(alone).items():
        if name != "duplicates":
            np.testing.assert_array_equal(fields(twice)[name], value, err_msg=name)
    assert alone.memorized.all()


def test_shifted_copies_are_duplicates_if_asked_for():
    images = np.concatenate([PIXELS, np.roll(PIXELS, (2, 5), (1, 2))])
    assert elsjax.memorized(samples(), images).duplicates == 0
    found = elsjax.memorized(np.roll(samples(), (3, 1), (1, 2)), images, shifts=True)
    assert found.duplicates == 6
    still = elsjax.memorized(samples(), PIXELS, shifts=True)
    np.testing.assert_array_equal(found.nearest, [0, 1, 2, 3])
    np.testing.assert_allclose(found.distance, still.distance, rtol=1e-6)
    np.testing.assert_allclose(found.second_distance, still.second_distance, rtol=1e-6)


def test_images_of_the_same_rows_and_columns_are_no_copies_for_that():
    # Of constant rows, in another order than a shift makes.
    rows = np.array([10, 60, 120, 200], np.uint8)
    images = np.stack([rows, rows[[1, 2, 3, 0]], rows[[1, 0, 2, 3]], rows[[0, 3, 2, 1]]])
    images = np.broadcast_to(images[:, :, None, None], (4, 4, 5, 1))
    found = elsjax.memorized(images, images, shifts=True)
    assert found.duplicates == 1
    np.testing.assert_array_equal(found.nearest, [0, 0, 2, 3])
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)
    assert found.second_distance.min() > 0.1


@pytest.mark.parametrize("shifts", [False, True])
def test_of_one_distinct_image_every_sample_is_memorized(shifts):
    found = elsjax.memorized(samples(), np.repeat(PIXELS[:1], 3, axis=0), shifts=shifts)
    assert found.duplicates == 2
    assert found.memorized.all()
    np.testing.assert_array_equal(found.nearest, 0)
    np.testing.assert_array_equal(found.second, -1)
    np.testing.assert_array_equal(found.second_distance, np.inf)


# What results do not depend on


@pytest.mark.parametrize("shifts", [False, True])
def test_blocks_neighbours_and_scale_do_not_matter(shifts):
    x, order = samples(5), np.array([4, 2, 0, 5, 1, 3])
    expected = fields(elsjax.memorized(x, PIXELS, shifts=shifts))
    others = {
        "blocks of one": elsjax.memorized(x, PIXELS, shifts=shifts, memory_budget=1),
        "blocks of four": elsjax.memorized(x, PIXELS, shifts=shifts, memory_budget=4 * 6 * 36 * 4),
        "floating point": elsjax.memorized(x, IMAGES, shifts=shifts),
        "order": elsjax.memorized(x, PIXELS[order], shifts=shifts),
    }
    for kind, found in others.items():
        for name, value in fields(found).items():
            if kind == "order" and name in ("nearest", "second"):
                value = order[value]
            np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=f"{kind}: {name}")
    alone = elsjax.memorized(x[3:4], PIXELS, shifts=shifts)
    np.testing.assert_allclose(alone.distance, expected["distance"][3:4], rtol=1e-6)


def test_samples_may_be_of_8_bits():
    found = elsjax.memorized(PIXELS[::-1], PIXELS)
    np.testing.assert_array_equal(found.nearest, np.arange(6)[::-1])
    np.testing.assert_array_equal(found.distance, 0)


# Wrong input


@pytest.mark.parametrize(
    ("x", "images", "options", "message"),
    [
        (samples()[0], PIXELS, {}, r"samples has shape \[6, 6, 1\]; expected \[batch, 6, 6, 1\]"),
        (samples()[:, :5], PIXELS, {}, r"samples has shape \[4, 5, 6, 1\]"),
        (samples() * np.nan, PIXELS, {}, "samples must be finite"),
        (samples()[:0], PIXELS, {}, "samples is empty"),
        (samples(), PIXELS[:0], {}, "images is empty"),
        (samples(), IMAGES * 127, {}, "images has values from"),
        (samples(), PIXELS.astype(int), {}, "images has dtype int64"),
        (samples(), PIXELS, {"shifts": 1}, "shifts=1 must be True or False"),
        (samples(), PIXELS, {"memory_budget": -1}, "memory_budget=-1 must be an integer"),
    ],
)
def test_wrong_input_is_refused(x, images, options, message):
    with pytest.raises(ValueError, match=message):
        elsjax.memorized(x, images, **options)


def test_other_scales_are_warned_of():
    with pytest.warns(UserWarning, match="of different scales"):
        elsjax.memorized(np.clip((samples() + 1) / 2, 0, 1), IMAGES)
