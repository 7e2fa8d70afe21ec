"""`elsjax compare`: the same noise through score machines and a trained network."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy  # type: ignore[import-untyped]
import tyro

import elsjax
from elsjax import checks, plotting
from elsjax.cli.experiment import Experiment, own_kind
from elsjax.cli.painting import Painter
from elsjax.cli.report import Picture, report_page
from elsjax.cli.window import parse_window, published_table, window_list
from elsjax.comparison import Protocol, machine_grid, network_grid
from elsjax.datasets import Dataset
from elsjax.dictionaries import Kind
from elsjax.nn import Network
from elsjax.parallel import use_all_cores
from elsjax.runs import Run
from elsjax.windows import PUBLISHED_WINDOWS, WindowSchedule

_PICTURED_SAMPLES = 8
_NAMES = {"is": "IS", "es": "ES", "ls": "LS", "els": "ELS", "bbels": "bbELS"}


@dataclasses.dataclass(frozen=True)
class Compare(Experiment):
    """Predict what a trained network paints, pixel by pixel, from the same noise.

    Writes report.html, to be opened in a browser, with its pictures, summary.json, comparison.npz
    (samples, noise, correlations) and config.json. An interrupted run goes on where it stopped when
    it is repeated.
    """

    kinds: Annotated[tuple[Kind, ...], tyro.conf.arg(name="machine")] = ()
    """Machines to compare; default: IS, LS, and the network's kind of ELS, bbELS if it pads with
    zeros."""
    window: str | None = None
    """Window P(t): an odd number, several from low to high noise with commas between, the name
    of a published table, or a windows.json of `elsjax calibrate`. Default: the table published for
    the network's data set, kind and padding."""
    protocol: Protocol = "late"
    """Where both start: one of the machine's steps after t = 1, at t = 1, or, as published, the
    network at t = 1 and machines one step later."""
    network_steps: tuple[int, ...] = (20, 150)
    """Steps of the network, from t = 1 to 0."""
    batch_size: int = 4
    """Samples painted at once."""
    tolerance: float | None = None
    """For whole data sets: see `elsjax sample`. Default: exact."""
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
            rows = self._run(run)
        header, *lines = self._table(rows)
        print("  ".join(f"{cell:>18}" for cell in header))
        for line in lines:
            print("  ".join(f"{cell:>18}" for cell in line))
        print(f"open {self.out / 'report.html'}")

    def _run(self, run: Run) -> list[dict[str, Any]]:
        """Writes the results; returns the rows of the table."""
        self.check_options()
        checks.positive_int("batch_size", self.batch_size)
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        for steps in self.network_steps:
            checks.positive_int("network_steps", steps)
        if not self.network_steps:
            raise ValueError("network_steps=() must hold at least one number of steps")
        network = self.load_network()
        options = self.data_options(network)
        kinds = tuple(dict.fromkeys(self.kinds or ("is", "ls", own_kind(network))))
        window = self._window(network, kinds, options.dataset)
        use_all_cores()
        data = self.load_data(network, options)
        label, noise = self.labels(network), self.noise(data)
        painter = Painter(run, noise, label, self.batch_size)
        network_grids = {
            steps: network_grid(self.protocol, self.num_steps, steps)
            for steps in self.network_steps
        }
        for times in network_grids.values():
            painter.check(network, times)
        machines, grids = {}, {}
        for kind in kinds:
            local = kind not in ("is", "es")
            grids[kind], seen = machine_grid(
                self.protocol, self.num_steps, window if local else None
            )
            machines[kind] = self.machine(kind, data, network, seen, self.tolerance)
            painter.check(machines[kind], grids[kind])
        config = {
            "command": "compare",
            **self.describe(options, data, label),
            "kinds": list(kinds),
            "windows": window_list(window),
        }
        run.start(config)
        options.print_labels(data)
        arrays: dict[str, np.ndarray] = {"noise": noise}
        if label is not None:
            arrays["labels"] = label
        for steps, times in network_grids.items():
            kept = range(len(times) - 1 if steps == self.num_steps else 0)
            arrays[f"network_{steps}"], arrays[f"x0_network_{steps}"] = painter.paint(
                f"network-{steps}", network, times, kept
            )
            arrays[f"times_network_{steps}"] = times
        for kind, machine in machines.items():
            times = grids[kind]
            arrays[kind], arrays[f"x0_{kind}"] = painter.paint(
                kind, machine, times, range(len(times) - 1)
            )
            arrays[f"times_{kind}"] = times
        rows = self._measure(kinds, arrays)
        # Posterior means of every step were for the agreement; the samples are what is kept.
        run.save_arrays(
            "comparison.npz",
            {name: array for name, array in arrays.items() if not name.startswith("x0_")},
        )
        run.save_json("summary.json", rows)
        pictures = self._pictures(kinds, arrays)
        for picture in pictures:
            run.write(picture.file, lambda file, picture=picture: file.write(picture.png))  # type: ignore[misc]
        page = report_page(
            f"{self.network}: theory and network on the same noise",
            self._account(data, kinds, rows),
            self._table(rows),
            pictures,
            config,
        )
        run.write("report.html", lambda file: file.write(page.encode()))
        painter.forget()
        run.finish()
        return rows

    def _window(
        self, network: Network, kinds: tuple[Kind, ...], dataset: str
    ) -> WindowSchedule | int | None:
        """The window of the local machines."""
        if all(kind in ("is", "es") for kind in kinds):
            return None
        name = self.window
        if name is None:
            architecture = "resnet" if isinstance(network, elsjax.nn.ResNet) else "unet"
            name = published_table(dataset, architecture, network.padding)
            if name is None:
                raise ValueError(
                    f"window=None: no table was published for {dataset}/{architecture}/"
                    f"{network.padding}; expected an odd number, several with commas between, or "
                    f"one of {', '.join(PUBLISHED_WINDOWS)}"
                )
        return parse_window(name)

    def _measure(
        self, kinds: tuple[Kind, ...], arrays: dict[str, np.ndarray]
    ) -> list[dict[str, Any]]:
        """One row for each machine and number of network steps; correlations go into arrays."""
        rows = []
        for steps in self.network_steps:
            target = arrays[f"network_{steps}"]
            for kind in kinds:
                r = np.asarray(elsjax.pearson_r(arrays[kind], target))
                arrays[f"pearson_r_{kind}_{steps}"] = r
                row: dict[str, Any] = {
                    "machine": kind,
                    "network_steps": steps,
                    "num_samples": len(r),
                }
                for name, values in (
                    ("pearson_r", r),
                    ("pearson_r2", r**2),
                    ("r2", np.asarray(elsjax.r2(arrays[kind], target))),
                ):
                    row[name] = float(np.median(values))
                    row[f"{name}_interval"] = _interval(values)
                if "is" in kinds and kind != "is":
                    row["better_than_is"] = float(np.mean(r > arrays[f"pearson_r_is_{steps}"]))
                rows.append(row)
        return rows

    def _table(self, rows: list[dict[str, Any]]) -> list[list[str]]:
        """The rows as text, with a header."""
        table = [["machine", "network steps", "pearson_r", "pearson_r2", "r2", "better than IS"]]
        for row in rows:
            cells = [_NAMES[row["machine"]], str(row["network_steps"])]
            for name in ("pearson_r", "pearson_r2", "r2"):
                low, high = row[f"{name}_interval"] or (np.nan, np.nan)
                interval = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
                cells.append(f"{row[name]:.2f}{interval}")
            share = row.get("better_than_is")
            table.append([*cells, "-" if share is None else f"{share:.0%}"])
        return table

    def _account(
        self, data: Dataset, kinds: tuple[Kind, ...], rows: list[dict[str, Any]]
    ) -> list[str]:
        """What was done and found, in paragraphs."""
        last = _NAMES[kinds[-1]]
        found = "; ".join(
            f"{row['pearson_r']:.2f} with {row['network_steps']} network steps"
            for row in rows
            if row["machine"] == kinds[-1]
        )
        late = 1 - 1 / self.num_steps
        start = {
            "late": f"Both start at t = {late:.3g}.",
            "aligned": "Both start at t = 1.",
            "published": f"The network starts at t = 1, machines at {late:.3g}, as the published "
            "code does.",
        }[self.protocol]
        exactness = "Results are exact."
        if self.tolerance is not None:
            exactness = (
                f"Each of their steps errs by an estimated {self.tolerance:g} or less, in [-1, 1]."
            )
        return [
            f"The network {self.network} painted {self.num_samples} images. From the same noise, "
            f"score machines painted theirs: formulas over the {len(data):,} training images, with "
            f"nothing trained. {start} {exactness}",
            f"Median correlation of {last} with the network, over the pixels of a sample: {found}. "
            "A machine that only replays training images (IS) is the baseline. In brackets: 95 % "
            "intervals of the medians by bootstrap over the samples.",
        ]

    def _pictures(self, kinds: tuple[Kind, ...], arrays: dict[str, np.ndarray]) -> list[Picture]:
        """The figures of the report."""
        shown = slice(0, _PICTURED_SAMPLES)
        finest = max(self.network_steps)
        columns = [("noise", arrays["noise"][shown])]
        columns += [(_NAMES[kind], arrays[kind][shown]) for kind in kinds]
        columns += [
            (f"network, {steps}", arrays[f"network_{steps}"][shown]) for steps in self.network_steps
        ]
        difference = (arrays[kinds[-1]] - arrays[f"network_{finest}"])[shown] / 2
        columns.append((f"{_NAMES[kinds[-1]]} - network, {finest}", difference))
        captions = [
            [
                "",
                *[f"r = {arrays[f'pearson_r_{kind}_{finest}'][row]:.2f}" for kind in kinds],
                *[""] * (len(self.network_steps) + 1),
            ]
            for row in range(len(columns[0][1]))
        ]
        pictures = [
            Picture(
                "samples.png",
                "Samples from the same noise; below, the correlation with the network's of "
                f"{finest} steps.",
                plotting.sample_figure(columns, captions),
            )
        ]
        others = [kind for kind in kinds if kind != "is"]
        if "is" in kinds and others:
            points = {_NAMES[kind]: arrays[f"pearson_r_{kind}_{finest}"] for kind in others}
            figure = plotting.scatter_figure(points, arrays[f"pearson_r_is_{finest}"], "IS")
            pictures.append(
                Picture("scatter.png", "Each sample: above the line, better than IS.", figure)
            )
        if self.num_steps in self.network_steps:
            times, lines = self._agreement(kinds, arrays)
            caption = "What machine and network expect behind the noise, step by step."
            figure = plotting.agreement_figure(times, lines)
            pictures.append(Picture("agreement.png", caption, figure))
        return pictures

    def _agreement(
        self, kinds: tuple[Kind, ...], arrays: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Correlations of posterior means at the times that network and machines share."""
        target = arrays[f"x0_network_{self.num_steps}"]
        times = arrays[f"times_network_{self.num_steps}"][:-1]
        lines = {}
        for kind in kinds:
            x0 = arrays[f"x0_{kind}"]
            missing = len(target) - len(x0)
            r = [elsjax.pearson_r(a, b) for a, b in zip(x0, target[missing:], strict=True)]
            lines[_NAMES[kind]] = np.concatenate(
                [np.full((missing, self.num_samples), np.nan), np.stack(r)]
            )
        return times, lines


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the median, by bootstrap; None for a single value."""
    if len(values) < 2:
        return None
    interval = scipy.stats.bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
