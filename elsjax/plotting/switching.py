"""Curves of a study of switching, as a matplotlib figure."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

_STYLES = ("-", "--", ":")


def switching_figure(
    times: Float[np.ndarray, " k"], curves: Mapping[str, Mapping[str, Float[np.ndarray, "k 3"]]]
) -> Figure:
    """How agreement with the network depends on the time of the switch.

    Args:
      times: times of the switches, falling, [K].
      curves: by what is switched, by where it is measured (up to three): the medians and the ends
        of their intervals, [K, 3]; NaN where there is none.

    Returns:
      The figure. Intervals are shaded of the first place only.
    """
    figure = Figure(figsize=(7.5, 4), dpi=130, layout="constrained")
    ax = figure.subplots()
    for number, (order, places) in enumerate(curves.items()):
        color = f"C{number}"
        for style, (place, values) in zip(_STYLES, places.items(), strict=False):
            label = f"{order}: {place}"
            ax.plot(times, values[:, 0], style, marker="o", ms=3, color=color, label=label)
            if style == _STYLES[0]:
                ax.fill_between(times, values[:, 1], values[:, 2], color=color, alpha=0.15, lw=0)
    ax.set(xlabel="t of the switch (1 is noise)", ylabel="Pearson r with the network's sample")
    ax.invert_xaxis()
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
