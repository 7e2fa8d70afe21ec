import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import FAST
from flax import nnx

from elsjax import cli
from elsjax.nn import PRESETS, ResNet, UNet
from elsjax.nn.convolution import conv_general_dilated, use_cpu_gradients
from elsjax.nn.files import load_network, named_weights
from elsjax.training.checkpoints import Checkpoints
from elsjax.training.loop import (
    NUM_TIMES,
    TrainingConfig,
    initial_state,
    train,
    trained_network,
)


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
    for progress in train(net, pixels, labels, settings, **options):
        losses.append(progress.losses)
        state = progress.state
    return state, np.concatenate(losses)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# The convolution that a CPU trains with


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_the_convolution_and_its_gradients(x64, side, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 8, 6, 4))
    kernel = jax.random.normal(keys[1], (side, side, 4, 5))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def value(conv):
        def scalar(x, kernel):
            return (conv(x, kernel, (1, 1), padding, **options) ** 3).sum()

        return scalar

    def second(function):
        gradient = jax.grad(function, (0, 1))
        return jax.grad(lambda x, kernel: sum((g**2).sum() for g in gradient(x, kernel)), (0, 1))

    def all_orders(conv):
        function = value(conv)
        return jax.jit(
            lambda *a: (function(*a), jax.grad(function, (0, 1))(*a), second(function)(*a))
        )

    found, expected = (
        jax.tree.leaves(all_orders(conv)(x, kernel))
        for conv in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_network_with_that_convolution_is_the_same_function(x64, padding):
    net = UNet((8, 8, 2), widths=(4, 8), embedding_width=8, padding=padding, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(net)
    other = nnx.clone(net)
    use_cpu_gradients(other)
    x, t = jax.random.normal(jax.random.key(1), (3, 8, 8, 2)), jnp.array([0.1, 0.5, 0.9])

    def loss(weights, graph):
        return (nnx.merge(graph, weights)(x, t, None) ** 2).sum()

    loss_and_gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected = loss_and_gradient(weights, graph)
    found = loss_and_gradient(weights, nnx.graphdef(other))
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-10, atol=1e-10)


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
    np.testing.assert_array_equal(flat(state.average), flat(state.weights))
    state, _ = run(net, pixels, config(num_steps=1, warmup_steps=0, ema_decay=0.999))
    # The first step's decay is 1/10, not 0.999, so as to forget where it started.
    expected = 0.1 * flat(nnx.state(net)) + 0.9 * flat(state.weights)
    np.testing.assert_allclose(flat(state.average), expected, atol=1e-6)
    np.testing.assert_array_equal(flat(nnx.state(trained_network(net, state))), flat(state.average))


def test_the_network_and_the_given_state_are_left_alone():
    net, pixels = network(), images()
    before = flat(nnx.state(net))
    start = initial_state(net, config())
    run(net, pixels, config(), state=start)
    np.testing.assert_array_equal(flat(nnx.state(net)), before)
    np.testing.assert_array_equal(flat(start.weights), before)


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_learning_rate(decay):
    # Adam's first step has the size of the learning rate in every weight with a gradient.
    net, pixels = network(), images()
    settings = config(num_steps=9, warmup_steps=3, learning_rate_decay=decay, ema_decay=0.0)
    weights = [flat(nnx.state(net))]
    for progress in train(net, pixels, None, settings, report_every=1):
        weights.append(flat(progress.state.weights))
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
    np.testing.assert_allclose(flat(loose.weights), flat(plain.weights), atol=1e-6)
    assert np.abs(flat(tight.weights) - flat(plain.weights)).max() > 1e-4
    assert np.abs(flat(tight.optimizer[1][0].mu)).max() < 1e-3


def test_bfloat16_keeps_the_state_in_float32():
    net, pixels = network(), images()
    _, expected = run(net, pixels, config(num_steps=3))
    state, losses = run(net, pixels, config(num_steps=3, precision="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.weights)} == {jnp.dtype("float32")}
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
        np.testing.assert_allclose(flat(state.weights), flat(results[0][0].weights), atol=1e-5)


def test_a_step_is_compiled_once(monkeypatch):
    traced = []
    call = ResNet.__call__
    monkeypatch.setattr(ResNet, "__call__", lambda *a: traced.append(1) or call(*a))
    steps = train(network(), images(), None, config(), report_every=1)
    next(steps)
    count = len(traced)
    assert count
    next(steps)
    next(steps)
    assert len(traced) == count


# Going on


def test_a_state_that_was_saved_goes_on_bit_for_bit(tmp_path):
    net, pixels, settings = network(), images(), config(num_steps=12)
    whole, whole_losses = run(net, pixels, settings, report_every=3)
    steps = train(net, pixels, None, settings, report_every=3)
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
    with pytest.raises(ValueError, match=r"weights\.convs\.0\.kernel.* \[3, 3, 16, 16\], expected"):
        checkpoints.latest(initial_state(network(), config()))
    with pytest.raises(ValueError, match=r"embedding\.classes\.embedding.* is missing"):
        checkpoints.latest(initial_state(network(3, width=16), config()))


SMALL = [
    "train",
    *("--network", "resnet-small", "--limit", "40", "--image-size", "8", "--batch-size", "8"),
    *("--num-steps", "60", "--warmup-steps", "5", "--checkpoint-every", "20"),
    *("--num-heldout", "0"),
]


def held_out(tmp_path, *, labels=True):
    """Options for twenty held-out images."""
    pixels = np.random.default_rng(5).integers(0, 256, (20, 8, 8, 1), np.uint8)
    arrays = {"images": pixels, "labels": np.arange(20) % 10}
    path = tmp_path / "heldout.npz"
    np.savez(path, **(arrays if labels else {"images": pixels}))
    return ["--heldout", str(path), "--num-heldout", "20", "--evaluate-every", "20"]


@pytest.fixture
def smaller_presets(monkeypatch):
    """What the command knows by this name trains in no time."""
    monkeypatch.setitem(PRESETS, "resnet-small", functools.partial(ResNet, width=8, num_layers=2))


SMALLER_PROCESS = """
import functools, sys
import jax
from elsjax.cli import main
devices = jax.devices()[:1]
jax.local_devices = lambda: devices
from elsjax.nn import PRESETS, ResNet
PRESETS["resnet-small"] = functools.partial(ResNet, width=8, num_layers=2)
sys.exit(main())
"""


@pytest.mark.usefixtures("smaller_presets")
def test_a_run_killed_at_any_moment_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    words = [*SMALL, *held_out(tmp_path), "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([*words, str(whole)]) == 0
    # The other process computes as this one does, with as many threads as there are devices.
    environment = {**os.environ, "XLA_FLAGS": FAST, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SMALLER_PROCESS, *words, str(cut)],
            stderr=log,
            stdout=log,
            env=environment,
        )
    checkpoints = tmp_path / "cut.partial" / "checkpoints"
    while not any(path.name.isdigit() and int(path.name) >= 20 for path in checkpoints.glob("*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not cut.exists()
    assert cli.main([*words, str(cut)]) == 0
    weights = [named_weights(load_network(out / "network.safetensors")) for out in (whole, cut)]
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value)
    losses = [np.load(out / "losses.npz")["losses"] for out in (whole, cut)]
    assert len(losses[0]) == 60
    np.testing.assert_array_equal(*losses)
    curves = [dict(np.load(out / "heldout.npz")) for out in (whole, cut)]
    np.testing.assert_array_equal(curves[0]["steps"], [20, 40, 60])
    assert (curves[0]["errors"].shape, curves[0]["wiener"].shape) == ((3, 10), (10,))
    for name, values in curves[0].items():
        np.testing.assert_array_equal(curves[1][name], values)
    assert not Path(f"{cut}.partial").exists()


# The command


@pytest.mark.usefixtures("smaller_presets")
def test_the_command_writes_the_network_and_its_pictures(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--num-steps", "20", "--padding", "circular", "--conditional", "--out", str(out)]
    assert cli.main([*SMALL, *held_out(tmp_path), *options]) == 0
    names = [".elsjax-run", "config.json", "heldout.npz", "losses.npz", "losses.png"]
    assert sorted(os.listdir(out)) == [*names, "network.safetensors", "samples.png"]
    assert "held-out error over the Wiener filter's: " in capsys.readouterr().out
    net = load_network(out / "network.safetensors")
    assert (net.padding, net.num_classes, net.image_shape) == ("circular", 10, (8, 8, 1))
    assert net.prediction == "velocity"
    recorded = json.loads((out / "config.json").read_text())
    assert recorded["num_images"] == 40
    assert recorded["batch_size"] == 8
    assert recorded["architecture"]["padding"] == "circular"
    assert recorded["heldout_images"]["num_images"] == 20
    assert cli.main([*SMALL, "--out", str(out)]) == 2
    assert "exists; choose another or pass --overwrite" in capsys.readouterr().err

    # Its weights start another run, of the same architecture only.
    more = ["--weights", str(out / "network.safetensors"), "--out", str(tmp_path / "more")]
    assert cli.main([*SMALL, *options[:-2], *more]) == 0
    assert cli.main([*SMALL, *more[:2], "--out", str(tmp_path / "other")]) == 2
    assert "embedding.classes.embedding is unexpected" in capsys.readouterr().err
    other = [*more[:2], "--conditional", "--prediction", "noise", "--out", str(tmp_path / "other")]
    assert cli.main([*SMALL, *other]) == 2
    assert "are of a network that predicts 'velocity'" in capsys.readouterr().err
    images = held_out(tmp_path, labels=False)
    assert cli.main([*SMALL, *images, "--conditional", *other[-2:]]) == 2
    assert "has no labels; conditional=True" in capsys.readouterr().err


@pytest.mark.usefixtures("smaller_presets")
def test_divergence_is_an_error_that_keeps_the_last_good_checkpoint(tmp_path, capsys):
    rising = ["--learning-rate", "0.99", "--num-steps", "200", "--warmup-steps", "200"]
    assert cli.main([*SMALL, *rising, "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    diverged = int(re.search(r"elsjax: training diverged (?:at|before) step (\d+)", message)[1])
    kept = sorted(map(int, os.listdir(tmp_path / "run.partial" / "checkpoints")))
    assert diverged - 20 <= kept[-1] <= diverged
    assert kept[-1] > 0


def test_a_loss_that_is_not_finite(tmp_path):
    net, pixels = network(), images()
    settings = config(num_steps=40)
    state = initial_state(net, settings)
    huge = jax.tree.map(lambda weight: weight * 1e30, state.weights)
    with pytest.raises(FloatingPointError, match=r"diverged at step 0: loss (nan|inf).*clip_norm"):
        next(train(net, pixels, None, settings, state=state._replace(weights=huge)))


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
        train(*arguments, config())


def test_devices_must_divide_the_batch():
    with pytest.raises(ValueError, match="batch_size=8 must divide by the 3 devices"):
        train(network(), images(), None, config(), devices=jax.devices()[:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "41"], "batch_size=41 is larger than the data, 40 images"),
        (["--image-size", "10", "--network", "unet-small"], "multiples of 4"),
        (["--checkpoint-every", "0"], "checkpoint_every=0"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--evaluate-every", "0"], "evaluate_every=0"),
        (["--num-heldout", "-1"], "num_heldout=-1 must lie in"),
        (["--num-heldout", "5", "--heldout", "nowhere"], "name='nowhere' is not known"),
        (["--ema-decay", "2"], "ema_decay=2.0 must lie in"),
    ],
)
def test_wrong_options(tmp_path, capsys, options, message):
    assert cli.main([*SMALL, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not list(tmp_path.iterdir())
