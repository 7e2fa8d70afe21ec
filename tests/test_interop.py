import collections
import io
import itertools
import json
import os
import pickle
import re
import struct
import sys
import types
import zipfile

import jax
import numpy as np
import pytest

import elsjax
from elsjax import cli
from elsjax.interop.state_dicts import load_torch_file

CONFIGS = {
    "resnet": dict(kind="resnet", channels=1, emb_dim=8, mode="zeros", num_layers=2, lastksize=3),
    "unet": dict(
        kind="unet", channels=2, fsizes=[4, 8, 8], mode="circular", emb_dim=8, lastksize=1,
        conditional=True, num_classes=5,
    ),
}  # fmt: skip
NAMES = ("unet_zeros", "unet_circular_conditional", "resnet_zeros", "resnet_circular_conditional")


def state_dict_of(config, seed=0):
    """Random weights by their published names."""
    rng = np.random.default_rng(seed)
    width, channels = config["emb_dim"], config["channels"]
    shapes = {}

    def layer(name, *shape, bias=None):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = (bias or shape[0],)

    if config.get("conditional"):
        shapes["embedding.class_embeddings.weight"] = (config["num_classes"], width)
    last = config["lastksize"]
    if config["kind"] == "resnet":
        layer("up_projection", width, channels, 3, 3)
        for i in range(config["num_layers"] + 1):
            layer(f"embs.{i}.0", width, width)
            layer(f"embs.{i}.1", width)
        for i in range(config["num_layers"]):
            layer(f"convs.{i}.0", width, width, 3, 3)
        layer("down_projection", channels, width, last, last)
    else:
        sizes = config["fsizes"]
        blocks = [
            (f"feature_blocks.{i}", n) for i, n in enumerate(itertools.pairwise([channels, *sizes]))
        ]
        blocks[-1] = ("bottleneck", blocks[-1][1])
        for i, (fine, coarse) in enumerate(reversed(list(itertools.pairwise(sizes)))):
            blocks.append((f"output_blocks.{i}", (2 * fine, fine)))
            layer(f"upsamples.{i}", coarse, fine, 2, 2, bias=fine)
        for name, (inputs, outputs) in blocks:
            layer(f"{name}.emb.1", inputs, width)
            layer(f"{name}.model.0", outputs, inputs, 3, 3)
            layer(f"{name}.model.2", outputs, outputs, 3, 3)
        layer("last_emb.1", sizes[0], width)
        layer("output_conv", channels, sizes[0], last, last)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


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


# Files: written as torch.save writes them, by stand-ins under the names of PyTorch


class Storage:
    def __init__(self, numbers, kind):
        self.numbers, self.kind = numbers, kind


