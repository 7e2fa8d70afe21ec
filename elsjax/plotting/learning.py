"""Pictures of a study of training, as a matplotlib figure: what a network paints over its steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from elsjax.experiments.learning import LearningStudy

_PANELS = ("r", "partial r", "memory", "error", "pieces", "unexplained")
_PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


def learning_figure(
    study: LearningStudy, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> Figure:
    """What predicts the network's samples, what is memorized, and errors, over the steps.

    Args:
      study: what was found.
      rows: its summary.
      titles: for readers, of what the network is held against.

    Returns:
      The figure of six panels; those of pieces are empty where none were counted.
    """
    figure = Figure(figsize=(14, 7), layout="constrained", dpi=150)
    axes = dict(zip(_PANELS, figure.subplots(2, 3).flat, strict=True))
    for place, (name, title) in enumerate(titles.items()):
        _draw(axes["r"], rows, f"r_{name}", title, f"C{place}")
        if name != study.machine:
            _draw(axes["partial r"], rows, f"partial_r_{name}", title, f"C{place}")
    axes["r"].set_title("median r with what the network paints", fontsize=9)
    axes["partial r"].set_title(f"median partial r, given {titles[study.machine]}", fontsize=9)
    axes["partial r"].axhline(0, color="gray", linewidth=0.8)
    _draw(axes["memory"], rows, "memorized", "memorized", "C0")
    _draw(axes["memory"], rows, "memorized_shifted", "memorized up to a shift", "C1")
    axes["memory"].set_title("share of samples that are memorized", fontsize=9)
    axes["memory"].set_ylim(-0.03, 1.03)
    _draw(axes["error"], rows, "training_error", "training images", "C2")
    _draw(axes["error"], rows, "heldout_error", "held-out images", "C3")
    axes["error"].set_title("error, in units of the Wiener filter's", fontsize=9)
    axes["error"].set_yscale("log")
    axes["error"].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes["error"].yaxis.set_major_formatter(_PLAIN)
    axes["error"].yaxis.set_minor_formatter(NullFormatter())
    _draw(axes["pieces"], rows, "pieces", "samples of the network", "C4")
    axes["pieces"].set_title("median fewest pieces", fontsize=9)
    _draw(axes["unexplained"], rows, "unexplained", "samples of the network", "C4")
    axes["unexplained"].set_title("median share of pixels in no piece", fontsize=9)
    for ax in axes.values():
        if not ax.lines:
            ax.set_axis_off()
            continue
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(_PLAIN)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("step of training")
        ax.legend(fontsize=8)
    return figure


def _draw(ax: Axes, rows: Sequence[Mapping[str, Any]], key: str, title: str, color: str) -> None:
    """A line over the steps, with its interval where there is one."""
    known = [row for row in rows if row.get(key) is not None]
    if not known:
        return
    steps = np.array([row["step"] for row in known])
    ax.plot(steps, [row[key] for row in known], "o-", ms=3, color=color, label=title)
    ends = [row.get(f"{key}_interval") for row in known]
    if all(end is not None for end in ends):
        low, high = np.array(ends).T
        ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
