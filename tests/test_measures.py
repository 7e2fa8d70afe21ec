import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elsjax
from elsjax.experiments.measures import local_means, mean_interval, median_interval


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 4, 4, 3))
    return a, 0.5 * a + rng.normal(size=a.shape) + 3


def test_measures_are_numpys(pair):
    a, b = pair
    r = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(elsjax.pearson_r(a, b), r, rtol=1e-5)
    np.testing.assert_allclose(elsjax.pearson_r2(a, b), np.square(r), rtol=1e-5)
    explained = [1 - ((y - x) ** 2).sum() / (y.var() * y.size) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(elsjax.r2(a, b), explained, rtol=1e-5)


def test_perfect_and_reversed_predictions(pair):
    a, _ = pair
    np.testing.assert_allclose(elsjax.pearson_r(a, 2 * a + 1), 1, rtol=1e-6)
    np.testing.assert_allclose(elsjax.pearson_r(a, -a), -1, rtol=1e-6)
    np.testing.assert_array_equal(elsjax.r2(a, a), 1)


@pytest.mark.parametrize("measure", [elsjax.pearson_r, elsjax.pearson_r2, elsjax.r2])
def test_shapes_must_agree(measure):
    with pytest.raises(ValueError, match=r"shapes \[2, 3\] and \[2, 4\]"):
        measure(np.zeros((2, 3)), np.zeros((2, 4)))


def test_nearest_image_is_the_one_disturbed():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8)
    samples = pixels[[7, 2]].astype(np.float32) / 127.5 - 1 + 0.125
    index, distance = elsjax.nearest_images(samples, pixels)
    np.testing.assert_array_equal(index, [7, 2])
    np.testing.assert_allclose(distance, 0.125, rtol=1e-5)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1 / 3, 0.1, 1e-20, 1e20])
def test_constant_images_have_no_correlation(pair, value):
    a, _ = pair
    constant = np.full(a.shape, value)
    rounded = constant * (1 + 1e-7 * np.sign(a))  # as a mean of equal numbers may come out
    for blank in (constant, rounded):
        for measure in (elsjax.pearson_r, elsjax.pearson_r2):
            assert np.isnan(measure(blank, a)).all()
            assert np.isnan(measure(a, blank)).all()
    if abs(value) <= 1:
        for blank in (constant, rounded):
            assert np.isnan(elsjax.r2(a, blank)).all()
            assert np.isfinite(elsjax.r2(blank, a)).all()
    # One blank sample leaves the others alone.
    mixed = np.concatenate([constant[:1], a[1:]])
    np.testing.assert_array_equal(np.isnan(elsjax.pearson_r(mixed, a)), [True, *[False] * 4])


@pytest.mark.parametrize(
    ("scale", "offset"), [(1, 1e3), (1, -1e4), (1e-12, 0), (1e-30, 0), (1e30, 0), (1e-3, 1)]
)
def test_measures_bear_any_offset_and_scale(pair, scale, offset):
    a, b = pair
    b = b - 3
    moved, others = scale * a + offset, scale * b + offset
    np.testing.assert_allclose(elsjax.pearson_r(moved, b), elsjax.pearson_r(a, b), atol=1e-4)
    np.testing.assert_allclose(elsjax.r2(others, moved), elsjax.r2(b, a), atol=1e-3)


def test_pixels_and_their_images_measure_the_same(pair):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), np.uint8)
    images = pixels.astype(np.float32) / 127.5 - 1
    a = np.tanh(pair[0]).astype(np.float32)
    for measure in (elsjax.pearson_r, elsjax.r2):
        expected = measure(a, images)
        for same in (pixels, images.astype(">f8"), jnp.asarray(pixels), images.tolist()):
            np.testing.assert_allclose(measure(a, same), expected, rtol=1e-5)
        np.testing.assert_allclose(measure(pixels, images), 1, rtol=1e-6)


@pytest.mark.parametrize("measure", [elsjax.pearson_r, elsjax.pearson_r2, elsjax.r2])
def test_measures_refuse_what_is_no_image(measure):
    good = np.random.default_rng(0).uniform(-1, 1, (2, 3))
    first, second = ("prediction", "target") if measure is elsjax.r2 else ("a", "b")
    for wrong, message in (
        (np.where(good == good[1, 2], np.nan, good), r"must be finite, but .*\[1, 2\] is nan"),
        (good * np.inf, "must be finite"),
        (good * 1e300, "must be finite"),
        (good * 1j, "has dtype complex128; expected real numbers"),
        (good > 0, "has dtype bool"),
        ([["0.5", "a"]], "has dtype <U3"),
        ([[0.5], [1, 2]], "must be an array of numbers"),
        (good[:0], r"is empty: shape \[0, 3\]"),
        (good[:, :0], r"is empty: shape \[2, 0\]"),
        ([], r"is empty: shape \[0\]"),
    ):
        with pytest.raises(ValueError, match=f"^{first}.*{message}"):
            measure(wrong, good)
        with pytest.raises(ValueError, match=f"^{second}.*{message}"):
            measure(good, wrong)
    with pytest.raises(ValueError, match="expected the same"):
        measure(good[0], good[0])
    with pytest.raises(ValueError, match="expected the same"):
        measure(0.5, 0.5)


