import collections
import json
import os

import jax
import numpy as np
import pytest
from torch_stand_ins import (
    CONFIGS,
    Tensor,
    module,
    network_of,
    save,
    state_dict_of,
    torch,
)

import elsjax
from elsjax import cli
from elsjax.interop.state_dicts import load_torch_file

__all__ = ["torch"]  # a fixture
NAMES = ("unet_zeros", "unet_circular_conditional", "resnet_zeros", "resnet_circular_conditional")


def published(archive, name):
    """Configuration, state dict, inputs and output [B, H, W, C] of a reference network."""
    prefix = f"{name}/state/"
    state = {k.removeprefix(prefix): v for k, v in archive.items() if k.startswith(prefix)}
    x, y = (archive[f"{name}/{key}"].transpose(0, 2, 3, 1) for key in "xy")
    config = json.loads(str(archive["configs"]))[name]
    return config, state, (x, archive[f"{name}/t"], archive.get(f"{name}/label")), y


# State dicts


@pytest.mark.parametrize("name", NAMES)
def test_published_networks_in_float32(published_networks, name):
    config, state, arguments, y = published(published_networks, name)
    eps = elsjax.from_torch_state_dict(config, state).predict_noise(*arguments)
    assert eps.dtype == np.float32
    np.testing.assert_allclose(eps, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_published_networks_in_float64(published_networks, name, x64):
    config, state, arguments, y = published(published_networks, name)
    eps = elsjax.from_torch_state_dict(config, state).predict_noise(*arguments)
    assert eps.dtype == np.float64
    np.testing.assert_allclose(eps, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_loaded_network(kind):
    config = CONFIGS[kind]
    network = elsjax.from_torch_state_dict(config, state_dict_of(config), image_size=8)
    assert network.image_shape == (8, 8, config["channels"])
    assert network.padding == config["mode"]
    assert network.num_classes == config.get("num_classes")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(network))
    label = 2 if config.get("conditional") else None
    noise = np.ones((1, *network.image_shape), np.float32)
    assert np.isfinite(elsjax.sample(network, noise, 2, label=label)).all()


def test_an_unconditional_config_may_have_a_number_of_classes():
    config = CONFIGS["resnet"] | {"num_classes": 10}
    network = elsjax.from_torch_state_dict(config, state_dict_of(config))
    assert network.num_classes is None


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("resnet", {"kind": "vit"}, "config\\['kind'\\]='vit' is not known; .*resnet, unet"),
        ("resnet", {"fsizes": [8]}, "unknown keys 'fsizes'; a resnet has channels"),
        ("unet", {"depth": 1, "add_one": True}, "unknown keys 'add_one', 'depth'; a unet has"),
        ("unet", {"normalization": "LayerNorm"}, "'normalization'\\]='LayerNorm' is not known"),
        ("unet", {"normalization": "GroupNorm"}, "feature_blocks.0.model.1.weight is missing"),
        ("unet", {"normalization": "BatchNorm"}, "feature_blocks.0.model.3.weight is missing"),
        ("unet", {"fsizes": 8}, "config\\['fsizes'\\]=8 must be a list"),
        ("unet", {"last_norm": "no"}, "config\\['last_norm'\\]='no' must be true or false"),
        ("resnet", {"add_one": False}, "embs.2.0.weight is unexpected"),
        ("resnet", {"add_one": 1}, "config\\['add_one'\\]=1 must be true or false"),
        ("resnet", {"kernel_size": "3"}, "config\\['kernel_size'\\]='3' must be an integer"),
        (
            "resnet",
            {"num_layers": 10**12},
            "config\\['num_layers'\\]=1000000000000: state_dict has",
        ),
        ("resnet", {"image_size": 0}, "image_size=0 must be an integer of at least 1"),
        ("unet", {"num_classes": None}, "a conditional network needs a number"),
        ("unet", {"mode": "reflect"}, "padding='reflect' is not known"),
        ("unet", {"fsizes": [4]}, "widths=\\(4,\\) must be two or more"),
        ("unet", {"fsizes": [4] * 7}, "image_shape has sides 32×32; .* multiples of 64"),
        ("resnet", {"channels": 3}, "up_projection.weight has shape \\[8, 1, 3, 3\\], expected"),
        ("resnet", {"num_layers": 3}, "embs.3.0.weight is missing|convs.2.0.weight is missing"),
        ("resnet", {"num_layers": 1}, "convs.1.0.weight is unexpected"),
        ("unet", {"conditional": False}, "embedding.class_embeddings.weight is unexpected"),
    ],
)
def test_wrong_config(kind, change, message):
    with pytest.raises(ValueError, match=message):
        elsjax.from_torch_state_dict(CONFIGS[kind] | change, state_dict_of(CONFIGS[kind]))


def test_config_without_a_kind():
    with pytest.raises(ValueError, match="has no 'kind'; expected 'resnet' or 'unet'"):
        elsjax.from_torch_state_dict({"channels": 1}, {})


