"""`elsjax study training`: what a network paints as it is trained, from a mosaic to a memory."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from flax import nnx
from jaxtyping import Key

import elsjax
from elsjax import checks
from elsjax.cli.account import save_report
from elsjax.cli.data import DataOptions, describe, images_sha256
from elsjax.cli.denoisers import DenoiserName, DenoiserOptions, indexed
from elsjax.cli.experiment import MAX_COUNT, check_count, on_all_devices
from elsjax.cli.progress import bars
from elsjax.cli.studies.command import StudyCommand
from elsjax.cli.studies.training_account import LearningAccount
from elsjax.cli.train import NetworkName
from elsjax.cli.window import network_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.learning import LearningPlan
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.snapshots import snapshot_steps, train_snapshots
from elsjax.experiments.states import States
from elsjax.nn import PRESETS, Network
from elsjax.nn.files import network_config
from elsjax.nn.layers import Padding
from elsjax.nn.network import Prediction
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import check_data

_NAMES = ("network", "second")


@dataclasses.dataclass(frozen=True)
class StudyTraining(StudyCommand[LearningAccount]):
    """From mosaic to memory: what a network paints at steps of its training.

    Trains a network on a few images, and another on as many others. At some steps both paint from
    the same noise. Tells how much of that machines of the training images predict, how much the
    other network, and how much is memorized. Writes report.html, to be opened in a browser, with
    its pictures, summary.json, study.npz, config.json and the networks at these steps,
    network-<step>.safetensors. An interrupted run goes on where it stopped when it is repeated.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: DataOptions(limit=100)
    )
    """Training images; with a second network, the data set must hold twice as many."""
    network: NetworkName = "unet-small"
    """The network, as `elsjax train`. It is unconditional."""
    padding: Padding = "zeros"
    """Padding of every convolution: zeros or circular."""
    prediction: Prediction = "velocity"
    """What the network predicts."""
    config: Annotated[TrainingConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: TrainingConfig(
            num_steps=8000, batch_size=32, learning_rate_decay=1.0, clip_norm=1.0
        )
    )
    """Options of the training. The learning rate is constant after the warm-up, so that steps
    differ in nothing but their number. The second network has the next seed; samples have the
    first."""
    checkpoints: int = 12
    """Number of steps at which the network is looked at, evenly on a logarithmic scale."""
    second: bool = True
    """Train the second network too."""
    names: Annotated[tuple[DenoiserName, ...], tyro.conf.arg(name="machine")] = (
        "is",
        "ls",
        "wiener-is",
    )
    """Machines and other analytic denoisers, beside the network's counterpart, which is ELS where
    its padding is circular, else bbELS."""
    denoisers: Annotated[DenoiserOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DenoiserOptions
    )
    """Of analytic denoisers."""
    window: str | None = None
    """Window P(t), as `elsjax compare --window`. Default: the published table."""
    tolerance: float | None = None
    """Estimated error up to which score machines may be approximated, as for `elsjax sample`.
    Default: exact."""
    num_samples: int = 32
    """Number of samples."""
    sampling_steps: int = 20
    """Steps of the time grid from 1 to 0; all start one step below 1."""
    heldout: str | None = None
    """Held-out images, as `elsjax train --heldout`."""
    num_heldout: int = 200
    """Number of held-out images whose error is measured, and of training images; at least 1."""
    num_pieces: int = 8
    """Number of samples whose fewest pieces are counted; 0 for none."""
    out: Path = Path("elsjax-study-training")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def _run(self, run: Run) -> LearningAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        use_all_cores()
        data, *other = self._images()
        network = self._network(data)
        names = tuple(dict.fromkeys((*self.names, own_kind(network))))
        window = network_window(self.window, network, self.data.dataset, self.sampling_steps)
        for images in (data, *other):
            check_data(network, images.pixels, None, self.config)
        denoisers = {
            name: self.denoisers.make(
                name, data, schedule=network.schedule, window=window, tolerance=self.tolerance
            )
            for name in names
        }
        heldout = self.data.held_out(data, self.heldout, self.num_heldout)
        config = self._record(network, data, other, heldout, names)
        run.start(config | {"windows": window_list(window)})
        self.data.print_labels(data)
        states = States(run)
        noise = elsjax.initial_noise(self._key, self.num_samples, network.image_shape)
        steps = snapshot_steps(self.config.num_steps, self.checkpoints)
        with bars("step") as progress:
            trained = self._trained(run, (data, *other), steps, progress)
            plan = LearningPlan(
                data,
                {name: indexed(one, self.tolerance, None) for name, one in denoisers.items()},
                own_kind(network),
                on_all_devices(elsjax.WienerDenoiser(data.pixels, schedule=network.schedule)),
                ResumableSampler(noise, states=states),
                states,
                num_steps=self.sampling_steps,
                heldout=heldout,
                num_errors=self.num_heldout,
                num_pieces=self.num_pieces,
            )
            study = plan.study(steps, trained, self._key, progress)
        account = LearningAccount(study, data, self.config.batch_size)
        run.save_arrays("study.npz", study.arrays())
        run.save_json("summary.json", account.rows)
        title = f"{self.network} on {len(data):,} images of {self.data.dataset}, as it is trained"
        save_report(run, account, title, config, list(names))
        states.forget()
        for name in _NAMES[: len(trained)]:
            run.remove(f"{name}-checkpoints")
        run.finish()
        return account

    @property
    def _key(self) -> Key[jax.Array, ""]:
        """What the noise of samples and errors is drawn from."""
        return jax.random.key(self.config.seed)

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        for name in ("checkpoints", "num_samples", "num_heldout"):
            check_count(name, getattr(self, name))
        checks.integer("sampling_steps", self.sampling_steps, 2, MAX_COUNT)
        checks.integer("num_pieces", self.num_pieces, 0, MAX_COUNT)
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        self.denoisers.check_options()

    def _images(self) -> list[Dataset]:
        """Training images of the network, and of the second, without their classes."""
        if not self.second:
            return [dataclasses.replace(self.data.load(), labels=None)]
        limit, both = self.data.limit, self.data
        if limit is not None:
            both = dataclasses.replace(both, limit=2 * checks.positive_int("limit", limit))
        try:
            data = both.load()
        except ValueError as error:
            raise ValueError(f"second=True takes twice limit={limit} images: {error}") from error
        count = len(data) // 2
        if count < 1 or limit not in (None, count):
            raise ValueError(
                f"second=True takes twice limit={limit} images; {self.data.dataset!r} has "
                f"{len(data)}"
            )
        # Of a folder, images come class by class: every other one is of all classes.
        order = np.arange(2 * count)
        by_class = Path(self.data.dataset).is_dir()
        halves = order.reshape(count, 2).T if by_class else order.reshape(2, count)
        return [dataclasses.replace(data, pixels=data.pixels[half], labels=None) for half in halves]

    def _network(self, data: Dataset, place: int = 0) -> Network:
        """The network before its training; the second has the next seed."""
        return PRESETS[self.network](
            data.pixels.shape[1:],
            padding=self.padding,
            prediction=self.prediction,
            rngs=nnx.Rngs(self.config.seed + place),
        )

    def _trained(
        self,
        run: Run,
        images: Sequence[Dataset],
        steps: Sequence[int],
        progress: Callable[[str, int, int], None],
    ) -> list[list[Denoiser]]:
        """The networks at some steps of their training, one for each set of images."""
        trained = []
        for place, (name, data) in enumerate(zip(_NAMES, images, strict=False)):
            found = train_snapshots(
                self._network(data, place),
                data.pixels,
                dataclasses.replace(self.config, seed=self.config.seed + place),
                steps,
                run,
                name,
                functools.partial(progress, f"training {name}"),
            )
            trained.append([on_all_devices(network) for network in found])
        return trained

    def _record(
        self,
        network: Network,
        data: Dataset,
        other: Sequence[Dataset],
        heldout: Dataset | None,
        names: Sequence[DenoiserName],
    ) -> dict[str, Any]:
        """Everything that determines the results, and the versions that computed them."""
        options = dataclasses.asdict(self) | dataclasses.asdict(self.data.absolute())
        options |= options.pop("config") | options.pop("denoisers")
        for irrelevant in ("data", "out", "overwrite"):
            del options[irrelevant]
        return {
            "command": "study training",
            **options,
            "names": list(names),
            "heldout": None if heldout is None else f"{heldout.name}, {heldout.split}",
            "heldout_sha256": None if heldout is None else images_sha256(heldout),
            "second_sha256": [images_sha256(one) for one in other],
            "architecture": network_config(network),
            **describe(data),
        }
