"""`elsjax train`: a network on a data set."""

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from tqdm import tqdm

import elsjax
from elsjax import checks, plotting, training
from elsjax.checkpoints import Checkpoints
from elsjax.cli.data import DataOptions, describe
from elsjax.cli.experiment import MAX_SEED
from elsjax.datasets import Dataset
from elsjax.nn import PRESETS, Network
from elsjax.nn.files import (
    load_network,
    named_weights,
    network_bytes,
    network_config,
    set_weights,
)
from elsjax.nn.layers import Padding
from elsjax.parallel import use_all_cores
from elsjax.runs import Run

_PICTURED_SAMPLES = 16
_PICTURED_STEPS = 20
_MOST_CLASSES = 100_000  # a network has a row of weights for each


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a network to predict noise.

    Writes network.safetensors (averaged weights), losses.npz, losses.png, samples.png and
    config.json, as it goes in the folder OUT.partial. An interrupted run goes on where it stopped
    when it is repeated, and ends the same to the last bit.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataOptions
    )
    """Training images."""
    network: Literal[
        "resnet", "resnet-small", "unet", "unet-small", "attention-unet", "attention-unet-small"
    ] = "unet-small"
    """The paper's sizes, or small ones that train on a CPU in hours."""
    padding: Padding = "zeros"
    """Padding of every convolution: zeros or circular."""
    conditional: bool = False
    """Condition on the class."""
    weights: Path | None = None
    """Start from the weights of this network.safetensors, of the same architecture."""
    config: Annotated[training.TrainingConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=training.TrainingConfig
    )
    """How to train."""
    checkpoint_every: int = 200
    """Steps from checkpoint to checkpoint, with pictures each time."""
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
        checks.positive_int("checkpoint_every", self.checkpoint_every)
        checks.in_range("seed", self.config.seed, 0, MAX_SEED)
        if self.weights is not None and not self.weights.is_file():
            raise ValueError(f"weights={str(self.weights)!r} is not a file")
        use_all_cores()
        data = self.data.load()
        network = self._network(data)
        labels = data.labels if self.conditional else None
        training.check_data(network, data.pixels, labels, self.config)
        run.start(self._record(data, network))
        self.data.print_labels(data)
        checkpoints, state, losses = self._earlier(run, network)
        taken = 0 if state is None else int(state.step)
        batch = self.config.batch_size
        bar = tqdm(
            total=self.config.num_steps * batch,
            initial=taken * batch,
            desc=f"training {self.network}",
            unit="image",
            unit_scale=True,
            smoothing=0.05,
        )
        with bar:
            for progress in training.train(
                network,
                data.pixels,
                labels,
                self.config,
                state=state,
                report_every=math.gcd(10, self.checkpoint_every),
            ):
                losses.append(progress.losses)
                bar.set_postfix_str(f"loss {np.concatenate(losses[-20:]).mean():.4f}")
                bar.update(progress.step * batch - bar.n)
                last = progress.step == self.config.num_steps
                if progress.step % self.checkpoint_every == 0 or last:
                    self._save(run, checkpoints, network, progress, np.concatenate(losses))
        checkpoints.close()
        run.remove("checkpoints")
        run.finish()
        return float(np.concatenate(losses)[-1000:].mean())

    def _earlier(
        self, run: Run, network: Network
    ) -> tuple[Checkpoints, training.TrainingState | None, list[np.ndarray]]:
        """Where an earlier start of this run left it: its newest state, None at the beginning."""
        checkpoints = Checkpoints(run.folder("checkpoints"))
        state = checkpoints.latest(training.initial_state(network, self.config))
        if state is None:
            return checkpoints, None, []
        taken = int(state.step)
        saved = run.load_arrays("losses.npz", {"losses": (np.float32, (None,))})
        if saved is not None and len(saved["losses"]) >= taken:
            return checkpoints, state, [saved["losses"][:taken]]
        # Without its losses the result would not be that of the run that was never stopped.
        warnings.warn("the losses of the unfinished run are lost; it starts anew", stacklevel=2)
        checkpoints.close()
        run.remove("checkpoints")
        return Checkpoints(run.folder("checkpoints")), None, []

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
            rngs=nnx.Rngs(self.config.seed),
        )
        if self.weights is not None:
            set_weights(network, named_weights(load_network(self.weights)), str(self.weights))
        return network

    def _save(
        self,
        run: Run,
        checkpoints: Checkpoints,
        network: Network,
        progress: training.Progress,
        losses: np.ndarray,
    ) -> None:
        """Everything that is known so far; the checkpoint last, since it is what goes on."""
        trained = training.trained_network(network, progress.state)
        samples = _samples(trained)
        if not np.isfinite(samples).all():
            raise FloatingPointError(
                f"training diverged before step {progress.step}: the network paints "
                "no finite images; a lower learning_rate, a warm-up or clip_norm may help"
            )
        content = network_bytes(trained)
        run.write("network.safetensors", lambda file: file.write(content))
        run.save_arrays("losses.npz", {"losses": losses})
        figure = plotting.loss_figure(losses)
        run.write("losses.png", lambda file: figure.savefig(file, format="png"))
        grid = plotting.grid_figure(samples)
        run.write("samples.png", lambda file: grid.savefig(file, format="png"))
        checkpoints.save(progress.step, progress.state)

    def _record(self, data: Dataset, network: Network) -> dict[str, Any]:
        """Everything that determines the results, and the versions that computed them."""
        options = dataclasses.asdict(self)
        del options["data"]
        options |= dataclasses.asdict(self.data.absolute()) | options.pop("config")
        for irrelevant in ("out", "overwrite", "checkpoint_every"):
            del options[irrelevant]
        options["weights"] = None if self.weights is None else str(self.weights.absolute())
        return {
            "command": "train",
            **options,
            "architecture": network_config(network),
            **describe(data),
        }


def _samples(network: Network) -> np.ndarray:
    """What a network paints from always the same noise, a row or two; each class in its turn."""
    x = elsjax.initial_noise(jax.random.key(0), _PICTURED_SAMPLES, network.image_shape)
    label = None
    if network.num_classes is not None:
        label = np.arange(_PICTURED_SAMPLES, dtype=np.int32) % network.num_classes
    for step in elsjax.reverse_process(network, x, _PICTURED_STEPS, label):
        x = step.x
        if not jnp.isfinite(x).all():
            break
    return np.asarray(x)
