import base64
import json
import re

import jax
import matplotlib.image
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax import cli
from elsjax.cli.comparison_account import ComparisonAccount
from elsjax.experiments.comparison import Comparison
from elsjax.experiments.protocols import machine_grid, network_grid, numbers_of_steps
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import Samples
from elsjax.posterior.index import search as near_far

SMALL = [
    "compare",
    *("--limit", "30", "--window", "3,3,5,7"),
    *("--num-samples", "3", "--num-steps", "4", "--network-steps", "4", "6", "--batch-size", "2"),
]


@pytest.fixture
def run(small_network):
    def compare(out, *options):
        return cli.main([*SMALL, "--network", small_network, "--out", str(out), *options])

    return compare


def _arrays(out):
    with np.load(out / "comparison.npz") as archive:
        return dict(archive)


def test_protocols():
    windows = elsjax.WindowSchedule((3, 5, 9, 11))
    times, seen = machine_grid("aligned", 4, windows)
    np.testing.assert_array_equal(times, [1, 0.75, 0.5, 0.25, 0])
    assert seen == windows
    times, seen = machine_grid("published", 4, windows)
    np.testing.assert_array_equal(times, [0.75, 0.5, 0.25, 0])
    # Each time looks through the window of the grid point above it.
    assert [seen(t) for t in times[:-1]] == [11, 9, 5]
    assert machine_grid("published", 4, 7)[1] == 7
    times, seen = machine_grid("late", 4, windows)
    np.testing.assert_array_equal(times, [0.75, 0.5, 0.25, 0])
    assert seen == windows
    for protocol, first in (("late", 0.75), ("aligned", 1), ("published", 1)):
        times = network_grid(protocol, 4, 12)
        np.testing.assert_allclose(times, np.arange(12 * first, -1, -1) / 12)
        same = network_grid(protocol, 4, 4)
        np.testing.assert_array_equal(same, np.arange(4 * first, -1, -1) / 4)
    # Where the steps do not fit, they are of about the size asked for.
    np.testing.assert_allclose(network_grid("late", 4, 6), 0.75 * np.arange(4, -1, -1) / 4)
    with pytest.raises(ValueError, match="protocol='other' is not known"):
        machine_grid("other", 4, windows)
    with pytest.raises(ValueError, match="num_steps=20 must be 10 for protocol='ten-step'"):
        numbers_of_steps("ten-step", 20, None)
    with pytest.raises(ValueError, match=r"network_steps=\(20, 150\) must be \(10,\)"):
        numbers_of_steps("ten-step", None, (20, 150))
    assert numbers_of_steps("ten-step", None, None) == (10, (10,))
    assert numbers_of_steps("late", None, None) == (20, (20, 150))
    for protocol in ("late", "published"):
        with pytest.raises(ValueError, match="num_steps=1 must be at least 2"):
            machine_grid(protocol, 1, windows)
    with pytest.raises(ValueError, match="network_steps=0 must be"):
        network_grid("late", 4, 0)


