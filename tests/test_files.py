import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import elsjax
from elsjax import cli
from elsjax.nn import AttentionUNet, ResNet, UNet, zoo
from elsjax.nn.files import named_weights, network_config, network_from_config, set_weights

NETWORKS = {
    "resnet": lambda seed=0: ResNet((6, 6, 1), width=8, num_layers=1, rngs=nnx.Rngs(seed)),
    "unet": lambda seed=0: UNet(
        (8, 4, 3),
        widths=(4, 8),
        embedding_width=8,
        padding="circular",
        num_classes=3,
        last_kernel_size=1,
        schedule=elsjax.LinearBetaSchedule(num_steps=50),
        rngs=nnx.Rngs(seed),
    ),
    "attention": lambda seed=0: AttentionUNet(
        (4, 4, 1), widths=(4, 8), num_heads=2, embedding_width=8, rngs=nnx.Rngs(seed)
    ),
}


def same_function(one, other):
    x = jax.random.normal(jax.random.key(0), (2, *one.image_shape))
    label = None if one.num_classes is None else 1
    found, expected = (net.predict_noise(x, 0.4, label) for net in (one, other))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(one.denoise(x, 0.4, label), other.denoise(x, 0.4, label))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_gives_the_same_function(tmp_path, name):
    net = NETWORKS[name]()
    elsjax.save_network(net, tmp_path / "a.safetensors")
    again = elsjax.load_network(tmp_path / "a.safetensors")
    assert type(again) is type(net)
    assert again.schedule == net.schedule
    same_function(again, net)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_configuration_is_json_and_gives_the_architecture(name):
    net = NETWORKS[name]()
    config = json.loads(json.dumps(network_config(net)))
    again = network_from_config(config, nnx.Rngs(1))
    shapes = [{key: value.shape for key, value in named_weights(n).items()} for n in (net, again)]
    assert shapes[0] == shapes[1]
    assert network_config(again) == config


def test_half_precision(tmp_path):
    net = NETWORKS["unet"]()
    whole, half = tmp_path / "whole", tmp_path / "half"
    elsjax.save_network(net, whole)
    elsjax.save_network(net, half, half=True)
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    weights, rounded = (named_weights(elsjax.load_network(path)) for path in (whole, half))
    for name, value in weights.items():
        assert rounded[name].dtype == np.float32
        np.testing.assert_allclose(rounded[name], value, rtol=5e-4, atol=1e-7)


def test_double_precision_is_kept(tmp_path, x64):
    net = NETWORKS["resnet"]()
    elsjax.save_network(net, tmp_path / "a")
    again = elsjax.load_network(tmp_path / "a")
    assert again.dtype == np.float64
    same_function(again, net)


@pytest.mark.parametrize("length", [0, 5, 100, 2000, -1])
def test_a_truncated_file(tmp_path, length):
    path = tmp_path / "a.safetensors"
    elsjax.save_network(NETWORKS["resnet"](), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="a.safetensors is no network of elsjax: truncated"):
        elsjax.load_network(path)


def test_another_safetensors_file(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="is no network of elsjax"):
        elsjax.load_network(path)
    for config in ('{"kind": "Exec"}', "null", "7", "[3]", '"ResNet"'):
        safetensors.numpy.save_file({"w": np.zeros(3)}, path, {"network": config})
        with pytest.raises(ValueError, match="describes no network"):
            elsjax.load_network(path)


@pytest.mark.parametrize(
    ("name", "deep"), [("resnet", {"num_layers": 10**6}), ("unet", {"widths": [4] * 10**6})]
)
def test_more_layers_than_tensors(tmp_path, name, deep):
    net = NETWORKS[name]()
    metadata = {"network": json.dumps(network_config(net) | deep)}
    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match="has 1 tensors, too few for its 1000000 layers"):
        elsjax.load_network(tmp_path / "a")


def test_what_is_wrong_with_a_file_is_told_in_a_line_of_some_length(tmp_path, capsys):
    config = network_config(NETWORKS["attention"]()) | {"attention_levels": [0] * 10**6}
    path = tmp_path / "a.safetensors"
    tensors = {"v": np.zeros(3), "w": np.zeros(3)}
    safetensors.numpy.save_file(tensors, path, {"network": json.dumps(config)})
    words = ["--network", str(path), "--dataset", "mnist5k", "--out", str(tmp_path / "run")]
    assert cli.main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("elsjax: attention_levels=[0, 0, ")
    assert error.endswith("must be some of 0 to 1\n")
    assert len(error) < 3000


