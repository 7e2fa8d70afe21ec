"""Weights of the published PyTorch models (Kamb & Ganguli 2025), as networks of `elsjax.nn`.

A published network is a configuration, the arguments of its constructor there, and a state dict,
tensors by name; `elsjax.torch_files` reads both from a file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import ArrayLike

from elsjax import checks
from elsjax.nn import Network, ResNet, UNet
from elsjax.nn.embedding import Embedding
from elsjax.nn.layers import Upsample
from elsjax.torch_files import load_torch_file

__all__ = ["from_torch_state_dict", "load_torch_file"]

# The published constructors' arguments and defaults.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "resnet": {
        "channels": 3,
        "emb_dim": 128,
        "mode": "circular",
        "normalization": None,
        "conditional": False,
        "num_classes": None,
        "kernel_size": 3,
        "num_layers": 6,
        "lastksize": 1,
        "add_one": True,
    },
    "unet": {
        "channels": 3,
        "fsizes": (32, 64, 128, 256),
        "mode": "circular",
        "conditional": False,
        "num_classes": None,
        "emb_dim": 256,
        "normalization": None,
        "last_norm": False,
        "kernel_size": 3,
        "lastksize": 1,
    },
}
# Variants in the published code that none of the paper's networks uses.
_ONLY = {"normalization": None, "last_norm": False, "add_one": True}


def from_torch_state_dict(
    config: Mapping[str, Any], state_dict: Mapping[str, ArrayLike], *, image_size: int = 32
) -> Network:
    """A network of the published architecture with the given weights: the same function.

    Weights become float64 where `jax_enable_x64` is set, else float32.

    Args:
      config: "kind", "resnet" or "unet", and the arguments of the published constructor, such as
        channels, mode, emb_dim, fsizes; those left out have its defaults.
      state_dict: tensors by their PyTorch names, anything that `np.asarray` takes.
      image_size: side of the images that the network is meant for. (It runs on others too.)

    Returns:
      A `ResNet` or `UNet`.

    Raises:
      ValueError: if the configuration is not a published one, or a tensor is missing, unexpected,
        of another shape than the configuration asks for, or not finite.
    """
    # Abstract: the network without weights, each of which is then set below.
    network = nnx.eval_shape(lambda: _build(config, image_size))
    layers = _resnet_layers(network) if isinstance(network, ResNet) else _unet_layers(network)
    expected = {
        f"{name}.{key}": (variable, axes)
        for name, layer in layers
        for key, variable, axes in _tensors(layer)
    }
    problems = [f"{name} is missing" for name in expected if name not in state_dict]
    problems += [f"{name} is unexpected" for name in state_dict if name not in expected]
    for name, (variable, axes) in expected.items():
        if name in state_dict:
            shape = [variable.shape[axes.index(axis)] for axis in range(len(axes))]
            found = list(np.shape(state_dict[name]))
            if found != shape:
                problems.append(f"{name} has shape {found}, expected {shape}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict does not fit its config: {'; '.join(problems[:5])}{more}")
    for name, (variable, axes) in expected.items():
        tensor = np.asarray(state_dict[name])
        checks.finite(f"state_dict[{name!r}]", tensor)
        variable.set_value(jnp.asarray(tensor.transpose(axes), network.dtype))
    return network


def _build(config: Mapping[str, Any], image_size: int) -> ResNet | UNet:
    """The network that a configuration describes."""
    if "kind" not in config:
        raise ValueError(f"config={dict(config)} has no 'kind'; expected 'resnet' or 'unet'")
    kind = config["kind"]
    checks.one_of("config['kind']", kind, tuple(_DEFAULTS))
    unknown = sorted(set(config) - {"kind"} - set(_DEFAULTS[kind]))
    if unknown:
        raise ValueError(
            f"config has unknown keys {', '.join(map(repr, unknown))}; a {kind} has "
            f"{', '.join(_DEFAULTS[kind])}"
        )
    given = {**_DEFAULTS[kind], **config}
    for key, only in _ONLY.items():
        if given.get(key, only) != only:
            raise ValueError(f"config[{key!r}]={given[key]!r} is not supported, only {only!r}")
    if given["conditional"] and given["num_classes"] is None:
        raise ValueError("config['num_classes']=None: a conditional network needs a number")
    checks.positive_int("image_size", image_size)
    common: dict[str, Any] = {
        "image_shape": (image_size, image_size, given["channels"]),
        "padding": given["mode"],
        "num_classes": given["num_classes"] if given["conditional"] else None,
        "kernel_size": given["kernel_size"],
        "last_kernel_size": given["lastksize"],
        "rngs": nnx.Rngs(0),
    }
    if kind == "resnet":
        return ResNet(width=given["emb_dim"], num_layers=given["num_layers"], **common)
    return UNet(widths=given["fsizes"], embedding_width=given["emb_dim"], **common)


def _resnet_layers(network: ResNet) -> Iterator[tuple[str, Any]]:
    """The layers of a ResNet by their published names."""
    yield from _embedding_layers(network.embedding)
    yield "up_projection", network.first
    for i, shift in enumerate(network.shifts):
        yield f"embs.{i}.0", shift.linear
        yield f"embs.{i}.1", shift.norm
    for i, layer in enumerate(network.convs):
        yield f"convs.{i}.0", layer
    yield "down_projection", network.last


def _unet_layers(network: UNet) -> Iterator[tuple[str, Any]]:
    """The layers of a UNet by their published names, which count up from the coarsest level."""
    yield from _embedding_layers(network.embedding)
    blocks: dict[str, Any] = {
        f"feature_blocks.{i}": block for i, block in enumerate(network.down[:-1])
    }
    blocks["bottleneck"] = network.down[-1]
    blocks |= {f"output_blocks.{i}": block for i, block in enumerate(reversed(network.up))}
    for name, block in blocks.items():
        yield f"{name}.emb.1", block.shift.linear
        yield f"{name}.model.0", block.convs[0]
        yield f"{name}.model.2", block.convs[1]
    for i, layer in enumerate(reversed(network.upsamples)):
        yield f"upsamples.{i}", layer
    yield "last_emb.1", network.last_shift.linear
    yield "output_conv", network.last


def _embedding_layers(embedding: Embedding) -> Iterator[tuple[str, Any]]:
    if embedding.classes is not None:
        yield "embedding.class_embeddings", embedding.classes


def _tensors(layer: Any) -> list[tuple[str, Any, tuple[int, ...]]]:
    """PyTorch's name, our variable, and how PyTorch's axes are ordered to give ours."""
    if isinstance(layer, nnx.Embed):
        return [("weight", layer.embedding, (0, 1))]
    if isinstance(layer, nnx.GroupNorm):
        return [("weight", layer.scale, (0,)), ("bias", layer.bias, (0,))]
    if isinstance(layer, nnx.Linear):
        axes: tuple[int, ...] = (1, 0)
    elif isinstance(layer, Upsample):
        axes = (0, 2, 3, 1)  # [in, out, h, w] to [in, h, w, out]
    else:
        axes = (2, 3, 1, 0)  # [out, in, h, w] to [h, w, in, out]
    return [("weight", layer.kernel, axes), ("bias", layer.bias, (0,))]
