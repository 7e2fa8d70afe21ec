"""Pictures of a study of denoising, as a matplotlib figure: errors and agreement over t."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Lines = Mapping[str, Float[np.ndarray, "t 3"]]
_COLORS = colormaps["tab10"].colors  # type: ignore[attr-defined]
_STYLES = ("-", "--", ":", "-.")


def denoising_figure(
    times: Float[np.ndarray, " t"], errors: Lines, agreement: Mapping[str, Lines]
) -> Figure:
    """Held-out error over t, and beside it, how well denoisers predict networks.

    Args:
      times: T times.
      errors: in units of the Wiener filter's, of each denoiser and network, with the ends of its
        interval, [T, 3].
      agreement: of each denoiser, with the ends of its interval, [T, 3], by network.

    Returns:
      The figure: a panel for the errors, logarithmic, and one for each network.
    """
    figure = Figure(figsize=(5 + 4 * len(agreement), 4.5), layout="constrained", dpi=150)
    axes = figure.subplots(1, 1 + len(agreement), squeeze=False)[0]
    names = list(errors)
    colors = {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(names)}
    styles = {
        name: _STYLES[place // len(_COLORS) % len(_STYLES)] for place, name in enumerate(names)
    }
    panels = {
        "held-out error, in units of the Wiener filter's": errors,
        **{f"median r with {network}": lines for network, lines in agreement.items()},
    }
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, values in lines.items():
            color = colors[name]
            ax.plot(times, values[:, 0], styles[name], marker="o", ms=3, color=color, label=name)
            ax.fill_between(times, values[:, 1], values[:, 2], color=color, alpha=0.15, lw=0)
        ax.set_xlabel("t (1 is noise)")
        ax.set_title(title, fontsize=9)
    axes[0].axhline(1, color="gray", linewidth=0.8)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure
