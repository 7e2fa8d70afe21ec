"""What the accounts of commands share: medians as text, and the files of a report."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from elsjax.experiments.runs import Run
from elsjax.pages import Picture, report_page

FEWEST_FOR_INTERVAL = 6
"""Values whose extremes hold the median with a probability of 95 %."""


class Account(Protocol):
    """Table, text and pictures of what was found."""

    def table(self) -> list[list[str]]:
        """The rows as text, with a header."""

    def paragraphs(self) -> list[str]:
        """The text of the report."""

    def pictures(self) -> list[Picture]:
        """The figures of the report."""


def median_cell(
    median: float | None,
    interval: Sequence[float] | None,
    values: Float[np.ndarray, " n"],
    number: Callable[[float | None], str],
) -> str:
    """A median with its interval; with the values themselves where they are too few for one.

    Args:
      median: of the values; None where it is undefined.
      interval: of the median; None where there is none.
      values: of all samples; NaN where one is undefined.
      number: a number as text.

    Returns:
      The text.
    """
    if interval is not None:
        return f"{number(median)} [{', '.join(map(number, interval))}]"
    known = [number(value) for value in values if not np.isnan(value)]
    return number(median) + (f" ({', '.join(known)})" if len(known) > 1 else "")


def save_report(
    run: Run, account: Account, title: str, config: dict[str, Any], machines: list[str]
) -> None:
    """Writes the pictures of an account, and the page that shows them.

    Args:
      run: to write to.
      account: what is to be said.
      title: of the page.
      config: the configuration of the run.
      machines: kinds of those that the page explains.
    """
    pictures = account.pictures()
    for picture in pictures:
        run.save_bytes(picture.file, picture.png)
    page = report_page(
        title, account.paragraphs(), account.table(), pictures, config, machines=machines
    )
    run.save_bytes("report.html", page.encode(errors="replace"))
