"""`elsjax import-torch`: a published PyTorch network as a network of this library."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from elsjax import checks
from elsjax.interop import from_torch_state_dict, load_torch_file
from elsjax.nn.files import network_bytes
from elsjax.runs import check_free, write_whole


@dataclasses.dataclass(frozen=True)
class ImportTorch:
    """Convert a network of the paper's PyTorch code to network.safetensors.

    Neither PyTorch nor the paper's code is needed, and nothing in the file is executed.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The .pt file: a pickled network, or a state dict (then --kind is needed too)."""
    kind: Literal["resnet", "unet"] | None = None
    """For a state dict: the kind of network."""
    channels: int = 3
    """For a state dict: channels of the images."""
    padding: Literal["zeros", "circular"] = "zeros"
    """For a state dict: padding of the convolutions."""
    widths: tuple[int, ...] = ()
    """For a state dict: channels, one number for a resnet, finest first for a unet."""
    embedding_width: int = 256
    """For a state dict of a unet: length of the embedding."""
    num_classes: int | None = None
    """For a state dict: number of classes of a conditional network."""
    last_kernel_size: int = 3
    """For a state dict: side of the last kernel."""
    image_size: int = 32
    """Side of the images that the network is meant for."""
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
        check_free(out, overwrite=self.overwrite)
        checks.positive_int("image_size", self.image_size)
        config, state_dict = load_torch_file(self.file, self._config())
        network = from_torch_state_dict(config, state_dict, image_size=self.image_size)
        content = network_bytes(network)
        write_whole(out, lambda file: file.write(content))
        print(f"{type(network).__name__} of {self.file} in {out}")

    def _config(self) -> dict[str, object] | None:
        """The published constructor's arguments, for a file that does not hold them."""
        if self.kind is None:
            return None
        if not self.widths or (self.kind == "resnet" and len(self.widths) != 1):
            raise ValueError(
                f"widths={self.widths} must be one number for a resnet, several for a unet"
            )
        config: dict[str, object] = {
            "kind": self.kind,
            "channels": self.channels,
            "mode": self.padding,
            "conditional": self.num_classes is not None,
            "num_classes": self.num_classes,
            "lastksize": self.last_kernel_size,
        }
        if self.kind == "resnet":
            return config | {"emb_dim": self.widths[0]}
        return config | {"fsizes": self.widths, "emb_dim": self.embedding_width}