def test_wrong_tensors_are_named():
    state = state_dict_of(CONFIGS["resnet"])
    state["extra"] = state.pop("up_projection.bias")
    state["down_projection.bias"] = np.zeros(2)
    with pytest.raises(ValueError, match="does not fit") as error:
        elsjax.from_torch_state_dict(CONFIGS["resnet"], state)
    for part in (
        "up_projection.bias is missing",
        "extra is unexpected",
        "down_projection.bias has shape [2], expected [1]",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="embs.0.0.weight is missing.* and 10 more"):
        elsjax.from_torch_state_dict(
            CONFIGS["resnet"], {k: v for k, v in state.items() if "embs" not in k}
        )


def test_weights_must_be_finite():
    state = state_dict_of(CONFIGS["resnet"])
    state["convs.0.0.weight"][1, 2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="convs.0.0.weight'. must be finite"):
        elsjax.from_torch_state_dict(CONFIGS["resnet"], state)


# Files


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("inside_ddim", [False, True])
def test_a_pickled_module(tmp_path, torch, kind, inside_ddim):
    config = CONFIGS[kind]
    state = state_dict_of(config)
    saved = network_of(torch, config, state)
    if inside_ddim:
        schedule = torch.cosine_noise_schedule
        children = {"backbone": saved}
        saved = module(torch.DDIM, children=children, noise_schedule=schedule, in_channels=1)
    found, tensors = load_torch_file(save(tmp_path / "a.pt", saved))
    assert config.items() <= found.items()
    json.dumps(found)
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert type(tensor) is np.ndarray
        np.testing.assert_array_equal(tensor, state[name])
    elsjax.from_torch_state_dict(found, tensors)
    assert load_torch_file(tmp_path / "a.pt", config)[0] == found
    with pytest.raises(ValueError, match="config\\['channels'\\]=7, but .*a.pt has"):
        load_torch_file(tmp_path / "a.pt", config | {"channels": 7})


def test_a_state_dict(tmp_path, torch):
    config = CONFIGS["resnet"]
    state = state_dict_of(config)
    saved = collections.OrderedDict((name, Tensor(value)) for name, value in state.items())
    saved._metadata = collections.OrderedDict({"": {"version": 1}})
    path = save(tmp_path / "a.pt", saved)
    with pytest.raises(ValueError, match="a.pt holds a state dict only: config is needed"):
        load_torch_file(path)
    found, tensors = load_torch_file(path, config)
    assert found == config
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, state[name])


def test_kinds_and_orders_of_numbers(tmp_path, torch):
    array = np.arange(24).reshape(2, 3, 4)
    saved = {
        "double": Tensor(array.astype(np.float64), "DoubleStorage"),
        "half": Tensor(array.astype(np.float16), "HalfStorage"),
        "strided": Tensor(array.astype(np.float32), order="F"),
        "scalar": Tensor(np.float32(5)),
        "long": Tensor(array, "LongStorage"),
        "int": Tensor(array.astype(np.int32), "IntStorage"),
        "bool": Tensor(array > 3, "BoolStorage"),
        "empty": Tensor(np.zeros((2, 0), np.float32)),
        "output_conv.weight": Tensor(array.astype(np.float32)),  # what a network is known by
    }
    _, tensors = load_torch_file(save(tmp_path / "a.pt", saved), {})
    kinds = ["f8", "f2", "f4", "f4", "i8", "i4", "?", "f4", "f4"]
    assert [tensors[name].dtype for name in saved] == kinds
    for name in ("double", "half", "strided", "long", "int"):
        np.testing.assert_array_equal(tensors[name], array)
    np.testing.assert_array_equal(tensors["bool"], array > 3)
    assert tensors["scalar"] == 5
    assert tensors["empty"].shape == (2, 0)


# The command


def test_import_torch_writes_the_same_function(tmp_path, torch, capsys):
    config, state = CONFIGS["unet"], state_dict_of(CONFIGS["unet"])
    path = save(tmp_path / "a.pt", network_of(torch, config, state))
    assert cli.main(["import-torch", str(path), "--image-size", "8"]) == 0
    network = elsjax.load_network(tmp_path / "a.safetensors")
    expected = elsjax.from_torch_state_dict(config, state, image_size=8)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    assert network.image_shape == (8, 8, 2)
    np.testing.assert_array_equal(
        network.predict_noise(x, 0.3, 1), expected.predict_noise(x, 0.3, 1)
    )
    assert cli.main(["import-torch", str(path)]) == 2
    assert "exists; choose another or pass --overwrite" in capsys.readouterr().err


def test_import_torch_of_a_state_dict(tmp_path, torch, capsys):
    config, state = CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"])
    path = save(tmp_path / "a.pt", {name: Tensor(value) for name, value in state.items()})
    out = str(tmp_path / "b.safetensors")
    for given, message in [
        ([], "config is needed"),
        (["--config", "{"], "config='{' is not JSON"),
        (["--config", "[]"], "must be a JSON object"),
        (["--config", json.dumps(config | {"num_layers": 3})], "convs.2.0.weight is missing"),
    ]:
        assert cli.main(["import-torch", str(path), "--out", out, *given]) == 2
        assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.pt"]
    assert cli.main(["import-torch", str(path), "--out", out, "--config", json.dumps(config)]) == 0
    assert elsjax.load_network(out).num_layers == 2
