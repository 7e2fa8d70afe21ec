"""`elsjax mosaic`: where every pixel of a score machine's samples came from."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

import elsjax
from elsjax import checks, plotting
from elsjax.cli.account import save_mosaic_pages
from elsjax.cli.experiment import all_devices, check_images, load_network, on_all_devices
from elsjax.cli.progress import bars
from elsjax.cli.sampling import Sampling, Start
from elsjax.data.datasets import Dataset
from elsjax.experiments.protocols import machine_grid
from elsjax.experiments.runs import Run
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.machines import MOST_TOP
from elsjax.nn import Network
from elsjax.nn.zoo import zoo
from elsjax.posterior.dictionaries import Kind
from elsjax.process.schedules import Schedule
from elsjax.process.windows import WindowSchedule


@dataclasses.dataclass(frozen=True)
class Mosaic(Sampling):
    """See where every pixel of a sample came from: which training image, and which place in it.

    Writes mosaic.html, to be opened in a browser, mosaic.npz (the sources of every pixel at every
    step, and the samples without the image that gave most), mosaic.png and config.json. The weights
    are exact, so there is no tolerance. An interrupted run goes on where it stopped when it is
    repeated.
    """

    machine: Kind = "bbels"
    """Ideal, equivariant, local, equivariant local, or boundary-broken equivariant local."""
    num_samples: int = 1
    """Number of images to draw. Each is drawn twice: with all training images, and without one."""
    protocol: Literal["late", "aligned"] = "late"
    """Where machine and network start: one step after t = 1, as in `elsjax compare` (late), or at
    t = 1, as in `elsjax sample` (aligned)."""
    top: int = 5
    """How many training pixels to keep for each pixel and step, from 1 to 1024."""
    network: str | None = None
    """A network beside the machine, from the same noise: a name that `elsjax zoo` lists, a
    network.safetensors of `elsjax train`, or none. Default: the zoo's UNet for the data set, if
    there is one and it suits images, labels and schedule."""
    out: Path = Path("elsjax-mosaic")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is computed or written.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            found = self._run(run)
        for sample, (image, changed) in enumerate(
            zip(found.left_out.tolist(), found.changed.tolist(), strict=True), 1
        ):
            without = f"image {image} gave most; without it {changed} pixels change"
            print(f"sample {sample}: {without if image >= 0 else 'there is no other image'}")
        print(f"open {self.out / 'mosaic.html'}")

    def _run(self, run: Run) -> elsjax.Mosaic:
        """Writes the results; returns the mosaic."""
        self.check_options()
        checks.integer("top", self.top, 1, MOST_TOP)
        times, _ = machine_grid(self.protocol, self.num_steps, None)
        network = None if self.network in (None, "none") else load_network(self.network)
        start = self.start(self._machine)
        name = self.network
        if name is None:
            name, network = self._own_network(start)
        elif network is not None:
            check_images(network, start.data, self.data.dataset)
            _check_schedule(network, start.machine.schedule)
        states = States(run)
        settings: dict[str, Any] = {**start.process, "batch_size": self.batch_size}
        sampler = ResumableSampler(start.noise, **settings, states=states)
        sampler.check(start.machine, times)
        if network is not None:
            sampler.check(network, times)
        config = self.describe("mosaic", start) | {"network": name}
        run.start(config)
        self.data.print_labels(start.data)
        beside = None
        with bars("step") as progress:
            if network is not None:
                of_network = functools.partial(progress, "network")
                denoiser = on_all_devices(network)
                beside = sampler.sample("network", denoiser, times, progress=of_network).images
            found = elsjax.mosaic(
                start.machine,
                start.noise,
                times=times,
                top=self.top,
                **settings,
                states=states,
                progress=functools.partial(progress, "mosaic"),
            )
        _save(run, found, beside, start, config)
        states.forget()
        run.finish()
        return found

    def _machine(
        self, data: Dataset, schedule: Schedule, window: WindowSchedule | int | None
    ) -> elsjax.ScoreMachine:
        return elsjax.ScoreMachine(
            self.machine,
            data.pixels,
            data.labels,
            schedule=schedule,
            window=window,
            wrap_patches=self.wrap_patches,
            mesh=all_devices(),
        )

    def _own_network(self, start: Start[elsjax.ScoreMachine]) -> tuple[str, Network | None]:
        """The zoo's UNet for the data set, by name, or "none" if none suits."""
        name = f"{self.data.dataset}/unet/zeros"
        if name not in zoo() or zoo()[name].conditional != bool(self.label):
            return "none", None
        network = load_network(name)
        suits = (network.image_shape, network.schedule) == (
            start.machine.image_shape,
            start.machine.schedule,
        )
        return (name, network) if suits else ("none", None)


def _check_schedule(network: Network, schedule: Schedule) -> None:
    """Raises ValueError unless a network has the machine's noise schedule."""
    if network.schedule != schedule:
        raise ValueError(
            f"schedule={schedule} is not that of the network, {network.schedule}; they cannot "
            "start from the same noise"
        )


def _save(
    run: Run,
    mosaic: elsjax.Mosaic,
    network: Float[np.ndarray, "b h w c"] | None,
    start: Start[elsjax.ScoreMachine],
    config: dict[str, Any],
) -> None:
    """Writes arrays, picture and pages."""
    arrays = mosaic.arrays()
    if network is not None:
        arrays["network"] = network
    run.save_arrays("mosaic.npz", arrays)
    figure = plotting.mosaic_figure(mosaic, network)
    run.write("mosaic.png", lambda file: figure.savefig(file, format="png"))
    title = f"{start.data.name}: where every pixel came from"
    save_mosaic_pages(run, mosaic, start.data, network, title, config)
