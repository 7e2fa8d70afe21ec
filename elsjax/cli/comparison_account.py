"""What `elsjax compare` says of a comparison: a table, paragraphs and pictures."""

import numpy as np
from jaxtyping import Float

from elsjax import plotting
from elsjax.cli.account import FEWEST_FOR_INTERVAL, median_cell
from elsjax.experiments.comparison import MEASURES, Comparison
from elsjax.experiments.protocols import Protocol
from elsjax.pages import DENOISERS, Picture

_PICTURED_SAMPLES = 8
_NAMES = {name: machine.name for name, machine in DENOISERS.items()}


class ComparisonAccount:
    """Table, text and pictures of a comparison with score machines, whose names are their kinds.

    Args:
      comparison: what was found.
      network: the network's name.
      num_images: number of training images.
      protocol: where network and machines started.
      tolerance: of the machines; None for exact ones.

    Attributes:
      rows: what is known of each number of network steps and machine, as JSON values.
    """

    def __init__(
        self,
        comparison: Comparison,
        network: str,
        num_images: int,
        protocol: Protocol,
        tolerance: float | None = None,
    ) -> None:
        self.comparison = comparison
        self.network = network
        self._num_images = num_images
        self._protocol = protocol
        self._tolerance = tolerance
        self.rows = comparison.summary("is" if "is" in comparison.machines else None)

    def table(self) -> list[list[str]]:
        """The rows as text, with a header."""
        ten_steps = self._protocol == "ten-step"
        means = ["mean r2"] if ten_steps else []
        table = [["machine", "network steps", *MEASURES, *means, "better than IS"]]
        for row in self.rows:
            measures = self.comparison.measures(row["machine"], row["network_steps"])
            cells = [
                median_cell(row[name], row[f"{name}_interval"], measures[name], _number)
                for name in MEASURES
            ]
            if ten_steps:
                mean, interval = row["mean_r2"], row["mean_r2_interval"]
                cells.append(median_cell(mean, interval, measures["r2"], _number))
            share = "-"
            if row.get("better_than_is") is not None:
                number = row["num_samples"] - row["num_undefined"]["better_than_is"]
                share = f"{row['num_better_than_is']} of {number}"
            table.append([_NAMES[row["machine"]], str(row["network_steps"]), *cells, share])
        return table

    def left_out(self) -> str:
        """What is not in the table because it is undefined; "" if nothing is."""
        parts = [
            f"{name} of {count} of {row['num_samples']} samples of {_NAMES[row['machine']]} with "
            f"{row['network_steps']} network steps"
            for row in self.rows
            for name, count in row["num_undefined"].items()
            if count and name in MEASURES
        ]
        if not parts:
            return ""
        why = "Undefined, because an image is constant or not finite, and left out"
        return f"{why}: {'; '.join(parts)}."

    def process(self) -> str:
        """Which process network and machines ran, and from where."""
        process = {
            "ddim": "the probability-flow ODE (ddim)",
            "heun": "the probability-flow ODE (heun)",
            "ancestral": "the reverse SDE (ancestral) along the same Brownian path",
        }[self.comparison.solver]
        late = 1 - 1 / self.comparison.num_steps
        return {
            "late": f"Both ran {process}, from t = {late:.3g}.",
            "aligned": f"Both ran {process}, from t = 1.",
            "ten-step": f"Both ran {process} in ten steps of DDPM's linear schedule, with "
            "estimates clipped to [-1, 1].",
            "published": f"Both ran {process}: the network from t = 1, machines from {late:.3g}, "
            "as the published code does.",
        }[self._protocol]

    def paragraphs(self) -> list[str]:
        """What was done and found."""
        last = list(self.comparison.machines)[-1]
        found = "; ".join(
            f"{_number(row['pearson_r'])} with {row['network_steps']} network steps"
            for row in self.rows
            if row["machine"] == last
        )
        exactness = "Results are exact."
        if self._tolerance is not None:
            exactness = (
                f"Each of their steps errs by an estimated {self._tolerance:g} or less, in [-1, 1]."
            )
        return [
            f"The network {self.network} drew {len(self.comparison.noise)} samples. From the same "
            f"noise, score machines drew theirs: formulas over the {self._num_images:,} training "
            f"images, with nothing trained. {self.process()} {exactness}",
            f"Median correlation of {_NAMES[last]} with the network, over the pixels of a sample: "
            f"{found}. A machine that only replays training images (IS) is the baseline. "
            f"{self._spread()}",
            *filter(None, [self.left_out()]),
        ]

    def _spread(self) -> str:
        """What stands beside the medians."""
        known = {
            row["num_samples"] - row["num_undefined"][name]
            for row in self.rows
            for name in MEASURES
        }
        sentences = []
        if max(known) >= FEWEST_FOR_INTERVAL:
            sentences.append("In brackets: exact 95 % intervals of the medians (order statistics).")
        if known & set(range(2, FEWEST_FOR_INTERVAL)):
            sentences.append(
                f"In parentheses: the values themselves; fewer than {FEWEST_FOR_INTERVAL} give no "
                "95 % interval of a median."
            )
        return " ".join(sentences)

    def pictures(self) -> list[Picture]:
        """The figures of the report."""
        comparison = self.comparison
        finest = max(comparison.network)
        r = {kind: comparison.measures(kind, finest)["pearson_r"] for kind in comparison.machines}
        pictures = [
            Picture(
                "samples.png",
                "Samples from the same noise; below, the correlation with the network's of "
                f"{finest} steps.",
                "A row of images for each sample: the noise; what each machine and the network "
                "made of it; the difference.",
                self._sample_figure(r, finest),
            )
        ]
        others = {_NAMES[kind]: values for kind, values in r.items() if kind != "is"}
        if "is" in r and others:
            figure = plotting.scatter_figure(others, r["is"], "IS")
            caption = "Each sample: above the line, better than IS."
            alt = "Correlation with the network of each machine, against that of IS."
            pictures.append(Picture("scatter.png", caption, alt, figure))
        if comparison.num_steps in comparison.network:
            times = comparison.network[comparison.num_steps].times[:-1]
            lines = {_NAMES[kind]: comparison.agreement(kind) for kind in comparison.machines}
            caption = "What machine and network expect behind the noise, step by step."
            alt = "Correlation of the expected images with the network's over t, a line a machine."
            figure = plotting.agreement_figure(times, lines)
            pictures.append(Picture("agreement.png", caption, alt, figure))
        return pictures

    def _sample_figure(self, r: dict[str, Float[np.ndarray, " b"]], finest: int) -> plotting.Figure:
        """The first samples of all, with the correlations r below those of the machines."""
        network, machines = self.comparison.network, self.comparison.machines
        shown = slice(0, _PICTURED_SAMPLES)
        last = list(machines)[-1]
        columns = [("noise", self.comparison.noise[shown])]
        columns += [(_NAMES[kind], found.images[shown]) for kind, found in machines.items()]
        columns += [(f"network, {steps}", found.images[shown]) for steps, found in network.items()]
        difference = (machines[last].images - network[finest].images)[shown] / 2
        columns.append((f"{_NAMES[last]} - network, {finest}", difference))
        captions = [
            ["", *[f"r = {_number(values[row])}" for values in r.values()]]
            + [""] * (len(network) + 1)
            for row in range(len(columns[0][1]))
        ]
        return plotting.sample_figure(columns, captions)


def _number(value: float | None) -> str:
    """A measure as text; "-" where it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"
