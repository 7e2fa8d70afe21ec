"""Training of a network, on one device or many.

    loss = E w_t |network(alpha_t x_0 + sigma_t eps, t, label) - target|²,
    target = eps, alpha_t eps - sigma_t x_0 or x_0,   t in {0, 0.001, ..., 0.999}

(The paper's networks predict eps, with w = 1: Kamb & Ganguli 2025, section 5 and their published
code.) All that a run draws, the order of the images, the times, the noise, depends on its seed and
the number of the step alone: a run that goes on from a saved state is the run that was never
stopped. It depends on the number of devices and the size of the micro-batches only by rounding.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from elsjax import checks
from elsjax.nn import Network
from elsjax.training.config import TrainingConfig
from elsjax.training.step import TrainingState, initial_state, make_step


class Progress(NamedTuple):
    """What `training_steps` yields.

    Attributes:
      state: after `step` steps. The next step reuses its memory: copy what has to last.
      step: steps taken.
      losses: of the steps since the last report, per pixel.
    """

    state: TrainingState
    step: int
    losses: Float[np.ndarray, " steps"]


def training_steps(
    network: Network,
    images: ArrayLike,
    labels: ArrayLike | None,
    config: TrainingConfig,
    *,
    state: TrainingState | None = None,
    devices: list[jax.Device] | None = None,
    report_every: int = 10,
) -> Iterator[Progress]:
    """Trains a network; arguments are checked at once, not at the first step.

    Every device holds the images and the weights; the batch is split between the devices.

    Args:
      network: what to train. It is not changed: see `trained_network`.
      images: [N, H, W, C], uint8 or floating-point in [-1, 1].
      labels: classes, integers [N], for a conditional network; else None.
      config: how to train.
      state: where to go on; None to start from the weights of the network.
      devices: to train on; None for the most local devices that divide the batch.
      report_every: steps between reports, at which the losses are looked at.

    Returns:
      An iterator over the progress, which ends after `config.num_steps` steps.

    Raises:
      ValueError: if the data or the devices do not fit the network or the configuration.
      FloatingPointError: from the iterator, if a loss or a gradient is not finite; the state of
        the last report is the last good one.
    """
    images, labels = _checked_data(network, images, labels, config)
    checks.positive_int("report_every", report_every)
    if devices is None:
        devices = _dividing(jax.local_devices(), config.batch_size)
    if config.batch_size % len(devices):
        raise ValueError(
            f"batch_size={config.batch_size} must divide by the {len(devices)} devices"
        )
    mesh = jax.make_mesh((len(devices),), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
    everywhere = jax.NamedSharding(mesh, jax.P())
    # A copy, so that the caller's own state and images outlive the steps.
    state = jax.tree.map(jnp.copy, initial_state(network, config) if state is None else state)
    state = jax.device_put(state, everywhere)
    data = jax.device_put(
        (jnp.asarray(images), None if labels is None else jnp.asarray(labels, jnp.int32)),
        everywhere,
    )
    step = make_step(network, config, mesh)
    return _steps(state, data, step, config, report_every)


def check_data(
    network: Network, images: ArrayLike, labels: ArrayLike | None, config: TrainingConfig
) -> None:
    """Raises the ValueError that `training_steps` would raise for these images and labels."""
    _checked_data(network, images, labels, config)


def _checked_data(
    network: Network, images: ArrayLike, labels: ArrayLike | None, config: TrainingConfig
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels as arrays."""
    images = checks.training_images("images", images)
    count = len(images)
    if images.shape[1:] != network.image_shape:
        raise ValueError(
            f"images has shape {list(images.shape)}; the network is for "
            f"[N, {', '.join(map(str, network.image_shape))}]"
        )
    if config.batch_size > count:
        raise ValueError(f"batch_size={config.batch_size} is larger than the data, {count} images")
    return images, _checked_labels(network, labels, count)


def _checked_labels(
    network: Network, labels: ArrayLike | None, count: int
) -> Int[np.ndarray, " n"] | None:
    classes = network.num_classes
    if classes is None:
        if labels is not None:
            raise ValueError("labels were given, but the network is unconditional")
        return None
    if labels is None:
        raise ValueError(f"labels=None: the network is conditional, on {classes} classes")
    values = checks.class_labels("labels", labels, count)
    if values.min() < 0 or values.max() >= classes:
        raise ValueError(
            f"labels has classes {values.min()} to {values.max()}; the network has 0 to "
            f"{classes - 1}"
        )
    return values


def _steps(
    state: TrainingState,
    data: tuple[Array, Array | None],
    step: Callable[..., tuple[TrainingState, Array]],
    config: TrainingConfig,
    report_every: int,
) -> Iterator[Progress]:
    taken = int(state.step)
    count = data[0].shape[0]
    per_epoch = count // config.batch_size
    key = jax.random.key(config.seed)
    epoch, order = -1, None
    while taken < config.num_steps:
        until = min(taken - taken % report_every + report_every, config.num_steps)
        measured = []
        for index in range(taken, until):
            if index // per_epoch != epoch:
                epoch = index // per_epoch
                order = jax.device_put(_order(key, epoch, count), data[0].sharding)
            state, loss_and_norm = step(state, *data, order)
            measured.append(loss_and_norm)
        losses, norms = np.asarray(jax.device_get(measured)).T
        bad = ~np.isfinite(losses) | ~np.isfinite(norms)
        if bad.any():
            first = int(np.argmax(bad))
            raise FloatingPointError(
                f"training diverged at step {taken + first}: loss {losses[first]}, norm of the "
                f"gradient {norms[first]}; a lower learning_rate, a warm-up or clip_norm may help"
            )
        taken = until
        yield Progress(state, taken, losses)


@jax.jit(static_argnames="count")
def _order(key: Key[Array, ""], epoch: int, count: int) -> Int[Array, " count"]:
    """The order of the images in an epoch; what is left of the last batch is skipped."""
    # Apart from the keys of the steps, which fold in small numbers too.
    key = jax.random.fold_in(jax.random.fold_in(key, 2**31), epoch)
    return jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))


def _dividing(devices: list[jax.Device], batch_size: int) -> list[jax.Device]:
    count = next(n for n in range(len(devices), 0, -1) if batch_size % n == 0)
    return devices[:count]
