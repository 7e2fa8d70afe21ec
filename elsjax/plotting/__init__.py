"""Pictures of what the machines do, as matplotlib figures.

Images of one channel are grey, of three red, green and blue; of any other number, the mean over the
channels is shown in grey. NaN is black, as -1 is. Undefined values (NaN) of a curve or scatter plot
are left out.
"""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from elsjax.experiments.heldout import HeldoutCurve
from elsjax.experiments.mosaics.mosaic import Mosaic

_TITLE_LENGTH = 24
_LABEL_LENGTH = 40
_LARGEST_SIDE = 2**15  # of a figure, in pixels; matplotlib draws no more than twice as many


def sample_figure(
    columns: Sequence[tuple[str, Float[Array | np.ndarray, "b h w c"]]],
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """A grid of images: one row for each sample, one column for each of its stages.

    Args:
      columns: (title, images [B, H, W, C] in [-1, 1]) for each column; values outside are clipped.
      captions: for each row, a line below each of its images; "" for none. Captions, and lines of
        titles, of more than 24 characters are cut.

    Returns:
      The figure; `figure.savefig(path)` writes it.

    Raises:
      ValueError: if there are no images.
    """
    stages = [(title, np.asarray(images)) for title, images in columns]
    _not_empty("columns", [image for _, images in stages for image in images])
    num_rows = max(len(images) for _, images in stages)
    figure = _figure(1.15 * len(stages) + 0.1, 1.25 * num_rows + 0.35, dpi=150)
    axes = figure.subplots(num_rows, len(stages), squeeze=False)
    for column, (title, images) in enumerate(stages):
        lines = [_shortened(line, _TITLE_LENGTH) for line in title.split("\n")]
        axes[0, column].set_title("\n".join(lines), fontsize=8, parse_math=False)
        for ax in axes[len(images) :, column]:
            ax.axis("off")
        for row, image in enumerate(images):
            ax = axes[row, column]
            _show(ax, image)
            ax.set_xticks([])
            ax.set_yticks([])
            if captions is not None:
                caption = _shortened(captions[row][column], _TITLE_LENGTH)
                ax.set_xlabel(caption, fontsize=6, labelpad=2, parse_math=False)
    figure.tight_layout(pad=0.4)
    return figure


def mosaic_figure(
    mosaic: Mosaic, network: Float[Array | np.ndarray, "b h w c"] | None = None
) -> Figure:
    """Where every pixel of samples came from, a row for each sample.

    Columns: the sample; by source at three steps, a colour for each training image, as bright as
    the estimate; the effective number of sources at the last step; since when the source is the
    last one; and the sample without the image that gave most.

    Args:
      mosaic: the mosaic.
      network: samples of a network from the same noise, for a column more, [B, H, W, C].

    Returns:
      The figure.
    """
    image, weight = (np.asarray(a)[..., 0] for a in (mosaic.top.image, mosaic.top.weight))
    number = np.log(np.asarray(mosaic.effective_number)[-1])
    settled = np.asarray(mosaic.times)[mosaic.commitment]
    colors = np.stack(
        [_by_source(image[:, b], weight[:, b]) for b in range(image.shape[1])], axis=1
    )
    columns = [("sample", np.asarray(mosaic.samples))]
    if network is not None:
        columns.append(("network", np.asarray(network)))
    captions = [[""] * len(columns) for _ in columns[0][1]]
    steps = sorted({int(share * (len(image) - 1)) for share in (0.15, 0.4, 1.0)})
    for step in steps:
        estimate = np.clip((np.asarray(mosaic.x0)[step].mean(-1, keepdims=True) + 1) / 2, 0, 1)
        columns.append((f"sources, t = {mosaic.times[step]:.2g}", 2 * colors[step] * estimate - 1))
    columns += [
        ("effective number", 2 * colormaps["magma"](number / max(number.max(), 1e-3))[..., :3] - 1),
        ("settled at", 2 * colormaps["viridis"](settled / settled.max())[..., :3] - 1),
        ("without one image", np.asarray(mosaic.repainted)),
    ]
    for b, row in enumerate(captions):
        row += [f"P = {mosaic.windows[step]}" if mosaic.windows[step] else "" for step in steps]
        left_out, changed = mosaic.left_out[b], mosaic.changed[b]
        row += [
            f"{np.exp(number[b].min()):.3g} to {np.exp(number[b].max()):.3g}",
            f"t = {settled[b].max():.2g} to {settled[b].min():.2g}",
            f"#{left_out}: {changed} pixels" if left_out >= 0 else "no other image",
        ]
    return sample_figure(columns, captions)


def _by_source(
    image: Int[np.ndarray, "s h w"], weight: Float[np.ndarray, "s h w"]
) -> Float[np.ndarray, "s h w 3"]:
    """A colour for each training image, those that gave most to a sample far apart."""
    there = image >= 0
    given = np.bincount(image[there], weight[there] ** 2)
    rank = np.argsort(np.argsort(-given, kind="stable"))
    return distinct_colors(rank)[image]


def distinct_colors(rank: Int[np.ndarray, "*b"]) -> Float[np.ndarray, "*b 3"]:
    """Colours of numbers from 0 on, of which neighbours differ most.

    Args:
      rank: the numbers, of any shape.

    Returns:
      Red, green and blue in [0, 1], [..., 3].
    """
    hue = rank * 0.618034 % 1
    return hsv_to_rgb(np.stack([hue, 0.75 - 0.3 * (rank % 2), 1 - 0.15 * (rank % 3)], axis=-1))


def grid_figure(images: Float[Array | np.ndarray, "b h w c"], num_columns: int = 8) -> Figure:
    """Images side by side, row by row.

    Args:
      images: [B, H, W, C] in [-1, 1]; values outside are clipped.
      num_columns: images in a row.

    Returns:
      The figure.

    Raises:
      ValueError: if there are no images.
    """
    images = np.asarray(images)
    _not_empty("images", images)
    num_rows = -(-len(images) // num_columns)
    figure = _figure(num_columns, num_rows, dpi=100)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image in zip(axes.flat, images, strict=False):
        _show(ax, image)
    figure.tight_layout(pad=0.2)
    return figure


def loss_figure(
    losses: Float[Array | np.ndarray, " steps"], heldout: HeldoutCurve | None = None
) -> Figure:
    """The loss of each step of training, and its mean over the steps around it.

    Args:
      losses: of each step.
      heldout: held-out errors, drawn beside the loss, a line for each time.

    Returns:
      The figure, logarithmic where a loss is positive.
    """
    figure = Figure(figsize=(6, 4) if heldout is None else (11, 4), dpi=100, layout="constrained")
    ax, *rest = figure.subplots(1, 1 if heldout is None else 2, squeeze=False)[0]
    losses = np.asarray(losses)
    ax.plot(np.arange(1, len(losses) + 1), losses, color="0.8", linewidth=0.5)
    width = max(1, len(losses) // 50)
    steps = np.arange(len(losses) // width) * width
    means = losses[: len(steps) * width].reshape(-1, width).mean(1)
    ax.plot(steps + (width + 1) / 2, means, color="C0")
    if np.any(np.asarray(losses) > 0):
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss")
    if heldout is not None:
        _draw_heldout(rest[0], heldout)
    return figure


def _draw_heldout(ax: Axes, heldout: HeldoutCurve) -> None:
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

    Raises:
      ValueError: if there are no rows.
    """
    _not_empty("rows", rows)
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
    _legend(ax, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scatter_figure(
    points: Mapping[str, Float[Array | np.ndarray, " b"]],
    baseline: Float[Array | np.ndarray, " b"],
    name: str,
) -> Figure:
    """How well machines predict each sample, against how well a baseline does.

    Args:
      points: correlation of each sample, for each machine.
      baseline: correlation of each sample, for the baseline.
      name: of the baseline.

    Returns:
      The figure; above the diagonal a machine is better than the baseline.
    """
    baseline = np.asarray(baseline)
    points = {machine: np.where(np.isnan(baseline), np.nan, v) for machine, v in points.items()}
    figure = Figure(figsize=(4.5, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    for machine, values in points.items():
        ax.scatter(baseline, values, s=18, label=machine, alpha=0.8)
    lowest = np.nanmin(np.concatenate([[0.0], baseline, *points.values()]))
    ax.plot([lowest, 1], [lowest, 1], color="0.7", linewidth=1, zorder=0)
    ax.set(xlabel=f"Pearson r of {name} with the network", ylabel="Pearson r with the network")
    _legend(ax)
    return figure


def agreement_figure(
    times: Float[Array | np.ndarray, " s"], lines: Mapping[str, Float[Array | np.ndarray, "s b"]]
) -> Figure:
    """How well machines predict what the network expects, along the reverse process.

    Args:
      times: times of the steps, falling.
      lines: correlation of the posterior means of each step and sample, for each machine; NaN
        where there is none.

    Returns:
      The figure: medians, and the range from the first to the third quartile, over the samples
      that have a correlation at that step.
    """
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    times = np.asarray(times)
    for number, (machine, found) in enumerate(lines.items()):
        values = np.asarray(found)
        there = ~np.isnan(values).all(1)
        if not there.any():
            continue
        low, median, high = np.nanquantile(values[there], [0.25, 0.5, 0.75], axis=1)
        ax.plot(times[there], median, "o-", markersize=3, color=f"C{number}", label=machine)
        ax.fill_between(times[there], low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    ax.set(xlabel="time t", ylabel="Pearson r of E[x0 | x_t] with the network's", xlim=(1, 0))
    _legend(ax)
    return figure


def calibration_figure(
    times: Float[Array | np.ndarray, " s"],
    windows: Sequence[int],
    cosine: Float[Array | np.ndarray, "s w"],
    lines: Mapping[str, Float[Array | np.ndarray, " s"]],
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
    cosine = np.asarray(cosine)
    lost = np.log10(np.maximum(cosine.max(1, keepdims=True) - cosine, 1e-7))
    mesh = ax.pcolormesh(times, windows, lost.T, cmap="gray_r", shading="nearest")
    figure.colorbar(mesh, label="log10 of the loss in cosine similarity")
    for name, sides in lines.items():
        ax.plot(times, sides, "o-", markersize=3, label=_shortened(name, _LABEL_LENGTH))
    ax.set(xlabel="time t", ylabel="window P", yticks=windows)
    _legend(ax, loc="upper left")
    return figure


def _not_empty(name: str, images: Sized) -> None:
    """Raises ValueError if there is nothing to be seen."""
    if len(images) == 0:
        raise ValueError(f"{name} is empty; there is nothing to show")


def _figure(width: float, height: float, dpi: float) -> Figure:
    """A figure of a size in inches, of fewer dots an inch where it would be too large to draw."""
    return Figure(figsize=(width, height), dpi=min(dpi, _LARGEST_SIDE / max(width, height)))


def _show(ax: Axes, image: Float[np.ndarray, "h w c"]) -> None:
    """Draws an image; see the module's docstring."""
    shown = np.clip((np.nan_to_num(image, nan=-1) + 1) / 2, 0, 1)
    ax.imshow(shown if shown.shape[2] == 3 else shown.mean(2), cmap="gray", vmin=0, vmax=1)


def _legend(ax: Axes, **options: Any) -> None:
    """A legend, where there is anything to tell apart."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**options)


def _shortened(text: str, length: int) -> str:
    """A text, or as much of it as fits."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
