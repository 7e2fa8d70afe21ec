"""`elsjax compare`: the same noise through score machines and a trained network."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import elsjax
from elsjax import checks
from elsjax.cli.account import save_report
from elsjax.cli.comparison_account import ComparisonAccount
from elsjax.cli.experiment import Experiment, indexed, load_network, on_all_devices
from elsjax.cli.progress import bars
from elsjax.cli.window import network_window, window_list
from elsjax.experiments.comparison import Protocol, check_comparison
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.runs import Run
from elsjax.experiments.states import States
from elsjax.nn import Network
from elsjax.parallel import use_all_cores
from elsjax.posterior.dictionaries import Kind
from elsjax.process.denoisers import Denoiser
from elsjax.process.windows import WindowSchedule


@dataclasses.dataclass(frozen=True)
class Compare(Experiment):
    """Predict the samples of a trained network, pixel by pixel, from the same noise.

    Writes report.html, to be opened in a browser, with its pictures, summary.json, comparison.npz
    (samples, noise, correlations, agreement at each step) and config.json. An interrupted run goes
    on where it stopped when it is repeated.
    """

    kinds: Annotated[tuple[Kind, ...], tyro.conf.arg(name="machine")] = ()
    """Machines to compare. Default: IS, LS, and ELS for a network with circular padding, else
    bbELS."""
    window: str | None = None
    """Window P(t): an odd number, several from low to high noise with commas between, the name of a
    published table, a windows.json of `elsjax calibrate`, or a published scales_*.pt. Default: the
    table published for the network's data set, kind and padding."""
    protocol: Protocol = "late"
    """Where network and machines start: both one of the machines' steps after t = 1 (late), both at
    t = 1 (aligned), or the network at t = 1 and the machines one step later (published)."""
    network_steps: tuple[int, ...] = (20, 150)
    """Numbers of steps of the network from t = 1 to 0, one run for each."""
    batch_size: int = 4
    """Number of samples drawn at once."""
    tolerance: float | None = None
    """Estimated error up to which machines over whole data sets may be approximated, as for `elsjax
    sample`. Default: exact."""
    out: Path = Path("elsjax-comparison")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is computed or written.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            account = self._run(run)
        table = account.table()
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        for line in table:
            print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
        for sentence in filter(None, [account.left_out(), account.process()]):
            print(sentence)
        print(f"open {self.out / 'report.html'}")

    def _run(self, run: Run) -> ComparisonAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        network = load_network(self.network)
        options = self.data_options(network)
        kinds = tuple(dict.fromkeys(self.kinds or ("is", "ls", own_kind(network))))
        window = self._window(network, kinds, options.dataset)
        use_all_cores()
        data = self.load_data(network, options)
        label, noise = self.labels(network, data), self.noise(data)
        machines: dict[str, elsjax.ScoreMachine] = {
            kind: self.machine(kind, data, network, None if kind in ("is", "es") else window)
            for kind in kinds
        }
        settings: dict[str, Any] = {
            "label": label,
            "num_steps": self.num_steps,
            "network_steps": self.network_steps,
            "protocol": self.protocol,
            "solver": self.solver,
            "key": self.key,
            "batch_size": self.batch_size,
        }
        check_comparison(network, machines, noise, **settings)
        config = {
            "command": "compare",
            **self.describe(network, options, data, label),
            "kinds": list(kinds),
            "windows": window_list(window),
        }
        run.start(config)
        options.print_labels(data)
        states = States(run)
        compared: dict[str, Denoiser] = {
            kind: indexed(one, self.tolerance, label) for kind, one in machines.items()
        }
        with bars("step") as progress:
            comparison = elsjax.compare(
                on_all_devices(network),
                compared,
                noise,
                **settings,
                states=states,
                progress=progress,
            )
        account = ComparisonAccount(
            comparison, self.network, len(data), self.protocol, self.tolerance
        )
        _save(run, account, config)
        states.forget()
        run.finish()
        return account

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        self.check_options()
        checks.positive_int("batch_size", self.batch_size)
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        for steps in self.network_steps:
            checks.positive_int("network_steps", steps)
        if not self.network_steps:
            raise ValueError("network_steps=() must hold at least one number of steps")

    def _window(
        self, network: Network, kinds: tuple[Kind, ...], dataset: str
    ) -> WindowSchedule | int | None:
        """The window of the local machines."""
        if all(kind in ("is", "es") for kind in kinds):
            return None
        return network_window(self.window, network, dataset, self.num_steps)


def _save(run: Run, account: ComparisonAccount, config: dict[str, Any]) -> None:
    """Writes the arrays, the summary, the pictures and the page that shows them."""
    run.save_arrays("comparison.npz", _arrays(account.comparison))
    run.save_json("summary.json", account.rows)
    title = f"{account.network}: theory and network on the same noise"
    save_report(run, account, title, config, list(account.comparison.machines))


def _arrays(comparison: elsjax.Comparison) -> dict[str, np.ndarray]:
    """The arrays of comparison.npz: samples, measures, and agreement step by step."""
    arrays = {"noise": comparison.noise}
    if comparison.label is not None:
        arrays["labels"] = comparison.label
    samples = {f"network_{steps}": found for steps, found in comparison.network.items()}
    for name, found in {**samples, **comparison.machines}.items():
        arrays[name], arrays[f"times_{name}"] = found.images, found.times
    if comparison.num_steps in comparison.network:
        arrays |= {f"agreement_{kind}": comparison.agreement(kind) for kind in comparison.machines}
    for steps in comparison.network:
        for kind in comparison.machines:
            measures = comparison.measures(kind, steps)
            for measure in ("pearson_r", "r2"):
                arrays[f"{measure}_{kind}_{steps}"] = measures[measure]
    return arrays
