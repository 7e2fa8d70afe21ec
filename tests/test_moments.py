import numpy as np
import pytest

from elsjax.analytic import moments
from elsjax.analytic.moments import Moments


def pixels(count=12, shape=(3, 4, 2)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def test_moments_are_those_of_numpy(x64, monkeypatch):
    monkeypatch.setattr(moments, "_BLOCK", 5)
    images, labels = pixels(), np.array([7, -2, 7, 7, -2, 7, 3, 7, 7, 7, 7, -2])
    rows = (images / 127.5 - 1).reshape(12, -1)
    found = Moments.of(images, labels)
    assert (found.labels, found.image_shape) == ((-2, 3, 7), (3, 4, 2))
    for label in (None, *found.labels):
        own = rows if label is None else rows[labels == label]
        mean, covariance = found.of_class(label)
        np.testing.assert_allclose(mean, own.mean(0), atol=1e-14)
        np.testing.assert_allclose(covariance, np.cov(own.T, bias=True), atol=1e-14)
    assert all(np.isnan(one).all() for one in found.of_class(4))
    alone = Moments.of(images / 127.5 - 1, None)
    assert alone.covariance.shape == (1, 24, 24)
    for one, other in zip(alone.of_class(None), found.of_class(None), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


def test_moments_keep_to_a_budget():
    needed = 3 * (24 + 1) * 24 * 4
    Moments.of(pixels(), np.arange(12) % 2, needed)
    message = rf"memory_budget={needed - 1} is too small: 3 covariances .*at least {needed} "
    with pytest.raises(ValueError, match=message):
        Moments.of(pixels(), np.arange(12) % 2, needed - 1)
    # The budget by default, before anything is allocated.
    with pytest.raises(ValueError, match=r"budget=4294967296 .* \(9.00 GiB\)"):
        Moments.of(pixels(1, (128, 128, 3)), None)
