"""`elsjax import-torch`: a published PyTorch network as a network of this library."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import safetensors
import tyro

from elsjax import checks
from elsjax.interop.state_dicts import from_torch_state_dict, load_torch_file
from elsjax.nn.files import network_bytes
from elsjax.storage import write_whole


@dataclasses.dataclass(frozen=True)
class ImportTorch:
    """Convert a network of the paper's PyTorch code to a file for `elsjax.load_network`.

    Neither PyTorch nor the paper's code is needed, and nothing in the file is executed.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The .pt file: a pickled network, a state dict, or a checkpoint that holds one. A state dict
    may also be a .safetensors file."""
    config: str | None = None
    """For a state dict, which does not hold its own: the arguments of the published constructor as
    JSON, such as '{"kind": "unet", "channels": 1, "mode": "zeros", "fsizes": [64, 128, 256]}'."""
    key: str | None = None
    """Which network of several: where it stands in the file, such as ema."""
    image_size: int | None = None
    """Side of the images that the network is meant for; default: what the file says, else 32."""
    out: Path | None = None
    """File to write; default: FILE with the ending .safetensors."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if the file holds anything but a network, or an option does not fit it.
        """
        out = self.file.with_suffix(".safetensors") if self.out is None else self.out
        if out.resolve() == self.file.resolve():
            raise ValueError(f"out={str(out)!r} is the file to read; choose another")
        _check_free(out, overwrite=self.overwrite)
        if self.image_size is not None:
            checks.positive_int("image_size", self.image_size)
        config, state_dict = load_torch_file(self.file, self._config(), self.key)
        network = from_torch_state_dict(config, state_dict, image_size=self.image_size)
        content = network_bytes(network)
        write_whole(out, lambda file: file.write(content))
        print(f"{type(network).__name__} of {self.file} in {out}")

    def _config(self) -> dict[str, Any] | None:
        if self.config is None:
            return None
        try:
            config = json.loads(self.config)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"config={self.config!r} is not JSON: {error}") from error
        if not isinstance(config, dict):
            raise ValueError(f"config={self.config!r} must be a JSON object")
        return config


def _check_free(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError if the file may not be written: only a network is ever replaced."""
    if not out.parent.is_dir():
        raise ValueError(f"out={str(out)!r}: there is no folder {str(out.parent)!r}")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ValueError(f"out={str(out)!r}: nothing can be written in {str(out.parent)!r}")
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise ValueError(f"out={str(out)!r} exists; choose another or pass --overwrite")
    if out.is_symlink() or not out.is_file() or not _is_network(out):
        raise ValueError(
            f"out={str(out)!r} is no network that elsjax wrote; move it away or choose another"
        )


def _is_network(path: Path) -> bool:
    """Whether a file is, by its header, a network of this library."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return "network" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False
