import itertools
import json

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax import cli
from elsjax.experiments.calibration import Calibration, similarities
from elsjax.experiments.runs import Run

SHAPE = (8, 8, 1)


def _images(num, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num, *SHAPE))


def _calibration(network, machine, windows, num_steps, num_samples=3, solver="ddim"):
    noise = elsjax.initial_noise(jax.random.key(0), num_samples, SHAPE)
    process = {"solver": solver, "key": jax.random.key(4)}
    found = list(similarities(network, machine, windows, noise, num_steps, **process))
    assert [(one.step, one.number) for one in found] == list(
        itertools.product(range(num_steps), range(len(windows)))
    )
    times = np.arange(num_steps, 0, -1) / num_steps
    assert [one.t for one in found[:: len(windows)]] == times.tolist()
    shape = (num_steps, len(windows), num_samples)
    calls = []
    calibration = elsjax.calibrate(
        network,
        machine,
        windows[::-1],
        noise,
        num_steps=num_steps,
        **process,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(done, len(found)) for done in range(len(found) + 1)]
    np.testing.assert_array_equal(calibration.times, times)
    assert calibration.windows == tuple(windows)
    for measure in ("cosine", "error"):
        one_by_one = np.stack([getattr(one, measure) for one in found]).reshape(shape)
        np.testing.assert_array_equal(getattr(calibration, measure), one_by_one)
    return calibration


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
@pytest.mark.parametrize("sides", [(3, 3, 5, 5, 7, 7), (5, 7, 3, 7, 3, 3)])
def test_the_windows_of_a_machine_are_found(sides, solver):
    images = _images(6)
    hidden = elsjax.ScoreMachine("bbels", images, window=elsjax.WindowSchedule(sides))
    machine = elsjax.ScoreMachine("bbels", images, window=3)
    calibration = _calibration(hidden, machine, (3, 5, 7), 6, solver=solver)
    # At t = 1 all windows predict the same; the entry is its neighbour's.
    assert calibration.schedule().windows == sides
    places = np.searchsorted((3, 5, 7), sides[::-1])
    np.testing.assert_allclose(calibration.cosine[np.arange(6), places], 1, atol=1e-12)
    rising = calibration.schedule(monotone=True).windows
    assert list(rising) == sorted(rising)


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_similarity_is_the_cosine_of_the_noise_and_the_error_of_x0(solver):
    images = _images(5)
    network = elsjax.ScoreMachine("is", images)
    machine = elsjax.ScoreMachine("ls", images, window=3)
    noise = elsjax.initial_noise(jax.random.key(1), 2, SHAPE)
    process = {"solver": solver, "key": jax.random.key(4)}
    path = elsjax.sample(network, noise, 3, return_trajectory=True, **process)
    *_, last = similarities(network, machine, (5,), noise, 3, **process)
    x, t = path.x[2], 1 / 3
    a, b = (d.predict_noise(x, t).reshape(2, -1) for d in (machine.with_window(5), network))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(last.cosine, cosine, rtol=1e-5)
    error = ((machine.with_window(5).denoise(x, t) - path.x0[2]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(last.error, error, rtol=1e-4)


def test_a_network_that_overflows():
    network = elsjax.nn.ResNet(SHAPE, width=8, num_layers=1, rngs=nnx.Rngs(0))
    network.last.bias[...] = jnp.full_like(network.last.bias[...], 1e30)
    machine = elsjax.ScoreMachine("ls", _images(3), window=3)
    noise = elsjax.initial_noise(jax.random.key(1), 2, SHAPE)
    with pytest.raises(FloatingPointError, match="at t=1: .* is not finite, or overflows"):
        next(similarities(network, machine, (3,), noise, 2))


def test_a_similarity_that_is_not_known():
    cosine = np.full((2, 2, 1), 0.5)
    cosine[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"cosine must be finite, but cosine\[1, 0, 0\] is nan"):
        Calibration(np.array([1, 0.5]), (3, 5), cosine, np.zeros((2, 2, 1))).schedule()


def test_median_over_samples_is_not_moved_by_one():
    cosine = np.zeros((2, 3, 3))
    cosine[:, 1, :2] = 1  # two samples prefer the second window, one the third
    cosine[:, 2, 2] = 1
    calibration = Calibration(np.array([1, 0.5]), (3, 5, 7), cosine, 1 - cosine)
    assert calibration.schedule().windows == (5, 5)


def test_rising_schedule_is_the_best_of_all_that_rise():
    rng = np.random.default_rng(0)
    for _ in range(20):
        cosine = rng.uniform(size=(4, 3, 1))
        times = np.array([0.9, 0.6, 0.3, 0.1])
        calibration = Calibration(times, (3, 5, 7), cosine, 1 - cosine)
        found = calibration.schedule(monotone=True).windows
        scores = cosine[::-1, :, 0]
        rising = itertools.combinations_with_replacement(range(3), 4)
        best = max(rising, key=lambda path: sum(scores[i, w] for i, w in enumerate(path)))
        assert found == tuple((3, 5, 7)[index] for index in best)


def test_with_window_shares_the_images():
    machine = elsjax.ScoreMachine("els", _images(3), window=3)
    wider = machine.with_window(5)
    assert (machine.window, wider.window) == (3, 5)
    assert wider.training_set is machine.training_set
    with pytest.raises(ValueError, match="window=9 must be at most 8"):
        machine.with_window(9)


@pytest.mark.parametrize(
    ("kind", "windows", "message"),
    [
        ("ls", (4,), r"windows\[0\]=4 must be"),
        ("ls", (), "at least one"),
        ("is", (3,), "kind='is'"),
    ],
)
def test_wrong_calibrations(kind, windows, message):
    machine = elsjax.ScoreMachine(kind, _images(3), window=None if kind == "is" else 3)
    noise = elsjax.initial_noise(jax.random.key(0), 1, SHAPE)
    with pytest.raises(ValueError, match=message):
        similarities(machine, machine, windows, noise)
    with pytest.raises(ValueError, match=message):
        elsjax.calibrate(machine, machine, windows, noise)


SMALL = [
    "calibrate",
    *("--limit", "20", "--candidates", "3", "5", "7"),
    *("--num-samples", "2", "--num-steps", "4"),
]


def test_calibrate_goes_on_and_sample_takes_its_file(small_network, tmp_path, monkeypatch, capsys):
    calibrate = [*SMALL, "--network", small_network]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([*calibrate, "--out", str(whole)]) == 0
    windows = json.loads((whole / "windows.json").read_text())["windows"]
    assert len(windows) == 4
    assert set(windows) <= {3, 5, 7}
    assert " ".join(map(str, windows)) in capsys.readouterr().out
    with np.load(whole / "calibration.npz") as archive:
        arrays = dict(archive)
    assert arrays["cosine"].shape == arrays["error"].shape == (4, 3, 2)
    assert np.isfinite(arrays["cosine"]).all()
    assert matplotlib.image.imread(whole / "calibration.png").std() > 0.05

    save_arrays, saved = Run.save_arrays, []

    def save_five_times(run, name, arrays):
        save_arrays(run, name, arrays)
        saved.append(name)
        if len(saved) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_arrays", save_five_times)
    assert cli.main([*calibrate, "--out", str(cut)]) == 130
    monkeypatch.undo()
    assert cli.main([*calibrate, "--out", str(cut)]) == 0
    with np.load(cut / "calibration.npz") as archive:
        for name, array in arrays.items():
            np.testing.assert_array_equal(archive[name], array, err_msg=name)

    words = ["sample", "--limit", "20", "--image-size", "8", "--num-samples", "1"]
    words += ["--num-steps", "2", "--window", str(whole / "windows.json")]
    assert cli.main([*words, "--out", str(tmp_path / "sample")]) == 0
    config = json.loads((tmp_path / "sample" / "config.json").read_text())
    assert config["windows"] == windows
    assert cli.main([*words[:-1], str(whole / "config.json"), "--out", str(tmp_path / "x")]) == 2
    (tmp_path / "bad.json").write_text("[3]")
    assert cli.main([*words[:-1], str(tmp_path / "bad.json"), "--out", str(tmp_path / "x")]) == 2
    assert "is not a file of `elsjax calibrate`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--candidates", "4"], "candidates=4 must be an odd"),
        (
            ["--candidates", "3", "399"],
            "candidates=399 is wider than the network's receptive field",
        ),
        (["--num-samples", "0"], "num_samples=0 must be"),
        (["--network", "nope"], "network='nope' is neither a file"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refuses, small_network, options, message):
    refuses([*SMALL, "--network", small_network, *options], message)
