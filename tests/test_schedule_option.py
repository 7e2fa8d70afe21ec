"""The noise schedule as an option of the command line, from its words to what is recorded."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx
from run_folders import SAMPLE

import elsjax
from elsjax import cli
from elsjax.cli import sample, train
from elsjax.cli.schedule import parse_schedule
from elsjax.experiments.heldout import TIMES, heldout_error
from elsjax.nn import PRESETS, ResNet
from elsjax.process.schedules import SCHEDULES, schedule_config, schedule_from_config

TRAIN = [
    "train",
    *("--network", "resnet-small", "--limit", "40", "--image-size", "8", "--batch-size", "8"),
    *("--num-steps", "4", "--warmup-steps", "1", "--checkpoint-every", "2"),
]


def config(out):
    return json.loads((out / "config.json").read_text())


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("cosine", elsjax.CosineSchedule()),
        ("cosine,offset=0", elsjax.CosineSchedule()),
        ("cosine,offset=0.008", elsjax.CosineSchedule(0.008)),
        ("linear", elsjax.LinearBetaSchedule()),
        ("linear,beta_last=0.03,num_steps=500", elsjax.LinearBetaSchedule(1e-4, 0.03, 500)),
        (" linear , num_steps = 500,beta_last=3e-2 ", elsjax.LinearBetaSchedule(1e-4, 0.03, 500)),
        ("exponential,horizon=4", elsjax.ExponentialSchedule(4)),
    ],
)
def test_schedules_in_words(text, schedule):
    assert parse_schedule(text) == schedule
    assert schedule_from_config(json.loads(json.dumps(schedule_config(schedule)))) == schedule


def test_every_schedule_has_a_name():
    # `Schedule` has no other subclasses than those of tests.
    ours = {one for one in elsjax.Schedule.__subclasses__() if one.__module__.startswith("elsjax")}
    assert set(SCHEDULES.values()) == ours
    for name, schedule in SCHEDULES.items():
        assert parse_schedule(name) == schedule()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not known; expected one of cosine, linear, exponential, with parameters"),
        ("quadratic", "is not known; expected one of cosine, linear, exponential"),
        ("Cosine", "is not known"),
        ("CosineSchedule", "is not known"),
        ("cosine;offset=0", "is not known"),
        ("offset=0", "is not known"),
        ("cosine,", "'' is no parameter of cosine; expected offset=NUMBER"),
        ("cosine,0.008", "'0.008' is no parameter of cosine"),
        (
            "linear,offset=0",
            "'offset' is no parameter of linear; expected beta_first=NUMBER, beta_last=NUMBER, "
            "num_steps=NUMBER",
        ),
        ("cosine,offset", "offset='' is not a number"),
        ("cosine,offset=", "offset='' is not a number"),
        ("cosine,offset=much", "offset='much' is not a number"),
        ("cosine,offset=0=0", "offset='0=0' is not a number"),
        ("cosine,offset=0,offset=0", "offset is given twice"),
        ("cosine,offset=0.009", "offset=0.009 must lie in [0, 0.008]"),
        ("cosine,offset=nan", "offset=nan must lie in [0, 0.008]"),
        ("linear,num_steps=1.5", "num_steps=1.5 must be an integer from 1 to 1000000"),
        ("exponential,horizon=0", "horizon=0 must lie in (0, 1e+06)"),
        ("exponential,horizon=inf", "horizon=inf must lie in (0, 1e+06)"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "train"])
def test_words_that_are_no_schedules(refuses, command, text, message):
    # Refused before the data are looked at.
    words = [command, "--dataset", "nowhere", "--schedule", text]
    refuses(words, f"elsjax: schedule={text!r}")
    refuses(words, message)


def test_samples_follow_the_schedule(tmp_path):
    paths = {}
    for text in ("cosine", "exponential,horizon=3"):
        out = tmp_path / text
        assert cli.main([*SAMPLE, "--schedule", text, "--out", str(out)]) == 0
        with np.load(out / "samples.npz") as archive:
            paths[text] = archive["x0"]
    recorded = config(out)
    assert recorded["schedule"] == {"kind": "ExponentialSchedule", "horizon": 3.0}
    data = elsjax.load_dataset("mnist5k", limit=6, image_size=4)
    machine = elsjax.ScoreMachine("is", data.pixels, schedule=elsjax.ExponentialSchedule(3))
    noise = elsjax.initial_noise(jax.random.key(0), 2, (4, 4, 1))
    expected = elsjax.sample(machine, noise, 3, return_trajectory=True).x0
    np.testing.assert_allclose(paths[text], expected, atol=1e-4)
    assert np.abs(paths["cosine"] - paths[text]).max() > 0.1


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_sampling_goes_on_with_the_same_schedule_only(tmp_path, monkeypatch, capsys):
    words = [*SAMPLE, "--out", str(tmp_path / "run"), "--schedule"]
    partial = tmp_path / "run.partial" / "config.json"
    with monkeypatch.context() as patch:
        patch.setattr(sample, "_results", interrupted)
        assert cli.main([*words, "cosine"]) == 130
    assert cli.main([*words, "cosine,offset=0.008"]) == 2
    assert "configuration: schedule.offset 0.0 -> 0.008. Go on with" in capsys.readouterr().err
    found = partial.read_text()
    # A run of before there was a choice.
    partial.write_text(json.dumps({k: v for k, v in json.loads(found).items() if k != "schedule"}))
    assert cli.main([*words, "cosine"]) == 2
    message = 'configuration: schedule.kind absent -> "CosineSchedule"; schedule.offset absent'
    assert message in capsys.readouterr().err
    partial.write_text(found)
    assert cli.main([*words, "cosine, offset=0.0"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cosine,offset=0.008", "--solver", "heun"], "no signal is left at t = 1 (alpha = "),
        (["exponential,horizon=1e-45"], "no noise is left at t = 1"),
    ],
)
def test_schedules_that_samples_cannot_be_drawn_by(refuses, options, message):
    refuses([*SAMPLE, "--schedule", *options], message)


def test_training_follows_the_schedule_and_goes_on_with_it_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "resnet-small", functools.partial(ResNet, width=8, num_layers=2))
    pixels = np.random.default_rng(5).integers(0, 256, (10, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "heldout.npz", images=pixels)
    heldout = ["--heldout", str(tmp_path / "heldout.npz"), "--num-heldout", "10"]
    out = tmp_path / "run"
    words = [*TRAIN, *heldout, "--out", str(out), "--schedule"]
    with monkeypatch.context() as patch:
        patch.setattr(elsjax, "train", interrupted)
        assert cli.main([*words, "exponential,horizon=4"]) == 130
    assert cli.main([*words, "exponential"]) == 2
    message = "configuration: architecture.schedule.horizon 4.0 -> 5.0. Go on with the old one"
    assert message in capsys.readouterr().err
    assert cli.main([*words, "exponential, horizon=4.0"]) == 0

    schedule = elsjax.ExponentialSchedule(4)
    network = elsjax.load_network(out / "network.safetensors")
    assert network.schedule == schedule
    # The architecture has it, as in runs of before there was a choice.
    assert config(out)["architecture"]["schedule"] == schedule_config(schedule)
    assert "schedule" not in config(out)
    data = elsjax.load_dataset("mnist5k", limit=40, image_size=8)
    wiener = elsjax.WienerDenoiser(data.pixels, schedule=schedule)
    with np.load(out / "heldout.npz") as archive:
        for name, denoiser in {"errors": network, "wiener": wiener}.items():
            expected = heldout_error(denoiser, pixels, TIMES, jax.random.key(0)).mean(1)
            np.testing.assert_allclose(archive[name].reshape(-1), expected, rtol=1e-4, err_msg=name)

    # Its weights start a network of the same schedule only.
    words = [*TRAIN, "--weights", str(out / "network.safetensors"), "--out", str(tmp_path / "more")]
    assert cli.main(words) == 2
    message = "are of a network with ExponentialSchedule(horizon=4.0)"
    error = capsys.readouterr().err
    assert "elsjax: schedule='cosine', but weights=" in error
    assert message in error
    assert not (tmp_path / "more").exists()


def test_a_network_of_another_schedule_beside_machines(tmp_path):
    schedule = elsjax.ExponentialSchedule(4)
    options = {"schedule": schedule, "prediction": "velocity", "rngs": nnx.Rngs(0)}
    network = ResNet((4, 4, 1), width=8, num_layers=2, **options)
    elsjax.save_network(network, tmp_path / "network.safetensors")
    data = ["--dataset", "mnist5k", "--limit", "6", "--image-size", "4"]
    small = [*data, "--num-samples", "1", "--num-steps", "4"]
    words = ["--network", str(tmp_path / "network.safetensors"), *small]
    found = tmp_path / "calibration"
    assert cli.main(["calibrate", *words, "--candidates", "1", "3", "--out", str(found)]) == 0
    file = found / "windows.json"
    calibrated = json.loads(file.read_text())
    assert calibrated["schedule"] == config(found)["schedule"] == schedule_config(schedule)
    file.write_text(json.dumps(calibrated | {"windows": [1, 1, 3, 5]}))

    compared = tmp_path / "comparison"
    words += ["--network-steps", "2", "--machine", "ls", "--window", str(file)]
    assert cli.main(["compare", *words, "--out", str(compared)]) == 0
    assert config(compared)["schedule"] == schedule_config(schedule)
    assert config(compared)["windows"] == [1, 1, 3, 5]
    assert "ExponentialSchedule" in (compared / "report.html").read_text()

    # The noise that the cosine schedule has at t = 1/4, ..., 1 is the exponential's at t = 0.02,
    # 0.09, 0.23 and 1.
    out = tmp_path / "samples"
    words = ["sample", *small, "--machine", "ls", "--window", str(file), "--out", str(out)]
    assert cli.main(words) == 0
    assert config(out)["windows"] == [1, 1, 1, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["exponential,horizon=8", "--prediction", "noise"],
            "leaves too little signal at t = 0.95 (alpha = 0.0005) for prediction='noise'; "
            "expected at least 0.001",
        ),
        (["exponential,horizon=1e-45"], "has no noise at t = 0.05"),
    ],
)
def test_schedules_that_training_cannot_show(refuses, options, message):
    refuses([*TRAIN, "--num-heldout", "0", "--schedule", *options], message)


def test_pictures_start_where_signal_is_left():
    # Nichol and Dhariwal's schedule leaves no signal at t = 1, by which noise would be divided.
    options = {"schedule": elsjax.CosineSchedule(0.008), "rngs": nnx.Rngs(0)}
    samples = train._samples(ResNet((8, 8, 1), width=8, num_layers=1, **options))
    assert samples.shape == (16, 8, 8, 1)
    assert np.isfinite(samples).all()
