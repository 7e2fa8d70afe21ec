"""Consistent images of the toy, against enumeration and against rows with a closed form."""

import math

import numpy as np
import pytest

from elsjax.experiments.mosaics.toy import consistent_images, entropy_per_pixel


def enumerated(height, width):
    """Images, of all black and white ones, whose pixels are the majority of their 3 x 3 windows."""
    pixels = np.arange(2 ** (height * width))[:, None] >> np.arange(height * width) & 1
    images = pixels.astype(np.int8).reshape(-1, height, width)
    sums = sum(
        np.roll(images, (down, right), (1, 2)) for down in (-1, 0, 1) for right in (-1, 0, 1)
    )
    return int(((sums > 4) == images).all(axis=(1, 2)).sum())


@pytest.mark.parametrize(("side", "count"), [(3, 2), (4, 188), (5, 2142)])
def test_counts_of_the_paper(side, count):
    assert consistent_images(side, side) == count


@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (4, 3), (4, 4), (3, 6), (5, 3), (4, 5)])
def test_counts_are_those_of_all_images(shape):
    assert consistent_images(*shape) == enumerated(*shape)


def strips_of_three(length):
    """Images of width 3: their rows are of one colour, in runs of 2 or more, or all are equal."""
    # Three pixels of a row see the same nine, so they are equal, and so is the majority of three
    # rows. Cyclic words whose runs are longer than 1.
    words = np.arange(2**length)[:, None] >> np.arange(length) & 1
    alone = (words != np.roll(words, 1, 1)) & (words != np.roll(words, -1, 1))
    return int((~alone.any(axis=1)).sum())


@pytest.mark.parametrize("length", [7, 12])
def test_strips_of_width_three_are_words_of_long_runs(length):
    assert consistent_images(length, 3) == strips_of_three(length)


def test_counts_beyond_machine_integers_are_exact():
    # Words of long runs satisfy the recurrence of the golden ratio's powers: with
    # x^4 - 2 x^3 + x^2 - 1 = (x^2 - x - 1)(x^2 - x + 1), the count is L_n + 2 cos(pi n / 3).
    before, lucas = 2, 1
    for _ in range(299):
        before, lucas = lucas, before + lucas
    assert lucas > 2**200
    assert consistent_images(300, 3) == lucas + 2  # cos(100 pi) = 1
    assert consistent_images(3, 300) == lucas + 2


def test_entropy_is_the_growth_of_the_counts():
    assert entropy_per_pixel(3) == pytest.approx(math.log((1 + math.sqrt(5)) / 2) / 3, rel=1e-12)
    for width in (4, 5):
        grown = consistent_images(61, width) / consistent_images(60, width)
        assert entropy_per_pixel(width) == pytest.approx(math.log(grown) / width, rel=1e-3)


@pytest.mark.parametrize(
    ("function", "sides", "message"),
    [
        (consistent_images, (2, 4), "height=2 must be an integer from 3 to 10000"),
        (consistent_images, (4, 2.0), "width=2.0 must be an integer from 3"),
        (consistent_images, (4, True), "width=True must be an integer"),
        (consistent_images, (9, 12), "height=9 and width=12: one of them must be at most 8"),
        (entropy_per_pixel, (2,), "width=2 must be an integer from 3 to 8"),
        (entropy_per_pixel, (9,), "width=9 must be an integer from 3 to 8"),
    ],
)
def test_the_toy_refuses(function, sides, message):
    with pytest.raises(ValueError, match=message):
        function(*sides)
