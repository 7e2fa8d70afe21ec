import io

import numpy as np
import pytest

import elsjax
from elsjax import plotting

_COLUMNS = ("machine", "window", "num_images")
_NAN = np.nan


def _draw(figure):
    """Draws a figure, whose warnings are errors here."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def _row(machine, window, num_images=5):
    values = (machine, window, num_images)
    return {**dict(zip(_COLUMNS, values, strict=True)), "median_s": 0.1}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 60)])
def test_images_of_any_shape_get_a_picture(size, channels):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, channels))
    shown = (images + 1) / 2
    if channels not in (1, 3):
        shown = shown.mean(-1, keepdims=True)
    captions = [["one", "a caption that is far too long for its image"]] * 2
    columns = [("one", images), ("a title that is far too long: $x_0^{", images)]
    figures = (plotting.grid_figure(images), plotting.sample_figure(columns, captions))
    for figure, places in zip(figures, ((0, 1), (0, 2)), strict=True):
        for place, image in zip(places, shown, strict=True):
            drawn = _draw(figure).axes[place].images[0].get_array()
            np.testing.assert_allclose(np.squeeze(drawn), np.squeeze(image))
    assert figures[1].axes[1].get_title() == "a title that is far too…"


def test_undefined_pixels_are_black_and_bright_ones_white():
    images = np.array([_NAN, -np.inf, np.inf, 7, 0]).reshape(1, 1, 5, 1)
    drawn = _draw(plotting.grid_figure(images)).axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn, [[0, 0, 1, 1, 0.5]])


def test_figures_without_images_are_refused():
    nothing = np.zeros((0, 4, 4, 1))
    with pytest.raises(ValueError, match="images is empty"):
        plotting.grid_figure(nothing)
    for columns in ([], [("a", nothing)]):
        with pytest.raises(ValueError, match="columns is empty"):
            plotting.sample_figure(columns)
    with pytest.raises(ValueError, match="rows is empty"):
        plotting.timing_figure([], _COLUMNS)


def test_wide_figures_are_drawn_with_fewer_dots():
    figure = plotting.sample_figure([("", np.zeros((1, 1, 1, 1)))] * 300)
    assert figure.get_figwidth() * figure.dpi <= 2**15 + 1


@pytest.mark.parametrize("losses", [[0.5], [0.0, 0.0], [_NAN, 0.1], [np.inf, 1.0], []])
def test_any_losses_get_a_figure(losses):
    _draw(plotting.loss_figure(np.array(losses)))


@pytest.mark.parametrize(
    "rows",
    [
        [_row("is", None)],
        [_row("ls", 3)],
        [_row("is", None), _row("ls", 3)],
        [_row("ls", 3), _row("ls", 3)],
        [_row("is", None, n) for n in (1, 10**6)],
    ],
)
def test_any_timings_get_a_figure(rows):
    _draw(plotting.timing_figure(rows, _COLUMNS))


def test_undefined_points_are_left_out():
    points = {"LS": np.array([_NAN, 0.5, 0.4]), "ELS": np.full(3, _NAN)}
    figure = _draw(plotting.scatter_figure(points, np.array([0.3, _NAN, -0.2]), "IS"))
    # The diagonal reaches from the lowest of what is known.
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), [-0.2, 1])
    _draw(plotting.scatter_figure({}, np.full(1, _NAN), "IS"))


def test_agreement_is_over_the_samples_that_have_one():
    values = np.array([[_NAN, _NAN], [0.1, _NAN], [0.2, 0.4]])
    times = np.array([1, 0.5, 0.25])
    lines = {"LS": values, "ELS": values * _NAN}
    figure = _draw(plotting.agreement_figure(times, lines))
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [0.5, 0.25])
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.3])
    _draw(plotting.agreement_figure(times, {}))


@pytest.mark.parametrize("num_times", [1, 2])
@pytest.mark.parametrize("windows", [(3,), (3, 5, 17)])
@pytest.mark.parametrize("cosine", [1.0, _NAN])
def test_any_calibration_gets_a_figure(num_times, windows, cosine):
    times = np.arange(num_times, 0, -1) / num_times
    cosines = np.full((num_times, len(windows)), cosine)
    for lines in ({}, {"published, with a name that is far too long for the figure": times * 4}):
        _draw(plotting.calibration_figure(times, windows, cosines, lines))


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mosaic_gets_a_figure(network, channels):
    rng = np.random.default_rng(0)
    steps, batch, side = 3, 2, 4
    sources = rng.integers(0, side, (3, steps, batch, side, side, 2))
    weight = rng.uniform(size=sources.shape[1:])
    sources[1:, -1, :, 0, 0], weight[-1, :, 0, 0] = 0, 0.5  # the first pixel is in place
    images = rng.uniform(-1, 1, (steps + 1, batch, side, side, channels))
    mosaic = elsjax.Mosaic(
        times=np.linspace(1, 0, steps + 1),
        windows=np.full(steps, 3),
        states=images,
        x0=images[1:],
        top=elsjax.Top(weight, *sources),
        effective_number=np.ones((steps, batch, side, side)),
        entropy=np.zeros((steps, batch, side, side)),
        label=None,
        left_out=np.array([3, -1]),
        repainted=images[-1],
    )
    figure = _draw(plotting.mosaic_figure(mosaic, images[0] if network else None))
    labels = [axes.get_xlabel() for axes in figure.axes]
    columns = 6 + network
    assert len(labels) == 2 * columns
    assert (labels[columns - 1], labels[-1]) == ("#3: 0 pixels", "no other image")
    shown = figure.axes[1 + network].images[0].get_array()
    brightness = np.clip((images[1, 0].mean(-1) + 1) / 2, 0, 1)
    assert (shown <= brightness[..., None] + 1e-6).all()
    assert shown.max() > 0
