"""What the accounts of commands share: medians as text, and the files of a report."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

import elsjax
from elsjax.data.datasets import Dataset
from elsjax.experiments.runs import Run
from elsjax.pages import DENOISERS, Picture, mosaic_page, page_name, report_page

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


def print_table(table: Sequence[Sequence[str]]) -> None:
    """Prints rows of text, the header first, in columns."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def denoiser_title(name: str) -> str:
    """A denoiser for readers; a network keeps its name."""
    return DENOISERS[name].name if name in DENOISERS else name


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
    run: Run,
    account: Account,
    title: str,
    config: dict[str, Any],
    machines: list[str],
    mosaic: str | None = None,
) -> None:
    """Writes the pictures of an account, and the page that shows them.

    Args:
      run: to write to.
      account: what is to be said.
      title: of the page.
      config: the configuration of the run.
      machines: kinds of those that the page explains.
      mosaic: file of a mosaic page that the page links to; None if there is none.
    """
    pictures = account.pictures()
    for picture in pictures:
        run.save_bytes(picture.file, picture.png)
    page = report_page(
        title,
        account.paragraphs(),
        account.table(),
        pictures,
        config,
        machines=machines,
        mosaic=mosaic,
    )
    run.save_bytes("report.html", page.encode(errors="replace"))


def save_mosaic_pages(
    run: Run,
    mosaic: elsjax.Mosaic,
    data: Dataset,
    network: Float[np.ndarray, "b h w c"] | None,
    title: str,
    config: dict[str, Any],
) -> str:
    """Writes the pages that show where pixels came from.

    Args:
      run: to write to.
      mosaic: what they show.
      data: training images of the machine.
      network: what a network drew from the same noise, [B, H, W, C]; None without.
      title: of the pages.
      config: see `elsjax.pages.mosaic_page`.

    Returns:
      The file of the first.
    """
    pages = mosaic_page(
        mosaic,
        data.pixels,
        labels=data.labels,
        class_names=data.label_names,
        network=network,
        title=title,
        config=config,
    )
    for number, page in enumerate(pages):
        run.save_bytes(page_name(number), page.encode(errors="replace"))
    return page_name(0)
