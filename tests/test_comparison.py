import numpy as np
import pytest

import elsjax


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
