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


def receptive_field_figure(
    times: Float[np.ndarray, " t"],
    fields: Mapping[str, Float[np.ndarray, "t h w"]],
    sides: Mapping[str, Float[np.ndarray, "t 2"]],
    windows: Float[np.ndarray, " t"],
) -> Figure:
    """Receptive fields over t, and the sides of the squares that hold half and most of them.

    Args:
      times: T times.
      fields: of each denoiser, [T, H, W].
      sides: of the squares that hold 50 and 90 % of each, [T, 2].
      windows: side P(t) of the machine's window, [T].

    Returns:
      The figure: a row of maps for each denoiser, relative to their largest values, and sides.
    """
    rows = len(fields)
    figure = Figure(figsize=(1.2 * len(times) + 1, 1.4 * rows + 3.5), layout="constrained", dpi=120)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.4 * rows, 3.5))[:, 0]
    axes = parts[0].subplots(rows, len(times), squeeze=False)
    for row, (name, maps) in zip(axes, fields.items(), strict=True):
        for ax, one in zip(row, maps, strict=True):
            ax.imshow(one, cmap="magma", vmin=0, vmax=max(one.max(), np.finfo(float).tiny))
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    for ax, t in zip(axes[0], times, strict=True):
        ax.set_title(f"t = {t:g}", fontsize=8)
    ax = parts[1].subplots()
    for number, (name, both) in enumerate(sides.items()):
        for column, (share, style) in enumerate((("50 %", "--"), ("90 %", "-"))):
            label = f"{name}, {share}"
            ax.plot(
                times, both[:, column], style, marker="o", ms=3, color=f"C{number}", label=label
            )
    ax.plot(times, windows, ":", color="gray", label="P(t)")
    ax.set(xlabel="t (1 is noise)", ylabel="side, pixels")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
