"""Switching between network and machine: by hand, at its limits, interrupted, of wrong words."""

import json

import jax
import numpy as np
import pytest

import elsjax
from elsjax import cli
from elsjax.experiments import sampling
from elsjax.experiments.states import States
from elsjax.experiments.switching import (
    MEASURES,
    ORDERS,
    SwitchingStudy,
    numbers_of_switches,
    study_switching,
)

SHAPE = (6, 5, 1)


def _shrinks(factor, shape=SHAPE, **options):
    return elsjax.FunctionDenoiser(
        lambda x, _t, _label: factor * x, shape, prediction="x0", **options
    )


def _machine(kind="bbels", window=3):
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    return elsjax.ScoreMachine(kind, images, window=window)


def _noise(count=3):
    return elsjax.initial_noise(jax.random.key(1), count, SHAPE)


def test_a_switch_of_a_denoiser_with_itself_changes_no_bit():
    machine = _machine(window=elsjax.WindowSchedule((1, 3, 3, 3, 3)))
    times = np.array([4, 3, 2, 1, 0]) / 5
    alone = elsjax.sample(machine, _noise(), times=times)
    found = study_switching(machine, machine, _noise(), num_steps=5, border=1)
    np.testing.assert_array_equal(found.times, times)
    assert found.switches == (0, 1, 2, 3, 4)
    for order in ORDERS:
        for images in found.images[order]:
            np.testing.assert_array_equal(images, alone)


def test_one_goes_on_from_the_state_of_the_other():
    network, machine = _shrinks(0.9), _machine()
    found = study_switching(
        network, machine, _noise(), num_steps=6, switches=(4, 1), border=1, batch_size=2
    )
    assert found.switches == (0, 1, 4, 5)
    pairs = {"machine-network": (machine, network), "network-machine": (network, machine)}
    for order, (first, second) in pairs.items():
        for place, switch in enumerate(found.switches):
            x = _noise()
            if switch > 0:
                x = elsjax.sample(first, x, times=found.times[: switch + 1])
            if switch < 5:
                x = elsjax.sample(second, x, times=found.times[switch:])
            np.testing.assert_allclose(found.images[order][place], x, atol=1e-5)
    np.testing.assert_array_equal(found.network, found.images["network-machine"][-1])
    np.testing.assert_array_equal(
        found.images["machine-network"][-1], found.images["network-machine"][0]
    )


def test_two_steps_by_hand():
    found = study_switching(_shrinks(0.9), _shrinks(0.5), _noise(), num_steps=3, border=1)
    # Levels of the cosine schedule at t = 2/3 and 1/3.
    alpha, sigma = np.cos(np.pi / 3), np.sin(np.pi / 3)
    levels = [np.asarray(elsjax.CosineSchedule()(t)) for t in found.times[:2]]
    np.testing.assert_allclose(levels, [(alpha, sigma), (sigma, alpha)], atol=0.02)
    (alpha, sigma), (next_alpha, next_sigma) = levels

    def final(first, second):
        return second * (next_alpha * first + next_sigma * (1 - alpha * first) / sigma)

    expected = {
        "machine-network": [final(0.9, 0.9), final(0.5, 0.9), final(0.5, 0.5)],
        "network-machine": [final(0.5, 0.5), final(0.9, 0.5), final(0.9, 0.9)],
    }
    x = np.asarray(_noise())
    squares = np.sum((x - x.mean((1, 2, 3), keepdims=True)) ** 2, (1, 2, 3))
    for order, factors in expected.items():
        measures = found.measures(order)
        np.testing.assert_allclose(measures["pearson_r"], 1, atol=1e-6)
        for place, factor in enumerate(factors):
            np.testing.assert_allclose(found.images[order][place], factor * x, rtol=1e-5)
            missed = (factor / final(0.9, 0.9) - 1) ** 2 * np.sum(x**2, (1, 2, 3)) / squares
            np.testing.assert_allclose(measures["r2"][place], 1 - missed, rtol=1e-4)


