"""`elsjax calibrate`: the locality scale P(t) of a trained network."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import elsjax
from elsjax import checks, plotting
from elsjax.cli.experiment import Experiment, all_devices, check_count, load_network, on_all_devices
from elsjax.cli.progress import bar
from elsjax.experiments.calibration import similarities
from elsjax.experiments.counterparts import own_kind, own_table
from elsjax.experiments.runs import Run
from elsjax.experiments.states import States
from elsjax.nn import Network
from elsjax.parallel import use_all_cores
from elsjax.process.sampling import Solver
from elsjax.process.schedules import schedule_config
from elsjax.process.windows import PUBLISHED_SCHEDULE, WindowSchedule, published_windows


@dataclasses.dataclass(frozen=True)
class Calibrate(Experiment):
    """Find the window P(t) whose machine predicts a network best, at each time.

    Writes windows.json, which the option --window of other commands takes, calibration.npz
    (similarities of every window at every time), calibration.png and config.json. An interrupted
    run goes on where it stopped when it is repeated.
    """

    candidates: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 15, 17)
    """Sides of the windows to try: odd, and no wider than the network's receptive field."""
    num_steps: int = 20
    """Steps of the time grid, from 1 to 0."""
    solver: Solver = "ddim"
    """Solver of the network's reverse process: of the probability-flow ODE (ddim, heun), or of the
    reverse SDE (ancestral)."""
    monotone: bool = False
    """Let P(t) never fall as the noise rises."""
    out: Path = Path("elsjax-calibration")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is computed or written.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            schedule = self._run(run)
        print(f"P(t) from low to high noise: {' '.join(map(str, schedule.windows))}")
        print(f"use it with --window {self.out / 'windows.json'}")

    def _run(self, run: Run) -> WindowSchedule:
        """Writes the results; returns P(t)."""
        self.check_options()
        check_count("num_steps", self.num_steps)
        windows = self._windows()
        network = load_network(self.network)
        if windows[-1] > network.receptive_field:
            raise ValueError(
                f"candidates={windows[-1]} is wider than the network's receptive field, "
                f"{network.receptive_field}"
            )
        options = self.data_options(network)
        use_all_cores()
        data = self.load_data(network, options)
        label, noise = self.labels(network, data), self.noise(data)
        machine = elsjax.ScoreMachine(
            own_kind(network),
            data.pixels,
            data.labels,
            window=windows[0],
            schedule=network.schedule,
            mesh=all_devices(),
        )
        # Refuses what does not fit, such as a window wider than the images.
        process: dict[str, Any] = {"label": label, "solver": self.solver, "key": self.key}
        similarities(network, machine, windows, noise, self.num_steps, **process)
        run.start({"command": "calibrate", **self.describe(network, options, data, label)})
        states = States(run)
        with bar("calibrating", "window") as progress:
            calibration = elsjax.calibrate(
                on_all_devices(network),
                machine,
                windows,
                noise,
                num_steps=self.num_steps,
                **process,
                states=states,
                progress=progress,
            )
        schedule = calibration.schedule(monotone=self.monotone)
        self._save(run, calibration, schedule, network, own_table(network, options.dataset))
        states.forget()
        run.finish()
        return schedule

    def _windows(self) -> tuple[int, ...]:
        """The candidates, rising."""
        windows = {checks.odd_int("candidates", window) for window in self.candidates}
        if not windows:
            raise ValueError("candidates=() must hold at least one window")
        return tuple(sorted(windows))

    def _save(
        self,
        run: Run,
        calibration: elsjax.Calibration,
        schedule: WindowSchedule,
        network: Network,
        table: str | None,
    ) -> None:
        """Writes similarities, schedule and picture, with the published schedule of a name."""
        times, windows = calibration.times, calibration.windows
        arrays = {"cosine": calibration.cosine, "error": calibration.error, "times": times}
        run.save_arrays("calibration.npz", {**arrays, "candidates": np.asarray(windows)})
        noise_schedule = schedule_config(network.schedule)
        found = {"network": self.network, "schedule": noise_schedule}
        run.save_json("windows.json", {**found, "windows": list(schedule.windows)})
        lines = {"calibrated": np.array([schedule(t) for t in times])}
        if table is not None:
            published = published_windows(table).transferred(
                PUBLISHED_SCHEDULE, network.schedule, self.num_steps
            )
            lines[f"published, {table}"] = np.array([published(t) for t in times])
        median = np.median(calibration.cosine, axis=2)
        figure = plotting.calibration_figure(times, windows, median, lines)
        run.write("calibration.png", lambda file: figure.savefig(file, format="png"))