def test_r2_warns_of_unlike_scales():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4))
    for other in (127.5 * (images + 1), 127.5 * images, (images + 1) / 2):
        with pytest.warns(UserWarning, match="prediction in .* and target in .* different scales"):
            elsjax.r2(other, images)
        with pytest.warns(UserWarning, match="different scales"):
            elsjax.r2(images, other)
        elsjax.r2(other, other)
        elsjax.pearson_r(other, images)  # has no scale
    elsjax.r2(np.full_like(images, 0.5), images)
    elsjax.r2(1.4 * images, 3 * images)


def test_measures_can_be_traced_and_differentiated(pair):
    a, b = (array.astype(np.float32) for array in pair)
    np.testing.assert_allclose(jax.jit(elsjax.r2)(b, a), elsjax.r2(b, a), rtol=1e-5)
    slope = jax.grad(lambda x: elsjax.pearson_r(x, b).sum())(a)
    assert np.isfinite(slope).all()


def test_medians_lie_in_the_interval_as_often_as_it_says():
    for n in range(1, 6):
        assert median_interval(np.arange(n, dtype=float)) is None
    assert median_interval(np.arange(5.0), level=0.9) == (0, 4)
    # Published tables of the sign test: 6, 9, 20 and 100 values.
    for n, k in ((6, 1), (8, 1), (9, 2), (20, 6), (100, 40)):
        assert median_interval(np.arange(n, 0.0, -1)) == (k, n + 1 - k)
        coverage = [1 - 2 * sum(math.comb(n, i) for i in range(j)) / 2**n for j in (k, k + 1)]
        assert coverage[0] >= 0.95 > coverage[1]
    low, high = median_interval(np.arange(3000.0))
    assert 3000 - low - 1 == high
    assert 1450 > low > 1440
    with pytest.raises(ValueError, match="level=1 must lie"):
        median_interval(np.arange(9), level=1)
    with pytest.raises(ValueError, match=r"values must be finite, but values\[1\] is nan"):
        median_interval(np.array([0, np.nan, 1]))
    with pytest.raises(ValueError, match=r"values has shape \[3, 2\]"):
        median_interval(np.zeros((3, 2)))


def test_nearest_images_take_pixels_and_refuse_other_shapes():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8)
    images = pixels.astype(np.float32) / 127.5 - 1
    for samples, others in ((pixels[[7, 2]], pixels), (images[[7, 2]], images.astype(">f4"))):
        index, distance = elsjax.nearest_images(samples, others)
        np.testing.assert_array_equal(index, [7, 2])
        np.testing.assert_allclose(distance, 0, atol=1e-6)
    for samples, others, message in (
        (images[:, :3], pixels, r"shapes \[9, 3, 4, 1\] and \[9, 4, 4, 1\]"),
        (images[0], pixels, r"shapes \[4, 4, 1\] and"),
        (images, pixels[..., 0], r"and \[9, 4, 4\]; expected"),
        (images[:0], pixels, r"samples is empty: shape \[0, 4, 4, 1\]"),
        (images, pixels[:0], r"images is empty: shape \[0, 4, 4, 1\]"),
        (images * np.nan, pixels, "samples must be finite"),
        (images, images * np.inf, "images must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            elsjax.nearest_images(samples, others)
    with pytest.warns(UserWarning, match="images in .* different scales"):
        elsjax.nearest_images(images, pixels.astype(np.float32))


def test_the_interval_of_a_mean_is_students():
    # Of 1, 2, 3, 4: standard error sqrt(5 / 3) / 2, and t = 3.1824 for 3 degrees of freedom.
    low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (low, high) == pytest.approx((2.5 - 2.054260, 2.5 + 2.054260), rel=1e-5)
    assert mean_interval(np.array([1.0])) is None
    narrow = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]), 0.5)
    assert low < narrow[0] < narrow[1] < high
    with pytest.raises(ValueError, match=r"expected \[n\]"):
        mean_interval(np.ones((2, 2)))
    with pytest.raises(ValueError, match="values"):
        mean_interval(np.array([1.0, np.nan]))


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3, 2, (2000, 5))
    held = [low <= 3 <= high for low, high in map(mean_interval, draws)]
    assert 0.94 < np.mean(held) < 0.96  # two standard deviations


def test_local_means_are_of_the_pixels_inside():
    images = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    found = local_means(images)
    for row in range(4):
        for column in range(5):
            around = images[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            np.testing.assert_allclose(found[:, row, column], around.mean((1, 2)), rtol=1e-12)
    with pytest.raises(ValueError, match=r"expected \[B, H, W, C\]"):
        local_means(images[0])
