import numpy as np
import pytest

from elsjax.experiments.mosaics.pieces import Pieces
from elsjax.plotting import mosaics as mosaic_plots


def of_counts(*covered, side=4):
    """Pieces that cover so many pixels each, row by row."""
    piece = np.full(side * side, -1)
    piece[: sum(covered)] = np.repeat(np.arange(len(covered)), covered)
    labels = np.zeros((len(covered), 3), int)
    return Pieces(labels, np.array(covered, int), piece.reshape(side, side))


PIECES = {
    "real": ([of_counts(16)], [of_counts(16)]),
    "drawn": ([of_counts(8, 4), of_counts()], [of_counts(9, 7), of_counts(1)]),
}


def lines(ax):
    return [line.get_xydata().tolist() for line in ax.lines]


def test_dots_are_numbers_of_pieces():
    figure = mosaic_plots.pieces_figure(PIECES, (0.1, 0.2))
    strict, loose = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["ε = 0.1", "ε = 0.2"]
    assert [[y for _, y in line] for line in lines(strict)] == [[1], [1, 1], [2, 0], [1, 1]]
    assert [[y for _, y in line] for line in lines(loose)][2:] == [[2, 1], [1.5, 1.5]]
    low, high = strict.get_ylim()
    assert low == 0 < 2 < high


def test_lines_are_shares_covered():
    strict, loose = mosaic_plots.coverage_figure(PIECES, (0.1, 0.2)).axes
    assert lines(strict) == [[[1, 1]], [[1, 0.5], [2, 0.75]], []]
    assert lines(loose)[1:] == [[[1, 9 / 16], [2, 1]], [[1, 1 / 16]]]
    assert [text.get_text() for text in loose.get_legend().get_texts()] == ["real", "drawn"]


def test_consistency_is_drawn_against_steps():
    shares = {"drawn": {80: np.array([0.5, 0.9, 0.7]), 20: np.array([0.2, 0.4, 0.1])}}
    (ax,) = mosaic_plots.consistency_figure(shares, 0.1).axes
    assert lines(ax) == [[[20, pytest.approx(0.2)], [80, 0.7]]]
    assert ax.get_ylabel().endswith("consistent up to 0.1")


def test_pieces_are_pictured_beside_their_images():
    images = {name: np.full((len(rows[0]), 4, 4, 1), 0.5) for name, rows in PIECES.items()}
    pieces = {name: rows[0] for name, rows in PIECES.items()}
    figure = mosaic_plots.pictured_pieces_figure(images, pieces)
    assert len(figure.axes) == 8
    shown = np.asarray(figure.axes[3].images[0].get_array())  # of the first drawn image
    colors = [tuple(color) for color in shown.reshape(16, 3)]
    assert [len(set(colors[part])) for part in (slice(8), slice(8, 12), slice(12, 16))] == [1] * 3
    assert len(set(colors)) == 3
    np.testing.assert_allclose(shown[3], 0.5)  # in no piece
    captions = [ax.get_xlabel() for ax in figure.axes]
    assert captions == ["", "1", "", "2, 75.0%", "", "", "", "0, 0.0%"]
    assert [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2 + [True] * 2
