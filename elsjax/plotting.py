"""Pictures of what the machines do, as matplotlib figures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def sample_figure(
    columns: Sequence[tuple[str, Float[np.ndarray, "b h w c"]]],
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """A grid of images: one row for each sample, one column for each of its stages.

    Args:
      columns: (title, images [B, H, W, C] in [-1, 1]) for each column; values outside are clipped.
      captions: for each row, a line below each of its images; "" for none.

    Returns:
      The figure; `figure.savefig(path)` writes it.
    """
    num_rows = len(columns[0][1])
    figure = Figure(figsize=(1.15 * len(columns) + 0.1, 1.25 * num_rows + 0.35), dpi=150)
    axes = figure.subplots(num_rows, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns):
        axes[0, column].set_title(title, fontsize=8)
        for row, image in enumerate(images):
            ax = axes[row, column]
            ax.imshow(np.clip((image + 1) / 2, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            if captions is not None:
                ax.set_xlabel(captions[row][column], fontsize=6, labelpad=2)
    figure.tight_layout(pad=0.4)
    return figure
