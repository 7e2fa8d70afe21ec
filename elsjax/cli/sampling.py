"""What the commands share that sample a score machine of any images."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
import tyro

import elsjax
from elsjax import checks
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.denoisers import DenoiserName, sees_window
from elsjax.cli.experiment import check_count, check_labels, class_numbers
from elsjax.cli.schedule import parse_schedule
from elsjax.cli.window import parse_window, window_list
from elsjax.data.datasets import Dataset
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import Denoiser
from elsjax.process.sampling import Solver
from elsjax.process.schedules import Schedule, schedule_config
from elsjax.process.windows import PUBLISHED_WINDOWS, WindowSchedule, published_table

Made = TypeVar("Made", bound=Denoiser)


class Start(NamedTuple, Generic[Made]):
    """What a reverse process starts from.

    Attributes:
      data: training images.
      machine: the machine of these, or another denoiser.
      noise: to start from, [B, H, W, C].
      process: label, solver and key, as `elsjax.sample` takes them.
    """

    data: Dataset
    machine: Made
    noise: jax.Array
    process: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A denoiser of some images, and the seeds of samples; a command says which denoiser."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataOptions
    )
    """Training images."""
    machine: DenoiserName = "bbels"
    """What denoises."""
    window: str | None = None
    """Window P(t): an odd number, several from low to high noise with commas between, the name
    of a published table such as mnist/unet/zeros, a windows.json of `elsjax calibrate`, or a
    published scales_*.pt. Default: the data set's published table. Tables and files are used at
    the noise levels that they are of."""
    wrap_patches: bool = False
    """For els: training patches wrap around the border."""
    num_samples: int = 3
    """Number of images to draw."""
    label: tuple[int | str, ...] = ()
    """Condition on a class, by number or name: one for all samples, or one for each."""
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

    def check_options(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        schedule = parse_schedule(self.schedule)
        for name in ("num_samples", "num_steps", "batch_size"):
            check_count(name, getattr(self, name))
        checks.seed("seed", self.seed)
        check_labels(self.label, self.num_samples)
        if self.window is not None:
            self._window(schedule)

    def start(
        self, make: Callable[[Dataset, Schedule, WindowSchedule | int | None], Made]
    ) -> Start[Made]:
        """Loads the images and makes a denoiser of them.

        Args:
          make: makes it, of images, noise schedule and window.

        Returns:
          What the reverse process starts from.

        Raises:
          ValueError: if there are no such images, or no window was published for them.
        """
        use_all_cores()
        data = self.data.load()
        schedule = parse_schedule(self.schedule)
        # The window is chosen now, if not given, so that an unknown data set is told of first.
        machine = make(data, schedule, self._window(schedule))
        key = jax.random.key(self.seed)
        noise = elsjax.initial_noise(key, self.num_samples, machine.image_shape)
        classes = np.asarray(class_numbers(self.label, data), np.int32)
        label = np.resize(classes, self.num_samples) if self.label else None
        process = {"label": label, "solver": self.solver, "key": key}
        return Start(data, machine, noise, process)

    def describe(self, command: str, start: Start[Made]) -> dict[str, Any]:
        """Everything that determines the results, and the versions that computed them."""
        options = dataclasses.asdict(self)
        del options["data"]
        options |= options.pop("denoisers", {})
        options |= dataclasses.asdict(self.data.absolute())
        for irrelevant in ("out", "overwrite"):
            del options[irrelevant]
        return {
            "command": command,
            **options,
            "label": list(class_numbers(self.label, start.data)),
            "schedule": schedule_config(start.machine.schedule),
            "windows": window_list(getattr(start.machine, "window", None)),
            **describe(start.data),
        }

    def _window(self, schedule: Schedule) -> WindowSchedule | int | None:
        if not sees_window(self.machine):
            if self.window is not None:
                raise ValueError(
                    f"window={self.window!r} does not apply to machine={self.machine!r}, "
                    "which looks through none"
                )
            return None
        name = self.window
        if name is None:
            circular = self.machine.endswith("-els") or self.machine == "els"
            kinds = [("resnet", "circular")] if circular else []
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
