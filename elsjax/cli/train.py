"""`elsjax train`: a network on a data set."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from tqdm import tqdm

import elsjax
from elsjax import checks, plotting
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.schedule import parse_schedule
from elsjax.data.datasets import Dataset
from elsjax.experiments.heldout import TIMES, HeldoutCurve
from elsjax.experiments.runs import Run
from elsjax.experiments.training import Heldout, check_levels, start_training
from elsjax.nn import PRESETS, Network
from elsjax.nn.files import (
    load_network,
    named_weights,
    network_bytes,
    network_config,
    set_weights,
)
from elsjax.nn.layers import Padding
from elsjax.nn.network import Prediction
from elsjax.parallel import use_all_cores
from elsjax.process.denoisers import last_time
from elsjax.training.checkpoints import Checkpoints
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import check_data
from elsjax.training.step import TrainingState

NetworkName = Literal[
    "resnet",
    "resnet-small",
    "unet",
    "unet-small",
    "attention-unet",
    "attention-unet-small",
    "residual-unet-small",
]
_PICTURED_SAMPLES = 16
_PICTURED_STEPS = 20
_MOST_CLASSES = 100_000  # a network has a row of weights for each


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a network to denoise.

    Writes network.safetensors (averaged weights), losses.npz, heldout.npz, losses.png, samples.png
    and config.json, as it goes in the folder OUT.partial. An interrupted run goes on where it
    stopped when it is repeated, and ends the same to the last bit.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataOptions
    )
    """Training images."""
    network: NetworkName = "unet-small"
    """The paper's sizes, or small ones that train on a CPU in hours; residual-unet-small is
    attention-unet-small without its attention."""
    padding: Padding = "zeros"
    """Padding of every convolution: zeros or circular."""
    prediction: Prediction = "velocity"
    """What the network predicts. The paper's networks predict noise; with the velocity, estimates
    of the image are better at high noise."""
    schedule: str = "cosine"
    """Noise schedule: cosine (the paper's), linear (DDPM's betas) or exponential, with parameters
    after commas if any, as in cosine,offset=0.008 or linear,beta_last=0.03,num_steps=500."""
    conditional: bool = False
    """Condition on the class."""
    weights: Path | None = None
    """Start from the weights of this network.safetensors, of the same architecture, prediction and
    schedule."""
    config: Annotated[TrainingConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=TrainingConfig
    )
    """Options of the training."""
    checkpoint_every: int = 200
    """Steps from checkpoint to checkpoint, with pictures each time."""
    evaluate_every: int = 1000
    """Steps between measurements of the error on held-out images, at ten noise levels."""
    heldout: str | None = None
    """Data set of held-out images; of a TFDS data set its split test. By default the split test of
    the training images' own, and for mnist5k MNIST's training set without the 5,000."""
    num_heldout: int = 500
    """Number of held-out images, evenly of all classes; 0 for none."""
    out: Path = Path("elsjax-network")
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is computed or written.
          FloatingPointError: if training diverges; the last good checkpoint is kept.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            loss = self._run(run)
        print(f"loss {loss:.4f} over the last steps; {self.out}: network.safetensors, samples.png")

    def _run(self, run: Run) -> float:
        """Trains and writes the results; returns the loss over the last steps."""
        self._check()
        use_all_cores()
        data = self.data.load()
        network = self._network(data)
        labels = data.labels if self.conditional else None
        check_data(network, data.pixels, labels, self.config)
        images = self._heldout_images(data, network)
        run.start(self._record(data, network, images))
        self.data.print_labels(data)
        heldout = None if images is None else (images.pixels, images.labels)
        beginning = self._beginning(run, network, data, heldout)
        checkpoints, start = self._earlier(run, beginning)
        with self._bar(len(start.losses)) as bar:

            def report(result: elsjax.TrainingResult) -> None:
                _show(bar, result, self.config.batch_size)
                steps = len(result.losses)
                if steps % self.checkpoint_every == 0 or steps == self.config.num_steps:
                    _save(run, checkpoints, result)

            result = elsjax.train(
                network,
                data.pixels,
                labels,
                self.config,
                heldout=heldout,
                evaluate_every=self.evaluate_every,
                resume=start,
                report=report,
                report_every=math.gcd(10, self.checkpoint_every),
            )
        checkpoints.close()
        run.remove("checkpoints")
        run.finish()
        if result.heldout is not None:
            print(f"held-out error over the Wiener filter's: {_table(result.heldout)}")
        return float(result.losses[-1000:].mean())

    def _check(self) -> None:
        """Raises ValueError if an option is wrong by itself."""
        parse_schedule(self.schedule)
        checks.positive_int("checkpoint_every", self.checkpoint_every)
        checks.positive_int("evaluate_every", self.evaluate_every)
        checks.in_range("num_heldout", self.num_heldout, 0, math.inf)
        if self.weights is not None and not self.weights.is_file():
            raise ValueError(f"weights={str(self.weights)!r} is not a file")

    def _bar(self, taken: int) -> tqdm:
        """A progress bar that starts after some steps."""
        batch = self.config.batch_size
        return tqdm(
            total=self.config.num_steps * batch,
            initial=taken * batch,
            desc=f"training {self.network}",
            unit="image",
            unit_scale=True,
            smoothing=0.05,
        )

    def _earlier(
        self, run: Run, beginning: elsjax.TrainingResult
    ) -> tuple[Checkpoints, elsjax.TrainingResult]:
        """Where an earlier start of this run left it, or the beginning."""
        checkpoints = Checkpoints(run.folder("checkpoints"))
        state = checkpoints.latest(beginning.state)
        curve = beginning.heldout
        if state is None:
            return checkpoints, _until(beginning, beginning.state, beginning.losses)
        taken = int(state.step)
        saved = run.load_arrays("losses.npz", {"losses": (np.float32, (None,))})
        measured = curve is None or len(curve.until(taken).steps) >= taken // self.evaluate_every
        if saved is not None and len(saved["losses"]) >= taken and measured:
            return checkpoints, _until(beginning, state, saved["losses"][:taken])
        # Without these the result would not be that of the run that was never stopped.
        lost = "losses" if measured else "held-out errors"
        checks.warn(f"the {lost} of the unfinished run are lost; it starts anew")
        checkpoints.close()
        run.remove("checkpoints")
        checkpoints = Checkpoints(run.folder("checkpoints"))
        return checkpoints, _until(beginning, beginning.state, beginning.losses)

    def _beginning(
        self, run: Run, network: Network, data: Dataset, heldout: Heldout | None
    ) -> elsjax.TrainingResult:
        """The result of no step, with all held-out errors that the run knows."""
        if heldout is None:
            return start_training(network, data.pixels, self.config)
        count = len(TIMES)
        saved = run.load_arrays(
            "heldout.npz",
            {
                "times": (np.float64, (count,)),
                "wiener": (np.float64, (count,)),
                "steps": (np.int64, (None,)),
                "errors": (np.float64, (None, count)),
            },
        )
        if saved is not None:
            start = start_training(network, data.pixels, self.config)
            return dataclasses.replace(start, heldout=HeldoutCurve(**saved))
        print("computing the Wiener filter of the training images, the unit of held-out error")
        start = start_training(network, data.pixels, self.config, heldout)
        if start.heldout is not None:
            run.save_arrays("heldout.npz", start.heldout._asdict())
        return start

    def _network(self, data: Dataset) -> Network:
        num_classes = None
        if self.conditional:
            if data.labels is None:
                raise ValueError(f"conditional=True, but {data.name!r} has no labels")
            num_classes = int(data.labels.max()) + 1
            if data.label_names is not None:
                num_classes = len(data.label_names)
            elif num_classes > _MOST_CLASSES:
                raise ValueError(
                    f"conditional=True, but the labels of {data.name!r} go up to "
                    f"{num_classes - 1}; expected classes, numbered from 0 on"
                )
        network = PRESETS[self.network](
            data.pixels.shape[1:],
            padding=self.padding,
            num_classes=num_classes,
            prediction=self.prediction,
            schedule=parse_schedule(self.schedule),
            rngs=nnx.Rngs(self.config.seed),
        )
        check_levels(network)
        if self.weights is not None:
            started = load_network(self.weights)
            if started.prediction != self.prediction:
                raise ValueError(
                    f"prediction={self.prediction!r}, but weights={str(self.weights)!r} are of a "
                    f"network that predicts {started.prediction!r}"
                )
            if started.schedule != network.schedule:
                raise ValueError(
                    f"schedule={self.schedule!r}, but weights={str(self.weights)!r} are of a "
                    f"network with {started.schedule}"
                )
            set_weights(network, named_weights(started), str(self.weights))
        return network

    def _heldout_images(self, data: Dataset, network: Network) -> Dataset | None:
        """Images that are not trained on; None if there are to be none, or none are at hand."""
        if not self.num_heldout:
            return None
        images = self.data.held_out(data, self.heldout, self.num_heldout)
        if images is not None and network.num_classes is not None:
            if images.labels is None:
                raise ValueError(f"heldout={images.name!r} has no labels; conditional=True")
            if images.labels.max() >= network.num_classes:
                raise ValueError(
                    f"heldout={images.name!r} has classes up to {images.labels.max()}, the "
                    f"training images {network.num_classes} classes"
                )
        return images

    def _record(self, data: Dataset, network: Network, images: Dataset | None) -> dict[str, Any]:
        """Everything that determines the results, and the versions that computed them."""
        options = dataclasses.asdict(self)
        del options["data"]
        options |= dataclasses.asdict(self.data.absolute()) | options.pop("config")
        for irrelevant in ("out", "overwrite", "checkpoint_every"):
            del options[irrelevant]
        options["weights"] = None if self.weights is None else str(self.weights.absolute())
        del options["schedule"]  # in words; the architecture has its numbers
        return {
            "command": "train",
            **options,
            "architecture": network_config(network),
            **describe(data),
            "heldout_images": None if images is None else _description(images),
        }


def _until(
    beginning: elsjax.TrainingResult, state: TrainingState, losses: np.ndarray
) -> elsjax.TrainingResult:
    """The result in a state, with the losses and held-out errors up to it."""
    curve = None if beginning.heldout is None else beginning.heldout.until(len(losses))
    return dataclasses.replace(beginning, state=state, losses=losses, heldout=curve)


def _show(bar: tqdm, result: elsjax.TrainingResult, batch_size: int) -> None:
    """Moves the bar to a result."""
    bar.set_postfix_str(f"loss {result.losses[-200:].mean():.4f}{_summary(result.heldout)}")
    bar.update(len(result.losses) * batch_size - bar.n)


def _save(run: Run, checkpoints: Checkpoints, result: elsjax.TrainingResult) -> None:
    """Everything that is known so far; the checkpoint last, since it is what goes on."""
    steps = len(result.losses)
    samples = _samples(result.network)
    if not np.isfinite(samples).all():
        raise FloatingPointError(
            f"training diverged before step {steps}: the network's samples are not finite; "
            "a lower learning_rate, a warm-up or clip_norm may help"
        )
    content = network_bytes(result.network)
    run.write("network.safetensors", lambda file: file.write(content))
    run.save_arrays("losses.npz", {"losses": result.losses})
    if result.heldout is not None:
        run.save_arrays("heldout.npz", result.heldout._asdict())
    figure = plotting.loss_figure(result.losses, result.heldout)
    run.write("losses.png", lambda file: figure.savefig(file, format="png"))
    grid = plotting.grid_figure(samples)
    run.write("samples.png", lambda file: grid.savefig(file, format="png"))
    checkpoints.save(steps, result.state)


def _description(images: Dataset) -> dict[str, Any]:
    described = describe(images)
    return {
        "dataset": images.name,
        "split": images.split,
        **{key: described[key] for key in ("num_images", "images_sha256")},
    }


def _summary(curve: HeldoutCurve | None) -> str:
    """The last held-out errors in a few words: their mean over the times, and the worst."""
    if curve is None or not len(curve.steps):
        return ""
    relative = curve.relative[-1]
    worst = curve.times[relative.argmax()]
    return f", held-out {relative.mean():.3f} of Wiener's, {relative.max():.3f} at t={worst:g}"


def _table(curve: HeldoutCurve) -> str:
    """The last held-out errors at all times."""
    pairs = zip(curve.times, curve.relative[-1], strict=True)
    return ", ".join(f"{error:.3f} at t={t:g}" for t, error in pairs)


def _samples(network: Network) -> np.ndarray:
    """Samples of a network, always from the same noise, a row or two; each class in its turn."""
    x = elsjax.initial_noise(jax.random.key(0), _PICTURED_SAMPLES, network.image_shape)
    label = None
    if network.num_classes is not None:
        label = np.arange(_PICTURED_SAMPLES, dtype=np.int32) % network.num_classes
    start = last_time(network.schedule, network.least_alpha)
    times = start * np.arange(_PICTURED_STEPS, -1, -1) / _PICTURED_STEPS
    for step in elsjax.reverse_process(network, x, label=label, times=times):
        x = step.x
        if not jnp.isfinite(x).all():
            break
    return np.asarray(x)
