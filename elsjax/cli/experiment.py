"""What the commands share that put a network beside score machines."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Key

import elsjax
from elsjax import checks
from elsjax.cli.data import DataOptions, describe, images_sha256
from elsjax.data.datasets import Dataset
from elsjax.nn import Network
from elsjax.nn.zoo import zoo
from elsjax.process.denoisers import Denoiser
from elsjax.process.schedules import schedule_config

MAX_COUNT = 2**31 - 1  # axes of arrays


@dataclasses.dataclass(frozen=True)
class OtherData:
    """Images other than those that a network was trained on; None is its own."""

    dataset: str | None = None
    """Training images of the machines: a name that `elsjax datasets` lists, a folder of images, or
    an .npz or .npy. Default: what the network was trained on, and so for the options below."""
    split: str | None = None
    """Split of the data set."""
    limit: int | None = None
    """Use only so many images, the first; of a folder, evenly from its classes."""
    image_size: int | None = None
    """Side to resize the images to, which must be that of the network's images."""
    data_dir: str | None = None
    """Where TFDS data sets lie."""
    skip_unreadable: bool = False
    """Leave unreadable files of a folder out."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A network, training images, and the seeds of samples."""

    network: str = "mnist5k/unet/zeros"
    """The network: a name that `elsjax zoo` lists, or a network.safetensors of `elsjax train`."""
    data: Annotated[OtherData, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=OtherData
    )
    """Training images of the machines. By default those that the network was trained on."""
    num_samples: int = 2
    """Number of samples."""
    label: tuple[int | str, ...] = ()
    """Classes that a conditional network is given, by number or name: one for all samples, or one
    for each. Default: all classes in turn."""
    seed: int = 0
    """Seed of the noise; sample b depends on the seed and on b alone."""

    @property
    def key(self) -> Key[jax.Array, ""]:
        """What all noise is drawn from."""
        return jax.random.key(self.seed)

    def check_options(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        check_count("num_samples", self.num_samples)
        checks.seed("seed", self.seed)
        check_labels(self.label, self.num_samples)

    def data_options(self, network: Network) -> DataOptions:
        """Which images the machines are made of.

        Raises:
          ValueError: if they are not of the size of the network's, or not known.
        """
        height, width, _ = network.image_shape
        given = self.data
        if given.image_size not in (None, height) or (given.image_size and height != width):
            raise ValueError(
                f"image_size={given.image_size} differs from {_sides(height, width)}, the size of "
                "the network's images"
            )
        if given.dataset is not None:
            side = height if height == width else None
            split = given.split or "train"
            return DataOptions(
                given.dataset, split, given.limit, side, given.data_dir, given.skip_unreadable
            )
        own, _ = self._own_data(network)
        if given.split not in (None, own.split):
            own = dataclasses.replace(own, split=given.split, limit=None)
        return dataclasses.replace(
            own,
            limit=own.limit if given.limit is None else given.limit,
            data_dir=own.data_dir if given.data_dir is None else given.data_dir,
            skip_unreadable=own.skip_unreadable or given.skip_unreadable,
        )

    def load_data(self, network: Network, options: DataOptions) -> Dataset:
        """Loads the images that the machines are made of.

        Raises:
          ValueError: if they are not as the network's own, or have too few or too many classes.
        """
        data = options.load()
        check_images(network, data, options.dataset)
        if self.data.dataset is None:
            own, checksum = self._own_data(network)
            same = (options.split, options.limit) == (own.split, own.limit)
            if checksum is not None and same and images_sha256(data) != checksum:
                raise ValueError(
                    f"the images of dataset={options.dataset!r} are not those that "
                    f"network={self.network!r} was trained on: their checksum differs, so they "
                    "were changed since; pass --dataset to take them as they are"
                )
        return data

    def labels(self, network: Network, data: Dataset) -> np.ndarray | None:
        """The class of each sample, [B]; None for an unconditional network."""
        classes = class_numbers(self.label, data)
        if network.num_classes is not None and not classes:
            classes = tuple(range(network.num_classes))
        return np.resize(np.asarray(classes, np.int32), self.num_samples) if classes else None

    def noise(self, data: Dataset) -> np.ndarray:
        """Noise of each sample, [B, H, W, C]."""
        shape = data.pixels.shape[1:]
        return np.asarray(elsjax.initial_noise(self.key, self.num_samples, shape))

    def describe(
        self, network: Network, options: DataOptions, data: Dataset, label: np.ndarray | None
    ) -> dict[str, Any]:
        """The options with what they stand for, as JSON values, and the versions at work."""
        resolved = dataclasses.asdict(self) | dataclasses.asdict(options.absolute())
        for irrelevant in ("data", "out", "overwrite"):
            resolved.pop(irrelevant, None)
        resolved["label"] = None if label is None else label.tolist()
        resolved["schedule"] = schedule_config(network.schedule)
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in resolved.items()},
            **describe(data),
        }

    def _own_data(self, network: Network) -> tuple[DataOptions, str | None]:
        """The images that the network was trained on, and their checksum where that is known."""
        height, width, _ = network.image_shape
        side = height if height == width else None
        if self.network in zoo():
            entry = zoo()[self.network]
            return DataOptions(entry.dataset, entry.split, entry.num_images, side), None
        return _recorded_data(Path(self.network), side)


