import jax
import numpy as np
import pytest

import elsjax
from elsjax.data.datasets import Dataset
from elsjax.experiments import heldout
from elsjax.experiments.heldout import HeldoutCurve, heldout_error, heldout_images


def pixels(count=12, seed=0, shape=(3, 4, 1)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


# The error


def test_heldout_error(monkeypatch):
    monkeypatch.setattr(heldout, "_BATCH", 4)
    machine, images, key = elsjax.WienerDenoiser(pixels()), pixels(10, seed=1), jax.random.key(3)
    errors = heldout_error(machine, images, (0.2, 0.9), key)
    noise = np.asarray(elsjax.initial_noise(key, 10, (3, 4, 1)))
    x0 = images / 127.5 - 1
    for row, t in enumerate((0.2, 0.9)):
        alpha, sigma = (np.asarray(level) for level in machine.schedule(t))
        estimate = machine.denoise(alpha * x0 + sigma * noise, t)
        np.testing.assert_allclose(errors[row], ((estimate - x0) ** 2).mean((1, 2, 3)), rtol=1e-4)
    # An image's noise is its own, whatever stands beside it.
    np.testing.assert_allclose(heldout_error(machine, images[:3], (0.9,), key)[0], errors[1, :3])


def test_heldout_error_is_conditional():
    machine = elsjax.ScoreMachine("is", pixels(), np.arange(12) % 3)
    images, labels, key = pixels(4, seed=1), np.array([2, 0, 1, 1]), jax.random.key(0)
    errors = heldout_error(machine, images, (0.5,), key, labels)
    assert (errors != heldout_error(machine, images, (0.5,), key)).any()
    with pytest.raises(ValueError, match=r"labels has shape \[3\]; expected \[4\]"):
        heldout_error(machine, images, (0.5,), key, labels[:3])
    with pytest.raises(ValueError, match="times=1.5 must lie in"):
        heldout_error(machine, images, (0.5, 1.5), key)
    with pytest.raises(ValueError, match="images is empty"):
        heldout_error(machine, images[:0], (0.5,), key)


def test_a_curve():
    curve = HeldoutCurve(
        np.array([0.1, 0.9]), np.array([2.0, 4]), np.empty(0, int), np.empty((0, 2))
    )
    curve = curve.extended(10, np.array([4.0, 4])).extended(20, np.array([2.0, 2]))
    np.testing.assert_array_equal(curve.relative, [[2, 1], [1, 0.5]])
    np.testing.assert_array_equal(curve.until(19).steps, [10])
    np.testing.assert_array_equal(curve.until(10).errors, [[4, 4]])


# Where held-out images come from


def archive(path, images, labels=None):
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(path, **arrays)
    return str(path)


def test_images_of_an_archive(tmp_path):
    training = Dataset("mine", "train", pixels(), None, None)
    more = np.concatenate([pixels()[5:], pixels(20, seed=1)])
    found = heldout_images(training, archive(tmp_path / "a.npz", more), 6)
    np.testing.assert_array_equal(found.pixels, pixels(20, seed=1)[:6])
    # Evenly of all classes, as far as they go, in the order in which they lie.
    labels = np.array([*[0] * 7, 1, 2, *[0] * 14, 2, *[1] * 3])
    found = heldout_images(training, archive(tmp_path / "b.npz", more, labels), 6)
    np.testing.assert_array_equal(found.labels, [1, 2, 0, 0, 2, 1])
    assert len(heldout_images(training, str(tmp_path / "b.npz"), 50)) == 20


def test_no_images_are_at_hand(tmp_path):
    for name, split in (
        ("mine", "train"),
        ("mnist", "test"),
        ("mnist5k", "train"),
        ("mnist", "train"),
    ):
        training = Dataset(name, split, pixels(), None, None)
        assert heldout_images(training, None, 5, data_dir=str(tmp_path)) is None


def test_images_that_do_not_fit(tmp_path):
    training = Dataset("mine", "train", pixels(), None, None)
    with pytest.raises(ValueError, match="has no image that is not among the training images"):
        heldout_images(training, archive(tmp_path / "a.npz", pixels(4)), 5)
    path = archive(tmp_path / "b.npz", pixels(4, shape=(3, 3, 1)))
    with pytest.raises(ValueError, match=r"has images \[3, 3, 1\], the training images are \[3, 4"):
        heldout_images(training, path, 5)
    with pytest.raises(ValueError, match="name='nowhere' is not known"):
        heldout_images(training, "nowhere", 5)


@pytest.mark.parametrize("name", ["mnist5k", "cifar10"])
def test_images_of_tfds(tfds_dir, name):
    training = elsjax.load_dataset(name, limit=50, image_size=8, data_dir=tfds_dir)
    found = heldout_images(training, None, 20, image_size=8, data_dir=tfds_dir)
    assert (found.name, found.split) == {
        "mnist5k": ("mnist", "train"),
        "cifar10": ("cifar10", "test"),
    }[name]
    np.testing.assert_array_equal(np.bincount(found.labels), 2)
    seen = {image.tobytes() for image in training.pixels}
    assert not any(image.tobytes() in seen for image in found.pixels)
