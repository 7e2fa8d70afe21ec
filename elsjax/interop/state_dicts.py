"""Weights of the published PyTorch models (Kamb & Ganguli 2025), as networks of `elsjax.nn`.

A published network is a configuration, the arguments of its constructor there, and a state dict,
tensors by name; `elsjax.interop.torch_files` reads both from a file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import ArrayLike

from elsjax import checks
from elsjax.interop.torch_files import load_torch_file, networks_in
from elsjax.nn import Network, ResNet, UNet
from elsjax.nn.embedding import Embedding
from elsjax.nn.layers import Upsample

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
_NORMALIZATIONS = (None, "GroupNorm", "BatchNorm")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def from_torch_state_dict(
    config: Mapping[str, Any],
    state_dict: Mapping[str, ArrayLike],
    *,
    image_size: int | None = None,
) -> Network:
    """A network of the published architecture with the given weights: the same function.

    The function is that of PyTorch's evaluation mode: batch normalisation, an affine map there,
    becomes part of the convolutions beside it. Weights become float64 where `jax_enable_x64` is
    set, else float32.

    Args:
      config: "kind", "resnet" or "unet", and the arguments of the published constructor, such as
        channels, mode, emb_dim, fsizes; those left out have its defaults. "image_size" may be
        among them.
      state_dict: tensors by their PyTorch names, anything that `np.asarray` takes. A prefix that
        all names of the network share, such as `module.`, may stand before them.
      image_size: side of the images that the network is meant for, by default config's, else 32.
        (It runs on others too.)

    Returns:
      A `ResNet` or `UNet`.

    Raises:
      ValueError: if the configuration is not a published one, or a tensor is missing, unexpected,
        of another shape than the configuration asks for, or not finite.
    """
    given = _checked_config(config)
    tensors = _arrays(state_dict, given)
    if given.get("num_layers", 0) > len(tensors):  # each is made below, before the tensors are met
        raise ValueError(f"config['num_layers']={given['num_layers']}: state_dict has fewer")
    side = given.get("image_size", 32) if image_size is None else image_size
    checks.positive_int("image_size", side)
    # Abstract: the network without weights, each of which is then set below.
    network = nnx.eval_shape(lambda: _build(given, side))
    expected, batch_norms = _expected(network, given)
    for norm in batch_norms:
        tensors.pop(f"{norm}.num_batches_tracked", None)
    _check(tensors, _shapes(expected, batch_norms))
    for norm in batch_norms:
        _fold(tensors, norm, len(given["fsizes"]) - 1)
    for name, (variable, axes) in expected.items():
        with np.errstate(over="ignore"):
            tensor = tensors[name].astype(network.dtype)
        checks.finite(f"state_dict[{name!r}]", tensor)
        variable.set_value(jnp.asarray(tensor.transpose(axes)))
    return network


def _expected(
    network: ResNet | UNet, given: Mapping[str, Any]
) -> tuple[dict[str, tuple[Any, tuple[int, ...]]], dict[str, int]]:
    """Variables by PyTorch's names, with how to order its axes; channels of batch normalisations.

    The latter have no variables here.
    """
    if isinstance(network, ResNet):
        layers, batch_norms = dict(_resnet_layers(network)), {}
    else:
        layers, batch_norms = dict(_unet_layers(network, given)), _batch_norms(network, given)
    variables = {
        f"{name}.{key}": (variable, axes)
        for name, layer in layers.items()
        for key, variable, axes in _tensors(layer)
    }
    return variables, batch_norms


def _shapes(
    expected: Mapping[str, tuple[Any, tuple[int, ...]]], batch_norms: Mapping[str, int]
) -> dict[str, list[int]]:
    """The shapes of all tensors, in PyTorch's order of axes."""
    shapes = {
        name: [variable.shape[axes.index(axis)] for axis in range(len(axes))]
        for name, (variable, axes) in expected.items()
    }
    for norm, channels in batch_norms.items():
        shapes |= {f"{norm}.{key}": [channels] for key in _BATCH_NORM}
    return shapes


