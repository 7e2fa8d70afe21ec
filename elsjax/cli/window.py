"""Windows as words of the command line."""

import json
import re
from pathlib import Path

from elsjax.interop.torch_files import read_scales
from elsjax.interop.torch_pickle import Refused
from elsjax.process.windows import PUBLISHED_WINDOWS, WindowSchedule, published_windows

_LONGEST = 1 << 20  # bytes of a file of windows, thousands of times a real one


def parse_window(text: str) -> WindowSchedule | int:
    """The window P(t) that an option asks for.

    Args:
      text: an odd number, several from low to high noise with commas between, the name of a
        published table, or a file: `.json`, which `elsjax calibrate` wrote, or `.pt`, published
        scales (`scales_*.pt`).

    Returns:
      The window.

    Raises:
      ValueError: if it is none of these.
    """
    if text in PUBLISHED_WINDOWS:
        return published_windows(text)
    if text.lower().endswith((".json", ".pt")):
        return _read_windows(text)
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*)*", text):
        raise ValueError(
            f"window={_shown(text)} is not known; expected odd numbers with commas between, a "
            f".json file of `elsjax calibrate`, a published scales_*.pt, or one of "
            f"{', '.join(PUBLISHED_WINDOWS)}"
        )
    schedule = _schedule(text, [int(window) for window in text.split(",")])
    return schedule.windows[0] if len(schedule.windows) == 1 else schedule


def _read_windows(text: str) -> WindowSchedule:
    """The schedule in a file, of `elsjax calibrate` or of the published code."""
    try:
        with Path(text).open("rb") as file:
            content = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"window={_shown(text)} cannot be read: {reason}") from error
    try:
        if len(content) > _LONGEST:
            raise Refused(f"it has more than {_LONGEST} bytes")
        scales = text.lower().endswith(".pt")
        windows = read_scales(content) if scales else json.loads(content)["windows"]
        if not isinstance(windows, list):
            raise TypeError(f"windows is a {type(windows).__name__}")
    except Refused as error:
        raise ValueError(f"window={_shown(text)}: {error}") from error
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ValueError(
            f"window={_shown(text)} is not a file of `elsjax calibrate`: it must hold a JSON "
            'object with "windows", a list from low to high noise'
        ) from error
    return _schedule(text, windows)


def _schedule(text: str, windows: list[object]) -> WindowSchedule:
    """A schedule of windows that may be anything; `text` is where they are from."""
    sides = []
    for index, window in enumerate(windows):
        # Published scales may be floats, which medians are.
        if type(window) is float and window.is_integer():
            window = int(window)
        if type(window) is not int or not 0 < window < 10**9 or window % 2 == 0:
            raise ValueError(
                f"window={_shown(text)}: windows[{index}]={_shown(window)} must be an odd "
                "positive integer"
            )
        sides.append(window)
    if not sides:
        raise ValueError(f"window={_shown(text)} must hold at least one window")
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
