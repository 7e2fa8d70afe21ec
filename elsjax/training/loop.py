"""Training of a network, on one device or many.

    loss = E w_t |network(alpha_t x_0 + sigma_t eps, t, label) - target|²,
    target = eps, alpha_t eps - sigma_t x_0 or x_0,   t in {0, 0.001, ..., 0.999}

(The paper's networks predict eps, with w = 1: Kamb & Ganguli 2025, section 5 and their published
code.) All that a run draws, the order of the images, the times, the noise, depends on its seed and
the number of the step alone: a run that goes on from a saved state is the run that was never
stopped. It depends on the number of devices and the size of the micro-batches only by rounding.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int, Key

from elsjax import checks
from elsjax.nn import Network
from elsjax.nn.convolution import use_cpu_gradients
from elsjax.nn.files import network_config, network_from_config
from elsjax.nn.network import Prediction
from elsjax.pixels import to_float
from elsjax.process.denoisers import per_image

NUM_TIMES = 1000  # the published training draws t from this many
Precision = Literal["float32", "bfloat16"]
LossWeighting = Literal["uniform", "min_snr"]
_SNR_BOUND = 5.0  # gamma of Hang et al. (2023)
# Images per device that a CPU takes at once: what lies between layers then stays in its cache.
_CPU_MICRO_BATCH = 8


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults converge in hours on a CPU.

    The published training is 300 epochs with batch_size=128, learning_rate=1e-4,
    learning_rate_decay=0.999965, warmup_steps=0, ema_decay=0.

    Args:
      num_steps: optimiser steps.
      batch_size: images in a step.
      learning_rate: of the first step after the warm-up (AdamW, no weight decay).
      learning_rate_decay: factor from step to step; None for a cosine to zero over num_steps.
      warmup_steps: steps over which the learning rate rises from zero.
      ema_decay: decay per step of the exponential moving average of the weights, which is what
        training returns; 0 for the weights themselves.
      clip_norm: bound on the norm of the gradient; None for none.
      loss_weighting: of the times: "uniform", w = 1, or "min_snr", which weights the error of x_0
        by min(SNR, 5), SNR = alpha²/sigma², so that low noise does not outweigh all else (Hang et
        al. 2023).
      precision: of the arithmetic; "bfloat16" keeps weights, average and optimiser in float32.
        It pays on accelerators.
      seed: of all that is drawn.

    Raises:
      ValueError: if an argument is outside its range.
    """

    num_steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_decay: float | None = None
    warmup_steps: int = 100
    ema_decay: float = 0.999
    clip_norm: float | None = None
    loss_weighting: LossWeighting = "uniform"
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.positive_int("num_steps", self.num_steps)
        checks.positive_int("batch_size", self.batch_size)
        checks.seed("seed", self.seed)
        checks.in_range("learning_rate", self.learning_rate, 0.0, 1.0, open_ends=True)
        if self.learning_rate_decay is not None:
            checks.in_range("learning_rate_decay", self.learning_rate_decay, 0.0, 1.0)
        checks.integer("warmup_steps", self.warmup_steps, 0, self.num_steps)
        checks.in_range("ema_decay", self.ema_decay, 0.0, 1.0)
        if self.clip_norm is not None:
            checks.in_range("clip_norm", self.clip_norm, 0.0, float("inf"), open_ends=True)
        checks.one_of("loss_weighting", self.loss_weighting, get_args(LossWeighting))
        checks.one_of("precision", self.precision, get_args(Precision))


class TrainingState(NamedTuple):
    """All that changes while a network is trained.

    Attributes:
      weights: of the network, float32.
      average: their exponential moving average.
      optimizer: state of the optimiser.
      step: steps taken.
    """

    weights: Any
    average: Any
    optimizer: Any
    step: Int[Array, ""]


class Progress(NamedTuple):
    """What `train` yields.

    Attributes:
      state: after `step` steps. The next step reuses its memory: copy what has to last.
      step: steps taken.
      losses: of the steps since the last report, per pixel.
    """

    state: TrainingState
    step: int
    losses: Float[np.ndarray, " steps"]


def initial_state(network: Network, config: TrainingConfig) -> TrainingState:
    """The state before the first step; the network itself is left alone.

    Args:
      network: whose weights to start from.
      config: how to train.

    Returns:
      The state.
    """
    weights = jax.tree.map(jnp.copy, nnx.state(network, nnx.Param))
    # A copy each: the step gives all of their memory away, and no buffer twice.
    return TrainingState(
        weights, jax.tree.map(jnp.copy, weights), _optimizer(config).init(weights), jnp.array(0)
    )


def trained_network(network: Network, state: TrainingState) -> Network:
    """A copy of a network with the averaged weights of a state."""
    return nnx.merge(nnx.graphdef(network), jax.tree.map(jnp.copy, state.average))


