"""What `elsjax study attention` says of its findings: a table, paragraphs and pictures."""

from typing import Any

import numpy as np
from jaxtyping import Float

from elsjax.cli.account import FEWEST_FOR_INTERVAL, denoiser_title, median_cell
from elsjax.experiments.attention_study import MEASURES, NETWORK, AttentionStudy
from elsjax.pages import Picture
from elsjax.plotting.attention import attention_agreement_figure, attention_samples_figure

_TITLES = {
    "r": "r",
    "low_r": "r, low frequencies",
    "high_r": "r, high frequencies",
    "foreground_r": "r, foreground",
    "background_r": "r, background",
}
_MOST_SHOWN = 20  # samples in the picture


class AttentionAccount:
    """Table, text and pictures of a study of attention.

    Args:
      study: what was found.
      network: name of the network.
      without: name of the one without attention; None if there is none.
      num_images: number of training images.

    Attributes:
      rows: what is known, as JSON values.
    """

    def __init__(
        self, study: AttentionStudy, network: str, without: str | None, num_images: int
    ) -> None:
        self.rows = study.summary()
        self._study, self._network, self._without = study, network, without
        self._num_images = num_images
        self._found: dict[tuple[str, str, str], dict[str, Any]] = {
            (row["name"], row["target"], row["measure"]): row for row in self.rows["agreement"]
        }

    def table(self) -> list[list[str]]:
        """Agreement of networks with machines and with the network as text, with a header."""
        study = self._study
        machines = [denoiser_title(name) for name in study.machines]
        head = [part for name in machines for part in (name, f"{name}, less the network's")]
        pieces = {row["name"]: row["pieces"] for row in self.rows["pieces"]}
        table = [["samples", "what", *head, "the network", *(["pieces"] if pieces else [])]]
        for measure in MEASURES:
            for name in study.agreement:
                row = [denoiser_title(name), _TITLES[measure]]
                for target in study.machines:
                    row.append(self._cell(name, target, measure))
                    row.append(self._cell(name, target, measure, "difference_"))
                row.append(self._cell(name, NETWORK, measure))
                if pieces:
                    row.append(self._pieces(name) if measure == MEASURES[0] else "-")
                table.append(row)
        if pieces:
            for name in study.machines:
                table.append([denoiser_title(name), *(["-"] * (len(head) + 2)), self._pieces(name)])
        return table

    def paragraphs(self) -> list[str]:
        """The text of the report."""
        study = self._study
        count = study.maps.shape[1]
        layers = ", ".join(study.layers)
        sentences = [
            f"What does self-attention add to {self._network}? {count} samples of it and of its "
            "variants, from the same noise one step after t = 1, beside those of theories of the "
            f"{self._num_images:,} training images: the score machine that is its counterpart, "
            "which is local, and the Wiener filter.",
            f"Its attention layers, in the order in which they are applied: {layers}. In a row "
            "named after a layer every place attends evenly to all places there, with the weights "
            "of the network; in mean-all it does so in all layers. It was not trained so: what is "
            "lost is what the layer does in this network, not what one trained without would lack.",
        ]
        if self._without is not None:
            sentences.append(f"The network without attention, trained so: {self._without}.")
        sentences.append(
            "In the table: medians over the samples of Pearson r with each theory, and with the "
            "network's own samples; and of the differences to the network's r with the theory, "
            "sample by sample. Low frequencies are means over 3 × 3 pixels, high ones what these "
            "leave. Foreground is where a pixel receives more attention than the median pixel of "
            "its image, in the network, mean over layers and steps."
        )
        if count >= FEWEST_FOR_INTERVAL:
            sentences.append("In brackets: exact 95 % intervals of the medians.")
        if study.pieces:
            number = len(next(iter(study.pieces.values()))[0])
            sentences.append(
                f"Pieces: how few pieces of training images explain a sample, of the first {number}"
                " of each; what is like no training patch is left out."
            )
        return sentences

    def pictures(self) -> list[Picture]:
        """The figures of the report."""
        study = self._study
        names = list(study.agreement)
        panels = {
            _TITLES[measure]: {
                denoiser_title(target): np.array(
                    [self._point(name, target, measure) for name in names]
                )
                for target in (*study.machines, NETWORK)
            }
            for measure in MEASURES
        }
        agreement = attention_agreement_figure([denoiser_title(name) for name in names], panels)
        shown = {
            denoiser_title(name): images[:_MOST_SHOWN] for name, images in study.images.items()
        }
        samples = attention_samples_figure(study.maps.mean(0)[:_MOST_SHOWN], shown)
        return [
            Picture(
                "agreement.png",
                "Median Pearson r of samples with those of theories and of the network itself, "
                "with 95 % intervals where there are enough samples.",
                "Points with intervals, a row for each variant of the network.",
                agreement,
            ),
            Picture(
                "samples.png",
                "A column for each noise. Above: how much attention each pixel receives.",
                "Maps of attention and rows of samples.",
                samples,
            ),
        ]

    def _cell(self, name: str, target: str, measure: str, what: str = "") -> str:
        """A median with its interval; "-" where there is none."""
        row = self._found.get((name, target, measure), {})
        if f"{what}median" not in row:
            return "-"
        study = self._study
        values = (
            study.difference(name, target, measure)
            if what
            else study.agreement[name][target][measure]
        )
        number = _signed if what else _number
        return median_cell(row[f"{what}median"], row[f"{what}interval"], values, number)

    def _pieces(self, name: str) -> str:
        found = next(row["pieces"] for row in self.rows["pieces"] if row["name"] == name)
        counts = self._study.pieces[name][0].astype(float)
        return median_cell(found["median"], found["interval"], counts, lambda one: f"{one:g}")

    def _point(self, name: str, target: str, measure: str) -> Float[np.ndarray, " 3"]:
        row = self._found.get((name, target, measure), {"median": None, "interval": None})
        values = (row["median"], *(row["interval"] or (None, None)))
        return np.array([np.nan if value is None else value for value in values])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
