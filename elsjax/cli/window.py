"""Windows as words of the command line."""

import json
import re
from pathlib import Path

import numpy as np

from elsjax.experiments.counterparts import architecture, own_table
from elsjax.interop.torch_files import read_scales
from elsjax.interop.torch_pickle import Refused
from elsjax.nn import Network
from elsjax.process.schedules import Schedule, schedule_from_config
from elsjax.process.windows import (
    PUBLISHED_SCHEDULE,
    PUBLISHED_WINDOWS,
    WindowSchedule,
    published_windows,
)

# Sides of crops at the 18 noise levels sigma / alpha of EDM (Karras et al. 2022), high noise first.
_CROPS = (*7 * (32,), 23, 15, 11, 7, 5, *6 * (3,))
_CROP_LEVELS = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), len(_CROPS)) ** 7
_CROP_TIMES = 100  # at which the nearest level is looked up
_LONGEST = 1 << 20  # bytes of a file of windows, thousands of times a real one


def network_window(
    text: str | None, network: Network, dataset: str, num_steps: int, name: str = "window"
) -> WindowSchedule | int:
    """The window that a network's machines look through.

    Args:
      text: see `parse_window`; None for the table published for networks like it.
      network: the network.
      dataset: name of the training images.
      num_steps: steps of the machines' uniform time grid.
      name: of the option.

    Returns:
      The window.

    Raises:
      ValueError: if it is no window, or none was published.
    """
    table = own_table(network, dataset) if text is None else text
    if table is None:
        raise ValueError(
            f"{name}=None: no table was published for {dataset}/{architecture(network)}/"
            f"{network.padding}; expected an odd number, several with commas between, or one of "
            f"{', '.join(PUBLISHED_WINDOWS)}"
        )
    return parse_window(table, network.schedule, num_steps, name)


def parse_window(
    text: str, schedule: Schedule, num_steps: int, name: str = "window"
) -> WindowSchedule | int:
    """The window P(t) that an option asks for.

    Windows in words are those of the machine's times. Published and calibrated ones belong to a
    noise schedule: the machine sees each noise level through the same window as there.

    Args:
      text: an odd number, several from low to high noise with commas between, the name of a
        published table, or a file: `.json`, which `elsjax calibrate` wrote, or `.pt`, published
        scales (`scales_*.pt`).
      schedule: noise schedule of the machine.
      num_steps: steps of its uniform time grid.
      name: of the option.

    Returns:
      The window.

    Raises:
      ValueError: if it is none of these.
    """
    if text in PUBLISHED_WINDOWS:
        return published_windows(text).transferred(PUBLISHED_SCHEDULE, schedule, num_steps)
    if text.lower().endswith((".json", ".pt")):
        windows, own = _read_windows(text, name)
        return windows.transferred(own, schedule, num_steps)
    expected = (
        "odd numbers with commas between, a .json file of `elsjax calibrate`, a published "
        f"scales_*.pt, or one of {', '.join(PUBLISHED_WINDOWS)}"
    )
    return _in_words(text, name, expected)


def parse_crops(text: str | None, schedule: Schedule, side: int) -> WindowSchedule | int:
    """The sides of the crops of PSPC that an option asks for.

    Args:
      text: a number, or several from low to high noise with commas between; None for those that
        Niedoba et al. (2025) published, at the noise levels that they are of.
      schedule: noise schedule of the denoiser.
      side: the shorter side of the images, which no published crop exceeds.

    Returns:
      The sides.

    Raises:
      ValueError: if it is none of these.
    """
    if text is not None:
        crops = _in_words(text, "crop", "numbers with commas between", step=1)
        largest = crops if isinstance(crops, int) else max(crops.windows)
        if largest > side:
            raise ValueError(f"crop={_shown(text)} must be at most {side}, the side of the images")
        return crops
    alpha, sigma = map(np.asarray, schedule(np.arange(1, _CROP_TIMES + 1) / _CROP_TIMES))
    level = np.log(sigma / np.maximum(alpha, np.finfo(alpha.dtype).tiny))
    nearest = np.abs(level[:, None] - np.log(_CROP_LEVELS)).argmin(1)
    return WindowSchedule(tuple(min(_CROPS[place], side) for place in nearest))


def _in_words(text: str, name: str, expected: str, step: int = 2) -> WindowSchedule | int:
    """One side, or several with commas between; each 1 more than a multiple of the step."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*)*", text):
        raise ValueError(f"{name}={_shown(text)} is not known; expected {expected}")
    windows = _windows(text, name, [int(window) for window in text.split(",")], step)
    return windows.windows[0] if len(windows.windows) == 1 else windows


def _read_windows(text: str, name: str) -> tuple[WindowSchedule, Schedule]:
    """P(t) in a file, of `elsjax calibrate` or of the published code, and its noise schedule."""
    try:
        with Path(text).open("rb") as file:
            content = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{name}={_shown(text)} cannot be read: {reason}") from error
    try:
        if len(content) > _LONGEST:
            raise Refused(f"it has more than {_LONGEST} bytes")
        schedule: Schedule = PUBLISHED_SCHEDULE
        if text.lower().endswith(".pt"):
            windows = read_scales(content)
        else:
            values = json.loads(content)
            windows = values["windows"]
            if "schedule" in values:  # files of earlier versions lack it
                schedule = schedule_from_config(values["schedule"])
        if not isinstance(windows, list):
            raise TypeError(f"windows is a {type(windows).__name__}")
    except Refused as error:
        raise ValueError(f"{name}={_shown(text)}: {error}") from error
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ValueError(
            f"{name}={_shown(text)} is not a file of `elsjax calibrate`: it must hold a JSON "
            'object with "windows", a list from low to high noise, and "schedule", theirs'
        ) from error
    return _windows(text, name, windows), schedule


def _windows(text: str, name: str, windows: list[object], step: int = 2) -> WindowSchedule:
    """P(t) of windows that may be anything; `text` is where they are from, `name` the option."""
    expected = "an odd positive integer" if step == 2 else "a positive integer"
    sides = []
    for index, window in enumerate(windows):
        # Published scales may be floats, which medians are.
        if type(window) is float and window.is_integer():
            window = int(window)
        if type(window) is not int or not 0 < window < 10**9 or (window - 1) % step:
            raise ValueError(
                f"{name}={_shown(text)}: windows[{index}]={_shown(window)} must be {expected}"
            )
        sides.append(window)
    if not sides:
        raise ValueError(f"{name}={_shown(text)} must hold at least one window")
    return WindowSchedule(tuple(sides))


def _shown(value: object) -> str:
    """A value as part of a line; what is nested is told by its kind."""
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    try:
        text = ascii(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge integer"
    return text if len(text) <= 80 else f"{text[:35]}...{text[-42:]}"  # a path ends with its name


def window_list(window: WindowSchedule | int | None) -> list[int] | None:
    """A window as JSON values."""
    if window is None:
        return None
    return list(window.windows) if isinstance(window, WindowSchedule) else [window]