class Tensor:
    """A tensor that pickles as PyTorch's do; memory order "F" gives unusual strides."""

    def __init__(self, array, kind="FloatStorage", order="C"):
        self.array = np.asarray(array, order=order)
        self.kind = kind

    def __reduce__(self):
        torch = sys.modules["torch"]
        array = self.array
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = Storage(array.ravel(order="K"), getattr(torch, self.kind))
        arguments = (storage, 0, array.shape, strides, False, collections.OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


class Parameter(Tensor):
    def __reduce__(self):
        data = Tensor.__new__(Tensor)
        data.array, data.kind = self.array, self.kind
        arguments = (data, True, collections.OrderedDict())
        return sys.modules["torch._utils"]._rebuild_parameter, arguments


STAND_INS = {
    # The command line's parser asks a torch that is there for its `device`.
    "torch": "FloatStorage DoubleStorage HalfStorage LongStorage IntStorage BoolStorage device",
    "torch._utils": "_rebuild_tensor_v2 _rebuild_parameter",
    "torch.nn.modules.batchnorm": "BatchNorm2d",
    "torch.nn.modules.activation": "ReLU",
    "torch.nn.modules.container": "ModuleList Sequential",
    "torch.nn.modules.conv": "Conv2d ConvTranspose2d",
    "torch.nn.modules.linear": "Linear",
    "torch.nn.modules.normalization": "GroupNorm",
    "torch.nn.modules.pooling": "MaxPool2d",
    "torch.nn.modules.sparse": "Embedding",
    "torch.nn.parallel.data_parallel": "DataParallel",
    "torch.optim.adamw": "AdamW",
    "models": "DDIM EmbeddingModule MinimalResNet MinimalUNet UBlock",
    "utils": "",
    "utils.noise_schedules": "cosine_noise_schedule",
}


@pytest.fixture
def torch(monkeypatch):
    """What a pickle of PyTorch and of the published code refers to, by name only."""
    found = types.SimpleNamespace()
    for path, names in STAND_INS.items():
        module = types.ModuleType(path)
        monkeypatch.setitem(sys.modules, path, module)
        for name in names.split():
            stand_in = type(name, (), {"__module__": path, "__qualname__": name})
            setattr(module, name, stand_in)
            setattr(found, name, stand_in)
    return found


def module(cls, parameters=None, children=None, **attributes):
    made = cls()
    made.training = True
    made._parameters = collections.OrderedDict(parameters or {})
    made._buffers = collections.OrderedDict()
    made._non_persistent_buffers_set = set()
    made._forward_hooks = collections.OrderedDict()
    made._modules = collections.OrderedDict(children or {})
    vars(made).update(attributes)
    return made


def network_of(torch, config, state):
    """The pickled form of a published network."""
    tree = {}
    for name, tensor in state.items():
        node = tree
        *path, leaf = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = Parameter(tensor)

    def build(name, node):
        parameters = {k: v for k, v in node.items() if isinstance(v, Parameter)}
        children = {k: build(k, v) for k, v in node.items() if isinstance(v, dict)}
        if not parameters:
            kinds = {"embedding": torch.EmbeddingModule, "convs": torch.ModuleList}
            children |= {"relu": module(torch.ReLU, inplace=False)}
            return module(kinds.get(name, torch.Sequential), children=children)
        if name == "class_embeddings":
            return module(torch.Embedding, parameters, num_embeddings=5)
        ndim = parameters["weight"].array.ndim
        kind = {1: torch.GroupNorm, 2: torch.Linear, 4: torch.Conv2d}[ndim]
        return module(kind, parameters, padding="same", padding_mode=config["mode"])

    root = torch.MinimalResNet if config["kind"] == "resnet" else torch.MinimalUNet
    children = {k: build(k, v) for k, v in tree.items()}
    attributes = {k: v for k, v in config.items() if k not in ("kind", "mode")}
    return module(root, children=children, **attributes)


def save(path, saved, **changed):
    """Writes an object as `torch.save` does; `changed` replaces records of the archive."""
    records = {}
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=2)

    def persistent_id(thing):
        if not isinstance(thing, Storage):
            return None
        key = str(len(records))
        records[f"data/{key}"] = thing.numbers.tobytes()
        return ("storage", thing.kind, key, "cuda:0", thing.numbers.size)

    pickler.persistent_id = persistent_id
    pickler.dump(saved)
    records |= {"data.pkl": stream.getvalue(), "version": b"3\n", "byteorder": b"little"}
    return archive(path, records | {k.replace("_pkl", ".pkl"): v for k, v in changed.items()})


def archive(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in records.items():
            file.writestr(f"saved/{name}", content)
    return path


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


# Files that are refused


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_more_than_a_network(tmp_path, torch):
    network = network_of(torch, CONFIGS["resnet"], state_dict_of(CONFIGS["resnet"]))
    tensor = Tensor(np.ones(2, np.float32))

    def refused(saved, message):
        with pytest.raises(ValueError, match=f"a.pt: .*{message}"):
            load_torch_file(save(tmp_path / "a.pt", saved), {})

    refused({}, "holds no published network, .*; its tensors: nothing")
    refused({1: tensor}, "its tensors: nothing")
    refused([network], "its tensors: nothing")
    refused(tensor, "its tensors: ")
    refused({"a": tensor, "b": {"c": tensor}}, "its tensors: a, b.c")
    refused(module(torch.Linear, {"weight": tensor}), "its tensors: weight")
    refused(module(torch.Sequential, children={"0": 3}), "its tensors: nothing")
    refused({"a": {"b": tensor}, "a.b": tensor}, "holds a.b twice")
    refused({"a\nb": tensor}, "a name that cannot be printed")
    refused({"a" * 501: tensor}, "of over 500 letters")
    refused(Call(torch.cosine_noise_schedule, 1), "its tensors: nothing")
    network.hook = print
    refused(network, "names __builtin__.print, .*; model.state_dict\\(\\) saved alone can be read")
    bare = network_of(
        torch, CONFIGS["resnet"], {"up_projection.weight": np.ones((8, 1, 3, 3), "f4")}
    )
    refused(bare, "truncated, altered or no network \\(KeyError: 'down_projection.weight'\\)")


@pytest.mark.parametrize("length", [0, 10, 1000, -30, -1])
def test_truncated(tmp_path, torch, length):
    config = CONFIGS["resnet"]
    path = save(tmp_path / "a.pt", network_of(torch, config, state_dict_of(config)))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="a.pt.*truncated"):
        load_torch_file(path)


