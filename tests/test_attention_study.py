"""`elsjax study attention`: its numbers against direct calls, interrupted, of wrong words."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax import cli
from elsjax.experiments.attention import attention_maps, foreground, with_mean_attention
from elsjax.experiments.attention_study import (
    agreement_by_measure,
    attention_variants,
    study_attention,
)
from elsjax.experiments.measures import local_means
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.sampling import ResumableSampler
from elsjax.nn import AttentionUNet

STEPS = 3
SMALL = ["study", "attention", "--window", "3,5", "--num-samples", "2", "--num-steps", str(STEPS)]


def save(folder, levels):
    """A network with attention at some levels, none of whose weights are zero."""
    network = AttentionUNet(
        (8, 8, 1), widths=(4, 8), attention_levels=levels, embedding_width=8, rngs=nnx.Rngs(0)
    )
    random = np.random.default_rng(1)
    for _, weight in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        values = random.normal(0, 0.3, weight.shape)
        weight.set_value(jax.numpy.asarray(values, weight.dtype))
    folder.mkdir()
    elsjax.save_network(network, folder / "network.safetensors")
    trained = {"dataset": "mnist5k", "split": "train", "num_images": 40, "image_size": 8}
    (folder / "config.json").write_text(json.dumps(trained))
    return str(folder / "network.safetensors")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return save(folder / "with", (0,)), save(folder / "without", ())


@pytest.fixture(scope="module")
def words(networks):
    return [*SMALL, "--network", networks[0]]


@pytest.fixture(scope="module")
def run(words, networks, tmp_path_factory):
    """The folder of a run that was not interrupted."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--without", networks[1], "--num-pieces", "1", "--pieces-tolerance", "0.2"]
    assert cli.main([*words, *options, "--out", str(out)]) == 0
    return out


def read(out):
    with np.load(Path(out) / "study.npz") as archive:
        return dict(archive), json.loads((Path(out) / "summary.json").read_text())


