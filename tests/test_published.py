"""Every constructor option of the published networks, and their files as they are met."""

import json
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from torch_stand_ins import CONFIGS, Tensor, archive, module, network_of, save, state_dict_of, torch

import elsjax
from elsjax import cli
from elsjax.interop.state_dicts import load_torch_file
from elsjax.nn.files import network_bytes, network_from_bytes

__all__ = ["torch"]  # a fixture

with np.load(Path(__file__).parent / "reference" / "published_variants.npz") as _file:
    VARIANTS = dict(_file)
VARIANT_CONFIGS = json.loads(str(VARIANTS["configs"]))


def variant(name):
    """State dict of a network of the reference, as PyTorch has it."""
    state, place = {}, 0
    for key, shape in json.loads(str(VARIANTS["shapes"]))[name].items():
        size = int(np.prod(shape))
        tensor = VARIANTS[f"{name}/weights"][place : place + size].reshape(shape)
        state[key] = tensor.astype(np.int64) if key.endswith("_tracked") else tensor
        place += size
    return state


# Options


@pytest.mark.parametrize("name", VARIANT_CONFIGS)
def test_every_option_is_the_same_function(name, x64):
    config, state = VARIANT_CONFIGS[name], variant(name)
    network = elsjax.from_torch_state_dict(config, state, image_size=8)
    x = VARIANTS["x"][:, : config["channels"]].transpose(0, 2, 3, 1).astype(float)
    label = VARIANTS["label"] if config.get("conditional") else None
    # Called, not compiled: what is under test are numbers.
    eps = network(jnp.asarray(x), jnp.asarray(VARIANTS["t"]), label)
    np.testing.assert_allclose(eps.transpose(0, 3, 1, 2), VARIANTS[f"{name}/y"], atol=1e-10)


def test_the_reference_tries_scales_of_both_signs():
    weight = variant("unet_batch_last")["last_normalizer.weight"]
    assert weight.min() < 0 < weight.max()


@pytest.mark.parametrize("name", ["unet_group_last", "resnet_group_add_none"])
def test_normalised_networks_in_files(name, x64):
    network = elsjax.from_torch_state_dict(VARIANT_CONFIGS[name], variant(name), image_size=8)
    read = network_from_bytes(network_bytes(network), "file")
    x, t = jnp.ones((2, 8, 8, 1)), jnp.array([0.2, 0.8])
    label = None if network.num_classes is None else jnp.array([0, 1])
    np.testing.assert_array_equal(read(x, t, label), network(x, t, label))
    assert read.receptive_field == 15


