import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from elsjax.nn import ResNet
from elsjax.training.checkpoints import Checkpoints
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import training_steps
from elsjax.training.step import NUM_TIMES, initial_state, trained_network


def network(num_classes=None, seed=0, width=8):
    return ResNet(
        (6, 6, 1), width=width, num_layers=1, num_classes=num_classes, rngs=nnx.Rngs(seed)
    )


def images(count=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 1), np.uint8)


def config(**changed):
    arguments = {"num_steps": 12, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 2}
    return TrainingConfig(**(arguments | changed))


def run(net, pixels, settings, labels=None, **options):
    """The last state, and the losses of all steps."""
    losses = []
    for progress in training_steps(net, pixels, labels, settings, **options):
        losses.append(progress.losses)
        state = progress.state
    return state, np.concatenate(losses)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# What a step computes


@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_loss_is_the_error_of_the_predicted_noise(num_classes):
    # Steps too small to matter, two in each of two epochs; two of ten images are left over.
    net, pixels = network(num_classes), images(10)
    labels = None if num_classes is None else np.arange(10) % 3
    settings = config(num_steps=4, batch_size=4, warmup_steps=0, learning_rate=1e-30, seed=4)
    _, losses = run(net, pixels, settings, labels)
    key = jax.random.key(4)
    expected = []
    for step in range(4):
        epoch_key = jax.random.fold_in(jax.random.fold_in(key, 2**31), step // 2)
        chosen = jax.random.permutation(epoch_key, 10)[4 * (step % 2) :][:4]
        step_key = jax.random.fold_in(key, step)
        keys = [jax.random.split(jax.random.fold_in(step_key, place)) for place in range(4)]
        t = np.array([jax.random.randint(k[0], (), 0, NUM_TIMES) for k in keys]) / NUM_TIMES
        noise = np.stack([jax.random.normal(k[1], (6, 6, 1)) for k in keys])
        angle = (t * np.pi / 2 / 1.008)[:, None, None, None]
        x = np.cos(angle) * (pixels[chosen] / 127.5 - 1) + np.sin(angle) * noise
        predicted = net.predict_noise(x, t, None if labels is None else labels[chosen])
        expected.append(np.mean((predicted - noise) ** 2))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_training_learns():
    pixels = np.repeat(images(1), 20, axis=0)
    settings = config(num_steps=300, batch_size=16)
    _, losses = run(network(width=16), pixels, settings)
    assert losses[-30:].mean() < 0.5 * losses[:10].mean()


def test_the_average_of_the_weights():
    net, pixels = network(), images()
    state, _ = run(net, pixels, config(ema_decay=0.0))
    np.testing.assert_array_equal(flat(state.ema_params), flat(state.params))
    state, _ = run(net, pixels, config(num_steps=1, warmup_steps=0, ema_decay=0.999))
    # The first step's decay is 1/10, not 0.999, so as to forget where it started.
    expected = 0.1 * flat(nnx.state(net)) + 0.9 * flat(state.params)
    np.testing.assert_allclose(flat(state.ema_params), expected, atol=1e-6)
    np.testing.assert_array_equal(
        flat(nnx.state(trained_network(net, state))), flat(state.ema_params)
    )


def test_the_network_and_the_given_state_are_left_alone():
    net, pixels = network(), images()
    before = flat(nnx.state(net))
    start = initial_state(net, config())
    run(net, pixels, config(), state=start)
    np.testing.assert_array_equal(flat(nnx.state(net)), before)
    np.testing.assert_array_equal(flat(start.params), before)


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_learning_rate(decay):
    # Adam's first step has the size of the learning rate in every weight with a gradient.
    net, pixels = network(), images()
    settings = config(num_steps=9, warmup_steps=3, learning_rate_decay=decay, ema_decay=0.0)
    weights = [flat(nnx.state(net))]
    for progress in training_steps(net, pixels, None, settings, report_every=1):
        weights.append(flat(progress.state.params))
    moves = np.abs(np.diff(weights, axis=0)).max(1)
    np.testing.assert_array_equal(moves[0], 0)  # the warm-up starts from zero
    assert moves[3] == pytest.approx(1e-2, rel=0.5)
    rate = 0.5**5 if decay else (1 + np.cos(np.pi * 5 / 6)) / 2
    assert 0.05 < moves[8] / (1e-2 * rate) < 3


def test_clipping_bounds_what_a_step_sees():
    # Adam is blind to a constant factor, not to one that changes from step to step.
    net, pixels = network(), images()
    plain, _ = run(net, pixels, config())
    loose, _ = run(net, pixels, config(clip_norm=1e6))
    tight, _ = run(net, pixels, config(clip_norm=1e-3))
    np.testing.assert_allclose(flat(loose.params), flat(plain.params), atol=1e-6)
    assert np.abs(flat(tight.params) - flat(plain.params)).max() > 1e-4
    assert np.abs(flat(tight.opt_state[1][0].mu)).max() < 1e-3


def test_bfloat16_keeps_the_state_in_float32():
    net, pixels = network(), images()
    _, expected = run(net, pixels, config(num_steps=3))
    state, losses = run(net, pixels, config(num_steps=3, precision="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert (losses != expected).any()
    np.testing.assert_allclose(losses, expected, rtol=0.02)


@pytest.mark.parametrize("batch_size", [4, 12])
def test_device_counts_agree(batch_size):
    net, pixels, settings = network(3), images(30), config(num_steps=5, batch_size=batch_size)
    labels = np.arange(30) % 3
    results = [
        run(net, pixels, settings, labels, devices=jax.devices()[:count]) for count in (1, 2, 4)
    ]
    for state, losses in results[1:]:
        np.testing.assert_allclose(losses, results[0][1], rtol=1e-5)
        np.testing.assert_allclose(flat(state.params), flat(results[0][0].params), atol=1e-5)


def test_a_step_is_compiled_once(monkeypatch):
    traced = []
    call = ResNet.__call__
    monkeypatch.setattr(ResNet, "__call__", lambda *a: traced.append(1) or call(*a))
    steps = training_steps(network(), images(), None, config(), report_every=1)
    next(steps)
    count = len(traced)
    assert count
    next(steps)
    next(steps)
    assert len(traced) == count


def test_a_loss_that_is_not_finite(tmp_path):
    net, pixels = network(), images()
    settings = config(num_steps=40)
    state = initial_state(net, settings)
    huge = jax.tree.map(lambda weight: weight * 1e30, state.params)
    with pytest.raises(FloatingPointError, match=r"diverged at step 0: loss (nan|inf).*clip_norm"):
        next(training_steps(net, pixels, None, settings, state=state._replace(params=huge)))


# Going on


def test_a_state_that_was_saved_goes_on_bit_for_bit(tmp_path):
    net, pixels, settings = network(), images(), config(num_steps=12)
    whole, whole_losses = run(net, pixels, settings, report_every=3)
    steps = training_steps(net, pixels, None, settings, report_every=3)
    losses = [next(steps).losses]
    progress = next(steps)
    losses.append(progress.losses)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(progress.step, progress.state)
    checkpoints.close()

    again = Checkpoints(tmp_path / "checkpoints")
    state = again.latest(initial_state(network(seed=1), settings))
    assert int(state.step) == 6
    state, rest = run(network(seed=1), pixels, settings, state=state)
    np.testing.assert_array_equal(np.concatenate([*losses, rest]), whole_losses)
    np.testing.assert_array_equal(flat(state), flat(whole))


def test_a_checkpoint_of_another_architecture_is_told_by_its_tensors(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest(initial_state(network(), config())) is None
    checkpoints.save(1, initial_state(network(width=16), config()))
    with pytest.raises(ValueError, match=r"params\.convs\.0\.kernel.* \[3, 3, 16, 16\], expected"):
        checkpoints.latest(initial_state(network(), config()))
    with pytest.raises(ValueError, match=r"embedding\.classes\.embedding.* is missing"):
        checkpoints.latest(initial_state(network(3, width=16), config()))


# Wrong input


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 must be an integer of at least 1"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must lie in"),
        ({"learning_rate_decay": 1.5}, "learning_rate_decay=1.5 must lie in"),
        ({"warmup_steps": 13}, "warmup_steps=13 must be an integer from 0 to 12"),
        ({"ema_decay": -0.1}, "ema_decay=-0.1"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"precision": "float16"}, "precision='float16' is not known; expected one of float32"),
    ],
)
def test_a_wrong_configuration(changed, message):
    with pytest.raises(ValueError, match=message):
        config(**changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((network(), images(7), None), "batch_size=8 is larger than the data, 7 images"),
        ((network(), images()[:, :5], None), r"images has shape \[20, 5, 6, 1\]; .* 6, 6, 1"),
        ((network(), images()[0], None), "images has shape"),
        ((network(), images(), np.zeros(20, int)), "the network is unconditional"),
        ((network(3), images(), None), "labels=None: the network is conditional, on 3 classes"),
        ((network(3), images(), np.zeros(19, int)), r"labels has shape \[19\]; expected \[20\]"),
        ((network(3), images(), np.zeros(20)), "labels has dtype float64; expected integers"),
        ((network(3), images(), np.full(20, 3)), "labels has classes 3 to 3; the network has 0"),
    ],
)
def test_data_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_steps(*arguments, config())


def test_devices_must_divide_the_batch():
    with pytest.raises(ValueError, match="batch_size=8 must divide by the 3 devices"):
        training_steps(network(), images(), None, config(), devices=jax.devices()[:3])