def _checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its defaults, all of the right types."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config={config!r} must be a dict")
    if "kind" not in config:
        raise ValueError(f"config={dict(config)} has no 'kind'; expected 'resnet' or 'unet'")
    architecture = config["kind"]
    checks.one_of("config['kind']", architecture, tuple(_DEFAULTS))
    defaults = _DEFAULTS[architecture]
    unknown = [str(key) for key in config if key not in ("kind", "image_size", *defaults)]
    if unknown:
        raise ValueError(
            f"config has unknown keys {', '.join(map(repr, sorted(unknown)))}; a {architecture} "
            f"has {', '.join(defaults)}"
        )
    given = {**defaults, **config}
    for key, default in defaults.items():
        if isinstance(default, bool) and not isinstance(given[key], bool):
            raise ValueError(f"config[{key!r}]={given[key]!r} must be true or false")
        if isinstance(default, int) and not isinstance(default, bool):
            checks.positive_int(f"config[{key!r}]", given[key])
    if given["normalization"] not in _NORMALIZATIONS:
        raise ValueError(
            f"config['normalization']={given['normalization']!r} is not known; expected one of "
            f"{', '.join(map(repr, _NORMALIZATIONS))}"
        )
    if given["conditional"] and given["num_classes"] is None:
        raise ValueError("config['num_classes']=None: a conditional network needs a number")
    if architecture == "unet":
        if given["fsizes"] is None:
            given["fsizes"] = defaults["fsizes"]
        if not isinstance(given["fsizes"], list | tuple):
            raise ValueError(f"config['fsizes']={given['fsizes']!r} must be a list")
    return given


def _arrays(state_dict: Mapping[str, ArrayLike], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors as arrays by the names that the published classes give them."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f"state_dict is a {type(state_dict).__name__}; expected tensors by name")
    networks = networks_in(state_dict)
    found = next(iter(networks.values())) if len(networks) == 1 else state_dict
    tensors = {}
    for name, value in found.items():
        try:
            tensor = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # such as tensors on a GPU
            raise ValueError(f"state_dict[{name!r}] is no array: {error}") from error
        if not any(jnp.issubdtype(tensor.dtype, number) for number in (jnp.floating, jnp.integer)):
            raise ValueError(
                f"state_dict[{name!r}] has dtype {tensor.dtype}; expected real numbers"
            )
        tensors[name] = _odd_kernel(name, tensor, given)
    return tensors


def _odd_kernel(name: str, tensor: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    """The same kernel with an odd side, where the configuration has an even one.

    Of an even kernel PyTorch puts the larger half behind the pixel: a row and a column of zeros in
    front make it the middle.
    """
    last = name.startswith(("down_projection.", "output_conv."))
    side = given["lastksize" if last else "kernel_size"]
    if side % 2 or tensor.shape[2:] != (side, side) or name.startswith("upsamples."):
        return tensor
    return np.pad(tensor, ((0, 0), (0, 0), (1, 0), (1, 0)))


def _check(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, list[int]]) -> None:
    """Raises ValueError unless the tensors are those expected, and finite."""
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in shapes]
    problems += [
        f"{name} has shape {list(tensors[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in tensors and list(tensors[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict does not fit its config: {'; '.join(problems[:5])}{more}")
    for name, tensor in tensors.items():
        checks.finite(f"state_dict[{name!r}]", tensor)
        if name.endswith(".running_var") and tensor.min() < 0:
            raise ValueError(f"state_dict[{name!r}] must not be negative")


def _build(given: Mapping[str, Any], image_size: int) -> ResNet | UNet:
    """The network that a configuration describes."""
    common: dict[str, Any] = {
        "image_shape": (image_size, image_size, given["channels"]),
        "padding": given["mode"],
        "num_classes": given["num_classes"] if given["conditional"] else None,
        "kernel_size": given["kernel_size"] // 2 * 2 + 1,
        "last_kernel_size": given["lastksize"] // 2 * 2 + 1,
        "rngs": nnx.Rngs(0),
    }
    if given["kind"] == "resnet":
        return ResNet(
            width=given["emb_dim"],
            num_layers=given["num_layers"],
            normalized=given["normalization"] is not None,  # whichever: so it is published
            last_shift=given["add_one"],
            **common,
        )
    grouped = given["normalization"] == "GroupNorm"
    return UNet(
        widths=given["fsizes"],
        embedding_width=given["emb_dim"],
        normalized=grouped,
        last_normalized=grouped and given["last_norm"],
        **common,
    )


