"""`elsjax study attention`: what self-attention adds to a convolutional network."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from elsjax import checks
from elsjax.cli.account import save_report
from elsjax.cli.denoisers import DenoiserName, DenoiserOptions, indexed
from elsjax.cli.experiment import (
    Experiment,
    OtherData,
    check_alike,
    check_count,
    load_network,
    on_all_devices,
)
from elsjax.cli.progress import bars
from elsjax.cli.studies.attention_account import AttentionAccount
from elsjax.cli.studies.command import StudyCommand
from elsjax.cli.window import network_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.attention import attention_layers
from elsjax.experiments.attention_study import attention_variants, study_attention
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.mosaics.resumable_pieces import ResumablePieces
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.nn import AttentionUNet, Network
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser


@dataclasses.dataclass(frozen=True)
class StudyAttention(StudyCommand[AttentionAccount]):
    """What does attention add to a network? Samples of it with and without, beside its machine's.

    From the same noise: the network, copies of it in which one attention layer, or all, attend
    evenly to all places, its machine, and the Wiener filter. Prints how well each agrees with
    these: over all, in low and high frequencies, and where the network attends to. Writes
    report.html, to be opened in a browser, with its pictures, summary.json, study.npz (samples,
    maps of attention) and config.json. An interrupted run goes on where it stopped when it is
    repeated.
    """

    network: str = "cifar10/attention-unet/zeros"
    """The network, with attention: a name that `elsjax zoo` lists, or a network.safetensors of
    `elsjax train`."""
    without: str | None = None
    """A network that is the same without attention, trained so (`elsjax train --network
    residual-unet-small`)."""
    data: Annotated[OtherData, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=OtherData
    )
    """Training images. By default those that the network was trained on."""
    window: str | None = None
    """Window P(t) of the machine, as `elsjax compare --window`. Default: the published table."""
    num_samples: int = 20
    """Number of samples of each, of all classes in turn."""
    num_steps: int = 20
    """Steps of the time grid from 1 to 0; all start one step after 1."""
    num_pieces: int = 0
    """Of so many samples of each, the first, the fewest pieces of training images are counted; each
    takes seconds for every thousand training images."""
    pieces_tolerance: float = 0.1
    """Root mean square up to which windows are alike for that, in units of [-1, 1]."""
    tolerance: float | None = None
    """Estimated error up to which score machines over whole data sets may be approximated, as for
    `elsjax sample`. Default: exact."""
    seed: int = 0
    """Seed of the noise; sample b depends on the seed and on b alone."""
    batch_size: int = 4
    """Number of samples drawn at once."""
    out: Path = Path("elsjax-study-attention")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def _run(self, run: Run) -> AttentionAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        experiment = Experiment(
            self.network, self.data, num_samples=self.num_samples, seed=self.seed
        )
        network, networks = self._networks()
        options = experiment.data_options(network)
        window = network_window(self.window, network, options.dataset, self.num_steps)
        times, _ = machine_grid("late", self.num_steps, window)
        use_all_cores()
        data = experiment.load_data(network, options)
        label = experiment.labels(network, data)
        names: tuple[DenoiserName, ...] = (own_kind(network), "wiener-is")
        machines = {
            name: DenoiserOptions().make(name, data, schedule=network.schedule, window=window)
            for name in names
        }
        states = States(run)
        sampler = ResumableSampler(
            experiment.noise(data), label, batch_size=self.batch_size, states=states
        )
        for denoiser in (*networks.values(), *machines.values()):
            sampler.check(denoiser, times)
        config: dict[str, Any] = {
            "command": "study attention",
            **experiment.describe(network, options, data, label),
            **self._own_options(),
            "layers": list(attention_layers(network)),
            "windows": window_list(window),
        }
        run.start(config)
        options.print_labels(data)
        looked_up: dict[str, Denoiser] = {
            name: indexed(one, self.tolerance, label) for name, one in machines.items()
        }
        with bars("step") as progress:
            study = study_attention(
                network,
                {name: on_all_devices(one) for name, one in networks.items()},
                looked_up,
                sampler,
                times,
                pieces=self._pieces(network, data, states),
                num_pieces=self.num_pieces,
                states=states,
                progress=progress,
            )
        account = AttentionAccount(study, self.network, self.without, len(data))
        labels = {} if label is None else {"labels": np.asarray(label)}
        run.save_arrays("study.npz", {"times": times, **labels, **study.arrays()})
        run.save_json("summary.json", account.rows)
        title = f"{self.network}: what attention adds"
        save_report(run, account, title, config, list(names))
        states.forget()
        run.finish()
        return account

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        for name in ("num_samples", "num_steps", "batch_size"):
            check_count(name, getattr(self, name))
        checks.integer("num_pieces", self.num_pieces, 0, self.num_samples)
        checks.in_range("pieces_tolerance", self.pieces_tolerance, 0, 2)
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        checks.seed("seed", self.seed)

    def _networks(self) -> tuple[AttentionUNet, dict[str, Network]]:
        """The network, and its variants by name."""
        network = load_network(self.network)
        if not isinstance(network, AttentionUNet) or not network.attention_levels:
            raise ValueError(
                f"network={self.network!r} has no attention; expected one that has, such as "
                "'cifar10/attention-unet/zeros'"
            )
        without = None
        if self.without is not None:
            without = load_network(self.without, "without")
            check_alike(f"without={self.without!r}", without, network)
        return network, attention_variants(network, without)

    def _pieces(self, network: Network, data: Dataset, states: States) -> ResumablePieces | None:
        """What counts pieces; None if none are to be counted."""
        if not self.num_pieces:
            return None
        return ResumablePieces(
            data.pixels,
            data.labels,
            kind=own_kind(network),
            tolerance=(self.pieces_tolerance,),
            states=states,
        )

    def _own_options(self) -> dict[str, Any]:
        """The options that are not an experiment's, as JSON values."""
        shared = {field.name for field in dataclasses.fields(Experiment)}
        own = {name: value for name, value in vars(self).items() if name not in shared}
        return {name: value for name, value in own.items() if name not in ("out", "overwrite")}