def test_ten_steps_are_those_of_the_papers(run, small_network, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["compare", "--limit", "30", "--window", "3,3,5,7", "--num-samples", "3"]
    words += ["--network", small_network, "--out", str(out), "--protocol", "ten-step"]
    assert cli.main([*words, "--machine", "is", "bbels"]) == 0
    found = _arrays(out)
    data = elsjax.load_dataset("mnist5k", limit=30, image_size=8)
    windows = elsjax.WindowSchedule((3, 3, 5, 7))
    denoisers = {
        "network_10": elsjax.load_network(small_network),
        "is": elsjax.ScoreMachine("is", data.images),
        "bbels": elsjax.ScoreMachine("bbels", data.images, window=windows),
    }
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for name, denoiser in denoisers.items():
        x = found["noise"].astype(np.float64)
        for k in range(900, -1, -100):
            alpha, sigma = np.sqrt(signal[k]), np.sqrt(1 - signal[k])
            own = np.arccos(alpha) * 2 * 1.008 / np.pi  # of the cosine schedule
            x0 = np.clip(denoiser.denoise(x.astype(np.float32), own), -1, 1).astype(np.float64)
            after = signal[k - 100] if k else 1.0
            x = np.sqrt(after) * x0 + np.sqrt(1 - after) * (x - alpha * x0) / sigma
        np.testing.assert_allclose(found[name], x, atol=2e-3)
    rows = {row["machine"]: row for row in json.loads((out / "summary.json").read_text())}
    painted, target = found["bbels"].reshape(3, -1), found["network_10"].reshape(3, -1)
    left = ((painted - target) ** 2).sum(1)
    r2 = 1 - left / ((target - target.mean(1, keepdims=True)) ** 2).sum(1)
    assert rows["bbels"]["mean_r2"] == pytest.approx(r2.mean(), abs=1e-4)
    assert rows["bbels"]["network_steps"] == 10
    assert "mean r2" in capsys.readouterr().out


def test_the_report_links_to_the_mosaics_of_its_samples(run, tmp_path):
    out = tmp_path / "run"
    assert run(out, "--mosaics", "2", "--machine", "is", "bbels", "--network-steps", "4") == 0
    report, page = ((out / name).read_text() for name in ("report.html", "mosaic.html"))
    assert '<a href="mosaic.html">' in report
    assert "bbELS: where every pixel came from" in page
    assert run(tmp_path / "plain", "--machine", "is", "--network-steps", "4") == 0
    assert "mosaic.html" not in (tmp_path / "plain" / "report.html").read_text()
    assert not (tmp_path / "plain" / "mosaic.html").exists()


def test_network_and_machines_are_guided_alike(small_network, tmp_path):
    trained = (tmp_path / "config.json", {"dataset": "mnist5k", "split": "train", "num_images": 40})
    trained[0].write_text(json.dumps({**trained[1], "image_size": 8}))
    network = elsjax.nn.ResNet((8, 8, 1), width=8, num_layers=1, num_classes=10, rngs=nnx.Rngs(0))
    elsjax.save_network(network, tmp_path / "network.safetensors")
    words = ["compare", "--network", str(tmp_path / "network.safetensors"), "--machine", "is"]
    words += ["--num-samples", "2", "--num-steps", "3", "--network-steps", "3", "--label", "4"]
    guided = ["--guidance", "2", "--guidance-network", small_network]
    assert cli.main([*words, *guided, "--out", str(tmp_path / "run")]) == 0
    found = _arrays(tmp_path / "run")
    data = elsjax.load_dataset("mnist5k", limit=40, image_size=8)
    bases = {"network_3": elsjax.load_network(small_network)}
    bases["is"] = elsjax.ScoreMachine("is", data.pixels, data.labels)
    for name, part in {"network_3": network, "is": bases["is"]}.items():
        # Twice as far from the base as the class is.
        x = found["noise"]
        for t, s in ((2 / 3, 1 / 3), (1 / 3, 0.0)):
            x0 = 2 * part.denoise(x, t, 4) - bases[name].denoise(x, t)
            (alpha, sigma), (signal, noise) = network.schedule(t), network.schedule(s)
            x = signal * x0 + noise * (x - alpha * x0) / sigma
        np.testing.assert_allclose(found[name], x, atol=1e-3)


@pytest.mark.parametrize("protocol", ["late", "aligned", "published"])
def test_compare_writes_what_the_library_computes(run, small_network, tmp_path, capsys, protocol):
    out = tmp_path / "run"
    assert run(out, "--protocol", protocol, "--seed", "3") == 0
    data = elsjax.load_dataset("mnist5k", limit=30, image_size=8)
    noise = elsjax.initial_noise(jax.random.key(3), 3, (8, 8, 1))
    network = elsjax.load_network(small_network)
    arrays = _arrays(out)
    np.testing.assert_array_equal(arrays["noise"], noise)
    for steps in (4, 6):
        grid = network_grid(protocol, 4, steps)
        painted = elsjax.sample(network, noise, times=grid)
        np.testing.assert_allclose(arrays[f"network_{steps}"], painted, atol=1e-4)
    shifted = protocol == "published"
    windows = elsjax.WindowSchedule((3, 5, 7, 7) if shifted else (3, 3, 5, 7))
    times = np.array([1, 0.75, 0.5, 0.25, 0])[int(protocol != "aligned") :]
    rows = json.loads((out / "summary.json").read_text())
    assert [(row["machine"], row["network_steps"]) for row in rows] == [
        (kind, steps) for steps in (4, 6) for kind in ("is", "ls", "bbels")
    ]
    for row in rows:
        kind, steps = row["machine"], row["network_steps"]
        window = None if kind == "is" else windows
        machine = elsjax.ScoreMachine(kind, data.images, window=window)
        painted = elsjax.sample(machine, noise, times=times)
        np.testing.assert_allclose(arrays[kind], painted, atol=1e-3)
        r = [
            np.corrcoef(a.ravel(), b.ravel())[0, 1]
            for a, b in zip(arrays[kind], arrays[f"network_{steps}"], strict=True)
        ]
        np.testing.assert_allclose(arrays[f"pearson_r_{kind}_{steps}"], r, atol=1e-5)
        assert row["pearson_r"] == pytest.approx(np.median(r), abs=1e-5)
        assert row["pearson_r2"] == pytest.approx(np.median(np.square(r)), abs=1e-5)
        assert row["pearson_r_interval"] is None  # of three samples
        assert row["num_samples"] == 3
        assert set(row["num_undefined"].values()) == {0}
        if kind != "is":
            better = np.sum(r > arrays[f"pearson_r_is_{steps}"])
            assert row["num_better_than_is"] == better
            assert row["better_than_is"] == pytest.approx(better / 3)
    values = ", ".join(f"{value:.2f}" for value in arrays["pearson_r_is_4"])
    assert f"{rows[0]['pearson_r']:.2f} ({values})" in capsys.readouterr().out


def test_report_holds_the_numbers_and_the_pictures(run, tmp_path):
    out = tmp_path / "run"
    assert run(out) == 0
    page = (out / "report.html").read_text()
    for row in json.loads((out / "summary.json").read_text()):
        r = _arrays(out)[f"pearson_r_{row['machine']}_{row['network_steps']}"]
        values = ", ".join(f"{value:.2f}" for value in r)
        assert f"<td>{row['pearson_r']:.2f} ({values})</td>" in page
        if row["machine"] != "is":
            assert f"<td>{row['num_better_than_is']} of 3</td>" in page
    assert "In parentheses: the values themselves" in page
    assert "In brackets" not in page
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    files = ("samples.png", "scatter.png", "agreement.png")
    assert [base64.b64decode(picture) for picture in embedded] == [
        (out / file).read_bytes() for file in files
    ]
    for file in files:
        assert matplotlib.image.imread(out / file).std() > 0.05
    # One file, which needs nothing from elsewhere.
    assert page.count("<script") == page.count('<script type="module">') == 1
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_own_networks_know_their_images(tmp_path, capsys):
    network = elsjax.nn.ResNet((8, 8, 1), width=8, num_layers=1, rngs=nnx.Rngs(0))
    file = tmp_path / "network.safetensors"
    elsjax.save_network(network, file)
    words = ["compare", "--network", str(file), "--image-size", "8", "--window", "3"]
    words += ["--num-samples", "1", "--num-steps", "2", "--network-steps", "2"]
    words += ["--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "no config.json of `elsjax train` beside it" in capsys.readouterr().err
    trained = {"dataset": "mnist5k", "split": "train", "num_images": 25}
    (tmp_path / "config.json").write_text(json.dumps(trained))
    assert cli.main(words) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["dataset"], config["num_images"]) == ("mnist5k", 25)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())[0]["num_samples"] == 1