def _resnet_layers(network: ResNet) -> Iterator[tuple[str, Any]]:
    """The layers of a ResNet by their published names."""
    yield from _embedding_layers(network.embedding)
    yield "up_projection", network.first
    for i, shift in enumerate(network.shifts):
        yield f"embs.{i}.0", shift.linear
        yield f"embs.{i}.1", shift.norm
    for i, layer in enumerate(network.convs):
        yield f"convs.{i}.0", layer
    if network.norms is None:
        yield "down_projection", network.last
        return
    for i, norm in enumerate(network.norms[:-1]):
        yield f"convs.{i}.1", norm
    yield "down_projection.0", network.norms[-1]
    yield "down_projection.1", network.last


def _unet_layers(network: UNet, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The layers of a UNet by their published names, batch normalisations left out."""
    yield from _embedding_layers(network.embedding)
    step = 2 if given["normalization"] is None else 3  # of convolution, normalisation, ReLU
    for name, block in _unet_blocks(network).items():
        yield f"{name}.emb.1", block.shift.linear
        for i, layer in enumerate(block.convs):
            yield f"{name}.model.{step * i}", layer
        for i, norm in enumerate(block.norms or ()):
            yield f"{name}.model.{step * i + 1}", norm
    for i, layer in enumerate(reversed(network.upsamples)):
        yield f"upsamples.{i}", layer
    yield "last_emb.1", network.last_shift.linear
    if network.last_norm is not None:
        yield "last_normalizer", network.last_norm
    yield "output_conv", network.last


def _unet_blocks(network: UNet) -> dict[str, Any]:
    """The blocks of a UNet by their published names, which count up from the coarsest level."""
    blocks = {f"feature_blocks.{i}": block for i, block in enumerate(network.down[:-1])}
    blocks["bottleneck"] = network.down[-1]
    return blocks | {f"output_blocks.{i}": block for i, block in enumerate(reversed(network.up))}


def _batch_norms(network: UNet, given: Mapping[str, Any]) -> dict[str, int]:
    """The batch normalisations of a published UNet by name, with their channels; the last last."""
    if given["normalization"] != "BatchNorm":
        return {}
    norms = {
        f"{name}.model.{3 * i + 1}": layer.out_features
        for name, block in _unet_blocks(network).items()
        for i, layer in enumerate(block.convs)
    }
    return norms | ({"last_normalizer": network.widths[0]} if given["last_norm"] else {})


def _fold(tensors: dict[str, np.ndarray], norm: str, levels: int) -> None:
    """Makes a batch normalisation, `scale x + shift`, part of the layers beside it; in place.

    What follows a convolution is folded into it. The last one stands before a convolution, whose
    padding comes after the shift: its scale goes to what is added up before it, through a ReLU as
    far as the scale is positive; signs go on to the kernel behind it, which they may: padding is
    zero, or of the same channel. `levels` is the number of poolings.
    """
    weight, bias, mean, variance = (tensors[f"{norm}.{key}"].astype(float) for key in _BATCH_NORM)
    scale = weight / np.sqrt(variance + 1e-5)
    shift = bias - mean * scale
    if norm != "last_normalizer":
        block, _, index = norm.rpartition(".")
        _scale(tensors, f"{block}.{int(index) - 1}", scale, shift)
        return
    sign = np.where(scale < 0, -1.0, 1.0)
    _scale(tensors, f"output_blocks.{levels - 1}.model.3", np.abs(scale), 0)
    _scale(tensors, "last_emb.1", np.abs(scale), sign * shift)
    tensors["output_conv.weight"] = tensors["output_conv.weight"] * sign[:, None, None]


def _scale(tensors: dict[str, np.ndarray], layer: str, scale: Any, shift: Any) -> None:
    """Has a layer's outputs scaled and shifted, channel by channel."""
    weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
    tensors[f"{layer}.weight"] = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    tensors[f"{layer}.bias"] = bias * scale + shift


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
