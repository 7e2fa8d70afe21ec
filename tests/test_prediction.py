import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import elsjax
from elsjax.nn import AttentionUNet, ResNet, zoo
from elsjax.nn.files import named_weights, network_config, network_from_config
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import training_steps
from elsjax.training.step import NUM_TIMES, _min_snr_weight, _target

SHAPE = (6, 6, 1)
PREDICTIONS = ("noise", "velocity", "x0")


def network(prediction="noise"):
    return ResNet(SHAPE, width=8, num_layers=1, prediction=prediction, rngs=nnx.Rngs(0))


def images(batch, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, *SHAPE)).astype(np.float32)


def levels(net, t):
    return (np.asarray(level).reshape(-1, 1, 1, 1) for level in net.schedule(t))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_forms_follow_from_the_output(prediction):
    net = network(prediction)
    x, t = images(3), np.array([0.1, 0.6, 0.95], np.float32)
    output = np.asarray(net(jnp.asarray(x), jnp.asarray(t), None), float)
    alpha, sigma = levels(net, t)
    x0, eps = {
        "noise": ((x - sigma * output) / alpha, output),
        "velocity": (alpha * x - sigma * output, sigma * x + alpha * output),
        "x0": (output, (x - alpha * output) / sigma),
    }[prediction]
    np.testing.assert_allclose(net.denoise(x, t), x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.predict_noise(x, t), eps, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.score(x, t), -eps / sigma, rtol=1e-5, atol=1e-4)


class Oracle(ResNet):
    """Predicts perfectly, for the image x_0 = 0.5."""

    def __call__(self, x, t, label=None):
        alpha, sigma = (level.reshape(-1, 1, 1, 1) for level in self.schedule(t))
        eps = (x - alpha * 0.5) / sigma
        if self.prediction == "noise":
            return eps
        return alpha * eps - sigma * 0.5 if self.prediction == "velocity" else 0.5 + 0 * x


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_perfect_networks_agree_whatever_they_predict(prediction):
    net = Oracle(SHAPE, width=8, num_layers=1, prediction=prediction, rngs=nnx.Rngs(0))
    x, t = images(3, seed=1), np.array([0.1, 0.6, 1.0], np.float32)
    alpha, sigma = levels(net, t)
    eps = (x - alpha * 0.5) / sigma
    # Only the noise is divided by alpha_1 = 0.0125, and so is its rounding.
    np.testing.assert_allclose(net.denoise(x, t), 0.5, atol=1e-4 if prediction == "noise" else 1e-6)
    np.testing.assert_allclose(net.predict_noise(x, t), eps, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.score(x, t), -eps / sigma, rtol=1e-5, atol=1e-6)


def test_where_no_noise_is_left():
    x = images(3)
    np.testing.assert_array_equal(network("velocity").denoise(x, 0), x)
    assert np.isfinite(network("velocity").predict_noise(x, 0)).all()
    with pytest.raises(ValueError, match="t=0 must be positive here: no noise is left"):
        network("x0").predict_noise(x, 0)


# Files


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_file_records_what_is_predicted(tmp_path, prediction):
    elsjax.save_network(network(prediction), tmp_path / "a.safetensors")
    assert elsjax.load_network(tmp_path / "a.safetensors").prediction == prediction


@pytest.mark.parametrize(("kind", "expected"), [(ResNet, "noise"), (AttentionUNet, "velocity")])
def test_a_file_from_before_there_was_a_choice(tmp_path, kind, expected):
    small = {"width": 8, "num_layers": 1} if kind is ResNet else {"widths": (4, 8)}
    net = kind(SHAPE, rngs=nnx.Rngs(0), **small)
    config = network_config(net)
    del config["prediction"]
    tensors = {name: np.asarray(value) for name, value in named_weights(net).items()}
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path, {"network": json.dumps(config)})
    assert elsjax.load_network(path).prediction == expected


@pytest.mark.parametrize("name", zoo.zoo())
def test_what_the_zoo_predicts(name):
    command = zoo.zoo()[name].command.split()
    expected = command[command.index("--prediction") + 1]
    assert elsjax.load_pretrained(name).prediction == expected


@pytest.mark.parametrize("wrong", ["eps", "", "Velocity", None, 0, "x_0"])
def test_an_unknown_prediction(wrong):
    with pytest.raises(ValueError, match="prediction=.* is not known; expected one of noise, vel"):
        network(wrong)
    config = network_config(network()) | {"prediction": wrong}
    with pytest.raises(ValueError, match="prediction"):
        network_from_config(config, nnx.Rngs(0))


# Training


def test_what_is_to_be_predicted():
    x0, noise, alpha, sigma = (jnp.full((1, 1, 1, 1), v) for v in (2.0, 3.0, 0.8, 0.6))
    targets = [_target(kind, x0, noise, alpha, sigma).item() for kind in PREDICTIONS]
    np.testing.assert_allclose(targets, [3, 0.8 * 3 - 0.6 * 2, 2], rtol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr(prediction):
    t = np.linspace(0.01, 0.99, 9)
    alpha, sigma = elsjax.CosineSchedule()(t)
    snr = (np.asarray(alpha) / np.asarray(sigma)) ** 2
    # Hang et al. (2023), section 3.4.
    over = {"noise": snr, "velocity": snr + 1, "x0": 1}[prediction]
    found = _min_snr_weight(prediction, alpha, sigma)
    np.testing.assert_allclose(found, np.minimum(snr, 5) / over, rtol=1e-4)
    limit = {"noise": 0, "velocity": 0, "x0": 5}[prediction]
    assert _min_snr_weight(prediction, jnp.ones(1), jnp.zeros(1)).item() == limit


def test_the_loss_of_a_step():
    net, pixels = network("velocity"), images(8)
    settings = TrainingConfig(
        num_steps=1, batch_size=8, warmup_steps=0, loss_weighting="min_snr", seed=4
    )
    (progress,) = training_steps(net, pixels, None, settings, devices=jax.devices()[:1])
    key = jax.random.key(4)
    order = jax.random.fold_in(jax.random.fold_in(key, 2**31), 0)
    x0 = pixels[jax.random.permutation(order, 8)]
    step_key = jax.random.fold_in(key, 0)
    keys = [jax.random.split(jax.random.fold_in(step_key, place)) for place in range(8)]
    t = np.array([jax.random.randint(k[0], (), 0, NUM_TIMES) for k in keys]) / NUM_TIMES
    noise = np.stack([jax.random.normal(k[1], SHAPE) for k in keys])
    alpha, sigma = levels(net, t)
    output = np.asarray(net(jnp.asarray(alpha * x0 + sigma * noise), jnp.asarray(t), None))
    error = (output - (alpha * noise - sigma * x0)) ** 2
    expected = np.mean(np.minimum(alpha**2, 5 * sigma**2) * error)
    np.testing.assert_allclose(progress.losses, [expected], rtol=1e-4)


def test_an_unknown_weighting():
    for wrong in ("snr", "", None):
        with pytest.raises(ValueError, match="loss_weighting=.* is not known; .*uniform, min_snr"):
            TrainingConfig(loss_weighting=wrong)
