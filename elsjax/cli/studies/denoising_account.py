"""What `elsjax study denoising` says of its findings: a table, paragraphs and a picture."""

import numpy as np
from jaxtyping import Float

from elsjax.cli.account import FEWEST_FOR_INTERVAL, denoiser_title
from elsjax.experiments.denoising import AGREEMENT, DenoisingStudy
from elsjax.pages import Picture
from elsjax.plotting.denoising import denoising_figure

_MEASURES = {"pearson_r": "r", "r2": "R²", "high_pass_r2": "high-pass R²"}


class DenoisingAccount:
    """Table, text and picture of a study of denoising.

    Args:
      study: what was found.
      networks: names of the networks.
      num_images: number of training images.

    Attributes:
      rows: what is known of each denoiser and time, as JSON values.
    """

    def __init__(self, study: DenoisingStudy, networks: tuple[str, ...], num_images: int) -> None:
        self.rows = study.summary()
        self._study, self._networks, self._num_images = study, networks, num_images

    def table(self) -> list[list[str]]:
        """Errors and agreement over t as text, with a header."""
        study = self._study
        table = [["denoiser", "n", "what", *(f"t = {t:g}" for t in study.times)]]

        def add(name: str, what: str, values: Float[np.ndarray, " t"]) -> None:
            count = str(study.errors[name].shape[1])
            table.append([denoiser_title(name), count, what, *map(_number, values)])

        for name in study.errors:
            add(name, "error / Wiener", study.relative(name)[:, 0])
        for measure in AGREEMENT:
            for network in self._networks:
                for name in study.agreement:
                    found = study.median_agreement(name, network, measure)[:, 0]
                    add(name, f"{_MEASURES[measure]} with {network}", found)
        for name, seconds in study.seconds.items():
            add(name, "ms an image", 1000 * seconds)
        return table

    def paragraphs(self) -> list[str]:
        """The text of the report."""
        study = self._study
        count = study.unit.shape[1]
        sentences = [
            f"{count} images that no denoiser has seen, with noise, each denoised once at each of "
            f"{len(study.times)} times t: by {', '.join(self._networks)}, and by formulas over the "
            f"{self._num_images:,} training images, with nothing trained. All see the same noise.",
            "Held-out error: mean square of the estimate less the image, in units of that of the "
            "Wiener filter, the best linear denoiser, of all training images. Below 1 a denoiser "
            "knows more than means and covariances. Shaded: 95 % intervals, by bootstrap over the "
            "images.",
            "Agreement: how well an estimate predicts the network's, medians over images of the "
            "correlation r, of R², and of R² of what a mean over 3 × 3 pixels leaves (high-pass), "
            "which a blurred image does not win.",
        ]
        if count >= FEWEST_FOR_INTERVAL:
            sentences.append("Shaded there: exact 95 % intervals of the medians.")
        return sentences

    def pictures(self) -> list[Picture]:
        """The figure of the report."""
        study = self._study
        errors = {denoiser_title(name): study.relative(name) for name in study.errors}
        agreement = {
            network: {
                denoiser_title(name): study.median_agreement(name, network)
                for name in study.agreement
            }
            for network in self._networks
        }
        figure = denoising_figure(study.times, errors, agreement)
        caption = (
            "Good denoisers are low on the left; what explains a network is high on the right."
        )
        alt = "Held-out error over t, and correlation with the networks, a line for each denoiser."
        return [Picture("denoising.png", caption, alt, figure)]


def _number(value: float) -> str:
    """Three digits; "-" where it is undefined."""
    return "-" if np.isnan(value) else f"{value:.3g}"