def test_widths_that_have_no_groups():
    config = VARIANT_CONFIGS["unet_group"] | {"fsizes": [4, 40]}
    with pytest.raises(ValueError, match="widths=\\(4, 40\\) must be at most 32 or multiples"):
        elsjax.from_torch_state_dict(config, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_normalizer.running_var": -np.ones(4)}, "running_var'. must not be negative"),
        ({"last_normalizer.running_var": None}, "last_normalizer.running_var is missing"),
        ({"last_normalizer.running_mean": np.ones(3)}, "running_mean has shape .3., expected .4."),
        ({"last_emb.1.bias": np.full(4, 1e300)}, "last_emb.1.bias'. must be finite"),
        ({"last_emb.1.bias": np.array(list("abcd"))}, "has dtype <U1; expected real numbers"),
        ({"last_emb.1.bias": [[1], [1, 2]]}, "last_emb.1.bias'. is no array"),
    ],
)
def test_wrong_tensors(change, message):
    state = {k: v for k, v in (variant("unet_batch_last") | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        elsjax.from_torch_state_dict(VARIANT_CONFIGS["unet_batch_last"], state)


@pytest.mark.parametrize(
    ("config", "state"), [([], {}), ({"kind": "unet"}, [1]), ({"kind": "unet"}, {1: np.ones(2)})]
)
def test_arguments_that_are_no_dicts(config, state):
    with pytest.raises(ValueError, match="config=\\[\\] must be a dict|expected tensors by name"):
        elsjax.from_torch_state_dict(config, state)


# Files as they are met


@pytest.mark.parametrize("name", [n for n in VARIANT_CONFIGS if "unet_last_without" not in n])
def test_options_are_read_from_a_module(tmp_path, torch, name):
    config, state = VARIANT_CONFIGS[name], variant(name)
    tensors = {k: v.astype(np.float32) for k, v in state.items() if v.dtype == np.float16}
    path = save(tmp_path / "a.pt", network_of(torch, config, tensors))
    expected = config | ({"normalization": "GroupNorm"} if name == "resnet_batch" else {})
    found, read = load_torch_file(path)
    assert expected.items() <= found.items()
    elsjax.from_torch_state_dict(found, read)


@pytest.mark.parametrize("package", ["src.models", "__main__", "diffusion.nets.models"])
def test_the_published_code_may_lie_anywhere(tmp_path, torch, package, monkeypatch):
    config = CONFIGS["resnet"]
    for end in range(1, package.count(".") + 2):
        name = ".".join(package.split(".")[:end])
        there = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, there)
    for name in ("MinimalResNet", "EmbeddingModule", "DDIM"):
        setattr(there, name, type(name, (), {"__module__": package}))
        monkeypatch.setattr(torch, name, getattr(there, name))
    network = network_of(torch, config, state_dict_of(config))
    saved = module(torch.DDIM, children={"backbone": network}, default_imsize=64)
    path = save(tmp_path / "a.pt", saved)
    monkeypatch.undo()
    found, state = load_torch_file(path)
    assert found["image_size"] == 64
    assert elsjax.from_torch_state_dict(found, state).image_shape == (64, 64, 1)
    assert elsjax.from_torch_state_dict(found, state, image_size=8).image_shape == (8, 8, 1)


def test_wrappers_around_a_module(tmp_path, torch):
    network = network_of(torch, CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"]))
    saved = module(torch.DDIM, children={"backbone": network}, default_imsize=16)
    saved = module(torch.DataParallel, children={"module": saved}, device_ids=[0])
    saved = {"epoch": 3, "model": saved, "optimizer": torch.AdamW(), "loss": [0.5, None, "x"]}
    found, state = load_torch_file(save(tmp_path / "a.pt", saved))
    assert (found["mode"], found["image_size"]) == ("zeros", 16)
    assert state.keys() == state_dict_of(CONFIGS["resnet"]).keys()


def tensors_of(state, prefix=""):
    return {f"{prefix}{name}": Tensor(tensor) for name, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "backbone.", "model.", "module._orig_mod.backbone.", "net.ema."],
)
def test_prefixes(tmp_path, torch, prefix):
    config, state = CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"])
    saved = tensors_of(state, prefix)
    if prefix == "model.":
        saved |= {"schedule.betas": Tensor(np.ones(4, np.float32))}
    _, read = load_torch_file(save(tmp_path / "a.pt", saved), config)
    assert read.keys() == state.keys()
    prefixed = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    direct = elsjax.from_torch_state_dict(config, prefixed)
    kernel = elsjax.from_torch_state_dict(config, read).first.kernel
    np.testing.assert_array_equal(direct.first.kernel[...], kernel[...])


def test_one_of_several(tmp_path, torch, capsys):
    config = CONFIGS["resnet"]
    states = [state_dict_of(config, seed) for seed in range(2)]
    moments = {0: {"step": Tensor(np.float32(1)), "exp_avg": tensors_of(states[0])}}
    saved = {
        "model": tensors_of(states[0]),
        "ema": {"decay": 0.999, "shadow": tensors_of(states[1], "module.")},
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99)}]},
        "epoch": 3,
    }
    path = save(tmp_path / "a.pt", saved)
    several = "holds networks under 'model', 'ema.shadow.module'; key="
    for key in (None, "emma", "mod", "epoch", "ema.shadow.module.convs"):
        with pytest.raises(ValueError, match=f"a.pt: it {several}{key!r} must choose one"):
            load_torch_file(path, config, key)
    for key, state in (("model", 0), ("ema", 1), ("ema.shadow", 1)):
        _, read = load_torch_file(path, config, key)
        np.testing.assert_array_equal(
            read["up_projection.bias"], states[state]["up_projection.bias"]
        )
    words = ["import-torch", str(path), "--config", json.dumps(config)]
    assert cli.main(words) == 2
    assert several in capsys.readouterr().err
    assert cli.main([*words, "--key", "ema"]) == 0
    bias = elsjax.load_network(tmp_path / "a.safetensors").first.bias[...]
    np.testing.assert_array_equal(bias, states[1]["up_projection.bias"])


def test_a_network_beside_another_has_its_own_tensors(tmp_path, torch):
    config, state = CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"])
    saved = tensors_of(state) | {"ema": tensors_of(state)}
    _, read = load_torch_file(save(tmp_path / "a.pt", saved), config, "")
    assert read.keys() == state.keys()


