"""Pictures of a study of attention, as matplotlib figures: agreement, and samples in rows."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

Points = Mapping[str, Float[np.ndarray, "n 3"]]


def attention_agreement_figure(names: Sequence[str], panels: Mapping[str, Points]) -> Figure:
    """Medians with their intervals: a row for each network, a panel for each measure.

    Args:
      names: N names, of networks.
      panels: by title, and by what the networks are compared with: median and the ends of its
        interval, [N, 3]; NaN for none.

    Returns:
      The figure.
    """
    size = (2.1 * len(panels) + 1.5, 0.4 * len(names) + 1.5)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    rows = np.arange(len(names))
    for ax, (title, points) in zip(axes, panels.items(), strict=True):
        for number, (target, values) in enumerate(points.items()):
            place = rows + 0.2 * (number - (len(points) - 1) / 2)
            ax.hlines(place, values[:, 1], values[:, 2], color=f"C{number}", linewidth=1.5)
            ax.plot(values[:, 0], place, "o", ms=4, color=f"C{number}", label=target)
        ax.set_title(title, fontsize=9)
        ax.grid(axis="x", alpha=0.3)
        ax.tick_params(labelsize=8)
    axes[0].set_yticks(rows, list(names))
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return figure


def attention_samples_figure(
    maps: Float[np.ndarray, "b h w"], rows: Mapping[str, Float[np.ndarray, "b h w c"]]
) -> Figure:
    """What receives attention, and samples: a column for each noise, a row for each denoiser.

    Args:
      maps: attention of each pixel, [B, H, W]; bright is the most in its image.
      rows: samples in [-1, 1] by title, [B, H, W, C]; values outside are clipped.

    Returns:
      The figure.
    """
    size = (0.9 * len(maps) + 1.6, 0.92 * (len(rows) + 1) + 0.1)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.subplots(len(rows) + 1, len(maps), squeeze=False)
    for ax, one in zip(axes[0], maps, strict=True):
        ax.imshow(one, cmap="magma")
    for row, images in zip(axes[1:], rows.values(), strict=True):
        for ax, image in zip(row, np.clip((images + 1) / 2, 0, 1), strict=True):
            ax.imshow(image if image.shape[2] == 3 else image.mean(2), cmap="gray", vmin=0, vmax=1)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[:, 0], ("attention", *rows), strict=True):
        ax.set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    return figure
