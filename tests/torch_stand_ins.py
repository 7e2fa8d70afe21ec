"""Files as `torch.save` writes them, by stand-ins under the names of PyTorch; state dicts."""

import collections
import io
import itertools
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

CONFIGS = {
    "resnet": dict(kind="resnet", channels=1, emb_dim=8, mode="zeros", num_layers=2, lastksize=3),
    "unet": dict(
        kind="unet", channels=2, fsizes=[4, 8, 8], mode="circular", emb_dim=8, lastksize=1,
        conditional=True, num_classes=5,
    ),
}  # fmt: skip


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

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            key = str(len(records))
            records[f"data/{key}"] = thing.numbers.tobytes()
            return ("storage", thing.kind, key, "cuda:0", thing.numbers.size)

    Pickler(stream, protocol=2).dump(saved)
    records |= {"data.pkl": stream.getvalue(), "version": b"3\n", "byteorder": b"little"}
    return archive(path, records | {k.replace("_pkl", ".pkl"): v for k, v in changed.items()})


def archive(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in records.items():
            file.writestr(f"saved/{name}", content)
    return path
