"""What `elsjax study mosaics` says of its findings: a table, paragraphs and pictures."""

import functools
import math
from typing import Any

import numpy as np

from elsjax.cli.account import FEWEST_FOR_INTERVAL, median_cell
from elsjax.experiments.mosaics.findings import MosaicStudy
from elsjax.experiments.mosaics.limb_study import WIDE
from elsjax.experiments.mosaics.toy import consistent_images, entropy_per_pixel
from elsjax.pages import MACHINES, Picture
from elsjax.plotting import mosaics as mosaic_plots

_PICTURED = 4  # images of each source
_TOY_SIDES, _TOY_WIDTHS = (3, 4, 5), (3, 4, 5, 6)
_NAMES = {
    "training": "training image",
    "heldout": "held-out",
    "network": "network",
    **{kind: machine.name for kind, machine in MACHINES.items()},
}
_NO_CONTROL = (
    "Held-out images, the control, are left out: none are at hand (for data sets of TFDS, set "
    "TFDS_DATA_DIR)."
)


class MosaicAccount:
    """Table, text and pictures of a study of mosaics.

    Args:
      study: what was found.
      network: the network's name.
      num_images: number of training images.

    Attributes:
      rows: medians of each source and tolerance, as JSON values.
    """

    def __init__(self, study: MosaicStudy, network: str, num_images: int) -> None:
        self.rows = study.summary()
        self._study, self._network, self._num_images = study, network, num_images
        # Where one is to be shown: neither the strictest nor the loosest.
        self._tolerance = sorted(study.tolerance)[len(study.tolerance) // 2]

    def summary(self) -> dict[str, Any]:
        """All of it as JSON values."""
        limbs = {
            name: {"excess": rate.excess, "images": rate.total, "interval": list(rate.interval)}
            for name, rate in self._study.limbs.items()
        }
        toy = {
            "consistent_images": {str(side): consistent_images(side, side) for side in _TOY_SIDES},
            "entropy_per_pixel": {str(width): entropy_per_pixel(width) for width in _TOY_WIDTHS},
        }
        return {"rows": self.rows, "limbs": limbs, "toy": toy}

    def table(self) -> list[list[str]]:
        """The rows as text, with a header."""
        steps = self._study.steps
        table = [
            [
                *("images", "n", "ε", "pieces", "for 95 %", "uncovered", "in place"),
                *(f"consistent, {one} steps" for one in steps),
                *(f"tiles, {one} steps" for one in steps),
            ]
        ]
        for row in self.rows:
            values = self._study.measures(row["source"], row["tolerance"])
            shares = ("uncovered", "in_place", *(f"consistent_{one}" for one in steps))
            tiles = [f"tiles_{one}" for one in steps]
            table.append(
                [
                    _NAMES[row["source"]],
                    str(row["num_images"]),
                    f"{row['tolerance']:g}",
                    *(_cell(row, name, values[name]) for name in ("pieces", "pieces_95")),
                    *(_cell(row, name, values[name], percent=True) for name in shares),
                    *(_cell(row, one, values[one]) if one in values else "-" for one in tiles),
                ]
            )
        return table

    def remarks(self) -> list[str]:
        """What stands below the table in a terminal."""
        return [*([] if "heldout" in self._study.sources else [_NO_CONTROL]), *self._limbs()]

    def paragraphs(self) -> list[str]:
        """The text of the report."""
        study = self._study
        side = study.window
        own = " of its class" if study.sources["training"].label is not None else ""
        last = " and ".join(dict.fromkeys(map(str, study.last_windows.values())))
        return [
            f"Are samples mosaics? The network {self._network} drew {len(study.noise)} of them. "
            "From the same noise, one step after t = 1, score machines drew theirs. Each image is "
            f"explained by the fewest pieces of the {self._num_images:,} training images: a piece "
            f"is one training image{own} at one offset, and covers the pixels whose {side} × "
            f"{side} windows differ by a root mean square of at most ε, in units of [-1, 1]. "
            "Pieces are taken greedily, the largest first. Samples whose pieces are counted took "
            f"{study.steps[0]} steps.",
            self._found(),
            "A pixel is consistent where it differs by at most ε from the centre of the patch that "
            f"is nearest to its window, of side {last} as in the last step: in each machine's own "
            "dictionary, and for other images in that of the network's counterpart, "
            f"{_NAMES[study.kind]}. Tiles are connected pixels whose likeliest sources at a "
            "machine's last step are of one image and one offset; only those count that have a "
            "pixel of a clear source, of a weight of at least one half.",
            *self.remarks(),
            self._toy(),
            f"In brackets: exact 95 % intervals of the medians (order statistics), from "
            f"{FEWEST_FOR_INTERVAL} images on; of fewer, the values themselves in parentheses.",
        ]

    def pictures(self) -> list[Picture]:
        """The figures of the report."""
        study = self._study
        pieces = {_NAMES[name]: found.pieces for name, found in study.sources.items()}
        strictest = min(study.tolerance)
        loosest = study.tolerance.index(max(study.tolerance))
        shares = {
            _NAMES[name]: {
                steps: study.measures(name, strictest)[f"consistent_{steps}"]
                for steps in study.steps
            }
            for name in study.sources
        }
        return [
            Picture(
                "pieces.png",
                "Pieces that explain an image: a dot for each image, a line for the median.",
                "Number of pieces of each image, by source, a panel for each tolerance.",
                mosaic_plots.pieces_figure(pieces, study.tolerance),
            ),
            Picture(
                "coverage.png",
                "How much of an image its first pieces cover, the largest first.",
                "Share of the pixels covered against the number of pieces, a line for each image.",
                mosaic_plots.coverage_figure(pieces, study.tolerance),
            ),
            Picture(
                "consistency.png",
                "Share of the pixels that are those of the nearest patch: medians, and from the "
                "smallest to the largest.",
                "Share of consistent pixels against the number of steps, a line for each source.",
                mosaic_plots.consistency_figure(shares, strictest),
            ),
            Picture(
                "pictures.png",
                f"Images and their pieces at ε = {max(study.tolerance):g}, a colour for each; "
                "grey is in none. Below, the number of pieces, and how much they cover if not all.",
                "Images of each source, each with a map of its pieces beside it.",
                mosaic_plots.pictured_pieces_figure(
                    {_NAMES[n]: s.images[:_PICTURED] for n, s in study.sources.items()},
                    {_NAMES[n]: s.pieces[loosest][:_PICTURED] for n, s in study.sources.items()},
                ),
            ),
        ]

    def _found(self) -> str:
        """Numbers of pieces in a sentence, held against the control."""
        study = self._study
        rows = {row["source"]: row for row in self.rows if row["tolerance"] == self._tolerance}
        medians = ", ".join(
            f"{_NAMES[name]} {row['pieces']:g}" for name, row in rows.items() if name != "training"
        )
        check = int(study.measures("training", self._tolerance)["pieces"][0])
        found = (
            f"At ε = {self._tolerance:g} the median number of pieces is: {medians}. The check: the "
            f"first training image is {check} {'piece' if check == 1 else 'pieces'}."
        )
        if "heldout" not in rows:
            return found
        most = study.measures("heldout", self._tolerance)["pieces"].max()
        more = [
            f"{int((study.measures(name, self._tolerance)['pieces'] > most).sum())} of "
            f"{row['num_images']} samples of {_NAMES[name]}"
            for name, row in rows.items()
            if name not in ("training", "heldout")
        ]
        return (
            f"{found} More pieces than any held-out image, whose most are {most:g}, are needed by "
            f"{', '.join(more)}."
        )

    def _toy(self) -> str:
        toy = self.summary()["toy"]
        counts = ", ".join(
            f"{count:,} of {side} × {side}" for side, count in toy["consistent_images"].items()
        )
        entropy = ", ".join(
            f"{value:.3f} at width {width}" for width, value in toy["entropy_per_pixel"].items()
        )
        return (
            "The toy of the theory has two training images, black and white, and 3 × 3 windows: "
            f"{counts} pixels are locally consistent. On long strips their logarithm grows by "
            f"{entropy} for each pixel; that of all images by log 2 = {math.log(2):.3f}."
        )

    def _limbs(self) -> list[str]:
        """A sentence, where there are trousers."""
        names = {**_NAMES, "training": "training"}
        said = []
        for name, rate in self._study.limbs.items():
            kind = name.removesuffix("-wide")
            wide = f" of windows from {WIDE} on" if kind != name else ""
            low, high = (100 * end for end in rate.interval)
            said.append(
                f"{names[kind]}{wide} {rate.excess} of {rate.total} [{low:.1f}, {high:.1f} %]"
            )
        if not said:
            return []
        return [f"Trousers with an excess of limbs, with Wilson's intervals: {'; '.join(said)}."]


def _cell(row: dict[str, Any], name: str, values: np.ndarray, *, percent: bool = False) -> str:
    """A median of a row, with its interval or the values."""
    number = functools.partial(_number, percent=percent)
    cell = median_cell(row[name], row[f"{name}_interval"], values, number)
    return f"{cell} %" if percent else cell


def _number(value: float | None, percent: bool) -> str:
    """A number as text; "∞" where no number of pieces is enough."""
    if value is None or not math.isfinite(value):
        return "∞"
    return f"{100 * value:.1f}" if percent else f"{value:g}"
