"""`elsjax compare`: the same noise through score machines and a trained network."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import elsjax
from elsjax import checks
from elsjax.cli.account import print_table, save_mosaic_pages, save_report
from elsjax.cli.comparison_account import ComparisonAccount
from elsjax.cli.denoisers import DenoiserName, DenoiserOptions, indexed, sees_window
from elsjax.cli.experiment import Experiment, load_network, on_all_devices
from elsjax.cli.progress import bars
from elsjax.cli.window import network_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.comparison import check_comparison
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.protocols import Protocol, numbers_of_steps
from elsjax.experiments.runs import Run
from elsjax.experiments.states import States
from elsjax.nn import Network
from elsjax.pages import DENOISERS
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Solver


@dataclasses.dataclass(frozen=True)
class Compare(Experiment):
    """Predict the samples of a trained network, pixel by pixel, from the same noise.

    Writes report.html, to be opened in a browser, with its pictures, summary.json, comparison.npz
    (samples, noise, correlations, agreement at each step) and config.json. An interrupted run goes
    on where it stopped when it is repeated.
    """

    names: Annotated[tuple[DenoiserName, ...], tyro.conf.arg(name="machine")] = ()
    """Machines, or other analytic denoisers, to compare. Default: IS, LS, and ELS for a network
    with circular padding, else bbELS."""
    denoisers: Annotated[DenoiserOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DenoiserOptions
    )
    """Of analytic denoisers."""
    guidance_network: str | None = None
    """With guidance, an unconditional network of the same images, which the network is guided
    away from: a name that `elsjax zoo` lists, or a network.safetensors of `elsjax train`."""
    window: str | None = None
    """Window P(t): an odd number, several from low to high noise with commas between, the name of a
    published table, a windows.json of `elsjax calibrate`, or a published scales_*.pt. Default: the
    table published for the network's data set, kind and padding."""
    protocol: Protocol = "late"
    """Where network and machines start: both one of the machines' steps after t = 1 (late), both at
    t = 1 (aligned), or the network at t = 1 and the machines one step later (published); or both in
    ten steps of DDPM's linear schedule, with estimates clipped to [-1, 1] (ten-step)."""
    num_steps: int | None = None
    """Steps of the machines' time grid, from 1 to 0. Default: 20."""
    network_steps: tuple[int, ...] = ()
    """Numbers of steps of the network from t = 1 to 0, one run for each. Default: 20 and 150."""
    solver: Solver = "ddim"
    """Solver of the reverse process, for network and machines: of the probability-flow ODE (ddim,
    heun), or of the reverse SDE (ancestral), in which all see the same Brownian path."""
    mosaics: int = 0
    """Of so many samples, the first, the report shows where the last score machine copied every
    pixel from. Protocols late and aligned only; each sample is drawn twice more."""
    batch_size: int = 4
    """Number of samples drawn at once."""
    tolerance: float | None = None
    """Estimated error up to which score machines over whole data sets may be approximated, as for
    `elsjax sample`. Default: exact."""
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
        print_table(account.table())
        for sentence in filter(None, [account.left_out(), account.process()]):
            print(sentence)
        print(f"open {self.out / 'report.html'}")

    def _run(self, run: Run) -> ComparisonAccount:
        """Writes the results; returns what is to be said of them."""
        self._check()
        network = load_network(self.network)
        options = self.data_options(network)
        names = tuple(dict.fromkeys(self.names or ("is", "ls", own_kind(network))))
        num_steps, network_steps = self._steps()
        window = None
        if any(sees_window(name) for name in names):
            window = network_window(self.window, network, options.dataset, num_steps)
        use_all_cores()
        data = self.load_data(network, options)
        label, noise = self.labels(network, data), self.noise(data)
        machines: dict[str, Denoiser] = {
            name: self.denoisers.make(
                name, data, schedule=network.schedule, window=window, tolerance=self.tolerance
            )
            for name in names
        }
        settings: dict[str, Any] = {
            "label": label,
            "num_steps": num_steps,
            "network_steps": network_steps,
            "protocol": self.protocol,
            "solver": self.solver,
            "key": self.key,
            "batch_size": self.batch_size,
        }
        compared_network = self._guided(network)
        check_comparison(compared_network, machines, noise, **settings)
        if self.mosaics:
            _last_machine(machines)
        config = {
            "command": "compare",
            **self.describe(network, options, data, label),
            "names": list(names),
            "num_steps": num_steps,
            "network_steps": list(network_steps),
            "windows": window_list(window),
        }
        run.start(config)
        options.print_labels(data)
        states = States(run)
        compared = {name: indexed(one, self.tolerance, label) for name, one in machines.items()}
        with bars("step") as progress:
            comparison = elsjax.compare(
                on_all_devices(compared_network),
                compared,
                noise,
                **settings,
                states=states,
                progress=progress,
            )
            mosaic = self._mosaic(machines, comparison, states, progress)
        account = ComparisonAccount(
            comparison, self.network, len(data), self.protocol, self.tolerance
        )
        _save(run, account, config, data, mosaic)
        states.forget()
        run.finish()
        return account

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        self.check_options()
        checks.positive_int("batch_size", self.batch_size)
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        self.denoisers.check_options()
        self._steps()
        checks.integer("mosaics", self.mosaics, 0, self.num_samples)
        if self.mosaics and self.protocol not in ("late", "aligned"):
            raise ValueError(
                f"mosaics={self.mosaics} needs protocol='late' or 'aligned', not {self.protocol!r}"
            )

    def _steps(self) -> tuple[int, tuple[int, ...]]:
        """Numbers of steps of machines and of the network."""
        return numbers_of_steps(self.protocol, self.num_steps, self.network_steps or None)

    def _guided(self, network: Network) -> Denoiser:
        """The network, guided as the machines are."""
        guidance, base = self.denoisers.guidance, self.guidance_network
        if (guidance is None) != (base is None):
            raise ValueError(
                f"guidance={guidance} and guidance_network={base!r} must be given together: the "
                "network is guided as the machines are"
            )
        if guidance is None or base is None:
            return network
        if network.num_classes is None:
            raise ValueError(f"guidance={guidance} needs a network that is conditional")
        return elsjax.ComposedDenoiser(load_network(base), [(network, None)], [guidance])

    def _mosaic(
        self,
        machines: dict[str, Denoiser],
        comparison: elsjax.Comparison,
        states: States,
        progress: Callable[[str, int, int], None],
    ) -> tuple[str, elsjax.Mosaic] | None:
        """Where the last score machine's pixels came from, and its name; None if not asked for."""
        if not self.mosaics:
            return None
        name, machine = _last_machine(machines)
        label = comparison.label
        found = elsjax.mosaic(
            machine,
            comparison.noise[: self.mosaics],
            times=comparison.machines[name].times,
            label=None if label is None else label[: self.mosaics],
            solver=self.solver,
            key=self.key,
            batch_size=self.batch_size,
            states=states,
            progress=functools.partial(progress, f"mosaic of {name}"),
        )
        return name, found


def _last_machine(machines: dict[str, Denoiser]) -> tuple[str, elsjax.ScoreMachine]:
    """The last score machine, by name; raises ValueError if there is none."""
    for name, machine in reversed(machines.items()):
        if isinstance(machine, elsjax.ScoreMachine):
            return name, machine
    raise ValueError(f"mosaics needs a score machine, but machine={tuple(machines)} has none")


def _save(
    run: Run,
    account: ComparisonAccount,
    config: dict[str, Any],
    data: Dataset,
    mosaic: tuple[str, elsjax.Mosaic] | None,
) -> None:
    """Writes the arrays, the summary, the pictures and the pages."""
    comparison = account.comparison
    run.save_arrays("comparison.npz", _arrays(comparison))
    run.save_json("summary.json", account.rows)
    page = None
    if mosaic is not None:
        name, found = mosaic
        beside = comparison.network[max(comparison.network)].images[: len(found.left_out)]
        title = f"{account.network} and {DENOISERS[name].name}: where every pixel came from"
        page = save_mosaic_pages(run, found, data, beside, title, config | {"machine": name})
    title = f"{account.network}: theory and network on the same noise"
    save_report(run, account, title, config, list(comparison.machines), page)


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
