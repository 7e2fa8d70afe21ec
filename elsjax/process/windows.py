"""The locality scale P(t): the side of the window a machine looks through at each noise level.

P is a function of the noise level; as a function of t it belongs to a noise schedule.
"""

import dataclasses
import math

import numpy as np

from elsjax import checks
from elsjax.process.schedules import CosineSchedule, Schedule, same_noise

PUBLISHED_SCHEDULE = CosineSchedule()
"""The noise schedule of the published windows."""


@dataclasses.dataclass(frozen=True)
class WindowSchedule:
    """Window sides on a uniform time grid: entry m of n belongs to t = (m + 1) / n.

    Between grid points the nearest entry counts (the noisier one half way); below 1 / n the first.
    `windows(0.5)` is the side of the window at t = 0.5.

    Args:
      windows: window sides, low noise first; odd for a `ScoreMachine`.

    Raises:
      ValueError: if there is no window or one is not a positive integer.
    """

    windows: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", checks.positive_ints("windows", self.windows))

    def __call__(self, t: float) -> int:
        """The side of the window at a time.

        Args:
          t: one number in [0, 1]; 1 is noise.

        Returns:
          The side P(t).

        Raises:
          ValueError: if t is none.
        """
        if np.ndim(t):
            raise ValueError(f"t has shape {list(np.shape(t))}; expected one number in [0, 1]")
        t = checks.in_range("t", t, 0.0, 1.0)
        steps = len(self.windows)
        # Rounded first, so that float32 times such as 0.175 lie half way as they should.
        index = math.floor(round(t * steps, 4) + 0.5) - 1
        return self.windows[min(max(index, 0), steps - 1)]

    def transferred(self, old: Schedule, new: Schedule, num_steps: int) -> "WindowSchedule":
        """The windows of the same noise levels, as a function of another noise schedule's time.

        Args:
          old: noise schedule that these windows belong to.
          new: noise schedule to look at images by.
          num_steps: n, entries of the result, usually as many as the machine takes steps.

        Returns:
          The windows at t = 1/n, 2/n, ..., 1 of the new schedule; these ones where old == new.

        Raises:
          ValueError: if an argument is not as described.
        """
        for name, schedule in (("old", old), ("new", new)):
            checks.instance(name, schedule, Schedule, "CosineSchedule()")
        num_steps = checks.positive_int("num_steps", num_steps)
        if old == new:
            return self
        times = same_noise(np.arange(1, num_steps + 1) / num_steps, new, old)
        return WindowSchedule(tuple(self(t) for t in times.tolist()))


def at_least(window: WindowSchedule | int | None, side: int) -> WindowSchedule | int | None:
    """A window that is nowhere smaller than a side: max(P(t), side).

    Args:
      window: the window P(t); None for the whole image.
      side: the smallest side that it may have.

    Returns:
      The window, None where it was None.

    Raises:
      ValueError: if side is not a positive integer.
    """
    side = checks.positive_int("side", side)
    if isinstance(window, WindowSchedule):
        return WindowSchedule(tuple(max(one, side) for one in window.windows))
    return None if window is None else max(window, side)


# The tables published with Kamb & Ganguli (2025), calibrated on their networks, 32x32 images.
_PUBLISHED = {
    "celeb_a/resnet/zeros": "3 3 3 5 5 5 5 5 7 7 9 9 9 11 11 11 13 15 19 19",
    "celeb_a/unet/zeros": "3 3 3 3 3 3 3 5 5 5 5 5 7 7 9 9 9 13 19 27",
    "cifar10/resnet/circular": "3 3 3 3 5 5 5 5 7 7 7 9 9 11 11 13 13 15 15 15",
    "cifar10/resnet/zeros": "3 3 3 3 5 5 5 7 7 7 7 9 9 11 11 13 15 17 17 17",
    "cifar10/unet/zeros": "3 3 3 3 5 5 5 5 7 7 7 7 9 9 11 13 13 15 17 25",
    "fashion_mnist/resnet/zeros": "3 3 5 5 7 7 9 9 9 11 11 11 13 13 13 15 15 15 17 17",
    "fashion_mnist/unet/zeros": "3 3 5 5 7 7 7 9 11 11 11 13 15 15 21 23 25 25 25 25",
    "mnist/resnet/circular": "3 3 5 5 5 7 7 9 9 9 11 11 11 11 9 9 7 7 3 3",
    "mnist/resnet/zeros": "3 3 5 5 5 7 7 7 9 9 11 11 11 11 13 15 15 15 15 15",
    "mnist/unet/zeros": "3 3 3 5 5 7 7 7 9 9 9 11 13 15 17 21 23 23 25 27",
}

PUBLISHED_WINDOWS = tuple(_PUBLISHED)


def published_windows(name: str) -> WindowSchedule:
    """A published window schedule P(t), 20 entries.

    It was measured on a network of Kamb & Ganguli (2025), larger than that of the same name which
    comes with this package (`elsjax.load_pretrained`).

    Args:
      name: data set, network and padding, such as "mnist/unet/zeros". There are
        "celeb_a/resnet/zeros", "celeb_a/unet/zeros", "cifar10/resnet/circular",
        "cifar10/resnet/zeros", "cifar10/unet/zeros", "fashion_mnist/resnet/zeros",
        "fashion_mnist/unet/zeros", "mnist/resnet/circular", "mnist/resnet/zeros" and
        "mnist/unet/zeros".

    Returns:
      The windows through which machines predict that network best. Its noise schedule is
      `CosineSchedule()`; `WindowSchedule.transferred` gives them for another.

    Raises:
      ValueError: if no such table was published; the message lists those that were.
    """
    checks.one_of("name", name, PUBLISHED_WINDOWS)
    return WindowSchedule(tuple(int(window) for window in _PUBLISHED[name].split()))


def published_table(dataset: str, network: str, padding: str) -> str | None:
    """The table published for a data set and a kind of network.

    Args:
      dataset: name of the data set; that of "mnist5k" is MNIST's.
      network: "unet" or "resnet".
      padding: of the network, "zeros" or "circular".

    Returns:
      One of `PUBLISHED_WINDOWS`; None if none was published.
    """
    dataset = "mnist" if dataset == "mnist5k" else dataset
    name = f"{dataset}/{network}/{padding}"
    return name if name in PUBLISHED_WINDOWS else None
