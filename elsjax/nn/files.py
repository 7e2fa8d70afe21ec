"""Networks in files: weights as safetensors, with the configuration in the file's header.

The format holds tensors and text only: reading a file runs nothing.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from elsjax import checks
from elsjax.nn.attention_unet import AttentionUNet
from elsjax.nn.network import Network
from elsjax.nn.resnet import ResNet
from elsjax.nn.unet import UNet
from elsjax.process.schedules import schedule_config, schedule_from_config

_NETWORKS = {network.__name__: network for network in (ResNet, UNet, AttentionUNet)}


def network_config(network: Network) -> dict[str, Any]:
    """The arguments of a network's constructor, and the name of its class, as JSON values.

    Raises:
      ValueError: if the network or its schedule is of a class that is not this library's.
    """
    name = type(network).__name__
    checks.one_of("network", name, _NETWORKS)
    config: dict[str, Any] = {"kind": name}
    for argument in _arguments(type(network)):
        value = getattr(network, argument)
        config[argument] = list(value) if isinstance(value, tuple) else value
    config["dtype"] = network.dtype.name
    config["schedule"] = schedule_config(network.schedule)
    return config


def _arguments(network: type[Network]) -> list[str]:
    """Names of the arguments of a constructor, those that it passes on to its bases included."""
    names: dict[str, None] = {}
    for base in network.__mro__:
        if issubclass(base, Network):
            for parameter in inspect.signature(base.__init__).parameters.values():
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    names[parameter.name] = None
    return [name for name in names if name not in ("self", "rngs")]


def network_from_config(config: Mapping[str, Any], rngs: nnx.Rngs) -> Network:
    """A network with fresh weights; the inverse of `network_config`.

    Args:
      config: as `network_config` returns it.
      rngs: keys for the weights.

    Returns:
      The network.

    Raises:
      ValueError: if the configuration describes no network of this library.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"config={config!r} describes no network: it must be a mapping")
    try:
        arguments = dict(config)
        network = _NETWORKS[arguments.pop("kind")]
        arguments["schedule"] = schedule_from_config(arguments.pop("schedule"))
        arguments["image_shape"] = tuple(arguments["image_shape"])
        return network(**arguments, rngs=rngs)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"config={dict(config)} describes no network: {type(error).__name__}: {error}"
        ) from error


def save_network(network: Network, path: str | Path, *, half: bool = False) -> None:
    """Writes a network to one `.safetensors` file.

    Args:
      network: a network of `elsjax.nn`.
      path: the file; what is there is replaced.
      half: store float16, half the size, relative accuracy 5e-4.

    Raises:
      ValueError: if a weight is not finite, or does not fit float16.
      OSError: if the file cannot be written.
    """
    Path(path).write_bytes(network_bytes(network, half=half))


def network_bytes(network: Network, *, half: bool = False) -> bytes:
    """The content of the file that `save_network` writes; arguments and errors as there."""
    tensors = {}
    for name, value in named_weights(network).items():
        tensor = np.asarray(value)
        tensors[name] = tensor.astype(np.float16) if half else tensor
        checks.finite(f"weight {name!r}", tensors[name])
    return safetensors.numpy.save(tensors, {"network": json.dumps(network_config(network))})


def load_network(path: str | Path) -> Network:
    """Reads a network that `save_network` or the command line wrote.

    Args:
      path: the file.

    Returns:
      The network, with weights in the precision of its configuration.

    Raises:
      ValueError: if the file is truncated or altered, holds no network, or its tensors are not
        those of its configuration.
      OSError: if the file cannot be opened.
    """
    return network_from_bytes(Path(path).read_bytes(), str(path))


def network_from_bytes(content: bytes, source: str) -> Network:
    """Reads a network from the content of a file; `source` names it in errors, see `load_network`.

    Args:
      content: bytes of the file.
      source: what to call it.

    Returns:
      The network.

    Raises:
      ValueError: see `load_network`.
    """
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        config = json.loads(header["__metadata__"]["network"])
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{source} is no network of elsjax: truncated, altered or of another format "
            f"({type(error).__name__}: {error})"
        ) from error
    _check_depth(config, len(tensors), source)
    # Abstract: without weights, each of which is then set.
    network = nnx.eval_shape(lambda: network_from_config(config, nnx.Rngs(0)))
    set_weights(network, tensors, source)
    return network


def _check_depth(config: Any, num_tensors: int, source: str) -> None:
    """Raises ValueError for more layers than tensors, which would take long to build in vain."""
    described = config if isinstance(config, Mapping) else {}
    widths, depth = described.get("widths"), described.get("num_layers")
    depth = len(widths) if isinstance(widths, list) else depth
    if isinstance(depth, int) and depth > num_tensors:
        raise ValueError(f"{source} has {num_tensors} tensors, too few for its {depth} layers")


def named_weights(network: Network) -> dict[str, jax.Array]:
    """The weights of a network by name, such as `down.0.convs.1.kernel`."""
    return {_name(path): leaf[...] for path, leaf in _variables(network)}


def set_weights(network: Network, tensors: Mapping[str, Any], source: str) -> None:
    """Gives a network other weights.

    Args:
      network: the network to change.
      tensors: arrays by name, as `named_weights` returns them.
      source: where they are from, for errors.

    Raises:
      ValueError: if a tensor is missing, unexpected, of another shape, or not finite.
    """
    variables = {_name(path): variable for path, variable in _variables(network)}
    check_same_tensors(
        {name: variable.shape for name, variable in variables.items()},
        {name: np.shape(tensor) for name, tensor in tensors.items()},
        source,
    )
    for name, variable in variables.items():
        checks.finite(f"{source}: {name}", np.asarray(tensors[name]))
        variable.set_value(jnp.asarray(tensors[name], variable.dtype))


def check_same_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raises ValueError unless names and shapes agree; it says which differ."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in expected]
    problems += [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{source} is of another architecture: {'; '.join(problems[:5])}{more}")


def _variables(network: Network) -> Any:
    return nnx.to_flat_state(nnx.state(network, nnx.Param))


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