def test_tensors_that_are_not_those_of_the_configuration(tmp_path):
    net = NETWORKS["resnet"]()
    weights = {name: np.asarray(value) for name, value in named_weights(net).items()}
    metadata = {"network": json.dumps(network_config(net))}
    path = tmp_path / "a.safetensors"
    bias = weights.pop("last.bias")
    safetensors.numpy.save_file(weights | {"more": bias}, path, metadata)
    with pytest.raises(ValueError, match=r"last\.bias is missing; more is unexpected"):
        elsjax.load_network(path)
    safetensors.numpy.save_file(weights | {"last.bias": np.zeros(2, "f4")}, path, metadata)
    with pytest.raises(ValueError, match=r"last\.bias has shape \[2\], expected \[1\]"):
        elsjax.load_network(path)
    safetensors.numpy.save_file(weights | {"last.bias": bias * np.nan}, path, metadata)
    with pytest.raises(ValueError, match=r"last\.bias must be finite"):
        elsjax.load_network(path)


def test_set_weights():
    net, other = NETWORKS["resnet"](0), NETWORKS["resnet"](1)
    set_weights(net, named_weights(other), "other")
    same_function(net, other)


def test_weights_too_large_for_half_precision(tmp_path):
    net = NETWORKS["resnet"]()
    set_weights(net, {k: v * 1e7 for k, v in named_weights(net).items()}, "large")
    with (
        pytest.raises(ValueError, match="must be finite"),
        np.errstate(over="ignore"),
    ):
        elsjax.save_network(net, tmp_path / "a", half=True)
    assert not list(tmp_path.iterdir())


# The zoo


@pytest.mark.parametrize("name", zoo.zoo())
def test_a_pretrained_network_denoises(name):
    entry = zoo.zoo()[name]
    net = elsjax.load_pretrained(name)
    assert net.image_shape[:2] == (32, 32)
    assert (net.num_classes is not None) == entry.conditional
    assert f"--dataset {entry.dataset}" in entry.command
    data = elsjax.load_dataset("mnist5k", limit=8, image_size=32)
    if entry.dataset in ("mnist5k", "mnist"):
        noise = np.random.default_rng(0).standard_normal(data.images.shape)
        alpha, sigma = net.schedule(0.4)
        predicted = net.predict_noise(alpha * data.images + sigma * noise, 0.4)
        assert np.mean((predicted - noise) ** 2) < 0.15
    x = elsjax.initial_noise(jax.random.key(0), 2, net.image_shape)
    images = elsjax.sample(net, x, 5, label=0 if entry.conditional else None)
    assert np.isfinite(images).all()
    assert 0.1 < np.std(images) < 2


def test_the_files_of_the_zoo_are_those_that_are_listed():
    folder = Path(zoo.__file__).parents[1] / "data" / "zoo"
    files = {path.stem for path in folder.glob("*.safetensors")}
    assert files == {name.replace("/", "-") for name in zoo.zoo()}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6


def test_zoo_from_training_to_loading(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    command = [
        *("train", "--limit", "20", "--image-size", "8", "--network", "resnet-small"),
        *("--batch-size", "4", "--num-steps", "10", "--warmup-steps", "1", "--out", str(run)),
        *("--data-dir", str(tmp_path / "none")),
    ]
    assert cli.main(command) == 0
    assert "no held-out images for 'mnist5k' are at hand" in capsys.readouterr().out
    folder = tmp_path / "elsjax" / "data" / "zoo"
    folder.mkdir(parents=True)
    entry = zoo.add_to_zoo(run, "a/b", "elsjax train", folder)
    assert (entry.images_seen, entry.num_images, entry.steps) == (40, 20, 10)
    monkeypatch.setattr(zoo.importlib.resources, "files", lambda _: tmp_path / "elsjax")
    weights = named_weights(elsjax.load_network(run / "network.safetensors"))
    for name, value in named_weights(elsjax.load_pretrained("a/b")).items():
        np.testing.assert_allclose(value, weights[name], rtol=5e-4, atol=1e-7)

    capsys.readouterr()
    assert cli.main(["zoo"]) == 0
    listed = capsys.readouterr().out
    assert "a/b" in listed
    assert "40 images seen" in listed
    with pytest.raises(ValueError, match="name='b/a' is not known; expected one of a/b"):
        elsjax.load_pretrained("b/a")
    path = folder / "a-b.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or altered: its sha256 is"):
        elsjax.load_pretrained("a/b")
    path.unlink()
    with pytest.raises(ValueError, match="its file cannot be read"):
        elsjax.load_pretrained("a/b")
    shutil.rmtree(folder)