def test_an_interrupted_comparison_goes_on_and_ends_the_same(run, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole) == 0
    save_arrays = Run.save_arrays
    saved = []

    def save_some(run, name, arrays):
        save_arrays(run, name, arrays)
        saved.append(name)
        if len(saved) == 21:  # 2 batches of 3 and of 4 network steps, then of 3 machine steps.
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_arrays", save_some)
    assert run(cut) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert set(saved) == {
        *(f"state-network-{steps}-{first}.npz" for steps in (4, 6) for first in (0, 2)),
        *("state-is-0.npz", "state-is-2.npz", "state-ls-0.npz"),
    }
    assert not cut.exists()
    monkeypatch.undo()
    assert run(cut) == 0
    assert sorted(path.name for path in cut.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )
    for name, array in _arrays(whole).items():
        np.testing.assert_array_equal(_arrays(cut)[name], array, err_msg=name)


def test_machines_keep_to_a_tolerance(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path))
    options = ("--num-samples", "1", "--network-steps", "4", "--seed", "2")
    exact, near, indexed = (tmp_path / name for name in ("exact", "near", "indexed"))
    assert run(exact, *options) == 0
    # So few patches are looked up exactly, unless told otherwise.
    assert run(near, *options, "--tolerance", "0.01") == 0
    assert not (tmp_path / "indices").exists()
    monkeypatch.setattr(near_far, "_FEWEST_PATCHES", 0)
    assert run(indexed, *options, "--tolerance", "0.01") == 0
    assert len(list((tmp_path / "indices").iterdir())) == 3  # of all windows, and of LS none
    for kind in ("is", "ls", "bbels"):
        np.testing.assert_allclose(_arrays(near)[kind], _arrays(exact)[kind], atol=1e-4)
        np.testing.assert_allclose(_arrays(indexed)[kind], _arrays(exact)[kind], atol=0.05)
    assert "an estimated 0.01 or less" in (indexed / "report.html").read_text()
    assert "Results are exact." in (exact / "report.html").read_text()
    assert json.loads((indexed / "config.json").read_text())["tolerance"] == 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "nope"], "network='nope' is neither a file nor one of "),
        (["--window", "4"], "must be an odd positive integer"),
        (["--window", "mnist"], "window='mnist' is not known"),
        (["--label", "1"], "label=[1 1 1] was given, but this network is unconditional"),
        (["--label", "1", "2"], "must be one class, or num_samples=3 of them"),
        (["--image-size", "10"], "image_size=10 differs from 8, the size of the network's images"),
        (["--num-samples", "0"], "num_samples=0 must be"),
        (["--network-steps", "0"], "network_steps[0]=0 must be"),
        (["--mosaics", "4"], "mosaics=4 must"),
        (["--mosaics", "1", "--protocol", "published"], "needs protocol='late' or 'aligned'"),
        (["--mosaics", "1", "--machine", "pspc", "--crop", "3"], "needs a score machine"),
        (["--crop", "odd", "--machine", "pspc"], "crop='odd' is not known"),
        (["--threshold", "-1", "--machine", "pca-locality"], "threshold=-1.0 must"),
        (["--draws", "0", "--machine", "smoothed-is"], "draws=0 must be"),
        (["--guidance", "2"], "must be given together"),
        (["--num-steps", "1"], "num_steps=1 must be at least 2"),
        (["--dataset", "nope"], "name='nope' is not known"),
        (["--protocol", "fair"], "invalid choice"),
        (["--tolerance", "1"], "tolerance=1.0 must lie in (0, 1)"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refuses, small_network, options, message):
    refuses([*SMALL, "--network", small_network, *options], message)


