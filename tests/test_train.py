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
import numpy as np
import pytest
from environment import FAST
from flax import nnx

import elsjax
from elsjax import cli
from elsjax.experiments.heldout import TIMES, heldout_error
from elsjax.nn import PRESETS, ResNet
from elsjax.nn.files import load_network, named_weights

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
jax.local_devices = lambda **_: devices
from elsjax.nn import PRESETS, ResNet
PRESETS["resnet-small"] = functools.partial(ResNet, width=8, num_layers=2)
sys.exit(main())
"""


@pytest.mark.usefixtures("smaller_presets")
def test_a_run_killed_at_any_moment_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda **_: jax.devices()[:1])
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


# The library


def network(num_classes=None):
    return ResNet((8, 8, 1), width=8, num_layers=2, num_classes=num_classes, rngs=nnx.Rngs(0))


def images(count=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


CONFIG = elsjax.TrainingConfig(num_steps=60, batch_size=8, warmup_steps=5)


@pytest.mark.usefixtures("smaller_presets")
def test_train_returns_what_the_command_saves(tmp_path):
    out = tmp_path / "run"
    assert cli.main([*SMALL, *held_out(tmp_path), "--prediction", "noise", "--out", str(out)]) == 0
    data = elsjax.load_dataset("mnist5k", limit=40, image_size=8)
    with np.load(tmp_path / "heldout.npz") as archive:
        heldout = (archive["images"], None)
    calls = []
    result = elsjax.train(
        network(),
        data.pixels,
        config=CONFIG,
        heldout=heldout,
        evaluate_every=20,
        report=lambda result: calls.append((len(result.losses), result.heldout.steps.tolist())),
        report_every=15,
    )
    assert calls == [(n, [k for k in (20, 40, 60) if k <= n]) for n in range(5, 61, 5)]
    with np.load(out / "losses.npz") as archive:
        np.testing.assert_array_equal(result.losses, archive["losses"])
    with np.load(out / "heldout.npz") as archive:
        for name, values in result.heldout._asdict().items():
            np.testing.assert_array_equal(values, archive[name], err_msg=name)
    saved = named_weights(load_network(out / "network.safetensors"))
    for name, value in named_weights(result.network).items():
        np.testing.assert_array_equal(saved[name], value)
    errors = heldout_error(result.network, heldout[0], TIMES, jax.random.key(0)).mean(1)
    np.testing.assert_array_equal(result.heldout.errors[-1], errors)


def test_train_goes_on_from_a_result():
    labels, heldout = np.arange(40) % 3, (images(6, seed=1), np.arange(6) % 3)
    config = elsjax.TrainingConfig(num_steps=12, batch_size=8, warmup_steps=5)
    reports = []

    def stop(result):
        reports.append(result)
        if len(result.losses) == 8:
            raise KeyboardInterrupt

    options = {"heldout": heldout, "evaluate_every": 4}
    whole = elsjax.train(network(3), images(), labels, config, **options)
    with pytest.raises(KeyboardInterrupt):
        elsjax.train(network(3), images(), labels, config, report=stop, **options)
    rest = elsjax.train(network(3), images(), labels, config, resume=reports[-1], **options)
    np.testing.assert_array_equal(rest.losses, whole.losses)
    np.testing.assert_array_equal(rest.heldout.steps, [4, 8, 12])
    np.testing.assert_array_equal(rest.heldout.errors, whole.heldout.errors)
    for one, other in zip(*(jax.tree.leaves(r.state) for r in (rest, whole)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="resume has held-out errors only where heldout is given"):
        elsjax.train(network(3), images(), labels, config, resume=rest)


@pytest.mark.parametrize(
    ("num_classes", "options", "message"),
    [
        (None, {"heldout": images(4)}, r"heldout is a ndarray; expected \(images, labels\)"),
        (None, {"heldout": (images(4)[:, 1:], None)}, r"heldout has images \[7, 8, 1\]"),
        (None, {"heldout": (images(4)[0], None)}, "heldout has shape"),
        (3, {"heldout": (images(4), None)}, "heldout has no labels; the network is conditional"),
        (3, {"heldout": (images(4), np.full(4, 3))}, "heldout has classes 3 to 3; .* has 0 to 2"),
        (3, {"heldout": (images(4), np.zeros(3, int))}, r"labels of heldout has shape \[3\]"),
        (None, {"evaluate_every": 0}, "evaluate_every=0 must be"),
        (None, {"report_every": 0}, "report_every=0 must be"),
        (None, {"config": elsjax.TrainingConfig(batch_size=41)}, "batch_size=41 is larger"),
    ],
)
def test_train_refuses_what_does_not_fit(num_classes, options, message):
    labels = None if num_classes is None else np.arange(40) % 3
    with pytest.raises(ValueError, match=message):
        elsjax.train(network(num_classes), images(), labels, **{"config": CONFIG} | options)


def test_train_refuses_to_measure_where_no_signal_is_left():
    schedule = elsjax.ExponentialSchedule(horizon=20)
    settings = {"width": 8, "num_layers": 2, "schedule": schedule, "rngs": nnx.Rngs(0)}
    heldout = (images(4), None)
    with pytest.raises(ValueError, match=r"alpha = 5.6e-09\) for prediction='noise'; expected"):
        elsjax.train(ResNet((8, 8, 1), **settings), images(), None, CONFIG, heldout=heldout)
    config = elsjax.TrainingConfig(num_steps=2, batch_size=8, warmup_steps=1)
    network = ResNet((8, 8, 1), prediction="velocity", **settings)
    assert len(elsjax.train(network, images(), None, config, heldout=heldout).losses) == 2
