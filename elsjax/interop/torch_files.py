"""Networks and window scales in files that PyTorch saved; see `torch_pickle` for how."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from elsjax.interop.torch_pickle import Refused, TorchObject, read_torch

_SAFETENSORS = {
    "BF16": np.dtype(jnp.bfloat16),
    "BOOL": np.dtype(np.bool_),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    "U8": np.dtype(np.uint8),
}
# The first or last tensor of each kind of network, by which it is found among others.
_MARKS = {"up_projection.weight": "resnet", "output_conv.weight": "unet"}


def load_torch_file(
    path: str | Path, config: Mapping[str, Any] | None = None, key: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads a published `.pt`: a pickled module of the published code, a state dict, or a dict.

    A network is found wherever it stands: in a DDIM or DataParallel, behind prefixes such as
    `module.`, in a dict beside an optimizer. Nothing in the file is executed, and PyTorch is not
    needed.

    Args:
      path: the file, as `torch.save` of PyTorch 1.6 or newer writes it; or a state dict in
        `.safetensors`.
      config: configuration as in `elsjax.from_torch_state_dict`. Needed for a state dict, which
        does not hold its own; else read from the module, and here only checked against it.
      key: which network of several: where it stands, such as "ema" in `{"model": ..., "ema": ...}`.

    Returns:
      `(config, state_dict)` for `elsjax.from_torch_state_dict`; the arrays are read-only.

    Raises:
      ValueError: if the file is truncated or altered, names anything but tensors, the modules of
        the published networks and what stands beside them in checkpoints, or holds no network, or
        several and key names none; if a state dict comes without config, or a config contradicts
        the file.
      OSError: if the file cannot be opened.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"config={config!r} must be a dict")
    content = Path(path).read_bytes()
    try:
        found = _Contents()
        if Path(path).suffix == ".safetensors":
            found.add(_read_safetensors(content))
        else:
            found.add(read_torch(content))
        prefix, state_dict = _choose(networks_in(found.tensors), found, key)
        mode = found.modes.get(prefix)
        read = None if mode is None else _config(state_dict) | {"mode": mode}
    except Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # tensors of any names and shapes, nested in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path}: truncated, altered or no network ({reason})") from error
    if read is None:
        if config is None:
            raise ValueError(f"{path} holds a state dict only: config is needed beside it")
        return dict(config), state_dict
    sizes = [size for start, size in found.image_sizes.items() if prefix.startswith(start)]
    if sizes:
        read["image_size"] = sizes[-1]
    for name, value in (config or {}).items():
        value = list(value) if isinstance(value, tuple | np.ndarray) else value
        if name in read and value != read[name]:
            raise ValueError(f"config[{name!r}]={value!r}, but {path} has {read[name]!r}")
    return read, state_dict


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors in a file of safetensors; its own reader of arrays knows no bfloat16."""
    return {
        name: np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(content)
    }


def read_scales(content: bytes) -> list[Any]:
    """The numbers in a file of the published calibration, `scales_*.pt`.

    The published code stores a list, or a tensor, of window sides; entry m of n is what it found at
    t = (m + 1) / n, so low noise comes first, as in `elsjax.WindowSchedule`.

    Args:
      content: bytes of the file.

    Returns:
      The entries, which may be anything.

    Raises:
      Refused: if the file holds no list and no tensor of one axis.
    """
    loaded = read_torch(content)
    if isinstance(loaded, np.ndarray):
        if loaded.ndim != 1:
            raise Refused(f"it holds a tensor of shape {list(loaded.shape)}; expected [steps]")
        return loaded.tolist()
    if not isinstance(loaded, list):
        raise Refused("it holds no list and no tensor of windows")
    return [
        entry.item() if isinstance(entry, np.ndarray) and entry.ndim == 0 else entry
        for entry in loaded
    ]


