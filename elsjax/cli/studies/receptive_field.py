"""`elsjax study receptive-field`: how far a network looks, and its machine, at each noise level."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float

import elsjax
from elsjax import checks
from elsjax.cli.account import denoiser_title, save_report
from elsjax.cli.experiment import Experiment, OtherData, check_count, load_network
from elsjax.cli.progress import bar
from elsjax.cli.studies.command import StudyCommand
from elsjax.cli.window import network_window, window_list
from elsjax.experiments.counterparts import own_kind
from elsjax.experiments.heldout import TIMES
from elsjax.experiments.receptive_field import receptive_field, side_of_mass
from elsjax.experiments.runs import Run
from elsjax.experiments.states import States
from elsjax.pages import Picture
from elsjax.parallel import use_all_cores
from elsjax.plotting.denoising import receptive_field_figure
from elsjax.process.denoisers import Denoiser
from elsjax.process.windows import WindowSchedule

_SHARES = (0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class StudyReceptiveField(StudyCommand["_Account"]):
    """How far does a network look? Its receptive field at each noise level, beside its machine's.

    The mean absolute derivative of the estimate in the middle of the image with respect to each
    pixel of x_t, of the network by differentiation and of score machines from their dictionaries,
    at training images with noise. Prints the sides of the squares that hold half of it and 90 %;
    writes report.html, to be opened in a browser, with its picture, study.npz and config.json. An
    interrupted run goes on where it stopped when it is repeated.
    """

    network: str = "mnist5k/unet/zeros"
    """The network: a name that `elsjax zoo` lists, or a network.safetensors of `elsjax train`."""
    data: Annotated[OtherData, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=OtherData
    )
    """Training images. By default those that the network was trained on."""
    window: str | None = None
    """Window P(t) of the machine, as `elsjax compare --window`; a windows.json of `elsjax
    calibrate` is the network's own. Default: the published table."""
    num_images: int = 4
    """Number of noisy images: training images, evenly from all, with noise."""
    times: tuple[float, ...] = TIMES
    """Times t."""
    seed: int = 0
    """Seed of the noise; that of an image depends on the seed and its number alone."""
    out: Path = Path("elsjax-study-receptive-field")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def _run(self, run: Run) -> "_Account":
        """Writes the results; returns what is to be said of them."""
        check_count("num_images", self.num_images)
        checks.seed("seed", self.seed)
        if not self.times:
            raise ValueError("times=() must hold at least one")
        for t in self.times:
            checks.in_range("times", t, 0, 1)
            if t == 0:
                raise ValueError("times=0.0 must be positive: no noise is left")
        experiment = Experiment(
            self.network, self.data, num_samples=self.num_images, seed=self.seed
        )
        network = load_network(self.network)
        options = experiment.data_options(network)
        window = network_window(self.window, network, options.dataset, len(self.times))
        use_all_cores()
        data = experiment.load_data(network, options)
        if self.num_images > len(data):
            raise ValueError(f"num_images={self.num_images} must be at most {len(data)}")
        chosen = np.linspace(0, len(data) - 1, self.num_images).astype(int)
        label = None
        if network.num_classes is not None and data.labels is not None:
            label = data.labels[chosen]
        kind = own_kind(network)
        machine = elsjax.ScoreMachine(
            kind, data.pixels, data.labels, window=window, schedule=network.schedule
        )
        noise, x0 = experiment.noise(data), data.images[chosen]
        config = {
            "command": "study receptive-field",
            **experiment.describe(network, options, data, label),
            "times": list(self.times),
            "windows": window_list(window),
        }
        run.start(config)
        options.print_labels(data)
        states = States(run)
        denoisers: dict[str, Denoiser] = {"network": network, kind: machine}
        fields: dict[str, list[np.ndarray]] = {name: [] for name in denoisers}
        total = len(denoisers) * len(self.times)
        with bar("receptive fields", "field") as progress:
            for name, denoiser in denoisers.items():
                for place, t in enumerate(self.times):
                    progress(sum(map(len, fields.values())), total)
                    alpha, sigma = (np.asarray(level) for level in network.schedule(t))
                    x = alpha * x0 + sigma * noise
                    fields[name].append(_kept(states, f"{name}-{place}", denoiser, x, t, label))
            progress(total, total)
        sides = [window(t) if isinstance(window, WindowSchedule) else window for t in self.times]
        found = {name: np.stack(maps) for name, maps in fields.items()}
        account = _Account(self.network, np.array(self.times), found, np.array(sides, float))
        arrays = {f"field/{name}": maps for name, maps in found.items()}
        run.save_arrays("study.npz", {"times": np.array(self.times), **arrays})
        save_report(run, account, f"{self.network}: how far it looks", config, [kind])
        states.forget()
        run.finish()
        return account


def _kept(
    states: States,
    name: str,
    denoiser: Denoiser,
    x: Float[np.ndarray, "b h w c"],
    t: float,
    label: np.ndarray | None,
) -> Float[np.ndarray, "h w"]:
    """A receptive field, which an earlier start may have computed."""
    new = {"field": np.zeros(x.shape[1:3])}
    state = states.load(name, new, lambda state: bool((state["field"] >= 0).all()))
    if state is new:
        state = {"field": receptive_field(denoiser, x, t, label)}
        states.save(name, state)
    return state["field"]


class _Account:
    """Table, text and picture of the receptive fields of a network and of its machine."""

    def __init__(
        self,
        network: str,
        times: Float[np.ndarray, " t"],
        fields: dict[str, Float[np.ndarray, "t h w"]],
        windows: Float[np.ndarray, " t"],
    ) -> None:
        self._network, self._times, self._windows = network, times, windows
        self._fields = {denoiser_title(name): maps for name, maps in fields.items()}
        self._sides = {
            name: np.array([[side_of_mass(one, share) for share in _SHARES] for one in maps])
            for name, maps in self._fields.items()
        }

    def table(self) -> list[list[str]]:
        """Sides over t as text, with a header."""
        shares = [f"{share:.0%}".replace("%", " %") for share in _SHARES]
        head = ["t", *(f"{name}, {share}" for name in self._sides for share in shares), "P(t)"]
        rows = []
        for place, t in enumerate(self._times):
            sides = [str(side) for both in self._sides.values() for side in both[place]]
            rows.append([f"{t:g}", *sides, f"{self._windows[place]:g}"])
        return [head, *rows]

    def paragraphs(self) -> list[str]:
        """The text of the report."""
        return [
            f"How far does {self._network} look? The mean absolute derivative of its estimate of "
            "the pixel in the middle with respect to each pixel of the noisy image, over training "
            "images with noise, and the same of the score machine that is its counterpart, whose "
            "derivatives are covariances of training patches.",
            "In the table: the side of the square around the pixel that holds half of the sum of "
            "the derivatives, and 90 %; beside them P(t), the machine's window.",
        ]

    def pictures(self) -> list[Picture]:
        """The figure of the report."""
        figure = receptive_field_figure(self._times, self._fields, self._sides, self._windows)
        caption = "Above: each map relative to its largest value. Below: the sides that hold them."
        alt = "Maps of derivatives, wider the higher the noise, and sides of squares over t."
        return [Picture("receptive_field.png", caption, alt, figure)]
