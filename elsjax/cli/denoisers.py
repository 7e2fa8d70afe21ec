"""Analytic denoisers as words of the command line."""

import dataclasses
from typing import Any, Literal, get_args

import numpy as np

import elsjax
from elsjax import checks
from elsjax.cli.experiment import all_devices, on_all_devices
from elsjax.cli.progress import bar
from elsjax.cli.window import parse_crops
from elsjax.data.datasets import Dataset
from elsjax.posterior.dictionaries import KINDS
from elsjax.process.denoisers import Denoiser
from elsjax.process.schedules import Schedule
from elsjax.process.windows import WindowSchedule

DenoiserName = Literal[
    "is",
    "es",
    "ls",
    "els",
    "bbels",
    "wiener-is",
    "wiener-es",
    "wiener-ls",
    "wiener-els",
    "wiener-bbels",
    "pca-locality",
    "pspc",
    "golden",
    "smoothed-is",
    "smoothed-es",
    "smoothed-ls",
    "smoothed-els",
    "smoothed-bbels",
]
DENOISERS: tuple[DenoiserName, ...] = get_args(DenoiserName)
# Published thresholds of PCA locality (Lukoianov et al. 2025), and what they gave faces.
_THRESHOLDS = {"mnist": 0.005, "mnist5k": 0.005, "fashion_mnist": 0.005, "cifar10": 0.05}
_OTHER_THRESHOLD = 0.02


@dataclasses.dataclass(frozen=True)
class DenoiserOptions:
    """Options of analytic denoisers other than score machines."""

    threshold: float | None = None
    """Of pca-locality: share of its largest weight that a pixel must have to be looked at. Default:
    the published ones, 0.005 for MNIST and FashionMNIST, 0.05 for CIFAR10, and 0.02 for others."""
    crop: str | None = None
    """Of pspc: side of its crops, or several from low to high noise with commas between. Default:
    the published ones."""
    pool: int = 2
    """Of golden: side of the blocks of pixels whose averages are compared first."""
    bandwidth: float = 0.1
    """Of smoothed-...: how far x_t is moved, in units of alpha + sigma."""
    draws: int = 4
    """Of smoothed-...: how many moved copies of x_t are averaged over."""
    guidance: float | None = None
    """Weight of guidance by the class: 0 is none, 1 the class alone, more exaggerates it. Default:
    1, without computing what all classes say."""

    def check_options(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        if self.threshold is not None:
            checks.in_range("threshold", self.threshold, 0, 1)
        checks.positive_int("pool", self.pool)
        checks.in_range("bandwidth", self.bandwidth, 0, 1e6)
        checks.positive_int("draws", self.draws)
        if self.guidance is not None:
            checks.in_range("guidance", self.guidance, -1e6, 1e6)

    def make(
        self,
        name: DenoiserName,
        data: Dataset,
        *,
        schedule: Schedule,
        window: WindowSchedule | int | None,
        wrap_patches: bool = False,
        tolerance: float | None = None,
    ) -> Denoiser:
        """A denoiser of some images, on all devices.

        Args:
          name: which.
          data: training images, and their classes if they have any.
          schedule: noise schedule.
          window: of those that see windows; others leave it.
          wrap_patches: for "els": training patches wrap around the border.
          tolerance: of "golden": error that is allowed; None for the published number of images.

        Returns:
          The denoiser.

        Raises:
          ValueError: if an option does not fit the images.
        """
        of_kind: dict[str, Any] = {
            "window": window if sees_window(name) else None,
            "wrap_patches": wrap_patches and _family(name)[1] == "els",
            "schedule": schedule,
        }
        one = self._plain(name, data, tolerance, **of_kind)
        if self.guidance is None:
            return one
        if data.labels is None:
            raise ValueError(f"guidance={self.guidance} needs classes, but the data has none")
        return elsjax.ComposedDenoiser(one, [(one, None)], [self.guidance])

    def _plain(
        self, name: DenoiserName, data: Dataset, tolerance: float | None, **of_kind: Any
    ) -> Denoiser:
        """A denoiser without guidance."""
        family, kind = _family(name)
        images, mesh = (data.pixels, data.labels), all_devices()
        schedule = of_kind["schedule"]
        if family in ("machine", "smoothed"):
            machine = elsjax.ScoreMachine(kind, *images, mesh=mesh, **of_kind)  # type: ignore[arg-type]
            if family == "machine":
                return machine
            return elsjax.SmoothedDenoiser(machine, bandwidth=self.bandwidth, draws=self.draws)
        if family == "pca-locality":
            threshold = self.threshold
            if threshold is None:
                threshold = _THRESHOLDS.get(data.name, _OTHER_THRESHOLD)
            return elsjax.PCALocalityDenoiser(
                *images, threshold=threshold, schedule=schedule, mesh=mesh
            )
        if family == "pspc":
            crop = parse_crops(self.crop, schedule, min(data.pixels.shape[1:3]))
            return elsjax.PSPCDenoiser(*images, window=crop, schedule=schedule, mesh=mesh)
        one: Denoiser
        if family == "golden":
            one = elsjax.GoldenSubsetDenoiser(
                *images, pool=self.pool, tolerance=tolerance, schedule=schedule
            )
        else:
            one = elsjax.WienerDenoiser(*images, kind=kind, **of_kind)  # type: ignore[arg-type]
        return on_all_devices(one)


def sees_window(name: DenoiserName) -> bool:
    """Whether a denoiser looks through a window P(t)."""
    return _family(name)[1] in ("ls", "els", "bbels")


def indexed(denoiser: Denoiser, tolerance: float | None, label: np.ndarray | None) -> Denoiser:
    """A score machine through an index for the labels, if there is a tolerance, with a bar."""
    if tolerance is None or not isinstance(denoiser, elsjax.ScoreMachine):
        return denoiser
    labels = [None] if label is None else np.unique(label).tolist()
    with bar(f"index for {denoiser.kind}", "%") as progress:
        return denoiser.with_index(tolerance, labels=labels, progress=progress)


def _family(name: str) -> tuple[str, str]:
    """What a name says: the family, and the kind of dictionary if it has one."""
    if name in KINDS:
        return "machine", name
    family, _, kind = name.partition("-")
    return (family, kind) if kind in KINDS else (name, "")
