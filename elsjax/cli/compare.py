"""`elsjax compare`: the same noise through score machines and a trained network."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import elsjax
from elsjax import checks, plotting
from elsjax.cli.experiment import Experiment, own_kind
from elsjax.cli.painting import Painter
from elsjax.cli.report import Picture, report_page
from elsjax.cli.window import parse_window, published_table, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.comparison import Protocol, machine_grid, median_interval, network_grid
from elsjax.experiments.runs import Run
from elsjax.nn import Network
from elsjax.parallel import use_all_cores
from elsjax.posterior.dictionaries import Kind
from elsjax.process.windows import PUBLISHED_WINDOWS, WindowSchedule

_PICTURED_SAMPLES = 8
_MEASURES = ("pearson_r", "pearson_r2", "r2")
_FEWEST_FOR_INTERVAL = 6  # values whose extremes hold the median with a probability of 95 %
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
    of a published table, a windows.json of `elsjax calibrate`, or a published scales_*.pt. Default:
    the table published for the network's data set, kind and padding."""
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
            table, left_out = self._run(run)
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        for line in table:
            print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
        if left_out:
            print(left_out)
        print(f"open {self.out / 'report.html'}")

    def _run(self, run: Run) -> tuple[list[list[str]], str]:
        """Writes the results; returns the table, and what is left out of it."""
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
        table = self._table(rows, arrays)
        page = report_page(
            f"{self.network}: theory and network on the same noise",
            self._account(data, kinds, rows),
            table,
            pictures,
            config,
        )
        run.write("report.html", lambda file: file.write(page.encode(errors="replace")))
        painter.forget()
        run.finish()
        return table, self._left_out(rows)

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
        """One row for each machine and number of network steps.

        What is undefined (NaN) is counted and left out. Measures of each sample go into arrays.
        """
        rows = []
        for steps in self.network_steps:
            target = arrays[f"network_{steps}"]
            for kind in kinds:
                r = _measured(elsjax.pearson_r, arrays[kind], target)
                arrays[f"pearson_r_{kind}_{steps}"] = r
                arrays[f"r2_{kind}_{steps}"] = _measured(elsjax.r2, arrays[kind], target)
                row: dict[str, Any] = {
                    "machine": kind,
                    "network_steps": steps,
                    "num_samples": len(r),
                    "num_undefined": {},
                }
                for name, values in _measures(arrays, kind, steps).items():
                    known = values[~np.isnan(values)]
                    row["num_undefined"][name] = len(values) - len(known)
                    row[name] = float(np.median(known)) if len(known) else None
                    row[f"{name}_interval"] = median_interval(known)
                if "is" in kinds and kind != "is":
                    baseline = arrays[f"pearson_r_is_{steps}"]
                    known = ~np.isnan(r) & ~np.isnan(baseline)
                    better = r[known] > baseline[known]
                    row["num_undefined"]["better_than_is"] = len(r) - len(better)
                    row["num_better_than_is"] = int(better.sum())
                    row["better_than_is"] = float(better.mean()) if len(better) else None
                rows.append(row)
        return rows

    def _table(self, rows: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> list[list[str]]:
        """The rows as text, with a header."""
        table = [["machine", "network steps", *_MEASURES, "better than IS"]]
        for row in rows:
            measures = _measures(arrays, row["machine"], row["network_steps"])
            cells = [
                _cell(row[name], row[f"{name}_interval"], measures[name]) for name in _MEASURES
            ]
            share = "-"
            if row.get("better_than_is") is not None:
                number = row["num_samples"] - row["num_undefined"]["better_than_is"]
                share = f"{row['num_better_than_is']} of {number}"
            table.append([_NAMES[row["machine"]], str(row["network_steps"]), *cells, share])
        return table

    def _left_out(self, rows: list[dict[str, Any]]) -> str:
        """What is not in the table because it is undefined; "" if nothing is."""
        parts = [
            f"{name} of {count} of {row['num_samples']} samples of {_NAMES[row['machine']]} with "
            f"{row['network_steps']} network steps"
            for row in rows
            for name, count in row["num_undefined"].items()
            if count and name in _MEASURES
        ]
        if not parts:
            return ""
        why = "Undefined, because an image is constant or not finite, and left out"
        return f"{why}: {'; '.join(parts)}."

    def _account(
        self, data: Dataset, kinds: tuple[Kind, ...], rows: list[dict[str, Any]]
    ) -> list[str]:
        """What was done and found, in paragraphs."""
        last = _NAMES[kinds[-1]]
        found = "; ".join(
            f"{_number(row['pearson_r'])} with {row['network_steps']} network steps"
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
            "A machine that only replays training images (IS) is the baseline. "
            f"{self._spread(rows)}",
            *filter(None, [self._left_out(rows)]),
        ]

    def _spread(self, rows: list[dict[str, Any]]) -> str:
        """What stands beside the medians."""
        known = {
            row["num_samples"] - row["num_undefined"][name] for row in rows for name in _MEASURES
        }
        sentences = []
        if max(known) >= _FEWEST_FOR_INTERVAL:
            sentences.append("In brackets: exact 95 % intervals of the medians (order statistics).")
        if known & set(range(2, _FEWEST_FOR_INTERVAL)):
            sentences.append(
                f"In parentheses: the values themselves; fewer than {_FEWEST_FOR_INTERVAL} give no "
                "95 % interval of a median."
            )
        return " ".join(sentences)

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
                *[f"r = {_number(arrays[f'pearson_r_{kind}_{finest}'][row])}" for kind in kinds],
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
            pairs = zip(x0, target[missing:], strict=True)
            r = [_measured(elsjax.pearson_r, *pair) for pair in pairs]
            lines[_NAMES[kind]] = np.concatenate(
                [np.full((missing, self.num_samples), np.nan), np.stack(r)]
            )
        return times, lines


def _measured(
    measure: Callable[..., jax.Array], painted: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """A measure of each sample, [B]; NaN also where an image is not finite."""
    finite = (np.isfinite(painted) & np.isfinite(target)).all((1, 2, 3), keepdims=True)
    values = measure(np.where(finite, painted, 0), np.where(finite, target, 0))
    return np.where(finite.ravel(), values, np.nan)


def _measures(arrays: dict[str, np.ndarray], kind: Kind, steps: int) -> dict[str, np.ndarray]:
    """What the table says of a machine, by name, for each sample."""
    r = arrays[f"pearson_r_{kind}_{steps}"]
    return dict(zip(_MEASURES, (r, r**2, arrays[f"r2_{kind}_{steps}"]), strict=True))


def _cell(median: float | None, interval: tuple[float, float] | None, values: np.ndarray) -> str:
    """A median with its interval; with the values themselves where they are too few for one."""
    if interval is not None:
        return f"{median:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
    known = [f"{value:.2f}" for value in values if not np.isnan(value)]
    return _number(median) + (f" ({', '.join(known)})" if len(known) > 1 else "")


def _number(value: float | None) -> str:
    """A measure as text; "-" where it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"
