"""`elsjax study receptive-field`: its numbers against direct calls, interrupted, of wrong words."""

import jax
import numpy as np
import pytest

import elsjax
from elsjax import cli
from elsjax.experiments.receptive_field import receptive_field, side_of_mass

SMALL = [
    "study",
    "receptive-field",
    "--window",
    "3,5",
    "--num-images",
    "2",
    "--times",
    "0.2",
    "0.9",
]


@pytest.fixture(scope="module")
def words(small_network):
    return [*SMALL, "--network", small_network]


def test_the_command_writes_what_the_library_computes(
    words, small_network, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return receptive_field(*arguments)

    monkeypatch.setattr("elsjax.cli.studies.receptive_field.receptive_field", interrupted)
    assert cli.main([*words, "--out", str(out)]) == 130
    assert cli.main([*words, "--out", str(out)]) == 0
    assert len(calls) == 5  # what was done before is not done again
    data = elsjax.load_dataset("mnist5k", limit=40, image_size=8)
    network = elsjax.load_network(small_network)
    windows = elsjax.WindowSchedule((3, 5))
    machine = elsjax.ScoreMachine("bbels", data.pixels, data.labels, window=windows)
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 2, (8, 8, 1)))
    with np.load(out / "study.npz") as archive:
        arrays = dict(archive)
    printed = capsys.readouterr().out.splitlines()
    for place, t in enumerate((0.2, 0.9)):
        alpha, sigma = (np.asarray(level) for level in network.schedule(t))
        x = alpha * data.images[[0, 39]] + sigma * noise
        cells = []
        for name, denoiser in {"network": network, "bbels": machine}.items():
            expected = receptive_field(denoiser, x, t)
            np.testing.assert_allclose(arrays[f"field/{name}"][place], expected, rtol=1e-5)
            cells += [str(side_of_mass(expected, share)) for share in (0.5, 0.9)]
        assert printed[1 + place].split() == [f"{t:g}", *cells, str(windows(t))]
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == 1
    assert (out / "receptive_field.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--times", "0"], "times=0.0 must be positive"),
        (["--times", "2"], "times=2.0 must"),
        (["--num-images", "41"], "num_images=41 must be at most 40"),
        (["--window", "even"], "window='even' is not known"),
        (["--network", "nothing"], "network='nothing'"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(words, tmp_path, capsys, options, message):
    assert cli.main([*words, *options, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told
    assert not (tmp_path / "run").exists()