def test_border_and_interior_are_measured_apart():
    rng = np.random.default_rng(2)
    network, other = rng.normal(size=(2, 2, 5, 6, 3))
    inner = np.zeros((5, 6, 1), bool)
    inner[1:4, 1:5] = True
    images = np.stack([network, np.where(inner, network, other), np.where(inner, other, network)])
    study = SwitchingStudy(
        np.array([0.75, 0.5, 0.25, 0]),
        (0, 1, 3),
        {"machine-network": images, "network-machine": images[::-1]},
        1,
    )
    measures = study.measures("machine-network")
    assert tuple(measures) == MEASURES
    np.testing.assert_allclose(measures["interior_r"][:2], 1, atol=1e-6)
    np.testing.assert_allclose(measures["border_r"][[0, 2]], 1, atol=1e-6)
    np.testing.assert_allclose(measures["border_share"], [[np.nan] * 2, [1, 1], [0, 0]])
    for name, place, pixels in (("border_r", 1, ~inner), ("interior_r", 2, inner)):
        expected = [
            np.corrcoef(a[pixels[..., 0]].ravel(), b[pixels[..., 0]].ravel())[0, 1]
            for a, b in zip(network, other, strict=True)
        ]
        np.testing.assert_allclose(measures[name][place], expected, atol=1e-5)
    both = np.where(inner, network, other).reshape(2, -1), network.reshape(2, -1)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*both, strict=True)]
    np.testing.assert_allclose(measures["pearson_r"][1], expected, atol=1e-5)


def test_changes_are_of_each_sample():
    network = np.random.default_rng(3).normal(size=(7, *SHAPE))
    far = network + np.linspace(0.5, 2, 7)[:, None, None, None] * network[::-1]
    images = np.stack([network, far, 2 * far])
    study = SwitchingStudy(
        np.array([0.75, 0.5, 0]),
        (0, 1, 2),
        {"machine-network": images, "network-machine": images[::-1]},
        1,
    )
    rows = study.summary()
    assert [(row["order"], row["switch"], row["t"]) for row in rows[:2]] == [
        ("machine-network", 0, 0.75),
        ("machine-network", 1, 0.5),
    ]
    r = study.measures("machine-network")["pearson_r"]
    assert rows[1]["pearson_r"] == pytest.approx(np.median(r[1]))
    assert rows[1]["pearson_r_interval"] == [min(r[1]), max(r[1])]  # of seven: the extremes
    assert rows[1]["pearson_r_change"] == pytest.approx(np.median(r[1] - r[0]))
    # Twice as much contrast does not change a correlation.
    assert rows[2]["pearson_r_change"] == pytest.approx(0, abs=1e-6)
    assert (rows[0]["pearson_r_change"], rows[0]["border_share"]) == (None, None)
    assert rows[0]["border_share_interval"] is None
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [(20, (2, 4, 6, 8, 11, 13, 15, 17)), (4, (1, 2)), (3, (1,))],
)
def test_switches_are_even_by_default(num_steps, expected):
    assert numbers_of_switches(num_steps, None) == expected


def test_an_interrupted_study_goes_on():
    kept, calls = {}, []

    class Store:
        def load_arrays(self, name, like):
            return kept.get(name)

        def save_arrays(self, name, arrays):
            kept[name] = {key: value.copy() for key, value in arrays.items()}
            if len(calls) == 0 and len(kept) == 9:
                raise KeyboardInterrupt

        def warn_damaged(self, name, reason):
            raise AssertionError(reason)

        def remove(self, name):
            del kept[name]

    arguments = (_shrinks(0.9), _machine(), _noise())
    options = {"num_steps": 5, "switches": (2,), "border": 1, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        study_switching(*arguments, **options, states=States(Store()))
    states = States(Store())
    resumed = study_switching(
        *arguments, **options, states=states, progress=lambda *told: calls.append(told)
    )
    whole = study_switching(*arguments, **options)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)
    names = list(dict.fromkeys(name for name, _, _ in calls))
    assert names[-2:] == ["machine to step 2, then network", "network to step 2, then machine"]
    assert ("network, steps 0 to 2", 0, 4) not in calls  # done before
    states.forget()
    assert kept == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"switches": (0,)}, r"switches\[0\]=0 must be an integer of at least 1"),
        ({"switches": (2, 4)}, "switches=4 must be an integer from 1 to 3"),
        ({"switches": (2, 2)}, r"switches=\(2, 2\) must differ"),
        ({"switches": ()}, r"switches=\(\) must hold at least one"),
        ({"num_steps": 2}, "num_steps=2 must be at least 3"),
        ({"border": 3}, "border=3 must be less than half of 5"),
        ({"border": 0}, "border=0 must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size=0 must"),
        ({"label": np.zeros(2, int)}, r"label has shape"),
        ({"machine": _shrinks(0.5, (6, 6, 1))}, "expected"),
        ({"machine": "bbels"}, "machine='bbels' must be"),
        (
            {"machine": _shrinks(0.5, schedule=elsjax.ExponentialSchedule())},
            "machine has schedule=ExponentialSchedule",
        ),
    ],
)
def test_wrong_arguments(change, message):
    given = {"network": _shrinks(0.9), "machine": _shrinks(0.5), "noise": _noise()}
    options = {"num_steps": 5, "border": 1}
    with pytest.raises(ValueError, match=message):
        study_switching(**(given | options | change))


