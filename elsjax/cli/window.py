"""Windows as words of the command line."""

import json
import re
from pathlib import Path

from elsjax import checks
from elsjax.windows import PUBLISHED_WINDOWS, WindowSchedule, published_windows


def parse_window(text: str) -> WindowSchedule | int:
    """The window P(t) that an option asks for.

    Args:
      text: an odd number, several from low to high noise with commas between, the name of a
        published table, or a file that `elsjax calibrate` wrote.

    Returns:
      The window.

    Raises:
      ValueError: if it is none of these.
    """
    if re.fullmatch(r"[\d,\s]+", text):
        windows = tuple(int(window) for window in text.split(",") if window.strip())
        schedule = WindowSchedule(windows)
        return windows[0] if len(windows) == 1 else schedule
    if text.endswith(".json"):
        return _read_windows(Path(text))
    checks.one_of("window", text, PUBLISHED_WINDOWS)
    return published_windows(text)


def _read_windows(path: Path) -> WindowSchedule:
    """The schedule of a file of `elsjax calibrate`."""
    try:
        return WindowSchedule(tuple(json.loads(path.read_text())["windows"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"window={str(path)!r} is not a file of `elsjax calibrate`: it must hold a JSON object "
            'with "windows", from low to high noise'
        ) from error


def published_table(dataset: str, network: str, padding: str) -> str | None:
    """Name of the table published for a data set and a kind of network; None if there is none."""
    dataset = "mnist" if dataset == "mnist5k" else dataset
    name = f"{dataset}/{network}/{padding}"
    return name if name in PUBLISHED_WINDOWS else None


def window_list(window: WindowSchedule | int | None) -> list[int] | None:
    """A window as JSON values."""
    if window is None:
        return None
    return list(window.windows) if isinstance(window, WindowSchedule) else [window]
