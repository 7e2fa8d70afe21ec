"""What `elsjax study training` says of its findings: a table, paragraphs and pictures."""

from typing import Any

import numpy as np

from elsjax.cli.account import FEWEST_FOR_INTERVAL, denoiser_title
from elsjax.data.datasets import Dataset
from elsjax.experiments.learning import LearningStudy
from elsjax.pages import Picture
from elsjax.plotting import sample_figure
from elsjax.plotting.learning import learning_figure

_PICTURED = 8


class LearningAccount:
    """Table, text and pictures of a study of training.

    Args:
      study: what was found.
      data: training images.
      batch_size: number of images in a step of the training.

    Attributes:
      rows: what is known at each step, as JSON values.
    """

    def __init__(self, study: LearningStudy, data: Dataset, batch_size: int) -> None:
        self._study, self._data, self._batch_size = study, data, batch_size
        self.rows = study.summary()
        for row in self.rows:
            row["images_seen"] = row["step"] * batch_size

    def table(self) -> list[list[str]]:
        """What was found over the steps as text, with a header."""
        study = self._study
        keys = {"step": "step", "training_error": "training error"}
        if study.heldout is not None:
            keys["heldout_error"] = "held-out error"
        keys |= {f"r_{name}": f"r, {denoiser_title(name)}" for name in study.others}
        keys |= {
            f"partial_r_{name}": f"partial r, {denoiser_title(name)}"
            for name in study.others
            if name != study.machine
        }
        keys |= {"memorized": "memorized", "memorized_shifted": "with shifts"}
        if study.pieces.shape[1]:
            keys |= {"pieces": "pieces", "unexplained": "unexplained"}
        return [list(keys.values())] + [[_number(row[key]) for key in keys] for row in self.rows]

    def paragraphs(self) -> list[str]:
        """The text of the report."""
        study, count = self._study, self._study.samples.shape[1]
        machine = denoiser_title(study.machine)
        unit = "training" if study.heldout is None else "held-out"
        sentences = [
            f"A network is trained on {len(self._data):,} images, {self._batch_size} in a step. At "
            f"{len(study.steps)} steps it paints {count} samples from always the same noise. So do "
            "analytic denoisers of the same training images.",
            "r: the median over the samples of the correlation with what each denoiser paints from "
            f"the same noise. Partial r: that of what is left when {machine} is fitted to both. It "
            f"tells what the network goes to where it leaves {machine}.",
            "Memorized: the share of samples that are three times nearer to a training image than "
            "to any other (Gu et al. 2023); with shifts, where an image and its circular shifts "
            "are the same.",
            "Errors: mean square of the estimate less the image, in units of that of the Wiener "
            f"filter of the training images on {unit} images, mean over ten noise levels.",
        ]
        if study.second is not None:
            sentences.append(
                "The second network learned from as many other images. Where both agree, what they "
                "paint is that of the distribution of images, and not of the images they have seen."
            )
        if study.pieces.shape[1]:
            beside = ", ".join(
                f"{denoiser_title(name)} {np.median(found[:, 0]):g}"
                for name, found in study.reference_pieces.items()
            )
            sentences.append(
                "Pieces: how many pieces of training images at least explain a sample. "
                "Unexplained: the share of pixels that none explains. Medians over "
                f"{study.pieces.shape[1]} samples. Pieces of others: {beside}."
            )
        if count >= FEWEST_FOR_INTERVAL:
            sentences.append("Shaded: 95 % intervals.")
        return sentences

    def pictures(self) -> list[Picture]:
        """The figures of the report."""
        study = self._study
        titles = {name: denoiser_title(name) for name in study.others}
        curves = Picture(
            "learning.png",
            "A network as it is trained. Above: what predicts its samples, and what they go to "
            f"where they leave {denoiser_title(study.machine)}. Below: memory and errors.",
            "Lines over the steps of training, on a logarithmic scale.",
            learning_figure(study, self.rows, titles),
        )
        columns = [
            (f"step {step:,}", images[:_PICTURED])
            for step, images in zip(study.steps, study.samples, strict=True)
        ]
        nearest = self._data.images[study.nearest[-1, :_PICTURED]]
        columns.append(("nearest", nearest))
        columns += [
            (denoiser_title(name), images[:_PICTURED]) for name, images in study.denoisers.items()
        ]
        if study.second is not None:
            columns.append((denoiser_title("second network"), study.second[-1, :_PICTURED]))
        samples = Picture(
            "samples.png",
            "A row for each noise. From left to right: the network as it is trained, the training "
            "image nearest to its last sample, analytic denoisers, and the second network.",
            "Samples of the network at each step beside those of the denoisers.",
            sample_figure(columns),
        )
        return [curves, samples]


def _number(value: Any) -> str:
    """Three digits; "-" where it is undefined."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