@pytest.mark.parametrize("num_samples", [1, 6])
def test_constant_images_are_counted_and_left_out(tmp_path, capsys, num_samples):
    # Training images are black, so that every machine paints black, which correlates with nothing.
    np.savez(tmp_path / "black.npz", images=np.zeros((3, 8, 8, 1), np.uint8))
    network = elsjax.nn.ResNet((8, 8, 1), width=8, num_layers=1, rngs=nnx.Rngs(0))
    elsjax.save_network(network, tmp_path / "network.safetensors")
    words = ["compare", "--network", str(tmp_path / "network.safetensors"), "--window", "3"]
    words += ["--dataset", str(tmp_path / "black.npz"), "--image-size", "8", "--batch-size", "6"]
    words += ["--num-samples", str(num_samples), "--num-steps", "2", "--network-steps", "2"]
    assert cli.main([*words, "--machine", "is", "ls", "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "summary.json").read_text()
    assert "NaN" not in text
    for row in json.loads(text):
        assert row["num_samples"] == num_samples
        expected = {"pearson_r": num_samples, "pearson_r2": num_samples, "r2": 0, "high_pass_r2": 0}
        if row["machine"] == "ls":
            expected["better_than_is"] = num_samples
            assert (row["num_better_than_is"], row["better_than_is"]) == (0, None)
        assert row["num_undefined"] == expected
        assert row["pearson_r"] is None
        assert row["pearson_r_interval"] is None
        assert row["r2"] < 0
        assert (row["r2_interval"] is None) == (num_samples == 1)
    page = (tmp_path / "run" / "report.html").read_text()
    out = capsys.readouterr().out
    left_out = f"pearson_r of {num_samples} of {num_samples} samples of IS with 2 network steps"
    for where in (out, page):
        assert "Undefined, because an image is constant or not finite, and left out: " in where
        assert left_out in where
        assert "nan" not in where
    assert page.count("<td>-</td>") == 6
    assert ("In brackets: exact 95 % intervals" in page) == (num_samples == 6)
    assert "In parentheses" not in page


def test_some_undefined_samples_leave_the_others():
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=(8, 4, 4, 1)).astype("f4") for name in ("is", "ls")}
    target = images["ls"] + rng.normal(size=(8, 4, 4, 1)).astype("f4")
    target[1] = 0.25
    target[2, 0, 0, 0] = np.inf
    images["ls"][3] = np.nan
    images["is"][4] = -1
    times = np.array([1.0, 0])
    machines = {name: Samples(times, of_one, of_one[None]) for name, of_one in images.items()}
    network = {2: Samples(times, target, target[None])}
    comparison = Comparison(images["is"], None, 2, "ddim", network, machines)
    account = ComparisonAccount(comparison, "mine", 30, "late")
    rows = account.rows
    r = comparison.measures("ls", 2)["pearson_r"]
    np.testing.assert_array_equal(np.isnan(r), [False, True, True, True, *[False] * 4])
    assert rows[1]["pearson_r"] == pytest.approx(np.nanmedian(r))
    assert rows[1]["num_undefined"]["pearson_r"] == 3
    assert rows[1]["num_undefined"]["better_than_is"] == 4
    assert [row["num_undefined"]["r2"] for row in rows] == [2, 3]  # a constant one explains nothing
    better = int((r > comparison.measures("is", 2)["pearson_r"]).sum())
    assert account.table()[2][-1] == f"{better} of 4"
    assert rows[1]["better_than_is"] == better / 4
    assert "(" in account.table()[2][2]
    for picture in account.pictures():
        assert picture.png.startswith(b"\x89PNG")
