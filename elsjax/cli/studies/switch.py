"""`elsjax study switch`: which stretch of the reverse process decides about a prediction?"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from elsjax import checks
from elsjax.cli.account import save_report
from elsjax.cli.denoisers import DenoiserName, DenoiserOptions, indexed, sees_window
from elsjax.cli.experiment import Experiment, OtherData, check_count, load_network, on_all_devices
from elsjax.cli.progress import bars
from elsjax.cli.studies.command import StudyCommand
from elsjax.cli.studies.switch_account import SwitchingAccount
from elsjax.cli.window import network_window, window_list
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.experiments.switching import check_switching, numbers_of_switches, study_switching
from elsjax.nn import Network
from elsjax.parallel import use_all_cores
from elsjax.process.windows import WindowSchedule, at_least


@dataclasses.dataclass(frozen=True)
class StudySwitch(StudyCommand[SwitchingAccount]):
    """Which steps decide whether a machine predicts a network's sample? Both draw it in turns.

    From the same noise, the machine takes the first steps and the network the rest, and the other
    way round, for several times of the switch; all are compared with the network's own sample.
    Prints a table; writes report.html, to be opened in a browser, with its pictures, summary.json,
    study.npz (samples and measures) and config.json. An interrupted run goes on where it stopped
    when it is repeated.
    """

    network: str = "mnist5k/unet/zeros"
    """The network: a name that `elsjax zoo` lists, or a network.safetensors of `elsjax train`."""
    data: Annotated[OtherData, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=OtherData
    )
    """Training images. By default those that the network was trained on."""
    machine: DenoiserName | None = None
    """The machine, or another analytic denoiser. Default: ELS for a network with circular padding,
    else bbELS."""
    denoisers: Annotated[DenoiserOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DenoiserOptions
    )
    """Of analytic denoisers."""
    window: str | None = None
    """Window P(t), as `elsjax compare --window`. Default: the table published for the network's
    data set, kind and padding."""
    last_window: int | None = None
    """Smallest window that the machine may have, odd: that of the last steps, where P(t) is
    smaller. Default: P(t) as it is."""
    tolerance: float | None = None
    """Estimated error up to which score machines over whole data sets may be approximated, as for
    `elsjax sample`. Default: exact."""
    num_samples: int = 20
    """Number of samples."""
    num_steps: int = 20
    """Steps of the time grid from t = 1 to 0, of which both take all but the first."""
    switches: tuple[int, ...] = ()
    """Numbers of steps before the switch. Default: up to eight, evenly."""
    border: int = 4
    """Width of the border in pixels, which is measured apart from the interior."""
    seed: int = 0
    """Seed of the noise; sample b depends on the seed and on b alone."""
    batch_size: int = 4
    """Number of samples drawn at once."""
    out: Path = Path("elsjax-study-switch")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def _run(self, run: Run) -> SwitchingAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        experiment = Experiment(
            self.network, self.data, num_samples=self.num_samples, seed=self.seed
        )
        network = load_network(self.network)
        name: DenoiserName = self.machine or own_kind(network)
        options = experiment.data_options(network)
        window = self._window(name, network, options.dataset)
        use_all_cores()
        data = experiment.load_data(network, options)
        label, noise = experiment.labels(network, data), experiment.noise(data)
        machine = self.denoisers.make(
            name, data, schedule=network.schedule, window=window, tolerance=self.tolerance
        )
        settings: dict[str, Any] = {
            "num_steps": self.num_steps,
            "switches": numbers_of_switches(self.num_steps, self.switches or None),
            "border": self.border,
        }
        check_switching(network, machine, ResumableSampler(noise, label), **settings)
        config = {
            "command": "study switch",
            **experiment.describe(network, options, data, label),
            "machine": name,
            **dataclasses.asdict(self.denoisers),
            "windows": window_list(window),
            "tolerance": self.tolerance,
            **settings,
            "switches": list(settings["switches"]),
            "batch_size": self.batch_size,
        }
        run.start(config)
        options.print_labels(data)
        states = States(run)
        looked_up = indexed(machine, self.tolerance, label)
        with bars("step") as progress:
            study = study_switching(
                on_all_devices(network),
                looked_up,
                noise,
                **settings,
                label=label,
                batch_size=self.batch_size,
                states=states,
                progress=progress,
            )
        account = SwitchingAccount(study, self.network, name)
        run.save_arrays("study.npz", study.arrays())
        run.save_json("summary.json", account.rows)
        title = f"{self.network}: which steps decide about a prediction"
        save_report(run, account, title, config, [name])
        states.forget()
        run.finish()
        return account

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        for name in ("num_samples", "num_steps", "border", "batch_size"):
            check_count(name, getattr(self, name))
        numbers_of_switches(self.num_steps, self.switches or None)
        if self.last_window is not None:
            checks.odd_int("last_window", self.last_window)
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        checks.seed("seed", self.seed)
        self.denoisers.check_options()

    def _window(
        self, name: DenoiserName, network: Network, dataset: str
    ) -> WindowSchedule | int | None:
        """The window that the machine looks through; None where it looks through none."""
        if sees_window(name):
            window = network_window(self.window, network, dataset, self.num_steps)
            return window if self.last_window is None else at_least(window, self.last_window)
        for option in ("window", "last_window"):
            if getattr(self, option) is not None:
                raise ValueError(
                    f"{option}={getattr(self, option)!r} needs a machine that looks through "
                    f"windows, not machine={name!r}"
                )
        return None
