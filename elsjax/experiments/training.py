"""Training with the error on held-out images beside it.

The loop over steps is that of `elsjax.training`, which knows no experiment. Held-out error is one,
so what joins the two stands here, above both.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from elsjax import checks
from elsjax.analytic import WienerDenoiser
from elsjax.experiments.heldout import TIMES, HeldoutCurve, heldout_error
from elsjax.nn import Network
from elsjax.process.denoisers import Denoiser
from elsjax.training.config import TrainingConfig
from elsjax.training.loop import Progress, check_data, training_steps
from elsjax.training.step import TrainingState, initial_state, trained_network

Heldout = tuple[ArrayLike, ArrayLike | None]
"""Images that are not trained on, [N, H, W, C], and their classes, [N], or None."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A network after some steps of training.

    Attributes:
      start: the network that training started from; its weights are not changed.
      state: weights, their average and the optimiser after the steps.
      losses: of each step, per pixel, [steps].
      heldout: held-out errors as training went on; None without held-out images.
    """

    start: Network
    state: TrainingState
    losses: Float[np.ndarray, " steps"]
    heldout: HeldoutCurve | None

    @functools.cached_property
    def network(self) -> Network:
        """The trained network: a copy, with the averaged weights."""
        return trained_network(self.start, self.state)


def train(
    network: Network,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    config: TrainingConfig | None = None,
    *,
    heldout: Heldout | None = None,
    evaluate_every: int = 1000,
    resume: TrainingResult | None = None,
    report: Callable[[TrainingResult], None] | None = None,
    report_every: int = 10,
) -> TrainingResult:
    """Trains a network on all local devices.

    Args:
      network: what to train. It is not changed: see `TrainingResult.network`.
      images: [N, H, W, C], uint8 or floating-point in [-1, 1].
      labels: classes, integers [N], for a conditional network; else None.
      config: how to train; None for the defaults.
      heldout: `(images, labels)` on which to measure the error at ten times; labels may be None for
        an unconditional network. None to measure nothing.
      evaluate_every: steps from one measurement to the next; the last step is measured too.
      resume: result to go on from; None to start from the weights of the network. It then ends as
        if it had never been stopped.
      report: called with the result so far. The next step reuses the memory of its state: its
        network, and the state, are to be looked at in the call.
      report_every: steps from one report to the next, at most.

    Returns:
      The network after `config.num_steps` steps.

    Raises:
      ValueError: if the data do not fit the network or the configuration, or an argument is not as
        described.
      FloatingPointError: if a loss or a gradient is not finite.
    """
    config = TrainingConfig() if config is None else config
    checks.positive_int("evaluate_every", evaluate_every)
    checks.positive_int("report_every", report_every)
    check_data(network, images, labels, config)
    if heldout is not None:
        heldout = _checked_heldout(network, heldout)
    result = start_training(network, images, config, heldout) if resume is None else resume
    if (result.heldout is None) != (heldout is None):
        raise ValueError("resume has held-out errors only where heldout is given; expected both")
    for progress in training_steps(
        network,
        images,
        labels,
        config,
        state=result.state,
        report_every=math.gcd(report_every, evaluate_every),
    ):
        result = _extended(result, progress)
        due = progress.step % evaluate_every == 0 or progress.step == config.num_steps
        if due and heldout is not None:
            result = _measured(result, heldout, config.seed)
        if report is not None:
            report(result)
    return result


def start_training(
    network: Network,
    images: ArrayLike,
    config: TrainingConfig,
    heldout: Heldout | None = None,
) -> TrainingResult:
    """The result of no step, which `train` starts from.

    Args:
      network: what to train.
      images: training images, [N, H, W, C]; their Wiener filter is the unit of held-out error.
      config: how to train.
      heldout: see `train`.

    Returns:
      The network as it is, with the held-out errors of the Wiener filter alone.

    Raises:
      ValueError: if the images do not fit the network.
    """
    curve = None
    if heldout is not None:
        heldout = _checked_heldout(network, heldout)
        linear = WienerDenoiser(images, schedule=network.schedule)
        wiener = _errors(linear, (heldout[0], None), config.seed)
        none = np.empty(0, np.int64)
        curve = HeldoutCurve(np.array(TIMES), wiener, none, np.empty((0, len(TIMES))))
    return TrainingResult(network, initial_state(network, config), np.empty(0, np.float32), curve)


def _extended(result: TrainingResult, progress: Progress) -> TrainingResult:
    """The result after some more steps."""
    losses = np.concatenate([result.losses, progress.losses])
    return TrainingResult(result.start, progress.state, losses, result.heldout)


def _measured(result: TrainingResult, heldout: Heldout, seed: int) -> TrainingResult:
    """The result with the held-out errors of its network."""
    if result.heldout is None:
        return result
    errors = _errors(result.network, heldout, seed)
    curve = result.heldout.extended(len(result.losses), errors)
    return dataclasses.replace(result, heldout=curve)


def check_levels(network: Network) -> None:
    """Raises ValueError if noise or signal is lost where held-out error is measured."""
    _, sigma = map(float, network.schedule(TIMES[0]))
    alpha, _ = map(float, network.schedule(TIMES[-1]))
    if sigma == 0:
        raise ValueError(f"schedule={network.schedule} has no noise at t = {TIMES[0]}")
    if alpha < network.least_alpha:
        raise ValueError(
            f"schedule={network.schedule} leaves too little signal at t = {TIMES[-1]} (alpha = "
            f"{alpha:.2g}) for prediction={network.prediction!r}; expected at least "
            f"{network.least_alpha:g}"
        )


def _checked_heldout(network: Network, heldout: Heldout) -> Heldout:
    """Held-out images as arrays, with labels for a conditional network only."""
    if not isinstance(heldout, tuple) or len(heldout) != 2:
        raise ValueError(f"heldout is a {type(heldout).__name__}; expected (images, labels)")
    images, labels = checks.training_images("heldout", heldout[0]), heldout[1]
    if images.shape[1:] != network.image_shape:
        raise ValueError(
            f"heldout has images {list(images.shape[1:])}, those of the network are "
            f"{list(network.image_shape)}"
        )
    check_levels(network)
    classes = network.num_classes
    if classes is None:
        return images, None
    if labels is None:
        raise ValueError(f"heldout has no labels; the network is conditional, on {classes} classes")
    labels = checks.class_labels("labels of heldout", labels, len(images))
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"heldout has classes {labels.min()} to {labels.max()}; the network has 0 to "
            f"{classes - 1}"
        )
    return images, labels


def _errors(denoiser: Denoiser, heldout: Heldout, seed: int) -> Float[np.ndarray, " t"]:
    """Held-out error at each time, [T]."""
    images, labels = heldout
    return heldout_error(denoiser, images, TIMES, jax.random.key(seed), labels).mean(1)
