"""Receptive fields: the covariance is the Jacobian, and nothing is felt from beyond the window."""

import jax
import numpy as np
import pytest
from flax import nnx
from small_inputs import IMAGES, LABELS, PIXELS, X

import elsjax
from elsjax.experiments.receptive_field import receptive_field, side_of_mass


def field_by_jacobian(machine, x, t, label, pixel):
    """`jax.jacobian` of the estimate at a pixel, one noisy image after another."""
    maps = []
    for one in x:
        slopes = jax.jacfwd(lambda x: machine.denoise(x[None], t, label)[0, *pixel])(one)
        maps.append(np.abs(slopes).mean((0, 3)))
    return np.mean(maps, 0)


@pytest.mark.parametrize("pixel", [(3, 3), (0, 5)])
@pytest.mark.parametrize(
    ("kind", "window", "wrapped"),
    [
        ("is", None, False),
        ("es", None, False),
        ("ls", 3, False),
        ("els", 3, False),
        ("els", 5, True),
        ("bbels", 3, False),
        ("bbels", 11, False),
    ],
)
def test_the_covariance_is_the_jacobian(x64, monkeypatch, kind, window, wrapped, pixel):
    monkeypatch.setattr("elsjax.experiments.receptive_field._BLOCK_BYTES", 30_000)  # some images
    machine = elsjax.ScoreMachine(kind, PIXELS, LABELS, window=window, wrap_patches=wrapped)
    for label in (None, 1):
        found = receptive_field(machine, X.astype(float), 0.6, label, pixel=pixel)
        expected = field_by_jacobian(machine, X.astype(float), 0.6, label, pixel)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
        assert expected.max() > 1e-5


def test_channels_and_labels_of_each_image(x64):
    images = np.random.default_rng(0).uniform(-1, 1, (4, 4, 5, 2))
    x = np.random.default_rng(1).standard_normal((2, 4, 5, 2))
    machine = elsjax.ScoreMachine("ls", images, [0, 1, 0, 1], window=3)
    found = receptive_field(machine, x, 0.7, [0, 1])
    each = [field_by_jacobian(machine, x[b : b + 1], 0.7, b, (2, 2)) for b in (0, 1)]
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-8, atol=1e-12)


def test_a_window_schedule_decides_the_window():
    windows = elsjax.WindowSchedule((1, 3))
    machine = elsjax.ScoreMachine("bbels", PIXELS, window=windows)
    for t, side in ((0.5, 1), (1.0, 3)):
        found = receptive_field(machine, X, t, pixel=(2, 3))
        rows, columns = np.nonzero(found)
        assert np.ptp(rows) <= side - 1
        assert np.ptp(columns) <= side - 1


def test_a_resnet_feels_nothing_beyond_its_17_pixels():
    network = elsjax.nn.ResNet((24, 24, 1), width=8, num_layers=6, rngs=nnx.Rngs(0))
    # An untrained one predicts nothing: its last layer is 0.
    graph, weights = nnx.split(network)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    weights = jax.tree.map(lambda w: 0.3 * jax.random.normal(next(keys), w.shape), weights)
    network = nnx.merge(graph, weights)
    assert network.receptive_field == 17
    x = np.random.default_rng(0).standard_normal((2, 24, 24, 1)).astype(np.float32)
    found = receptive_field(network, x, 0.5)
    reach = np.maximum(*np.abs(np.indices((24, 24)) - 12))
    assert (found[reach > 8] == 0).all()
    assert (found[reach == 8] > 0).any()
    assert side_of_mass(found, 1) == 17


def test_a_network_is_differentiated():
    scale = np.linspace(1, 2, 36).reshape(1, 6, 6, 1)
    denoiser = elsjax.FunctionDenoiser(
        lambda x, _t, _label: scale * x.sum((1, 2), keepdims=True), (6, 6, 1), prediction="x0"
    )
    found = receptive_field(denoiser, X, 0.5, pixel=(1, 2))
    np.testing.assert_allclose(found, np.full((6, 6), scale[0, 1, 2, 0]), rtol=1e-6)


def test_the_side_of_a_mass():
    field = np.zeros((7, 9))
    field[3, 4], field[3, 5], field[1, 4] = 5, 4, 1
    assert [side_of_mass(field, share) for share in (0.4, 0.5, 0.51, 0.9, 0.91, 1)] == [
        *(1, 1, 3, 3, 5, 5)
    ]
    assert side_of_mass(field, 0.5, pixel=(3, 5)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 0.0}, "t=0.0 must be positive"),
        ({"t": 2.0}, "t=2.0 must"),
        ({"pixel": (6, 0)}, r"pixel\[0\]=6 must"),
        ({"pixel": (0, -1)}, r"pixel\[1\]=-1 must"),
        ({"x": X[:, :5]}, "x has shape"),
        ({"label": 7}, "label=7 is no class"),
        ({"denoiser": IMAGES}, "denoiser"),
    ],
)
def test_wrong_arguments(options, message):
    machine = elsjax.ScoreMachine("ls", PIXELS, LABELS, window=3)
    with pytest.raises(ValueError, match=message):
        receptive_field(**{"denoiser": machine, "x": X, "t": 0.5} | options)
    with pytest.raises(ValueError, match="share=2.0 must"):
        side_of_mass(np.ones((3, 3)), 2.0)
    with pytest.raises(ValueError, match=r"expected \[H, W\]"):
        side_of_mass(np.ones(3), 0.5)