def test_what_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="network, steps 0 to 1 is not finite"):
        study_switching(_shrinks(np.inf), _shrinks(0.5), _noise(), num_steps=3, border=1)


# The command

SMALL = ["study", "switch", "--window", "3,3,7", "--last-window", "7", "--num-samples", "2"]
SMALL += ["--batch-size", "1", "--num-steps", "4", "--border", "2"]


@pytest.fixture(scope="module")
def words(small_network):
    return [*SMALL, "--network", small_network]


@pytest.mark.filterwarnings("ignore:.* are of different scales")  # the network is not trained
def test_the_command_writes_what_the_library_computes(
    words, small_network, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    steps = []
    advance = sampling._advance

    def interrupted(*arguments):
        steps.append(arguments)
        if len(steps) == 17:
            raise KeyboardInterrupt
        advance(*arguments)

    monkeypatch.setattr(sampling, "_advance", interrupted)
    assert cli.main([*words, "--out", str(out)]) == 130
    assert cli.main([*words, "--out", str(out)]) == 0
    # Two batches of two paths of 3 steps, and of two switches with 2 and 1 left; one step twice.
    assert len(steps) == 2 * (2 * 3 + 2 * (2 + 1)) + 1
    data = elsjax.load_dataset("mnist5k", limit=40, image_size=8)
    window, mesh = elsjax.WindowSchedule((7, 7, 7)), elsjax.make_mesh()
    study = study_switching(
        elsjax.load_network(small_network).with_mesh(mesh),
        elsjax.ScoreMachine("bbels", data.pixels, window=window, mesh=mesh),
        elsjax.initial_noise(jax.random.key(0), 2, (8, 8, 1)),
        num_steps=4,
        border=2,
        batch_size=1,
    )
    with np.load(out / "study.npz") as archive:
        arrays = dict(archive)
    assert arrays.keys() == study.arrays().keys()
    for name, expected in study.arrays().items():
        np.testing.assert_allclose(arrays[name], expected, atol=1e-4, err_msg=name)
    rows = json.loads((out / "summary.json").read_text())
    assert [row["switch"] for row in rows] == 2 * [0, 1, 2, 3]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + 8 + 1
    for line, row in zip(printed[1:-1], rows, strict=True):
        assert f"  {row['t']:.3g}  " in line
        assert f"{row['pearson_r']:.2f} (" in line
        change = row["pearson_r_change"]
        assert ("-" if change is None else f"{change:+.3f}") in line.split()
    assert printed[2].startswith("bbELS, then network")
    assert json.loads((out / "config.json").read_text())["windows"] == [7, 7, 7]
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == 2
    for name in ("switching.png", "examples.png"):
        assert (out / name).stat().st_size > 10_000
    assert not list(out.glob("state-*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--switches", "0"], "switches[0]=0 must be an integer of at least 1"),
        (["--switches", "25", "--num-steps", "20"], "switches=25 must be an integer from 1 to 18"),
        (["--switches", "1", "1"], "switches=(1, 1) must differ"),
        (["--num-steps", "2"], "num_steps=2 must be at least 3"),
        (["--last-window", "4"], "last_window=4 must be an odd"),
        (["--border", "4"], "border=4 must be less than half of 8"),
        (["--tolerance", "0"], "tolerance=0.0 must lie in (0, 1)"),
        (["--machine", "is"], "window='3,3,7' needs a machine that looks through windows"),
        (["--machine", "nothing"], "nothing"),
        (["--window", "even"], "window='even' is not known"),
        (["--network", "nothing"], "network='nothing'"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(words, tmp_path, capsys, options, message):
    assert cli.main([*words, *options, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told
    assert not list(tmp_path.iterdir())
