"""`elsjax import-torch`: a published PyTorch network as a network of this library."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from elsjax import checks
from elsjax.interop import from_torch_state_dict, load_torch_file
from elsjax.nn.files import network_bytes
from elsjax.runs import check_free
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
        check_free(out, overwrite=self.overwrite)
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
