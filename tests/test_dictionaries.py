"""Dictionaries of one's own: what is refused, and what machines make of them."""

import dataclasses

import numpy as np
import pytest
from small_inputs import PIXELS, X

import elsjax
from elsjax.posterior.dictionaries import AxisPart, Dictionary, WindowPart

SIDE = X.shape[1]
EVERYWHERE = AxisPart(((0, SIDE),), ((0, SIDE),), tied=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": (0, SIDE)}, r"queries=\(0, 6\) must be runs"),
        ({"keys": ((3, 3),), "tied": False}, r"keys=\(\(3, 3\),\) must be runs"),
        ({"keys": ((-1, 3),), "tied": False}, "must be runs"),
        ({"keys": [(0, 3)]}, "must be runs"),
        ({"keys": ((1, 5),)}, r"keys=\(\(1, 5\),\) must be queries=\(\(0, 6\),\): a tied axis"),
    ],
)
def test_wrong_axes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EVERYWHERE, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "wrap"}, "padding='wrap' is not known; expected one of zeros, circular"),
        ({"columns": AxisPart(((0, 7),), ((0, 7),), tied=True)}, "must lie in an image of 6"),
        ({"rows": AxisPart(((0, 6),), ((4, 7),), tied=False)}, "rows=.* must lie in an image of 6"),
    ],
)
def test_wrong_parts_are_refused(settings, message):
    part = WindowPart(EVERYWHERE, EVERYWHERE, (3, 3), X.shape[1:], "circular")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(part, **settings)


@dataclasses.dataclass(frozen=True)
class Lines(Dictionary):
    """Patches of the same line, circular."""

    rows: AxisPart = EVERYWHERE

    @property
    def parts(self):
        inside = AxisPart(((0, SIDE),), ((1, SIDE - 1),), tied=False)
        return (WindowPart(self.rows, inside, (3, 3), self.image_shape, "circular"),)


def lines(rows):
    class LineMachine(elsjax.ScoreMachine):
        def dictionary(self, window):
            return Lines("els", self.image_shape, window, rows=rows)

    return LineMachine("els", PIXELS, window=3)


def test_every_pixel_has_to_be_in_one_part():
    runs = ((0, 3), (4, SIDE))
    message = r"parts of Lines must hold every pixel once; pixel \(3, 0\) is in 0 of them"
    with pytest.raises(ValueError, match=message):
        lines(AxisPart(runs, runs, tied=True)).denoise(X, 0.5)


def test_a_dictionary_of_ones_own_against_its_definition():
    machine = lines(EVERYWHERE)
    alpha, sigma = map(float, machine.schedule(0.5))
    found = machine.posterior(X, 0.5, top=1)
    images = np.pad(PIXELS / 127.5 - 1.0, ((0, 0), (1, 1), (0, 0), (0, 0)), "wrap")
    x = np.pad(np.asarray(X, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), "wrap")
    for row, column in np.ndindex(SIDE, SIDE):
        window = x[0, row : row + 3, column : column + 3]
        patches = [
            (image[row : row + 3, c - 1 : c + 2], image[row + 1, c])
            for image in images
            for c in range(1, SIDE - 1)
        ]
        logits = [-((window - alpha * p) ** 2).sum() / (2 * sigma**2) for p, _ in patches]
        weights = np.exp(np.array(logits) - max(logits))
        expected = weights @ np.array([value for _, value in patches]) / weights.sum()
        np.testing.assert_allclose(found.mean[0, row, column], expected, atol=1e-4)
    np.testing.assert_array_equal(
        found.top.row[0, ..., 0], np.arange(SIDE)[:, None].repeat(SIDE, 1)
    )
