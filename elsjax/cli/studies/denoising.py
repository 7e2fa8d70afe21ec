"""`elsjax study denoising`: held-out error of denoisers, and what they predict of networks."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

import elsjax
from elsjax import checks
from elsjax.cli.account import save_report
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.denoisers import DenoiserName, DenoiserOptions, indexed, sees_window
from elsjax.cli.experiment import (
    Experiment,
    OtherData,
    check_alike,
    check_count,
    load_network,
    on_all_devices,
)
from elsjax.cli.progress import bars
from elsjax.cli.studies.command import StudyCommand
from elsjax.cli.studies.denoising_account import DenoisingAccount
from elsjax.cli.window import network_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.denoising import study_denoising
from elsjax.experiments.heldout import TIMES, heldout_images
from elsjax.experiments.runs import Run
from elsjax.experiments.states import States
from elsjax.nn import Network
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser


@dataclasses.dataclass(frozen=True)
class StudyDenoising(StudyCommand[DenoisingAccount]):
    """Which denoiser is good, and which one explains a network? Both, for the same noisy images.

    Held-out images are denoised at each noise level by networks and analytic denoisers. Tells how
    far each is from the images, in units of the Wiener filter's error, and how well it predicts
    the networks. Writes report.html, to be opened in a browser, with its pictures, summary.json,
    study.npz and config.json. An interrupted run goes on where it stopped when it is repeated.
    """

    network: tuple[str, ...] = ("mnist5k/unet/zeros",)
    """The networks, of one data set: names that `elsjax zoo` lists, or files network.safetensors of
    `elsjax train`."""
    data: Annotated[OtherData, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=OtherData
    )
    """Training images. By default those that the first network was trained on."""
    names: Annotated[tuple[DenoiserName, ...], tyro.conf.arg(name="machine")] = ()
    """Machines and other analytic denoisers. Default: IS, LS, the first network's counterpart (ELS
    where its padding is circular, else bbELS), and the Wiener filters of IS and the counterpart."""
    denoisers: Annotated[DenoiserOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DenoiserOptions
    )
    """Of analytic denoisers."""
    window: str | None = None
    """Window P(t), as `elsjax compare --window`. Default: the table published for the first
    network's data set, kind and padding."""
    heldout: str | None = None
    """Images that are denoised: a data set of TFDS, whose split "test" is taken, a folder of
    images, or an .npz or .npy. Default: the test split of the training images; for mnist5k, digits
    of MNIST that are not among them."""
    num_images: int = 50
    """Number of held-out images, the same number of each class as far as they go."""
    few: tuple[DenoiserName, ...] = ()
    """Denoisers that see only the first num_few images, because they are slow."""
    num_few: int = 20
    """How many those see."""
    times: tuple[float, ...] = TIMES
    """Times t at which the images are denoised."""
    tolerance: float | None = None
    """Estimated error up to which score machines over whole data sets may be approximated, as for
    `elsjax sample`. Default: exact."""
    seed: int = 0
    """Seed of the noise; that of an image depends on the seed and its number alone."""
    batch_size: int = 10
    """Number of images denoised at once."""
    out: Path = Path("elsjax-study-denoising")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def _run(self, run: Run) -> DenoisingAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        networks = {name: load_network(name) for name in dict.fromkeys(self.network)}
        first = networks[self.network[0]]
        for name, network in networks.items():
            check_alike(f"network={name!r}", network, first)
        experiment = Experiment(self.network[0], self.data, seed=self.seed)
        options = experiment.data_options(first)
        names = self._names(first)
        window = None
        if any(sees_window(name) for name in names):
            window = network_window(self.window, first, options.dataset, len(self.times))
        use_all_cores()
        data = experiment.load_data(first, options)
        heldout = self._heldout(data, options)
        conditional = first.num_classes is not None
        label = heldout.labels if conditional else None
        if conditional and label is None:
            raise ValueError(f"heldout={heldout.name!r} has no classes; the network needs them")
        # What an unconditional network is compared with has no use for classes.
        own = data if conditional else dataclasses.replace(data, labels=None)
        denoisers = {
            name: self.denoisers.make(
                name, own, schedule=first.schedule, window=window, tolerance=self.tolerance
            )
            for name in names
        }
        config = self._config(options, data, heldout, names, window_list(window))
        run.start(config)
        options.print_labels(data)
        looked_up: dict[str, Denoiser] = {
            name: indexed(one, self.tolerance, label) for name, one in denoisers.items()
        }
        states = States(run)
        with bars("image") as progress:
            study = study_denoising(
                {name: on_all_devices(network) for name, network in networks.items()},
                looked_up,
                on_all_devices(elsjax.WienerDenoiser(data.pixels, schedule=first.schedule)),
                heldout.pixels,
                self.times,
                experiment.key,
                label=label,
                num_images={name: min(self.num_few, len(heldout)) for name in self.few},
                batch_size=self.batch_size,
                states=states,
                progress=progress,
            )
        account = DenoisingAccount(study, tuple(networks), len(data))
        run.save_arrays("study.npz", study.arrays())
        run.save_json("summary.json", account.rows)
        title = f"{', '.join(networks)}: denoisers of images that none has seen"
        save_report(run, account, title, config, list(names))
        states.forget()
        run.finish()
        return account

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        if not self.network:
            raise ValueError("network=() must hold at least one")
        for name in ("num_images", "num_few", "batch_size"):
            check_count(name, getattr(self, name))
        if not self.times:
            raise ValueError("times=() must hold at least one")
        for t in self.times:
            checks.in_range("times", t, 0, 1)
        if len(set(self.times)) < len(self.times):
            raise ValueError(f"times={self.times} must differ from each other")
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        checks.seed("seed", self.seed)
        self.denoisers.check_options()

    def _names(self, network: Network) -> tuple[DenoiserName, ...]:
        """The denoisers, each once."""
        names: tuple[DenoiserName, ...] = tuple(dict.fromkeys(self.names))
        if not names:
            own = own_kind(network)
            counterpart: DenoiserName = "wiener-els" if own == "els" else "wiener-bbels"
            names = ("is", "ls", own, "wiener-is", counterpart)
        for name in self.few:
            checks.one_of("few", name, names)
        return names

    def _heldout(self, data: Dataset, options: DataOptions) -> Dataset:
        """Images to denoise that are no training images."""
        height, width, _ = data.pixels.shape[1:]
        side = height if height == width else None
        found = heldout_images(
            data, self.heldout, self.num_images, image_size=side, data_dir=options.data_dir
        )
        if found is None:
            raise ValueError(
                f"heldout=None: no images are at hand that are not among those of {data.name!r}; "
                "pass --heldout, or, for data sets of TFDS, --data-dir"
            )
        return found

    def _config(
        self,
        options: DataOptions,
        data: Dataset,
        heldout: Dataset,
        names: tuple[DenoiserName, ...],
        windows: Any,
    ) -> dict[str, Any]:
        """The options with what they stand for, as JSON values, and the versions at work."""
        resolved = dataclasses.asdict(self) | dataclasses.asdict(options.absolute())
        resolved |= resolved.pop("denoisers")
        for irrelevant in ("data", "out", "overwrite"):
            del resolved[irrelevant]
        resolved |= {"names": names, "heldout": f"{heldout.name}, {heldout.split}"}
        resolved |= {"num_heldout": len(heldout), "windows": windows}
        del resolved["num_images"]
        return {
            "command": "study denoising",
            **{name: list(v) if isinstance(v, tuple) else v for name, v in resolved.items()},
            **describe(data),
        }
