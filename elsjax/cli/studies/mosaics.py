"""`elsjax study mosaics`: whether samples are mosaics of training images."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import elsjax
from elsjax import checks
from elsjax.cli.account import save_report
from elsjax.cli.experiment import (
    MAX_COUNT,
    Experiment,
    OtherData,
    all_devices,
    check_count,
    load_network,
    on_all_devices,
)
from elsjax.cli.progress import bars
from elsjax.cli.studies.command import StudyCommand
from elsjax.cli.studies.mosaics_account import MosaicAccount
from elsjax.cli.window import network_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.heldout import heldout_images
from elsjax.experiments.mosaics.limb_study import TROUSERS, Trousers
from elsjax.experiments.mosaics.study import MosaicPlan
from elsjax.experiments.runs import Run
from elsjax.experiments.states import States
from elsjax.nn import Network
from elsjax.parallel import use_all_cores

_ALL = 100_000  # more images than a split has


@dataclasses.dataclass(frozen=True)
class StudyMosaics(StudyCommand[MosaicAccount]):
    """Are samples mosaics of training images? Samples of network and machines, and held-out images.

    Counts the fewest pieces of training images that explain each, and the pixels that are those of
    the nearest patch. Prints a table; writes report.html, to be opened in a browser, with its
    pictures, summary.json, study.npz (samples, pieces, sources, differences) and config.json. An
    interrupted run goes on where it stopped when it is repeated.
    """

    network: str = "mnist5k/unet/zeros"
    """The network: a name that `elsjax zoo` lists, or a network.safetensors of `elsjax train`."""
    data: Annotated[OtherData, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=OtherData
    )
    """Training images. By default those that the network was trained on."""
    machine_window: str | None = None
    """Window P(t) of the machines, as `elsjax compare --window`. Default: the published table."""
    num_samples: int = 8
    """Number of samples of each, and of held-out images."""
    tolerance: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Root mean squares up to which windows are alike, and differences up to which pixels are the
    same, in units of [-1, 1]."""
    window: int = 3
    """Odd side P of the windows that pieces are compared by."""
    steps: tuple[int, ...] = (20, 80)
    """Numbers of steps from t = 1 to 0; pieces are counted of the samples of the first."""
    num_trousers: int = 40
    """Number of trousers to draw, to count excess limbs; for networks of FashionMNIST only."""
    seed: int = 0
    """Seed of the noise; sample b depends on the seed and on b alone."""
    batch_size: int = 4
    """Number of samples drawn at once."""
    out: Path = Path("elsjax-study-mosaics")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def _run(self, run: Run) -> MosaicAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        experiment = Experiment(
            self.network, self.data, num_samples=self.num_samples, seed=self.seed
        )
        network = load_network(self.network)
        options = experiment.data_options(network)
        window = network_window(
            self.machine_window, network, options.dataset, max(self.steps), "machine_window"
        )
        use_all_cores()
        data = experiment.load_data(network, options)
        label, noise = experiment.labels(network, data), experiment.noise(data)
        heldout = _heldout(data, self.num_samples, options.data_dir)
        trousers = self._trousers(network, data, options.data_dir)
        states = States(run)
        plan = MosaicPlan(
            on_all_devices(network),
            data,
            noise,
            window,
            kind=own_kind(network),
            label=label,
            heldout=heldout,
            tolerance=self.tolerance,
            window=self.window,
            steps=self.steps,
            batch_size=self.batch_size,
            mesh=all_devices(),
            trousers=trousers,
            states=states,
        )
        config = {
            "command": "study mosaics",
            **experiment.describe(network, options, data, label),
            **{name: list(getattr(self, name)) for name in ("tolerance", "steps")},
            "window": self.window,
            "windows": window_list(window),
            "batch_size": self.batch_size,
            "num_trousers": 0 if trousers is None else self.num_trousers,
            "heldout": None if heldout is None else f"{heldout.name}, {heldout.split}",
        }
        run.start(config)
        options.print_labels(data)
        with bars("part") as progress:
            study = plan.study(progress)
        account = MosaicAccount(study, self.network, len(data))
        run.save_arrays("study.npz", study.arrays())
        _save(run, account, config, machines=["is", "ls", study.kind])
        states.forget()
        run.finish()
        return account

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        for name in ("num_samples", "num_trousers", "batch_size"):
            check_count(name, getattr(self, name))
        checks.odd_int("window", self.window)
        for name in ("tolerance", "steps"):
            if not getattr(self, name):
                raise ValueError(f"{name}=() must hold at least one")
        for tolerance in self.tolerance:
            checks.in_range("tolerance", tolerance, 0, 2)
        for steps in self.steps:
            checks.integer("steps", steps, 2, MAX_COUNT)
        checks.seed("seed", self.seed)

    def _print(self, account: MosaicAccount) -> None:
        """See `StudyCommand`."""
        super()._print(account)
        for sentence in account.remarks():
            print(sentence)

    def _trousers(self, network: Network, data: Dataset, data_dir: str | None) -> Trousers | None:
        """Trousers to count limbs of; None where there are none."""
        if data.name != "fashion_mnist" or network.num_classes is None:
            return None
        noise = elsjax.initial_noise(
            Experiment(seed=self.seed).key, self.num_trousers, network.image_shape
        )
        found = _heldout(data, _ALL, data_dir)
        real = None
        if found is not None and found.labels is not None:
            real = found.pixels[found.labels == TROUSERS]
        return Trousers(np.asarray(noise), real)


def _heldout(data: Dataset, count: int, data_dir: str | None) -> Dataset | None:
    """Real images that are no training images; None where none are at hand."""
    height, width, _ = data.pixels.shape[1:]
    side = height if height == width else None
    return heldout_images(data, None, count, image_size=side, data_dir=data_dir)


def _save(run: Run, account: MosaicAccount, config: dict[str, Any], *, machines: list[str]) -> None:
    """Writes the summary, the pictures and the page that shows them."""
    run.save_json("summary.json", account.summary())
    title = f"{config['network']}: are its samples mosaics?"
    save_report(run, account, title, config, machines)