def test_altered_numbers(tmp_path, torch):
    state = {"a": Tensor(np.full(50, 1.5, np.float32))}
    path = save(tmp_path / "a.pt", state)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<f", 1.5), struct.pack("<f", 1.25), 1))
    with pytest.raises(ValueError, match="a.pt: truncated, altered or not .*CRC"):
        load_torch_file(path, {})


def test_every_altered_byte_is_an_error_or_does_no_harm(tmp_path, torch):
    config = CONFIGS["resnet"] | {"num_layers": 1}
    saved = network_of(torch, config, state_dict_of(config))
    path = save(tmp_path / "a.pt", saved)
    with zipfile.ZipFile(path) as file:
        records = {name.removeprefix("saved/"): file.read(name) for name in file.namelist()}
    rng = np.random.default_rng(0)
    for _ in range(300):
        pickled = bytearray(records["data.pkl"])
        pickled[rng.integers(len(pickled))] = rng.integers(256)
        archive(path, records | {"data.pkl": bytes(pickled)})
        try:
            load_torch_file(path)
        except ValueError:
            continue


def test_altered_archives(tmp_path, torch):
    state = {"a": Tensor(np.ones(4, np.float32))}

    def refused(message, saved=state, **changed):
        with pytest.raises(ValueError, match=f"a.pt: .*{message}"):
            load_torch_file(save(tmp_path / "a.pt", saved, **changed), {})

    refused("storage '0' has 12 bytes, expected 4 × 4", **{"data/0": b"\0" * 12})
    refused("'saved/code/run.py', which is no part", **{"code/run.py": b"print()"})
    refused("not little-endian", byteorder=b"big")
    refused("goes on after its end", data_pkl=b"}.}.")
    with pytest.raises(ValueError, match="holds no data.pkl"):
        load_torch_file(archive(tmp_path / "b.pt", {"version": b"3"}))
    with zipfile.ZipFile(save(tmp_path / "c.pt", state)) as file:
        program = file.read("saved/data.pkl")
    with pytest.raises(ValueError, match="storage '0' is missing"):
        load_torch_file(archive(tmp_path / "d.pt", {"data.pkl": program}), {})
    with pytest.raises(ValueError, match="data.pkl' twice, or compressed"):
        load_torch_file(archive(tmp_path / "e.pt", {"data.pkl": b"}."}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (1 << 40,), (0,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (0, (1,) * 33, (1,) * 33),
    ],
)
def test_a_tensor_outside_its_storage(tmp_path, torch, offset, shape, strides):
    storage = Storage(np.ones(4, np.float32), torch.FloatStorage)
    tensor = Call(torch._rebuild_tensor_v2, storage, offset, shape, strides, False, {})
    with pytest.raises(ValueError, match="a.pt: a tensor .*(storage|offset)"):
        load_torch_file(save(tmp_path / "a.pt", {"a": tensor}), {})


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.pt"):
        load_torch_file(tmp_path / "gone.pt")


# Malicious pickles: each would write FILE, with some way to call what the pickle names

ATTACKS = {
    "posix.system": b"cposix\nsystem\n(S'touch FILE'\ntR.",
    "os.system": b"cos\nsystem\n(S'touch FILE'\ntR.",
    "nt.system": b"cnt\nsystem\n(S'touch FILE'\ntR.",
    "os.popen": b"(S'touch FILE'\nios\npopen\n.",
    "subprocess.Popen": b"(csubprocess\nPopen\nS'touch FILE'\no.",
    "builtins.exec": b'cbuiltins\nexec\n(S\'open("FILE", "w")\'\ntR.',
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("FILE", "w")\'\ntR.',
    "builtins.open": b"cbuiltins\nopen\n(S'FILE'\nS'w'\ntR.",
    "io.open": b"cio\nopen\n(S'FILE'\nS'w'\ntR.",
    "pathlib.Path": b"cpathlib\nPath\n(S'FILE'\ntR.",
    "functools.partial": b"cfunctools\npartial\n(cbuiltins\nopen\nS'FILE'\nS'w'\ntR(tR.",
    "builtins.getattr": b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nS'__init__'\ntR.",
    "builtins.__import__": b"cbuiltins\n__import__\n(S'os'\ntR.",
    "operator.methodcaller": b"coperator\nmethodcaller\n(S'system'\nS'touch FILE'\ntR.",
    "numpy.save": b"cnumpy\nsave\n(S'FILE'\nI1\ntR.",
    "torch.load": b"ctorch\nload\n(S'FILE'\ntR.",
    "torch.hub.load": b"ctorch.hub\nload\n(S'FILE'\ntR.",
    "models.os": b"cmodels\nos\n.",
    "models.UBlock.forward": b"\x80\x04\x8c\x06models\x8c\x0eUBlock.forward\x93.",
    "collections.OrderedDict.__class__": (
        b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93."
    ),
    "shutil.copy": b"\x80\x04\x8c\x06shutil\x8c\x04copy\x93\x8c\x09/bin/echo\x8c\x04FILE\x86R.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_malicious_name_is_refused_and_not_called(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", {"data.pkl": ATTACKS[name]})
    with pytest.raises(ValueError, match=f"a.pt: it names {re.escape(name)}, which is no part"):
        load_torch_file(path)
    assert not (tmp_path / "FILE").exists()


LINEAR = b"ctorch.nn.modules.linear\nLinear\n"
FUNCTION = b"ctorch._utils\n_rebuild_tensor_v2\n"
MISUSES = {
    "a class is called with arguments": LINEAR + b"(S'touch FILE'\ntR.",
    "a class is altered": LINEAR + b"}S'__reduce__'\nI1\nsb.",
    "a class gets slots": LINEAR + b"(N}S'__setstate__'\nI1\nst\x94b.",
    "a function is altered": FUNCTION + b"}S'__code__'\nI1\nsb.",
    "a function gets slots": FUNCTION + b"(N}S'value'\nI1\nstb.",
    "a function is made": FUNCTION + b")\x81.",
    "a storage type is called": b"ctorch\nFloatStorage\n)R.",
    "a storage type is altered": b"ctorch\nFloatStorage\n}b.",
    "a dict is made of a string": b"ccollections\nOrderedDict\n(S'FILE'\ntR.",
    "a module's state is no dict": LINEAR + b")\x81]b.",
    "a module's state has slots": LINEAR + b")\x81(}}S'attributes'\nI1\nstb.",
    "a module without state": b"cmodels\nMinimalUNet\n)\x81.",
    "a module with arguments": LINEAR + b"(I1\nt\x81.",
    "a module inside itself": (
        LINEAR + b")\x81q\x00}(S'_parameters'\n}S'_buffers'\n}S'_modules'\n}S'0'\nh\x00suub."
    ),
    "a set is altered": b"c__builtin__\nset\n(]tR}S'a'\nI1\nsb.",
    "another persistent id": b"(S'file'\nS'FILE'\nS'0'\nS'cpu'\nI1\ntQ.",
    "a persistent id of text": b"PFILE\n.",
    "a tensor of a tensor": FUNCTION + b"(I1\nI0\n(t(ttR.",
    "a parameter of a list": b"ctorch._utils\n_rebuild_parameter\n(]I01\n}tR.",
    "a huge memory": b"}r\xff\xff\xff\x7f.",
    "an extension": b"\x82\x01.",
    "a huge string": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "nothing": b".",
    "no end": b"}",
    "not a pickle": b"import os",
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_of_what_is_known_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", {"data.pkl": MISUSES[name]})
    with pytest.raises(ValueError, match="a.pt"):
        load_torch_file(path, {})
    assert not (tmp_path / "FILE").exists()


def test_what_one_file_does_is_not_seen_by_the_next(tmp_path, torch):
    for program in MISUSES.values():
        with pytest.raises(ValueError, match="a.pt"):
            load_torch_file(archive(tmp_path / "a.pt", {"data.pkl": program}), {})
    config = CONFIGS["resnet"]
    path = save(tmp_path / "b.pt", network_of(torch, config, state_dict_of(config)))
    assert config.items() <= load_torch_file(path)[0].items()


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


def test_import_torch_refuses_a_malicious_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, program = next(iter(ATTACKS.items()))
    path = archive(tmp_path / "a.pt", {"data.pkl": program})
    assert cli.main(["import-torch", str(path)]) == 2
    assert f"it names {name}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.pt"]