def check_count(name: str, value: int) -> None:
    """Raises ValueError unless an option is a positive number that an axis of arrays can have."""
    checks.positive_int(name, value)
    checks.in_range(name, value, 1, MAX_COUNT)


def load_network(network: str, name: str = "network") -> Network:
    """A network from the zoo or a file.

    Args:
      network: its name in the zoo, or its file.
      name: of the option.

    Returns:
      The network.

    Raises:
      ValueError: if there is none, or it cannot be read.
    """
    if network in zoo():
        return elsjax.load_pretrained(network)
    if Path(network).is_dir():
        raise ValueError(
            f"{name}={network!r} is a folder; expected a file, such as the network.safetensors "
            "of `elsjax train`"
        )
    if not Path(network).is_file():
        raise ValueError(f"{name}={network!r} is neither a file nor one of {', '.join(zoo())}")
    return elsjax.load_network(network)


def check_alike(name: str, network: Network, first: Network) -> None:
    """Raises ValueError unless networks denoise the same noisy images.

    Args:
      name: what to call the network.
      network: the network.
      first: the one that it is to be like.
    """
    for what in ("image_shape", "num_classes", "schedule"):
        own, other = getattr(network, what), getattr(first, what)
        if own != other:
            raise ValueError(
                f"{name} has {what}={own}, the first network {other}; expected the same"
            )


def check_images(network: Network, data: Dataset, dataset: str) -> None:
    """Raises ValueError if images are not of the size and the classes of a network's own.

    Args:
      network: the network.
      data: the images.
      dataset: what they are called.
    """
    shape = data.pixels.shape[1:]
    if shape != network.image_shape:
        raise ValueError(
            f"the images of dataset={dataset!r} are {_sides(*shape)}; those of the network are "
            f"{_sides(*network.image_shape)}"
        )
    classes = network.num_classes
    if classes is None:
        return
    if data.labels is None:
        raise ValueError(
            f"the network is conditional, on {classes} classes, but dataset={dataset!r} has no "
            "labels"
        )
    if data.labels.max() >= classes:
        raise ValueError(
            f"dataset={dataset!r} has labels up to {data.labels.max()}; those of the network are "
            f"0 to {classes - 1}"
        )


def all_devices() -> jax.sharding.Mesh | None:
    """A mesh of all devices; None if there is but one."""
    return elsjax.make_mesh() if jax.device_count() > 1 else None


def on_all_devices(denoiser: Denoiser) -> Denoiser:
    """The denoiser, a network or another, whose batches are split between all devices."""
    mesh = all_devices()
    return denoiser if mesh is None else denoiser.with_mesh(mesh)


def check_labels(label: tuple[int | str, ...], num_samples: int) -> None:
    """Raises ValueError unless there is no label, one, or one for each sample; numbers from 0."""
    if len(label) not in (0, 1, num_samples):
        raise ValueError(f"label={label} must be one class, or num_samples={num_samples} of them")
    for one in label:
        if not isinstance(one, str):
            checks.in_range("label", one, 0, np.iinfo(np.int32).max)


def class_numbers(label: tuple[int | str, ...], data: Dataset) -> tuple[int, ...]:
    """Classes by their numbers.

    Args:
      label: numbers, or names.
      data: images of these classes.

    Returns:
      Their numbers.

    Raises:
      ValueError: if a name is none of a class.
    """
    names = data.label_names or ()
    for one in label:
        if isinstance(one, str) and one not in names:
            known = ", ".join(f"{number} {name}" for number, name in enumerate(names[:20]))
            expected = f"a number, or a name, of {known}" if names else "a number from 0"
            raise ValueError(
                f"label={one!r} is no class of dataset={data.name!r}; it is {expected}"
            )
    return tuple(names.index(one) if isinstance(one, str) else one for one in label)


def _sides(*sides: int) -> str:
    """Sides of images as text."""
    if len(sides) == 2 and sides[0] == sides[1]:
        return str(sides[0])
    return "×".join(map(str, sides))


def _recorded_data(network: Path, side: int | None) -> tuple[DataOptions, str | None]:
    """What `elsjax train` recorded beside a network of its images, and their checksum."""
    path = network.with_name("config.json")
    try:
        config = json.loads(path.read_bytes())
        own = DataOptions(
            _typed(config, "dataset", str),
            _typed(config, "split", str),
            _typed(config, "num_images", int),
            # Configurations of earlier versions lack some of these.
            _typed(config, "image_size", int | None, side),
            _typed(config, "data_dir", str | None, None),
            _typed(config, "skip_unreadable", bool, False),
        )
        checksum = _typed(config, "images_sha256", str | None, None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"dataset is not given: network={str(network)!r} has no config.json of `elsjax train` "
            f"beside it to say what it was trained on ({type(error).__name__}: {error}); pass "
            "--dataset, and --limit if that was only the first images"
        ) from error
    return own, checksum


def _typed(config: Any, name: str, kind: Any, *default: Any) -> Any:
    """An entry of a configuration; TypeError if it is not of the kind."""
    value = config[name] if not default else config.get(name, default[0])
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {value!r}")
    return value
