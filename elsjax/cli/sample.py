"""`elsjax sample`: new images from a score machine."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

import elsjax
from elsjax import checks, plotting
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.experiment import MAX_COUNT, all_devices, check_labels, indexed
from elsjax.cli.progress import bar
from elsjax.cli.schedule import parse_schedule
from elsjax.cli.window import parse_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import ResumableSampler, Samples
from elsjax.experiments.states import States
from elsjax.parallel import use_all_cores
from elsjax.pixels import to_float
from elsjax.posterior.dictionaries import Kind
from elsjax.process.sampling import Solver
from elsjax.process.schedules import Schedule, schedule_config
from elsjax.process.windows import PUBLISHED_WINDOWS, WindowSchedule, published_table

_PICTURED_SAMPLES = 8
_PICTURED_TIMES = (1.0, 0.75, 0.5, 0.25, 0.1)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw new images with a score machine: no network, no training.

    Writes samples.npz (samples, noise, intermediate posterior means, nearest training images),
    samples.png and config.json. An interrupted run goes on where it stopped when it is repeated.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataOptions
    )
    """Training images."""
    machine: Kind = "bbels"
    """Ideal, equivariant, local, equivariant local, or boundary-broken equivariant local."""
    window: str | None = None
    """Window P(t): an odd number, several from low to high noise with commas between, the name
    of a published table such as mnist/unet/zeros, a windows.json of `elsjax calibrate`, or a
    published scales_*.pt. Default: the data set's published table. Tables and files are used at
    the noise levels that they are of."""
    wrap_patches: bool = False
    """For els: training patches wrap around the border."""
    num_samples: int = 3
    """Number of images to draw."""
    label: tuple[int, ...] = ()
    """Condition on a class: one for all samples, or one for each."""
    num_steps: int = 20
    """Steps of the reverse process."""
    solver: Solver = "ddim"
    """ODE or SDE solver of the reverse process."""
    schedule: str = "cosine"
    """Noise schedule: cosine (the paper's), linear (DDPM's betas) or exponential, with parameters
    after commas if any, as in cosine,offset=0.008 or linear,beta_last=0.03,num_steps=500."""
    seed: int = 0
    """Seed of the noise; sample b depends on the seed and on b alone."""
    batch_size: int = 8
    """Number of samples drawn at once."""
    tolerance: float | None = None
    """Estimated error per pixel and step, in units of [-1, 1], up to which the posterior mean may
    be approximated: for whole data sets, 0.03 is a good start. An index of patches is built once
    for each window, and kept. Default: exact."""
    out: Path = Path("elsjax-samples")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is computed or written.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            self._run(run)
        print(f"{self.num_samples} samples in {self.out}: samples.png, samples.npz, config.json")

    def _run(self, run: Run) -> None:
        """Writes the results."""
        schedule = parse_schedule(self.schedule)
        window = self._checked_options(schedule)
        times = np.arange(self.num_steps, -1, -1) / self.num_steps
        use_all_cores()
        data = self.data.load()
        # Chosen now, if not given, so that an unknown data set is what is told first.
        window = window or self._window(schedule)
        machine = elsjax.ScoreMachine(
            self.machine,
            data.pixels,
            data.labels,
            schedule=schedule,
            window=window,
            wrap_patches=self.wrap_patches,
            mesh=all_devices(),
        )
        key = jax.random.key(self.seed)
        noise = elsjax.initial_noise(key, self.num_samples, machine.image_shape)
        label = np.resize(np.asarray(self.label, np.int32), self.num_samples)
        states = States(run)
        sampler = ResumableSampler(
            noise,
            label if self.label else None,
            solver=self.solver,
            key=key,
            batch_size=self.batch_size,
            states=states,
        )
        sampler.check(machine, times)
        run.start(self._config(data, window, schedule))
        self.data.print_labels(data)
        kept = sorted({int(np.abs(times[:-1] - t).argmin()) for t in _PICTURED_TIMES})
        denoiser = indexed(machine, self.tolerance, label if self.label else None)
        with bar(self.machine, "step") as progress:
            samples = sampler.sample(self.machine, denoiser, times, kept, progress=progress)
        results = _results(sampler, samples, times[kept], data)
        run.save_arrays("samples.npz", results)
        figure = _figure(results)
        run.write("samples.png", lambda file: figure.savefig(file, format="png"))
        states.forget()
        run.finish()

    def _checked_options(self, schedule: Schedule) -> WindowSchedule | int | None:
        """Raises ValueError if an option is wrong by itself; returns the window, if it is given."""
        for name in ("num_samples", "num_steps", "batch_size"):
            checks.positive_int(name, getattr(self, name))
            checks.in_range(name, getattr(self, name), 1, MAX_COUNT)
        checks.seed("seed", self.seed)
        check_labels(self.label, self.num_samples)
        window = self._window(schedule) if self.window is not None else None
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        return window

    def _window(self, schedule: Schedule) -> WindowSchedule | int | None:
        if self.machine in ("is", "es"):
            if self.window is not None:
                raise ValueError(
                    f"window={self.window!r} does not apply to machine={self.machine!r}, "
                    "which sees the whole image"
                )
            return None
        name = self.window
        if name is None:
            kinds = [("resnet", "circular")] if self.machine == "els" else []
            tables = [
                published_table(self.data.dataset, *kind) for kind in [*kinds, ("unet", "zeros")]
            ]
            name = next(filter(None, tables), None)
            if name is None:
                raise ValueError(
                    f"window=None: no table was published for machine={self.machine!r} and "
                    f"dataset={self.data.dataset!r}; expected an odd number, several with commas "
                    f"between, or one of {', '.join(PUBLISHED_WINDOWS)}"
                )
        return parse_window(name, schedule, self.num_steps)

    def _config(
        self, data: Dataset, window: WindowSchedule | int | None, schedule: Schedule
    ) -> dict[str, Any]:
        """Everything that determines the results, and the versions that computed them."""
        options = dataclasses.asdict(self)
        del options["data"]
        options |= dataclasses.asdict(self.data.absolute())
        for irrelevant in ("out", "overwrite"):
            del options[irrelevant]
        return {
            "command": "sample",
            **options,
            "label": list(self.label),
            "schedule": schedule_config(schedule),
            "windows": window_list(window),
            **describe(data),
        }


def _results(
    sampler: ResumableSampler,
    samples: Samples,
    x0_times: Float[np.ndarray, " k"],
    data: Dataset,
) -> dict[str, np.ndarray]:
    """The arrays of samples.npz."""
    nearest = elsjax.nearest_images(jnp.asarray(samples.images), data.pixels)
    index, distance = map(np.asarray, nearest)
    results = {
        "samples": samples.images,
        "x0": samples.x0,
        "noise": sampler.noise,
        "x0_times": x0_times,
        "nearest_index": index,
        "nearest_distance": distance,
        "nearest_images": to_float(data.pixels[index]),
    }
    if sampler.label is not None:
        results["labels"] = sampler.label
    return results


def _figure(results: dict[str, np.ndarray]) -> plotting.Figure:
    """Each sample from its noise on, and the training image nearest to it."""
    shown = slice(0, _PICTURED_SAMPLES)
    columns = [("noise", results["noise"][shown])]
    for t, x0 in zip(results["x0_times"], results["x0"], strict=True):
        columns.append((f"E[x0 | x_{t:.2g}]", x0[shown]))
    columns += [
        ("sample", results["samples"][shown]),
        ("nearest image", results["nearest_images"][shown]),
    ]
    captions = [
        [""] * (len(columns) - 1) + [f"#{index}, rms {distance:.2f}"]
        for index, distance in zip(
            results["nearest_index"][shown], results["nearest_distance"][shown], strict=True
        )
    ]
    return plotting.sample_figure(columns, captions)
