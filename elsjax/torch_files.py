"""Reads networks that PyTorch saved, without PyTorch and without running what the file says.

`torch.save` writes a zip archive: `data.pkl`, a pickle of the saved object, and `data/0`,
`data/1`, ..., the raw numbers of its tensors. A pickle is a program that may name any function and
have it called. Here it can name only what is listed below, and each name stands for something
inert: a module is a bag of attributes, a tensor is a NumPy array. Any other name is refused before
it is looked up, so nothing is imported and nothing is called.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
}
# The classes of the published code, and the modules of PyTorch that they are made of.
_PUBLISHED = {"DDIM", "EmbeddingModule", "MinimalResNet", "MinimalUNet", "UBlock"}
_TORCH_MODULES = {
    "torch.nn.modules.activation": {"ReLU"},
    "torch.nn.modules.container": {"ModuleList", "Sequential"},
    "torch.nn.modules.conv": {"Conv2d", "ConvTranspose2d"},
    "torch.nn.modules.linear": {"Linear"},
    "torch.nn.modules.normalization": {"GroupNorm"},
    "torch.nn.modules.pooling": {"MaxPool2d"},
    "torch.nn.modules.sparse": {"Embedding"},
}
_MODULES = {"models": _PUBLISHED, "__main__": _PUBLISHED, **_TORCH_MODULES}
_RECORDS = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment"}
_RECORDS |= {".data/serialization_id"}


def load_torch_file(
    path: str | Path, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads a published `.pt`: a pickled module of the published code, or a state dict.

    Nothing in the file is executed, and PyTorch is not needed.

    Args:
      path: the file, as `torch.save` of PyTorch 1.6 or newer writes it.
      config: configuration as in `elsjax.from_torch_state_dict`. Needed for a state dict, which
        does not hold its own; else read from the module, and here only checked against it.

    Returns:
      `(config, state_dict)` for `elsjax.from_torch_state_dict`.

    Raises:
      ValueError: if the file is truncated or altered, names anything but tensors and the modules
        of the published networks, or holds anything but one network; if a state dict comes
        without config, or a config contradicts the file.
      OSError: if the file cannot be opened.
    """
    content = Path(path).read_bytes()
    try:
        loaded = _read(content)
        if isinstance(loaded, _Module):
            found, state_dict = _from_module(loaded)
        else:
            found, state_dict = None, _from_dict(loaded)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a crafted pickle can fail in as many ways as Python can
        raise ValueError(
            f"{path} is no readable network: truncated, altered or not written by torch.save "
            f"({type(error).__name__}: {error})"
        ) from error
    if found is None:
        if config is None:
            raise ValueError(f"{path} holds a state dict only: config is needed beside it")
        return dict(config), state_dict
    for key, value in (config or {}).items():
        if key in found and _as_list(value) != found[key]:
            raise ValueError(f"config[{key!r}]={value!r}, but {path} has {found[key]!r}")
    return found, state_dict


class _Refused(Exception):
    """The file holds what it should not; the message says what."""


def _read(content: bytes) -> Any:
    """The object in a file, with stand-ins for all that is not plain data."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise _Refused("not a file of torch.save: no complete zip archive (truncated?)")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if name not in _RECORDS and not name.startswith("data/"):
                raise _Refused(f"it holds {info.filename!r}, which is no part of a network")
            if name in infos or info.compress_type != zipfile.ZIP_STORED:
                raise _Refused(f"it holds {info.filename!r} twice, or compressed")
            infos[name] = info
        if "data.pkl" not in infos:
            raise _Refused("it holds no data.pkl")
        if sum(info.file_size for info in infos.values()) > len(content):
            raise _Refused("its records overlap")
        records = {name: archive.read(info) for name, info in infos.items()}
    if records.get("byteorder", b"little") != b"little":
        raise _Refused("its numbers are not little-endian")
    program = records["data.pkl"]
    for opcode, argument, _ in pickletools.genops(program):
        # The unpickler makes room for as many remembered objects as a number in the file says.
        if "PUT" in opcode.name and int(argument or 0) > len(program):
            raise _Refused(f"its pickle is altered: it counts to {argument}")
    stream = io.BytesIO(program)
    loaded = _Unpickler(stream, records).load()
    if stream.read():
        raise _Refused("data.pkl goes on after its end")
    return loaded


class _Unpickler(pickle.Unpickler):
    """A pickle machine that knows only the stand-ins of this module."""

    def __init__(self, stream: io.BytesIO, records: Mapping[str, bytes]) -> None:
        super().__init__(stream)
        self._records = records
        self._classes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; the name itself is never looked up."""
        if name in _MODULES.get(module, ()):
            # A class of this file's own, so that nothing written to it outlives the reading.
            return self._classes.setdefault(name, type(name, (_Module,), {}))
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if (module, name) not in _FUNCTIONS:
            raise _Refused(f"it names {module}.{name}, which is no part of a published network")
        return _Function(_FUNCTIONS[module, name])

    def persistent_load(self, pid: Any) -> "_Storage":
        """The numbers of a storage."""
        kind, storage_type, key, _, count = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise _Refused(f"it refers to a {kind!r}, not to the storage of a tensor")
        record = self._records.get(f"data/{key}")
        if record is None:
            raise _Refused(f"storage {key!r} is missing")
        size = storage_type.value.itemsize
        if len(record) != count * size:
            raise _Refused(f"storage {key!r} has {len(record)} bytes, expected {count} × {size}")
        return _Storage(np.frombuffer(record, storage_type.value))


