"""Excess limbs of drawn trousers, and intervals of their rate."""

import math

import numpy as np
import pytest
from small_inputs import PIXELS, trousers

from elsjax.experiments.mosaics.limbs import excess_limbs, wilson_interval


def test_more_than_two_legs_are_an_excess():
    images = np.stack([trousers(legs) for legs in range(5)])
    expected = [False, False, False, True, True]
    np.testing.assert_array_equal(excess_limbs(images), expected)
    np.testing.assert_array_equal(excess_limbs(images / 127.5 - 1), expected)
    np.testing.assert_array_equal(excess_limbs(np.repeat(images, 3, axis=-1)), expected)


@pytest.mark.parametrize(("rows", "excess"), [(2, False), (3, True)])
def test_an_excess_needs_three_rows(rows, excess):
    assert excess_limbs(trousers(3, rows)[None]).tolist() == [excess]


@pytest.mark.parametrize(("height", "third"), [(28, 9), (32, 10)])
def test_rows_above_the_lowest_third_do_not_count(height, third):
    image = trousers(3, third + 1, height)
    image[height - third + 2 :] = trousers(2, third + 1, height)[height - third + 2 :]
    assert not excess_limbs(image[None])[0]  # two of the rows with three legs lie in it
    image[height - third + 2] = trousers(3, third, height)[height - third + 2]
    assert excess_limbs(image[None])[0]


def test_legs_at_the_borders_are_runs():
    image = np.zeros((9, 5, 1), np.uint8)
    image[:, ::2] = 200
    assert excess_limbs(image[None])[0]


def test_foreground_is_above_half_of_the_maximum_of_each_image():
    bright, dark = trousers(3), trousers(3, level=60)
    bright[-9:, 14:17] = 127  # the third leg, of 255
    dark[-9:, 14:17] = 31  # of 60
    dark[-9:, 7:9] = 29  # between two legs
    np.testing.assert_array_equal(excess_limbs(np.stack([bright, dark])), [False, True])
    assert not excess_limbs(np.zeros((1, 28, 28, 1), np.uint8))[0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS, r"images has shape \[6, 6, 6, 1\]; expected at least 9 rows"),
        (trousers(3), r"images has shape \[27, 28, 1\]; expected \[batch, height, width, channels"),
        (np.zeros((0, 28, 28, 1), np.uint8), "images is empty"),
        (np.full((1, 28, 28, 1), np.nan), "images must be finite"),
        (np.zeros((1, 28, 28, 1), int), "images has dtype int64"),
    ],
)
def test_limbs_refuse(images, message):
    with pytest.raises(ValueError, match=message):
        excess_limbs(images)


def test_images_in_which_0_seems_black_give_a_warning():
    with pytest.warns(UserWarning, match="taken as they are: -1 is black"):
        excess_limbs(trousers(3)[None] / 255)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (1, 1), (17, 400), (400, 400)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_ends_of_an_interval_are_as_many_standard_errors_away(successes, trials, level):
    low, high = wilson_interval(successes, trials, level)
    z = {0.5: 0.6744897501960817, 0.95: 1.959963984540054}[level]
    share = successes / trials
    for end in (low, high):
        assert abs(share - end) == pytest.approx(
            z * math.sqrt(end * (1 - end) / trials), rel=1e-9, abs=1e-12
        )
    assert 0 <= low <= share <= high <= 1
    assert low < high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0), "trials=0 must be an integer from 1 to"),
        ((-1, 5), "successes=-1 must be an integer from 0 to 5"),
        ((6, 5), "successes=6 must be an integer from 0 to 5"),
        ((0.5, 5), "successes=0.5 must be an integer"),
        ((1, 5, 1.0), r"level=1.0 must lie in \(0, 1\)"),
        ((1, 10**400), "must be an integer from 1 to"),
        ((1, 5, np.nan), r"level=nan must lie in \(0, 1\)"),
    ],
)
def test_intervals_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments)
