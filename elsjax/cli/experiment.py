"""What the commands share that put a network beside score machines."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import elsjax
from elsjax import checks
from elsjax.cli.data import DataOptions, describe
from elsjax.datasets import Dataset
from elsjax.dictionaries import Kind
from elsjax.nn import Network
from elsjax.windows import WindowSchedule
from elsjax.zoo import zoo

_OWN_DATA = "its own"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A network, training images, and the seeds of samples."""

    network: str = "mnist5k/unet/zeros"
    """The network: a name that `elsjax zoo` lists, or a network.safetensors of `elsjax train`."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: DataOptions(dataset=_OWN_DATA)
    )
    """Training images of the machines. By default those that the network was trained on."""
    num_samples: int = 2
    """How many seeds."""
    label: tuple[int, ...] = ()
    """Classes for a conditional network: one for all samples, or one for each. Default: all in
    turn."""
    num_steps: int = 20
    """Steps of the machines' time grid, from 1 to 0."""
    seed: int = 0
    """Sample b depends only on the seed and b."""

    def check_options(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        for name in ("num_samples", "num_steps"):
            checks.positive_int(name, getattr(self, name))
        if len(self.label) not in (0, 1, self.num_samples):
            raise ValueError(
                f"label={self.label} must be one class, or num_samples={self.num_samples} of them"
            )

    def load_network(self) -> Network:
        """The network, from the zoo or a file."""
        if self.network in zoo():
            return elsjax.load_pretrained(self.network)
        if not Path(self.network).is_file():
            raise ValueError(
                f"network={self.network!r} is neither a file nor one of {', '.join(zoo())}"
            )
        return elsjax.load_network(self.network)

    def data_options(self) -> DataOptions:
        """Which images the machines are made of."""
        if self.data.dataset != _OWN_DATA:
            return self.data
        if self.network in zoo():
            trained = dataclasses.asdict(zoo()[self.network])
        else:
            trained = _training_config(Path(self.network))
        return dataclasses.replace(
            self.data,
            dataset=trained["dataset"],
            split=trained["split"],
            limit=self.data.limit or trained["num_images"],
        )

    def labels(self, network: Network) -> np.ndarray | None:
        """The class of each sample, [B]; None for an unconditional network."""
        classes = self.label
        if network.num_classes is not None and not classes:
            classes = tuple(range(network.num_classes))
        return np.resize(np.asarray(classes, np.int32), self.num_samples) if classes else None

    def machine(
        self,
        kind: Kind,
        data: Dataset,
        network: Network,
        window: WindowSchedule | int | None,
        tolerance: float | None = None,
    ) -> elsjax.ScoreMachine:
        """A machine on all devices, with the network's noise schedule."""
        return elsjax.ScoreMachine(
            kind,
            data.pixels,
            data.labels,
            window=window,
            schedule=network.schedule,
            tolerance=tolerance,
            mesh=elsjax.make_mesh() if jax.device_count() > 1 else None,
        )

    def noise(self, data: Dataset) -> np.ndarray:
        """Noise of each sample, [B, H, W, C]."""
        shape = data.pixels.shape[1:]
        return np.asarray(elsjax.initial_noise(jax.random.key(self.seed), self.num_samples, shape))

    def describe(self, data: Dataset, label: np.ndarray | None) -> dict[str, Any]:
        """The options with what they stand for, as JSON values, and the versions at work."""
        options = dataclasses.asdict(self) | dataclasses.asdict(self.data_options())
        for irrelevant in ("data", "out", "overwrite"):
            del options[irrelevant]
        options["label"] = None if label is None else label.tolist()
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in options.items()},
            **describe(data),
        }


def own_kind(network: Network) -> Kind:
    """The equivariant local machine that treats borders as the network does."""
    return "els" if network.padding == "circular" else "bbels"


def _training_config(network: Path) -> dict[str, Any]:
    """What `elsjax train` recorded beside a network."""
    path = network.with_name("config.json")
    try:
        config = json.loads(path.read_text())
        return {name: config[name] for name in ("dataset", "split", "num_images")}
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(
            f"dataset is not given: network={str(network)!r} has no config.json of `elsjax train` "
            "beside it to say what it was trained on; pass --dataset, and --limit if that was only "
            "the first images"
        ) from error