def test_the_command_writes_what_the_library_computes(run, networks):
    arrays, summary = read(run)
    data = elsjax.load_dataset("mnist5k", limit=40, image_size=8)
    network, without = map(elsjax.load_network, networks)
    window = elsjax.WindowSchedule((3, 5))
    denoisers = {
        "network": network,
        "without": without,
        "mean-up-0": with_mean_attention(network, [1]),
        "mean-all": with_mean_attention(network),
        "bbels": elsjax.ScoreMachine("bbels", data.pixels, window=window),
        "wiener-is": elsjax.WienerDenoiser(data.pixels),
    }
    noise = np.asarray(elsjax.initial_noise(jax.random.key(0), 2, (8, 8, 1)))
    times = np.array([2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(arrays["times"], times)
    for name, denoiser in denoisers.items():
        expected = elsjax.sample(denoiser, noise, times=times)
        np.testing.assert_allclose(arrays[f"images/{name}"], expected, atol=1e-4)
    trajectory = elsjax.sample(network, noise, times=times, return_trajectory=True)
    steps = [attention_maps(network, trajectory.x[k], times[k]) for k in range(2)]
    maps = np.stack([arrays[f"attention/{name}"] for name in ("down-0", "up-0")])
    np.testing.assert_allclose(maps, np.mean(steps, axis=0), rtol=1e-3)
    ahead = foreground(maps.mean(0))
    of = {name: arrays[f"images/{name}"] for name in denoisers}
    for name, target in [("without", "bbels"), ("mean-all", "network"), ("network", "wiener-is")]:
        for measure, values in agreement_by_measure(of[name], of[target], ahead).items():
            np.testing.assert_array_equal(arrays[f"{measure}/{name}/{target}"], values)
    rows = {(r["name"], r["target"], r["measure"]): r for r in summary["agreement"]}
    assert len(rows) == 5 * (5 * 3 - 1)  # network, without, two layers, all; not with itself
    difference = arrays["r/mean-up-0/bbels"] - arrays["r/network/bbels"]
    row = rows["mean-up-0", "bbels", "r"]
    assert row["difference_median"] == pytest.approx(np.median(difference))
    assert row["difference_interval"] is None  # of two samples
    pieces = elsjax.fewest_pieces(of["without"][0], data.pixels, tolerance=0.2)
    assert arrays["pieces/without"].tolist() == [pieces.count]
    assert arrays["uncovered/without"] == pytest.approx(pieces.uncovered.mean())
    assert len(summary["pieces"]) == 7
    page = (run / "report.html").read_text()
    assert page.count("<figure>") == 2


@pytest.mark.parametrize("saves", [3, 14])  # among samples; after them, before the maps
def test_an_interrupted_run_goes_on_and_ends_the_same(
    words, networks, run, tmp_path, monkeypatch, capsys, saves
):
    out, calls = tmp_path / "run", []
    save_arrays = elsjax.experiments.runs.Run.save_arrays
    options = ["--without", networks[1], "--num-pieces", "1", "--pieces-tolerance", "0.2"]

    def interrupted(run, name, arrays):
        calls.append(name)
        if len(calls) == saves + 1:
            raise KeyboardInterrupt
        save_arrays(run, name, arrays)

    monkeypatch.setattr("elsjax.experiments.runs.Run.save_arrays", interrupted)
    assert cli.main([*words, *options, "--out", str(out)]) == 130
    assert cli.main([*words, *options, "--out", str(out)]) == 0
    # Samples of seven in two steps each, maps, pieces of seven, and the results; one twice.
    assert len(calls) == 7 * (STEPS - 1) + 1 + 7 + 1 + 1
    for name in ("summary.json", "report.html"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    found, expected = read(out)[0], read(run)[0]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert not list(out.glob("state-*"))


def test_measures_are_correlations_of_parts():
    random = np.random.default_rng(0)
    a = random.normal(size=(1, 4, 4, 3))
    ahead = np.zeros((1, 4, 4), bool)
    ahead[0, :2] = True
    b = np.where(ahead[..., None], a, -a)
    found = agreement_by_measure(a, b, ahead)
    np.testing.assert_allclose(found["foreground_r"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["background_r"], -1, rtol=1e-6)
    np.testing.assert_allclose(found["r"], np.corrcoef(a.ravel(), b.ravel())[0, 1], rtol=1e-5)
    for name, parts in {
        "low_r": (local_means(a), local_means(b)),
        "high_r": (a - local_means(a), b - local_means(b)),
    }.items():
        expected = np.corrcoef(parts[0].ravel(), parts[1].ravel())[0, 1]
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)
    everywhere = agreement_by_measure(a, 2 * a + 1, ahead)
    assert all(values == pytest.approx(1) for values in everywhere.values())
    nowhere = agreement_by_measure(a, b, np.zeros_like(ahead))
    assert np.isnan(nowhere["foreground_r"]).all()
    assert nowhere["background_r"] == pytest.approx(found["r"])


def test_the_library_refuses_what_does_not_belong_together(networks):
    network, without = map(elsjax.load_network, networks)
    with pytest.raises(ValueError, match="without has attention"):
        attention_variants(network, network)
    with pytest.raises(ValueError, match="network has no attention"):
        attention_variants(without)
    noise = np.zeros((1, 8, 8, 1), np.float32)
    sampler, times = ResumableSampler(noise), machine_grid("late", 3, None)[0]
    variants = {"network": network}
    wiener = elsjax.WienerDenoiser(np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)))
    for message, changed in {
        "must hold 'network'": {"variants": {"other": network}},
        "and no name of machines": {"machines": {"network": wiener}},
        "pieces=None, but num_pieces=1": {"num_pieces": 1},
        "num_pieces=2": {"num_pieces": 2},
    }.items():
        arguments = {"variants": variants, "machines": {"w": wiener}} | changed
        with pytest.raises(ValueError, match=message):
            study_attention(network, sampler=sampler, times=times, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-steps", "1"], "num_steps=1 must be at least 2"),
        (["--num-samples", "0"], "num_samples=0"),
        (["--num-pieces", "3"], "num_pieces=3"),
        (["--num-pieces", "-1"], "num_pieces=-1"),
        (["--pieces-tolerance", "3"], "pieces_tolerance=3"),
        (["--tolerance", "1"], "tolerance=1"),
        (["--window", "even"], "window='even' is not known"),
        (["--network", "nothing"], "network='nothing'"),
        (["--network", "mnist5k/unet/zeros"], "has no attention"),
        (["--without", "nothing"], "without='nothing' is neither"),
        (["--without", "mnist5k/unet/zeros"], "without='mnist5k/unet/zeros' has image_shape"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(refuses, words, options, message):
    refuses([*words, *options], message)


def test_a_network_with_attention_is_not_without(refuses, words, networks):
    refuses([*words, "--without", networks[0]], "without has attention")
