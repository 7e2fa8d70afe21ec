"""Windows as words of the command line."""

import re

from elsjax import checks
from elsjax.windows import PUBLISHED_WINDOWS, WindowSchedule, published_windows


def parse_window(text: str) -> WindowSchedule | int:
    """The window P(t) that an option asks for.

    Args:
      text: an odd number, several from low to high noise with commas between, or the name of a
        published table.

    Returns:
      The window.

    Raises:
      ValueError: if it is none of these.
    """
    if re.fullmatch(r"[\d,\s]+", text):
        windows = tuple(int(window) for window in text.split(",") if window.strip())
        schedule = WindowSchedule(windows)
        return windows[0] if len(windows) == 1 else schedule
    checks.one_of("window", text, PUBLISHED_WINDOWS)
    return published_windows(text)


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
