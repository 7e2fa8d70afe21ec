"""`elsjax sample`: new images from a score machine."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

import elsjax
from elsjax import checks, plotting
from elsjax.cli.denoisers import DenoiserName, DenoiserOptions, indexed
from elsjax.cli.progress import bar
from elsjax.cli.sampling import Sampling
from elsjax.data.datasets import Dataset
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import ResumableSampler, Samples
from elsjax.experiments.states import States
from elsjax.pixels import to_float
from elsjax.process.denoisers import Denoiser
from elsjax.process.schedules import Schedule
from elsjax.process.windows import WindowSchedule

_PICTURED_SAMPLES = 8
_PICTURED_TIMES = (1.0, 0.75, 0.5, 0.25, 0.1)


@dataclasses.dataclass(frozen=True)
class Sample(Sampling):
    """Draw new images with a score machine: no network, no training.

    Writes samples.npz (samples, noise, intermediate posterior means, nearest training images),
    samples.png and config.json. An interrupted run goes on where it stopped when it is repeated.
    """

    machine: DenoiserName = "bbels"
    """Score machine: ideal, equivariant, local, equivariant local, or boundary-broken equivariant
    local. Or another analytic denoiser."""
    denoisers: Annotated[DenoiserOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DenoiserOptions
    )
    """Of analytic denoisers."""
    tolerance: float | None = None
    """Estimated error per pixel and step, in units of [-1, 1], up to which the posterior mean of a
    score machine may be approximated: for whole data sets, 0.03 is a good start. An index of
    patches is built once for each window, and kept. Of golden: a bound of its error, for which it
    looks at as many images as it takes. Default: exact; of golden, the published number."""
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
        self.check_options()
        self.denoisers.check_options()
        if self.tolerance is not None:
            checks.in_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        times = np.arange(self.num_steps, -1, -1) / self.num_steps
        start = self.start(self._denoiser)
        states = States(run)
        sampler = ResumableSampler(
            start.noise, **start.process, batch_size=self.batch_size, states=states
        )
        sampler.check(start.machine, times)
        run.start(self.describe("sample", start))
        self.data.print_labels(start.data)
        kept = sorted({int(np.abs(times[:-1] - t).argmin()) for t in _PICTURED_TIMES})
        denoiser = indexed(start.machine, self.tolerance, sampler.label)
        with bar(self.machine, "step") as progress:
            samples = sampler.sample(self.machine, denoiser, times, kept, progress=progress)
        results = _results(sampler, samples, times[kept], start.data)
        run.save_arrays("samples.npz", results)
        figure = _figure(results)
        run.write("samples.png", lambda file: figure.savefig(file, format="png"))
        states.forget()
        run.finish()

    def _denoiser(
        self, data: Dataset, schedule: Schedule, window: WindowSchedule | int | None
    ) -> Denoiser:
        return self.denoisers.make(
            self.machine,
            data,
            schedule=schedule,
            window=window,
            wrap_patches=self.wrap_patches,
            tolerance=self.tolerance,
        )


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
        ("nearest of all images", results["nearest_images"][shown]),
    ]
    labels = results.get("labels")
    captions = [
        [""] * (len(columns) - 2)
        + ["" if labels is None else f"class {labels[number]}", f"#{index}, rms {distance:.2f}"]
        for number, (index, distance) in enumerate(
            zip(results["nearest_index"][shown], results["nearest_distance"][shown], strict=True)
        )
    ]
    return plotting.sample_figure(columns, captions)
