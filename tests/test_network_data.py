"""The images of an experiment are those that its network was made with."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.experiment import Experiment, OtherData
from elsjax.data.datasets import Dataset


@pytest.fixture
def trained(tmp_path):
    """A network of images [8, 8, 1] beside its own data: (experiment, network, their archive)."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    archive = tmp_path / "data.npz"
    np.savez(archive, images=pixels, labels=np.arange(12) % 3)
    network = elsjax.nn.UNet(
        (8, 8, 1), widths=(4, 8), embedding_width=8, num_classes=3, rngs=nnx.Rngs(0)
    )
    file = tmp_path / "network.safetensors"
    elsjax.save_network(network, file)
    options = DataOptions(str(archive), limit=10, image_size=None)
    config = {**dataclasses.asdict(options), **describe(options.load())}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return Experiment(network=str(file)), network, archive


def load(experiment, network):
    return experiment.load_data(network, experiment.data_options(network))


def _with(experiment, **data):
    return dataclasses.replace(experiment, data=OtherData(**data))


def test_the_images_are_those_of_the_network(trained, small_network):
    experiment, network, archive = trained
    options = experiment.data_options(network)
    assert options == DataOptions(str(archive), "train", 10, None)
    assert len(load(experiment, network)) == 10
    assert len(load(_with(experiment, limit=4, image_size=8), network)) == 4
    # Named on purpose: other images, of the network's size.
    assert _with(experiment, dataset="mnist5k").data_options(network).image_size == 8
    assert load(_with(experiment, dataset="mnist5k", limit=6), elsjax.load_network(small_network))
    zoo = Experiment().data_options(elsjax.load_pretrained("mnist5k/unet/zeros"))
    assert zoo == DataOptions("mnist5k", "train", zoo.limit, 32)


@pytest.mark.parametrize("size", [4, 16, 32, 0, -8])
def test_another_image_size_is_refused(trained, size):
    experiment, network, archive = trained
    message = f"image_size={size} differs from 8, the size of the network's images"
    for dataset in (None, str(archive)):
        with pytest.raises(ValueError, match=message):
            _with(experiment, dataset=dataset, image_size=size).data_options(network)


def test_other_channels_sides_and_classes_are_refused(trained, tmp_path):
    experiment, network, _ = trained
    rng = np.random.default_rng(0)

    def refused(message, network=network, **arrays):
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            load(_with(experiment, dataset=str(tmp_path / "other.npz")), network)

    colour = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    refused("are 8×8×3; those of the network are 8×8×1", images=colour)
    grey = colour[..., :1]
    refused("conditional, on 3 classes, but dataset=.* has no labels", images=grey)
    refused("has labels up to 3; those of the network are 0 to 2", images=grey, labels=np.arange(4))
    oblong = elsjax.nn.ResNet((8, 6, 1), width=8, num_layers=1, rngs=nnx.Rngs(0))
    refused("are 8×8×1; those of the network are 8×6×1", oblong, images=grey)
    with pytest.raises(ValueError, match="image_size=8 differs from 8×6"):
        _with(experiment, dataset="mnist5k", image_size=8).data_options(oblong)


def test_images_that_changed_since_are_refused(trained):
    experiment, network, archive = trained
    with np.load(archive) as old:
        arrays = dict(old)
    arrays["images"][3, 2, 1] ^= 1
    np.savez(archive, **arrays)
    with pytest.raises(ValueError, match="checksum differs.*pass --dataset to take them as they"):
        load(experiment, network)
    assert load(_with(experiment, dataset=str(archive)), network)
    assert load(_with(experiment, limit=3), network)


def test_paths_are_recorded_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = DataOptions("folder/../data.npz", data_dir="tfds").absolute()
    assert Path(options.dataset).is_absolute()
    assert options.data_dir == str(tmp_path / "tfds")
    assert DataOptions("~/x").absolute().dataset == os.path.expanduser("~/x")
    assert DataOptions("cifar10").absolute() == DataOptions("cifar10")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b'"dataset"',
        b"\xff",
        b"[" * 100_000,
        b'{"dataset": "mnist5k", "split": "train"}',
        b'{"dataset": 5, "split": "train", "num_images": 3}',
        b'{"dataset": "mnist5k", "split": "train", "num_images": true}',
        b'{"dataset": "mnist5k", "split": "train", "num_images": 3, "image_size": "8"}',
        b'{"dataset": "mnist5k", "split": "train", "num_images": 3, "images_sha256": 4}',
    ],
)
def test_a_damaged_configuration_beside_a_network(trained, content):
    experiment, network, _ = trained
    Path(experiment.network).with_name("config.json").write_bytes(content)
    with pytest.raises(ValueError, match="has no config.json of `elsjax train` beside it"):
        experiment.data_options(network)


@pytest.mark.parametrize("command", ["compare", "calibrate"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "16"], "image_size=16 differs from 8"),
        (["--network", "."], "network='.' is a folder; expected a file"),
        (["--label", "-1"], "label=-1 must lie in"),
        (["--seed", "-1"], "seed=-1 must be an integer from 0 to"),
        (["--num-samples", "9" * 30], "must lie in [1, 2.14748e+09]"),
    ],
)
def test_experiments_refuse_early(refuses, small_network, command, options, message):
    refuses([command, "--network", small_network, *options], message)


@pytest.mark.parametrize("command", ["compare", "calibrate"])
def test_a_window_wider_than_the_images_leaves_nothing(refuses, tmp_path_factory, command):
    folder = tmp_path_factory.mktemp("circular")
    network = elsjax.nn.ResNet((8, 8, 1), width=8, padding="circular", rngs=nnx.Rngs(0))
    assert network.receptive_field > 9
    elsjax.save_network(network, folder / "network.safetensors")
    option = ("--window", "3,3,3,9") if command == "compare" else ("--candidates", "3", "9", "7")
    data = ("--dataset", "mnist5k", "--limit", "4")
    words = [command, "--network", str(folder / "network.safetensors"), *data, *option]
    refuses(words, "window=9 must be at most 8")


def test_labels_of_a_folder_are_told(tmp_path, capsys):
    names = tuple(f"class{number}" for number in range(22))
    data = Dataset("a", "train", np.zeros((1, 2, 2, 1), np.uint8), None, names)
    DataOptions("mnist5k").print_labels(data)
    assert capsys.readouterr().out == ""
    DataOptions(str(tmp_path)).print_labels(data)
    line = capsys.readouterr().out
    assert line.startswith("labels: 0 class0, 1 class1, ")
    assert line.endswith("19 class19 and 2 more\n")
    assert describe(data)["label_names"] == list(names)