class _Inert:
    """A stand-in that holds a value which the pickle cannot reach, call or change."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise _Refused(f"it alters a {type(self).__name__.strip('_')}")


class _StorageType(_Inert):
    """The type of a storage; the value is a NumPy dtype."""

    __slots__ = ()


class _Storage(_Inert):
    """The numbers behind tensors; the value is a flat array."""

    __slots__ = ()


class _Tensor(_Inert):
    """A tensor or parameter; the value is an array."""

    __slots__ = ()


class _Function(_Inert):
    """One of the functions below, which is all that the pickle may call."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self.value(*args)


class _Module:
    """A module of PyTorch or of the published code: its attributes, and nothing it could do."""

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _Refused(f"the state of {type(self).__name__} is not a dict")
        self.attributes = state


class _OrderedDict(dict):
    """A dict; attributes that a pickle gives it, such as a state dict's versions, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """A tensor: a view into a storage, copied; refused if it reaches outside."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise _Refused("a tensor is not made from a storage")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _Refused(f"a tensor has offset, shape and strides {numbers}")
    flat, size = storage.value, math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if size == 0 or size > flat.size or last >= flat.size:
        raise _Refused(f"a tensor of shape {list(shape)} does not fit its storage")
    steps = tuple(step * flat.itemsize for step in strides)
    return _Tensor(np.lib.stride_tricks.as_strided(flat[offset:], tuple(shape), steps).copy())


def _rebuild_parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise _Refused("a parameter is not made from a tensor")
    return tensor


def _schedule(*_: Any) -> Any:
    raise _Refused("it calls cosine_noise_schedule")


_FUNCTIONS = {
    ("__builtin__", "set"): frozenset,
    ("builtins", "set"): frozenset,
    ("collections", "OrderedDict"): _OrderedDict,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("utils.noise_schedules", "cosine_noise_schedule"): _schedule,  # kept by DDIM, never called
}


def _from_dict(loaded: Any) -> dict[str, np.ndarray]:
    """A state dict: names and tensors, nothing else."""
    if not isinstance(loaded, dict):
        raise _Refused(
            f"it holds a {type(loaded).__name__.strip('_')}, not a network or its state dict"
        )
    others = [
        key for key, tensor in loaded.items() if not (type(key) is str and type(tensor) is _Tensor)
    ]
    if others or not loaded:
        shown = ", ".join(repr(key) for key in others[:5]) or "nothing"
        raise _Refused(f"it holds {shown}, where a state dict has tensors")
    return {name: tensor.value for name, tensor in loaded.items()}


def _from_module(module: _Module) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and state dict of a pickled network, or of the one inside a DDIM."""
    if type(module).__name__ == "DDIM":
        module = _child(module, "backbone")
    state_dict: dict[str, np.ndarray] = {}
    _collect(module, "", state_dict, set())
    if type(module).__name__ == "MinimalResNet":
        config = _resnet_config(state_dict)
        last = _child(module, "down_projection")
    elif type(module).__name__ == "MinimalUNet":
        config = _unet_config(state_dict)
        last = _child(module, "output_conv")
    else:
        raise _Refused(f"it holds a {type(module).__name__}, not a MinimalResNet or MinimalUNet")
    mode = last.attributes["padding_mode"]
    if type(mode) is not str:
        raise _Refused("its padding_mode is not a string")
    classes = state_dict.get("embedding.class_embeddings.weight")
    config["mode"] = mode
    config["conditional"] = classes is not None
    config["num_classes"] = None if classes is None else len(classes)
    return config, state_dict


def _resnet_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the shapes of a ResNet's tensors say of its constructor's arguments."""
    first, last = state_dict["up_projection.weight"], state_dict["down_projection.weight"]
    return {
        "kind": "resnet",
        "channels": first.shape[1],
        "emb_dim": first.shape[0],
        "kernel_size": first.shape[-1],
        "lastksize": last.shape[-1],
        "num_layers": sum(f"convs.{i}.0.weight" in state_dict for i in range(len(state_dict))),
    }


def _unet_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the shapes of a UNet's tensors say of its constructor's arguments."""
    names = [f"feature_blocks.{i}.model.0.weight" for i in range(len(state_dict))]
    blocks = [state_dict[name] for name in names if name in state_dict]
    bottleneck, last = state_dict["bottleneck.model.0.weight"], state_dict["output_conv.weight"]
    return {
        "kind": "unet",
        "channels": blocks[0].shape[1],
        "fsizes": [len(block) for block in (*blocks, bottleneck)],
        "emb_dim": state_dict["last_emb.1.weight"].shape[1],
        "kernel_size": blocks[0].shape[-1],
        "lastksize": last.shape[-1],
    }


def _child(module: _Module, name: str) -> _Module:
    child = module.attributes["_modules"][name]
    if not isinstance(child, _Module):
        raise _Refused(f"{name} is not a module")
    return child


def _collect(module: Any, prefix: str, found: dict[str, np.ndarray], seen: set[int]) -> None:
    """Adds the tensors of a module and of all inside it to `found`, by name."""
    if not isinstance(module, _Module) or id(module) in seen:
        raise _Refused(f"{prefix or 'the network'} is not a module of its own")
    seen.add(id(module))
    for group in ("_parameters", "_buffers"):
        for name, tensor in module.attributes[group].items():
            if tensor is not None and type(tensor) is not _Tensor:
                raise _Refused(f"{prefix}{name} is not a tensor")
            if tensor is not None:
                found[f"{prefix}{name}"] = tensor.value
    for name, child in module.attributes["_modules"].items():
        _collect(child, f"{prefix}{name}.", found, seen)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