def train(
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
    step = _make_step(network, config, mesh)
    return _steps(state, data, step, config, report_every)


def check_data(
    network: Network, images: ArrayLike, labels: ArrayLike | None, config: TrainingConfig
) -> None:
    """Raises the ValueError that `train` would raise for these images and labels."""
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


def _make_step(
    network: Network, config: TrainingConfig, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[TrainingState, Array]]:
    """One compiled step: `(state, images, labels, order) -> (state, [loss, gradient norm])`."""
    if config.precision == "bfloat16":
        shadow = {**network_config(network), "dtype": "bfloat16"}
        network = nnx.eval_shape(lambda: network_from_config(shadow, nnx.Rngs(0)))
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if on_cpu:
        network = nnx.clone(network)
        use_cpu_gradients(network)
    graph = nnx.graphdef(network)
    optimizer = _optimizer(config)
    seed_key = jax.random.key(config.seed)
    local_batch = config.batch_size // mesh.size
    micro_batch = local_batch
    if on_cpu:
        micro_batch = next(m for m in range(_CPU_MICRO_BATCH, 0, -1) if local_batch % m == 0)

    def loss(weights: Any, x0: Array, label: Array | None, keys: Array) -> Array:
        steps, noise = _draws(keys, x0.shape[1:])
        t = steps / jnp.float32(NUM_TIMES)
        alpha, sigma = (per_image(level) for level in network.schedule(t))
        weights = jax.tree.map(lambda weight: weight.astype(network.dtype), weights)
        predicted = nnx.merge(graph, weights)(alpha * x0 + sigma * noise, t, label)
        target = _target(network.prediction, x0, noise, alpha, sigma)
        error = (predicted.astype(jnp.float32) - target) ** 2
        if config.loss_weighting == "min_snr":
            error = _min_snr_weight(network.prediction, alpha, sigma) * error
        return jnp.mean(error)

    def local_gradient(weights: Any, batch: tuple[Array | None, ...]) -> tuple[Array, Any]:
        """Loss and gradient over one device's part of the batch."""
        parts = jax.tree.map(lambda a: a.reshape(-1, micro_batch, *a.shape[1:]), batch)
        gradient = jax.value_and_grad(loss)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(weights, *part)), None

        zero = jax.tree.map(jnp.zeros_like, (jax.lax.pcast(0.0, "data", to="varying"), weights))
        total, _ = jax.lax.scan(add, zero, parts)
        return jax.tree.map(lambda a: a / (local_batch // micro_batch), total)

    @jax.shard_map(mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    def mean_gradient(
        weights: Any, step: Array, images: Array, labels: Array | None, order: Array
    ) -> tuple[Array, Any]:
        first = jax.lax.axis_index("data") * local_batch
        place = first + jnp.arange(local_batch)
        per_epoch = order.shape[0] // config.batch_size
        index = order[(step % per_epoch) * config.batch_size + place]
        step_key = jax.random.fold_in(seed_key, step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, place)
        chosen = (to_float(images[index]), None if labels is None else labels[index], keys)
        weights = jax.lax.pcast(weights, "data", to="varying")
        return jax.lax.pmean(local_gradient(weights, chosen), "data")

    @jax.jit(donate_argnames="state")
    def step(
        state: TrainingState, images: Array, labels: Array | None, order: Array
    ) -> tuple[TrainingState, Array]:
        value, gradient = mean_gradient(state.weights, state.step, images, labels, order)
        updates, moments = optimizer.update(gradient, state.optimizer, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        # A short average at first, so that it does not remember how it started.
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(weights, state.average, 1 - decay)
        measured = jnp.stack([value, optax.tree.norm(gradient)])
        return TrainingState(weights, average, moments, state.step + 1), measured

    return step


def _target(prediction: Prediction, x0: Array, noise: Array, alpha: Array, sigma: Array) -> Array:
    """What the network is to predict, [B, H, W, C]."""
    if prediction == "noise":
        return noise
    return x0 if prediction == "x0" else alpha * noise - sigma * x0


def _min_snr_weight(prediction: Prediction, alpha: Array, sigma: Array) -> Array:
    """The weight of what is predicted that weights the error of x_0 by min(SNR, gamma).

    An error of x_0 is that of the velocity times sigma, that of the noise times sigma / alpha.
    """
    weight = jnp.minimum(alpha**2, _SNR_BOUND * sigma**2)  # of the velocity; 0 at sigma = 0
    if prediction == "noise":
        return weight / alpha**2
    if prediction == "velocity":
        return weight
    return jnp.minimum(alpha**2 / sigma**2, _SNR_BOUND)


def _draws(
    keys: Key[Array, " b"], shape: tuple[int, ...]
) -> tuple[Int[Array, " b"], Float[Array, "b h w c"]]:
    """Time steps and noise of a batch. They belong to the seed: their types are stated."""
    pairs = jax.vmap(jax.random.split)(keys)
    time_keys, noise_keys = pairs[:, 0], pairs[:, 1]
    steps = jax.vmap(lambda key: jax.random.randint(key, (), 0, NUM_TIMES, jnp.int32))(time_keys)
    return steps, jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(noise_keys)


def _optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    rest = config.num_steps - config.warmup_steps
    if config.learning_rate_decay is None:
        schedule = optax.cosine_decay_schedule(config.learning_rate, max(rest, 1))
    else:
        schedule = optax.exponential_decay(config.learning_rate, 1, config.learning_rate_decay)
    if config.warmup_steps:
        rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
        schedule = optax.join_schedules([rise, schedule], [config.warmup_steps])
    adam = optax.adamw(schedule, weight_decay=0.0)
    if config.clip_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)


@jax.jit(static_argnames="count")
def _order(key: Key[Array, ""], epoch: int, count: int) -> Int[Array, " count"]:
    """The order of the images in an epoch; what is left of the last batch is skipped."""
    # Apart from the keys of the steps, which fold in small numbers too.
    key = jax.random.fold_in(jax.random.fold_in(key, 2**31), epoch)
    return jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))


def _dividing(devices: list[jax.Device], batch_size: int) -> list[jax.Device]:
    count = next(n for n in range(len(devices), 0, -1) if batch_size % n == 0)
    return devices[:count]