def networks_in(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The published networks among tensors, each with the names it has there.

    Args:
      tensors: anything, by names with dots. Those of compiled modules may hold `_orig_mod.`.

    Returns:
      What stands before a network's names, such as "" or "module.", and its tensors by the rest of
      their names. A network has all that begins so, but no other network's.
    """
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    networks: dict[str, dict[str, Any]] = {
        name.removesuffix(mark): {}
        for name in tensors
        for mark in _MARKS
        if name == mark or name.endswith(f".{mark}")
    }
    for name, tensor in tensors.items():
        path, dot, _ = name.rpartition(".")
        while path and path + dot not in networks:
            path, dot, _ = path.rpartition(".")
        prefix = path + dot
        if prefix in networks:
            networks[prefix][name.removeprefix(prefix)] = tensor
    return networks


@dataclasses.dataclass
class _Contents:
    """What matters of a file, by the names that a state dict of all of it would have."""

    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    modes: dict[str, str] = dataclasses.field(default_factory=dict)
    image_sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    seen: set[int] = dataclasses.field(default_factory=set)

    def add(self, value: Any, name: str = "") -> None:
        """Adds all that stands in dicts and modules; what is met twice counts once."""
        if isinstance(value, np.ndarray):
            self._add_tensor(name.removesuffix("."), value)
        elif isinstance(value, dict | TorchObject) and id(value) not in self.seen:
            self.seen.add(id(value))
            if isinstance(value, dict):
                for key, child in value.items():
                    self.add(child, f"{name}{key}.")
            else:
                self._add_module(value.attributes, name)

    def _add_tensor(self, name: str, tensor: np.ndarray) -> None:
        # Names become parts of messages, and prefixes of other names.
        if not name.isprintable() or len(name) > 500:
            raise Refused("a tensor has a name that cannot be printed, or of over 500 letters")
        if name in self.tensors:
            raise Refused(f"it holds {name} twice")
        self.tensors[name] = tensor

    def _add_module(self, attributes: dict[str, Any], name: str) -> None:
        for group in ("_parameters", "_buffers", "_modules"):
            if isinstance(attributes.get(group), dict):
                for key, child in attributes[group].items():
                    self.add(child, f"{name}{key}.")
        mode, size = attributes.get("padding_mode"), attributes.get("default_imsize")
        for mark in _MARKS:
            layer = mark.removesuffix("weight")
            if type(mode) is str and (name == layer or name.endswith(f".{layer}")):
                self.modes[name.removesuffix(layer)] = mode
        if type(size) is int:
            self.image_sizes[name] = size


def _choose(
    networks: dict[str, dict[str, Any]], found: _Contents, key: str | None
) -> tuple[str, dict[str, Any]]:
    """Prefix and tensors of the network asked for."""
    if not networks:
        names = ", ".join(list(found.tensors)[:5]) or "nothing"
        raise Refused(
            f"it holds no published network, which has {' or '.join(_MARKS)}; its tensors: {names}"
        )
    chosen = list(networks)
    if key is not None:
        start = f"{key}." if key else ""
        chosen = [start] if start in networks else [p for p in chosen if p.startswith(start)]
    if len(chosen) != 1:
        names = ", ".join(repr(prefix.removesuffix(".")) for prefix in list(networks)[:10])
        raise Refused(f"it holds networks under {names}; key={key!r} must choose one")
    return chosen[0], networks[chosen[0]]


def _config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What names and shapes of a network's tensors say of its constructor's arguments."""
    resnet = "up_projection.weight" in state_dict
    config = _resnet_config(state_dict) if resnet else _unet_config(state_dict)
    classes = state_dict.get("embedding.class_embeddings.weight")
    config["conditional"] = classes is not None
    config["num_classes"] = None if classes is None else len(classes)
    return config


def _resnet_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    first = state_dict["up_projection.weight"]
    normalized = "down_projection.1.weight" in state_dict
    last = state_dict[f"down_projection.{'1.' if normalized else ''}weight"]
    num_layers = sum(f"convs.{i}.0.weight" in state_dict for i in range(len(state_dict)))
    return {
        "kind": "resnet",
        "channels": first.shape[1],
        "emb_dim": first.shape[0],
        "kernel_size": first.shape[-1],
        "lastksize": last.shape[-1],
        "num_layers": num_layers,
        "normalization": "GroupNorm" if normalized else None,
        "add_one": f"embs.{num_layers}.0.weight" in state_dict,
    }


def _unet_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    names = [f"feature_blocks.{i}.model.0.weight" for i in range(len(state_dict))]
    blocks = [state_dict[name] for name in names if name in state_dict]
    bottleneck, last = state_dict["bottleneck.model.0.weight"], state_dict["output_conv.weight"]
    normalization = None
    if "bottleneck.model.1.weight" in state_dict:
        batch = "bottleneck.model.1.running_mean" in state_dict
        normalization = "BatchNorm" if batch else "GroupNorm"
    return {
        "kind": "unet",
        "channels": blocks[0].shape[1],
        "fsizes": [len(block) for block in (*blocks, bottleneck)],
        "emb_dim": state_dict["last_emb.1.weight"].shape[1],
        "kernel_size": blocks[0].shape[-1],
        "lastksize": last.shape[-1],
        "normalization": normalization,
        "last_norm": "last_normalizer.weight" in state_dict,
    }
