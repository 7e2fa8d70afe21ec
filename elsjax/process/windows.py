"""The locality scale P(t): the side of the window a machine looks through at each noise level."""

import dataclasses
import math

from elsjax import checks


@dataclasses.dataclass(frozen=True)
class WindowSchedule:
    """Window sides on a uniform time grid: entry m of n belongs to t = (m + 1) / n.

    Between grid points the nearest entry counts (the noisier one half way); below 1 / n the first.

    Args:
      windows: odd window sides, low noise first.

    Raises:
      ValueError: if there is no window or one is not an odd positive integer.
    """

    windows: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", checks.positive_ints("windows", self.windows, odd=True))

    def __call__(self, t: float) -> int:
        """The window side at time t in [0, 1]."""
        t = checks.in_range("t", t, 0.0, 1.0)
        steps = len(self.windows)
        # Rounded first, so that float32 times such as 0.175 lie half way as they should.
        index = math.floor(round(t * steps, 4) + 0.5) - 1
        return self.windows[min(max(index, 0), steps - 1)]


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

    Args:
      name: "dataset/network/padding", one of `PUBLISHED_WINDOWS`, such as "mnist/unet/zeros".

    Returns:
      The schedule that Kamb & Ganguli (2025) calibrated on that network.

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
