"""Small inputs that are right, for tests of those that are not."""

import jax
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax.nn import ResNet

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 6, 6, 1), np.uint8)
IMAGES = PIXELS / 127.5 - 1
LABELS = np.array([0, 0, 1, 1, 2, 2])
X = np.random.default_rng(1).standard_normal((2, 6, 6, 1)).astype(np.float32)
KEY = jax.random.key(0)


def machine(images=PIXELS, labels=None, **options):
    return elsjax.ScoreMachine("els", images, labels, **{"window": 3} | options)


def resnet(**options):
    return ResNet((6, 6, 1), **{"width": 8, "num_layers": 1, "rngs": nnx.Rngs(0)} | options)


def trousers(legs, rows=9, height=27, level=255):
    """A waist and legs, apart in the lowest rows, [H, 28, 1] in uint8."""
    image = np.zeros((height, 28, 1), np.uint8)
    image[:, 4:24] = level
    image[height - rows :] = 0
    for leg in range(legs):
        image[height - rows :, 4 + 5 * leg : 7 + 5 * leg] = level
    return image


@pytest.fixture(scope="module")
def known():
    return machine(labels=LABELS)


@pytest.fixture(scope="module")
def network():
    return resnet(num_classes=3)


def same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))
