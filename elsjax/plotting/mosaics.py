"""Pictures of a study of mosaics, as matplotlib figures: numbers of pieces, and the pieces."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from elsjax.experiments.mosaics.pieces import Pieces
from elsjax.plotting import distinct_colors, sample_figure

Rows = Mapping[str, Sequence[Sequence[Pieces]]]
_TICKS = [0, *(mantissa * 10**power for power in range(4) for mantissa in (1, 2, 5))]
_WIDTH = 0.3  # over which dots of one source are spread


def pieces_figure(pieces: Rows, tolerance: Sequence[float]) -> Figure:
    """How many pieces explain the images of each source, a dot each, and their median.

    Args:
      pieces: of each source, by tolerance and image.
      tolerance: a panel for each.

    Returns:
      The figure, with a logarithmic axis.
    """
    figure, panels = _panels(tolerance, 0.5 * len(pieces) + 1)
    for place, ax in enumerate(panels):
        for column, of_source in enumerate(pieces.values()):
            counts = np.array([one.count for one in of_source[place]])
            spread = np.linspace(-_WIDTH, _WIDTH, len(counts)) if len(counts) > 1 else np.zeros(1)
            ax.plot(column + spread, counts, "o", markersize=4, alpha=0.6, color=f"C{column}")
            ends = (column - 1.3 * _WIDTH, column + 1.3 * _WIDTH)
            ax.plot(ends, 2 * [np.median(counts)], color=f"C{column}", linewidth=2)
        ax.set_xticks(range(len(pieces)), list(pieces), rotation=40, ha="right")
    # The panels share the axis. No piece explains an image that is like no training image anywhere.
    most = max(one.count for of_source in pieces.values() for row in of_source for one in row)
    panels[0].set_yscale("symlog", linthresh=1)
    panels[0].set_ylim(0, 1.5 * max(most, 1))
    panels[0].yaxis.set_major_locator(FixedLocator(_TICKS))
    _plain_numbers(panels[0].yaxis)
    panels[0].set_ylabel("pieces of an image")
    return figure


def coverage_figure(pieces: Rows, tolerance: Sequence[float]) -> Figure:
    """How much of an image its first pieces cover, a line for each image.

    Args:
      pieces: of each source, by tolerance and image.
      tolerance: a panel for each.

    Returns:
      The figure, with a logarithmic axis of the number of pieces.
    """
    figure, panels = _panels(tolerance, 3)
    for place, ax in enumerate(panels):
        for number, (name, of_source) in enumerate(pieces.items()):
            for image, one in enumerate(of_source[place]):
                share = np.cumsum(one.covered) / one.piece.size
                label = name if image == 0 else None
                ax.plot(
                    np.arange(1, len(share) + 1),
                    share,
                    color=f"C{number}",
                    alpha=0.6,
                    linewidth=1,
                    marker="o" if len(share) == 1 else None,
                    label=label,
                )
        ax.set_xscale("log")
        _plain_numbers(ax.xaxis)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        ax.set_xlabel("pieces")
    panels[0].set_ylabel("of the pixels covered")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def consistency_figure(
    shares: Mapping[str, Mapping[int, Float[np.ndarray, " b"]]], tolerance: float
) -> Figure:
    """How many pixels are those of the nearest patch, against the number of steps.

    Args:
      shares: of each source, by its number of steps: the share of the pixels of each image, [B].
      tolerance: up to which pixels are the same.

    Returns:
      The figure: medians, and the range from the smallest to the largest.
    """
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    for number, (name, of_source) in enumerate(shares.items()):
        steps = sorted(of_source)
        values = [of_source[one] for one in steps]
        ax.plot(steps, [np.median(v) for v in values], "o-", color=f"C{number}", label=name)
        low, high = ([end(v) for v in values] for end in (np.min, np.max))
        ax.fill_between(steps, low, high, color=f"C{number}", alpha=0.12, linewidth=0)
    ax.set_xscale("log")
    ticks = sorted({one for of_source in shares.values() for one in of_source})
    ax.set_xticks(ticks)
    _plain_numbers(ax.xaxis)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.set(xlabel="steps", ylabel=f"of the pixels consistent up to {tolerance:g}")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pictured_pieces_figure(
    images: Mapping[str, Float[np.ndarray, "b h w c"]], pieces: Mapping[str, Sequence[Pieces]]
) -> Figure:
    """Images of each source, and beside each its pieces, a colour for each.

    Args:
      images: of each source, [B, H, W, C] in [-1, 1].
      pieces: of each of them.

    Returns:
      The figure; what no piece covers is grey. Below are the number of pieces and their coverage.
    """
    num_rows = max(map(len, images.values()))
    columns: list[tuple[str, np.ndarray]] = []
    captions: list[list[str]] = [[] for _ in range(num_rows)]
    for name, of_source in images.items():
        colored = [
            np.where(one.uncovered[..., None], 0.0, 2 * distinct_colors(one.piece) - 1)
            for one in pieces[name]
        ]
        columns += [(name, of_source), ("pieces", np.stack(colored))]
        for row in range(num_rows):
            said = ""
            if row < len(pieces[name]):
                one = pieces[name][row]
                share = "" if not one.uncovered_share else f", {1 - one.uncovered_share:.1%}"
                said = f"{one.count}{share}"
            captions[row] += ["", said]
    return sample_figure(columns, captions)


def _plain_numbers(axis: Axis) -> None:
    """Labels of the ticks of a logarithmic axis as numbers, without powers and mathematics."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _panels(tolerance: Sequence[float], width: float) -> tuple[Figure, list]:
    """A panel for each tolerance, side by side."""
    size = (width * len(tolerance) + 1.5, 3.5)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = list(figure.subplots(1, len(tolerance), squeeze=False, sharey=True)[0])
    for one, ax in zip(tolerance, panels, strict=True):
        ax.set_title(f"ε = {one:g}", fontsize=10)
    return figure, panels
