"""`elsjax calibrate`: the locality scale P(t) of a trained network."""

import dataclasses
from pathlib import Path

import numpy as np
from tqdm import tqdm

from elsjax import checks, plotting
from elsjax.cli.experiment import Experiment, own_kind
from elsjax.cli.window import published_table
from elsjax.experiments.calibration import Calibration, similarities
from elsjax.experiments.runs import Run
from elsjax.nn import ResNet
from elsjax.parallel import use_all_cores
from elsjax.process.windows import WindowSchedule, published_windows


@dataclasses.dataclass(frozen=True)
class Calibrate(Experiment):
    """Find the window P(t) whose machine predicts a network best, at each time.

    Writes windows.json, which the option --window of other commands takes, calibration.npz
    (similarities of every window at every time), calibration.png and config.json. An interrupted
    run goes on where it stopped when it is repeated.
    """

    candidates: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 15, 17)
    """Windows to try. None may be wider than the network sees."""
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
        self.check_options()
        windows = tuple(
            sorted({checks.odd_int("candidates", window) for window in self.candidates})
        )
        if not windows:
            raise ValueError("candidates=() must hold at least one window")
        network = self.load_network()
        if windows[-1] > network.receptive_field:
            raise ValueError(
                f"candidates={windows[-1]} is wider than the network's receptive field, "
                f"{network.receptive_field}"
            )
        options = self.data_options(network)
        use_all_cores()
        data = self.load_data(network, options)
        label, noise = self.labels(network), self.noise(data)
        machine = self.machine(own_kind(network), data, network, windows[0])
        shape = (self.num_steps, len(windows), self.num_samples)
        # Refuses what does not fit, such as a window wider than the images.
        similarities(network, machine, windows, noise, self.num_steps, label)
        config = {"command": "calibrate", **self.describe(options, data, label)}
        run.start(config)
        arrays, done = self._state(run, shape)
        rest = similarities(network, machine, windows, noise, self.num_steps, label, first=done)
        bar = tqdm(rest, total=self.num_steps * len(windows), initial=done, unit="window")
        for found in bar:
            arrays["cosine"][found.step, found.number] = found.cosine
            arrays["error"][found.step, found.number] = found.error
            done += 1
            run.save_arrays("state.npz", {**arrays, "done": np.asarray(done)})
            bar.set_postfix_str(f"t={found.t:.2f}, P={windows[found.number]}")
        times = np.arange(self.num_steps, 0, -1) / self.num_steps
        calibration = Calibration(times, windows, arrays["cosine"])
        schedule = calibration.schedule(monotone=self.monotone)
        run.save_arrays(
            "calibration.npz", {**arrays, "times": times, "candidates": np.asarray(windows)}
        )
        run.save_json("windows.json", {"network": self.network, "windows": list(schedule.windows)})
        lines = {"calibrated": np.array([schedule(t) for t in times])}
        architecture = "resnet" if isinstance(network, ResNet) else "unet"
        table = published_table(options.dataset, architecture, network.padding)
        if table is not None:
            lines[f"published, {table}"] = np.array([published_windows(table)(t) for t in times])
        figure = plotting.calibration_figure(
            times, windows, np.median(arrays["cosine"], axis=2), lines
        )
        run.write("calibration.png", lambda file: figure.savefig(file, format="png"))
        run.remove("state.npz")
        run.finish()
        return schedule

    def _state(self, run: Run, shape: tuple[int, ...]) -> tuple[dict[str, np.ndarray], int]:
        """Similarities that an earlier start found, and how many."""
        like = {
            "cosine": (np.float64, shape),
            "error": (np.float64, shape),
            "done": (np.asarray(0).dtype, ()),
        }
        state = run.load_arrays("state.npz", like)
        if state is not None:
            done = int(state.pop("done"))
            if 0 <= done <= shape[0] * shape[1]:
                return state, done
            run.warn_damaged("state.npz", f"{done} windows done")
        return {"cosine": np.full(shape, np.nan), "error": np.full(shape, np.nan)}, 0
