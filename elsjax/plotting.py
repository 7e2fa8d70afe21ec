"""Pictures of what the machines do, as matplotlib figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure

from elsjax.heldout import HeldoutCurve


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


def grid_figure(images: Float[np.ndarray, "b h w c"], num_columns: int = 8) -> Figure:
    """Images side by side, row by row.

    Args:
      images: [B, H, W, C] in [-1, 1]; values outside are clipped.
      num_columns: images in a row.

    Returns:
      The figure.
    """
    num_rows = -(-len(images) // num_columns)
    figure = Figure(figsize=(num_columns, num_rows), dpi=100)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image in zip(axes.flat, images, strict=False):
        ax.imshow(np.clip((image + 1) / 2, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
    figure.tight_layout(pad=0.2)
    return figure


def loss_figure(losses: Float[np.ndarray, " steps"], heldout: HeldoutCurve | None = None) -> Figure:
    """The loss of each step of training, and its mean over the steps around it.

    Args:
      losses: of each step.
      heldout: held-out errors, drawn beside the loss, a line for each time.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(6, 4) if heldout is None else (11, 4), dpi=100, layout="constrained")
    ax, *rest = figure.subplots(1, 1 if heldout is None else 2, squeeze=False)[0]
    ax.semilogy(np.arange(1, len(losses) + 1), losses, color="0.8", linewidth=0.5)
    width = max(1, len(losses) // 50)
    steps = np.arange(len(losses) // width) * width
    means = losses[: len(steps) * width].reshape(-1, width).mean(1)
    ax.semilogy(steps + (width + 1) / 2, means, color="C0")
    ax.set(xlabel="step", ylabel="loss")
    if heldout is not None:
        _draw_heldout(rest[0], heldout)
    return figure


def _draw_heldout(ax: Any, heldout: HeldoutCurve) -> None:
    colors = colormaps["viridis"](1 - heldout.times)
    for t, errors, color in zip(heldout.times, heldout.relative.T, colors, strict=True):
        ax.plot(heldout.steps, errors, "o-", markersize=2, color=color, label=f"t = {t:g}")
    ax.axhline(1, color="0.5", linewidth=1, linestyle=":")
    ax.set(xlabel="step", ylabel="held-out error of x0 / that of the Wiener filter", yscale="log")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def timing_figure(rows: Sequence[Mapping[str, Any]], options: Sequence[str]) -> Figure:
    """Time against the option that takes the most values, a line for each choice of the others.

    Args:
      rows: timings; each has the options and "median_s", in seconds.
      options: names of the options.

    Returns:
      The figure.
    """
    values = {name: {row[name] for row in rows if row[name] is not None} for name in options}
    numeric = [name for name in options if not any(isinstance(v, str) for v in values[name])]
    across = max(numeric, key=lambda name: len(values[name]))
    others = [name for name in options if name != across and len({row[name] for row in rows}) > 1]
    lines: dict[str, list[tuple[Any, float]]] = {}
    for row in rows:
        said = [row[name] if name == "machine" else f"{name} {row[name]}" for name in others]
        lines.setdefault(", ".join(said), []).append((row[across], row["median_s"]))
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    for number, (label, points) in enumerate(lines.items()):
        if points[0][0] is None:  # sees the whole image, whatever the window
            ax.axhline(points[0][1], label=label, color=f"C{number}", linestyle=":")
        else:
            ax.plot(*zip(*sorted(points), strict=True), "o-", label=label, color=f"C{number}")
    ax.set(xlabel=across.replace("_", " "), ylabel="seconds", yscale="log")
    if across != "window":
        ax.set_xscale("log", base=2)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scatter_figure(
    points: Mapping[str, Float[np.ndarray, " b"]], baseline: Float[np.ndarray, " b"], name: str
) -> Figure:
    """How well machines predict each sample, against how well a baseline does.

    Args:
      points: correlation of each sample, for each machine.
      baseline: correlation of each sample, for the baseline.
      name: of the baseline.

    Returns:
      The figure; above the diagonal a machine is better than the baseline.
    """
    figure = Figure(figsize=(4.5, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    for machine, values in points.items():
        ax.scatter(baseline, values, s=18, label=machine, alpha=0.8)
    lowest = min(0.0, float(np.min([baseline, *points.values()])))
    ax.plot([lowest, 1], [lowest, 1], color="0.7", linewidth=1, zorder=0)
    ax.set(xlabel=f"Pearson r of {name} with the network", ylabel="Pearson r with the network")
    ax.legend()
    return figure


def agreement_figure(
    times: Float[np.ndarray, " s"], lines: Mapping[str, Float[np.ndarray, "s b"]]
) -> Figure:
    """How well machines predict what the network expects, along the reverse process.

    Args:
      times: times of the steps, falling.
      lines: correlation of the posterior means of each step and sample, for each machine; NaN
        where there is none.

    Returns:
      The figure: medians, and the range from the first to the third quartile.
    """
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    for number, (machine, values) in enumerate(lines.items()):
        there = ~np.isnan(values).any(1)
        low, median, high = np.quantile(values[there], [0.25, 0.5, 0.75], axis=1)
        ax.plot(times[there], median, "o-", markersize=3, color=f"C{number}", label=machine)
        ax.fill_between(times[there], low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    ax.set(xlabel="time t", ylabel="Pearson r of E[x0 | x_t] with the network's", xlim=(1, 0))
    ax.legend()
    return figure


def calibration_figure(
    times: Float[np.ndarray, " s"],
    windows: Sequence[int],
    cosine: Float[np.ndarray, "s w"],
    lines: Mapping[str, Float[np.ndarray, " s"]],
) -> Figure:
    """How well each window's machine predicts a network's noise, and window schedules P(t).

    Args:
      times: times of the steps.
      windows: candidates.
      cosine: similarity of the noise predictions, for each time and window.
      lines: window side at each time, for each schedule.

    Returns:
      The figure; brightness is the share of the similarity that a window loses at its time, on a
      logarithmic scale.
    """
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    lost = np.log10(np.maximum(cosine.max(1, keepdims=True) - cosine, 1e-7))
    mesh = ax.pcolormesh(times, windows, lost.T, cmap="gray_r", shading="nearest")
    figure.colorbar(mesh, label="log10 of the loss in cosine similarity")
    for name, sides in lines.items():
        ax.plot(times, sides, "o-", markersize=3, label=name)
    ax.set(xlabel="time t", ylabel="window P")
    ax.legend(loc="upper left")
    return figure
