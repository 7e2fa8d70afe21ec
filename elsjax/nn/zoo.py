"""Trained networks that come with the package, and how each was trained."""

import dataclasses
import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np

from elsjax import checks
from elsjax.nn import Network
from elsjax.nn.files import load_network, network_bytes, network_from_bytes

_LAST_STEPS = 1000  # the loss of a network is the mean over these


@dataclasses.dataclass(frozen=True)
class ZooEntry:
    """One network of the zoo.

    Args:
      command: what trained it.
      dataset: name of its data set; see `elsjax.load_dataset`.
      split: split of the data set.
      num_images: number of images it was trained on, the first of the split.
      conditional: whether it needs a label.
      steps: optimiser steps.
      images_seen: steps times the size of a batch.
      loss: mean over the last 1000 steps, while training.
      sha256: checksum of its file.
    """

    command: str
    dataset: str
    split: str
    num_images: int
    conditional: bool
    steps: int
    images_seen: int
    loss: float
    sha256: str


def zoo() -> dict[str, ZooEntry]:
    """All networks that come with the package, by name: data set, network, padding."""
    entries = json.loads((_folder() / "zoo.json").read_text())
    return {name: ZooEntry(**entry) for name, entry in entries.items()}


def load_pretrained(name: str) -> Network:
    """Loads a trained network that comes with the package.

    `elsjax.published_windows` of the same name are those of a larger network of the paper's.

    Args:
      name: one that `elsjax zoo` lists, such as "mnist5k/unet/zeros".

    Returns:
      The network, for images [B, 32, 32, C].

    Raises:
      ValueError: if there is none of that name, or its file is not the one that was shipped.
    """
    entries = zoo()
    checks.one_of("name", name, entries)
    resource = _folder() / _file_name(name)
    try:
        content = resource.read_bytes()
    except OSError as error:
        raise ValueError(f"name={name!r}: its file cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entries[name].sha256:
        raise ValueError(
            f"{resource} is truncated or altered: its sha256 is {found}, "
            f"expected {entries[name].sha256}"
        )
    return network_from_bytes(content, str(resource))


def add_to_zoo(run: Path, name: str, command: str, folder: Path) -> ZooEntry:
    """Adds the result of `elsjax train` to a zoo, with its weights rounded to float16.

    Args:
      run: folder of the finished run.
      name: name of the network.
      command: the command of the run.
      folder: the zoo, `elsjax/data/zoo` of a checkout. An entry of that name is replaced.

    Returns:
      The new entry.
    """
    config = json.loads((run / "config.json").read_text())
    content = network_bytes(load_network(run / "network.safetensors"), half=True)
    with np.load(run / "losses.npz") as archive:
        loss = float(archive["losses"][-_LAST_STEPS:].mean())
    entry = ZooEntry(
        command=command,
        dataset=config["dataset"],
        split=config["split"],
        num_images=config["num_images"],
        conditional=config["conditional"],
        steps=config["num_steps"],
        images_seen=config["num_steps"] * config["batch_size"],
        loss=round(loss, 5),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    (folder / _file_name(name)).write_bytes(content)
    index = folder / "zoo.json"
    entries = json.loads(index.read_text()) if index.exists() else {}
    entries[name] = dataclasses.asdict(entry)
    index.write_text(json.dumps(dict(sorted(entries.items())), indent=2) + "\n")
    return entry


def _folder() -> Any:
    return importlib.resources.files("elsjax") / "data" / "zoo"


def _file_name(name: str) -> str:
    return name.replace("/", "-") + ".safetensors"
