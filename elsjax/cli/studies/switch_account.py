"""What `elsjax study switch` says of its findings: a table, paragraphs and pictures."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from elsjax.cli.account import FEWEST_FOR_INTERVAL, median_cell
from elsjax.experiments.switching import ORDERS, Order, SwitchingStudy
from elsjax.pages import DENOISERS, Picture
from elsjax.plotting import sample_figure
from elsjax.plotting.switching import switching_figure

_PLACES = {"pearson_r": "all pixels", "border_r": "border", "interior_r": "interior"}
_SHOWN = 4  # samples in the picture


class SwitchingAccount:
    """Table, text and pictures of a study of switching.

    Args:
      study: what was found.
      network: name of the network.
      machine: of the machine, as the command line has it.

    Attributes:
      rows: what is known of each order and switch, as JSON values.
    """

    def __init__(self, study: SwitchingStudy, network: str, machine: str) -> None:
        self.rows = study.summary()
        self._study, self._network = study, network
        self._machine = DENOISERS[machine].name
        self._titles: dict[Order, str] = {
            "machine-network": f"{self._machine}, then network",
            "network-machine": f"network, then {self._machine}",
        }
        self._measures = {order: study.measures(order) for order in ORDERS}

    def table(self) -> list[list[str]]:
        """Agreement with the network's own samples, switch by switch, as text, with a header."""
        table = [["drawn by", "switch", "t", "r", "change", "border", "interior", "border's share"]]
        for order, title in self._titles.items():
            for place, row in enumerate(self._of(order)):
                values = self._measures[order]["pearson_r"][place]
                table.append(
                    [
                        title,
                        str(row["switch"]),
                        f"{row['t']:.3g}",
                        median_cell(row["pearson_r"], row["pearson_r_interval"], values, _number),
                        _signed(row["pearson_r_change"]),
                        _number(row["border_r"]),
                        _number(row["interior_r"]),
                        _percent(row["border_share"]),
                    ]
                )
        return table

    def paragraphs(self) -> list[str]:
        """The text of the report."""
        study = self._study
        count = len(study.network)
        first, second = self._titles.values()
        sentences = [
            f"{count} samples from the same noise, drawn by {self._network} and by {self._machine} "
            "in turns: one takes the first steps of the reverse process (ddim, from t = "
            f"{study.times[0]:.3g}), the other goes on from its state. Each is compared with the "
            "network's own sample.",
            "In the table: how many steps are taken before the switch, the time t of the switch, "
            f'and medians over the samples of Pearson\'s r. Of "{first}", the first row is the '
            f'network\'s own sample and the last one that of {self._machine}; of "{second}", the '
            "other way round.",
            "Change: median over the samples of the difference from the row above, which is due "
            "to the steps between the two switches.",
            f"Border: pixels within {study.border} of an edge; interior: all others; border's "
            "share: how much of the sum of squared differences lies in the border, which holds "
            f"{self._border_area():.0%} of the pixels.".replace("%", " %"),
        ]
        if count >= FEWEST_FOR_INTERVAL:
            sentences.append("In brackets: exact 95 % intervals of the medians.")
        return sentences

    def pictures(self) -> list[Picture]:
        """The figures of the report."""
        times = self._study.times[list(self._study.switches)]
        curves = {
            title: {place: _curve(self._of(order), measure) for measure, place in _PLACES.items()}
            for order, title in self._titles.items()
        }
        return [
            Picture(
                "switching.png",
                "Steep where the steps matter. Shaded: 95 % intervals over all pixels.",
                "Correlation with the network's sample over the time of the switch: one curve "
                "falls from 1 to that of the machine, the other rises from it to 1.",
                switching_figure(times, curves),
            ),
            Picture(
                "examples.png",
                "Samples, a row for each switch; below, the time of the switch and r. "
                f"{self._machine} first: the network's own sample above, {self._machine}'s own "
                "below. Network first: the other way round.",
                "Images that change from the network's sample to the machine's from the top down, "
                "and the other way round beside them.",
                self._examples(),
            ),
        ]

    def _examples(self) -> Figure:
        """Images of the first samples by switch, both orders beside each other."""
        study = self._study
        columns: list[tuple[str, np.ndarray]] = []
        captions: list[list[str]] = [[] for _ in study.switches]
        for order in ORDERS:
            first = self._machine if order == "machine-network" else "network"
            r = self._measures[order]["pearson_r"]
            for sample in range(min(_SHOWN, len(study.network))):
                columns.append((f"{first} first", study.images[order][:, sample]))
                for place, switch in enumerate(study.switches):
                    said = f"t = {study.times[switch]:.2g}, r = {_number(r[place, sample])}"
                    captions[place].append(said)
        return sample_figure(columns, captions)

    def _of(self, order: Order) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["order"] == order]

    def _border_area(self) -> float:
        """Share of the pixels that are of the border."""
        height, width = self._study.network.shape[1:3]
        inside = (height - 2 * self._study.border) * (width - 2 * self._study.border)
        return 1 - inside / (height * width)


def _curve(rows: list[dict[str, Any]], measure: str) -> Float[np.ndarray, "k 3"]:
    """Medians and the ends of their intervals; NaN where there is none."""
    return np.array(
        [[row[measure], *(row[f"{measure}_interval"] or (None, None))] for row in rows], float
    )


def _number(value: float | None) -> str:
    """Two decimals; "-" where it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"


def _signed(value: float | None) -> str:
    """Three decimals with a sign; "-" where it is undefined."""
    return "-" if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    """A share in per cent; "-" where it is undefined."""
    return "-" if value is None else f"{100 * value:.0f} %"
