"""One step of training: draws, loss, gradient over micro-batches and devices, optimiser."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from elsjax.nn import Network
from elsjax.nn.convolution import use_cpu_gradients
from elsjax.nn.files import network_config, network_from_config
from elsjax.nn.network import Prediction
from elsjax.pixels import to_float
from elsjax.process.denoisers import per_image
from elsjax.training.config import TrainingConfig

NUM_TIMES = 1000  # the published training draws t from this many
_SNR_BOUND = 5.0  # gamma of Hang et al. (2023)
# Images per device that a CPU takes at once: what lies between layers then stays in its cache.
_CPU_MICRO_BATCH = 8


class TrainingState(NamedTuple):
    """All that changes while a network is trained.

    Attributes:
      params: weights of the network, float32.
      ema_params: their exponential moving average.
      opt_state: state of the optimiser.
      step: steps taken.
    """

    params: Any
    ema_params: Any
    opt_state: Any
    step: Int[Array, ""]


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
    return nnx.merge(nnx.graphdef(network), jax.tree.map(jnp.copy, state.ema_params))


def make_step(
    network: Network, config: TrainingConfig, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[TrainingState, Array]]:
    """One compiled step: `(state, images, labels, order) -> (state, [loss, gradient norm])`."""
    optimizer = _optimizer(config)
    mean_gradient = _mean_gradient(network, config, mesh)

    @jax.jit(donate_argnames="state")
    def step(
        state: TrainingState, images: Array, labels: Array | None, order: Array
    ) -> tuple[TrainingState, Array]:
        value, gradient = mean_gradient(state.params, state.step, images, labels, order)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A short average at first, so that it does not remember how it started.
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
        measured = jnp.stack([value, optax.tree.norm(gradient)])
        return TrainingState(params, ema_params, opt_state, state.step + 1), measured

    return step


def _mean_gradient(
    network: Network, config: TrainingConfig, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[Array, Any]]:
    """Loss and gradient of a step: `(weights, step, images, labels, order) -> (loss, gradient)`."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    loss = _loss(network, config, on_cpu)
    seed_key = jax.random.key(config.seed)
    local_batch = config.batch_size // mesh.size
    micro_batch = local_batch
    if on_cpu:
        micro_batch = next(m for m in range(_CPU_MICRO_BATCH, 0, -1) if local_batch % m == 0)

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

    return mean_gradient


def _loss(network: Network, config: TrainingConfig, on_cpu: bool) -> Callable[..., Array]:
    """The loss of a micro-batch: `(weights, x0, label, keys) -> loss`."""
    if config.precision == "bfloat16":
        shadow = {**network_config(network), "dtype": "bfloat16"}
        network = nnx.eval_shape(lambda: network_from_config(shadow, nnx.Rngs(0)))
    if on_cpu:
        network = nnx.clone(network)
        use_cpu_gradients(network)
    graph = nnx.graphdef(network)

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

    return loss


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