def test_a_state_dict_in_safetensors(tmp_path, capsys):
    config, state = CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"])
    path = tmp_path / "a.safetensors"
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in state.items()}
    for saved in (half, state):
        path.write_bytes(safetensors.numpy.save(saved))
        _, read = load_torch_file(path, config)
        np.testing.assert_array_equal(read["convs.0.0.bias"], saved["convs.0.0.bias"])
    words = ["import-torch", str(path), "--config", json.dumps(config)]
    assert cli.main([*words, "--overwrite"]) == 2
    assert "a.safetensors' is the file to read; choose another" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="a.safetensors: truncated, altered or no network"):
        load_torch_file(path, config)


def test_config_beside_a_module(tmp_path, torch):
    config = CONFIGS["unet"]
    path = save(tmp_path / "a.pt", network_of(torch, config, state_dict_of(config)))
    for fsizes in ((4, 8, 8), np.array([4, 8, 8])):
        load_torch_file(path, {"fsizes": fsizes})
    with pytest.raises(ValueError, match="config=\\['unet'\\] must be a dict"):
        load_torch_file(path, ["unet"])


def test_the_format_before_1_6(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with pytest.raises(
        ValueError, match="a.pt: in PyTorch's format from before 1.6: load and save"
    ):
        load_torch_file(path)


# Hostile files


def test_mutated_files_load_equal_or_are_refused(tmp_path, torch):
    config = CONFIGS["resnet"] | {"num_layers": 1}
    state = state_dict_of(config)
    path = save(tmp_path / "a.pt", network_of(torch, config, state))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    pickled = content.index(b"data.pkl") + 8, content.index(b"version")
    refusals = []
    for trial in range(60):
        mutated = bytearray(content)
        place = int(rng.integers(*(pickled if trial % 2 else (0, len(content)))))
        match trial % 3:
            case 0:
                mutated[place] ^= 1 << int(rng.integers(8))
            case 1:
                del mutated[place : place + int(rng.integers(1, 40))]
            case _:
                mutated[place:place] = rng.bytes(int(rng.integers(1, 40)))
        path.write_bytes(mutated)
        try:
            found, read = load_torch_file(path)
        except ValueError as error:
            refusals.append(str(error))
            continue
        assert config.items() <= found.items()
        for name, tensor in read.items():
            np.testing.assert_array_equal(tensor, state[name])
    assert len(refusals) > 30
    assert not any("\n" in refusal for refusal in refusals)


BOMBS = {
    "nested dicts": b"}" + b"X\x01\0\0\0a}" * 5000 + b"s" * 5000 + b".",
    "nested tuples": b")" + b"\x85" * 20_000 + b".",
    "a key of nested tuples": b"})" + b"\x85" * 100_000 + b"Ns.",
    "a set of nested tuples": b"cbuiltins\nset\n(])" + b"\x85" * 20_000 + b"atR.",
    "nested tuples in a shape": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0" + b")\x85\x85)tR.",
    "a dict in itself": b"}q\0X\x01\0\0\0ah\0s.",
    "a list in itself": b"]q\0h\0a.",
    "doubled tuples": b")q\0" + b"h\0h\0\x86q\0" * 60 + b".",
    "doubled tuples as a key": b"})q\0" + b"h\0h\0\x86q\0" * 60 + b"Ns.",
    "doubled tuples as a storage": b")q\0" + b"h\0h\0\x86q\0" * 60 + b"Q.",
    "doubled tuples as a name": b")q\0" + b"h\0h\0\x86q\0" * 60 + b"h\0\x93.",
    "doubled dicts": b"}q\0" + b"}X\x01\0\0\0ah\0sX\x01\0\0\0bh\0sq\0" * 60 + b".",
    "a huge number": b"\x8b\xff\xff\xff\x7f.",
    "a huge array of bytes": b"\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "a huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "a number of 5000 digits": b"L" + b"9" * 5000 + b"L\n.",
    "a name in two lines": b"\x80\x04\x8c\x01a\x8c\x03b\nc\x93.",
    "a mark alone": b"(.",
    "nothing to take": b"s.",
    "text of no letters": b"X\x02\0\0\0\xff\xff.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_one_line(tmp_path, name):
    path = archive(tmp_path / "a.pt", {"data.pkl": BOMBS[name]})
    with pytest.raises(ValueError, match="a.pt: ") as error:
        load_torch_file(path, {"kind": "unet"})
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)


def test_an_archive_that_claims_gigabytes(tmp_path, torch):
    path = save(tmp_path / "a.pt", {"output_conv.weight": Tensor(np.ones(4, np.float32))})
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = b"\xff\xff\xff\x7f" * 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.pt: its records overlap"):
        load_torch_file(path, {"kind": "unet"})
