"""Noise schedules: how much signal and how much noise x_t holds.

x_t = alpha_t x_0 + sigma_t eps, alpha² + sigma² = 1, t in [0, 1], t = 1 is noise. (The paper's
sqrt(ᾱ_t) and sqrt(1 - ᾱ_t).) A schedule is a hashable value, so it can be a static argument of a
jitted function.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from elsjax import checks
from elsjax.references import Cited, Reference

_MOST_STEPS = 10**6  # of a table that is made at every call
_FINE = 10_000  # steps of the grid on which the time of a noise level is looked up
_LONGEST = 1e6  # relaxation times, after a few dozen of which no signal is left


class Schedule(Cited, abc.ABC):
    """A variance-preserving noise schedule."""

    @abc.abstractmethod
    def __call__(self, t: ArrayLike) -> tuple[Float[Array, "*t"], Float[Array, "*t"]]:
        """Signal and noise level at time t.

        Args:
          t: time in [0, 1], any shape; 1 is noise.

        Returns:
          `(alpha, sigma)`, each of the shape of t, with alpha² + sigma² = 1.
        """

    def on_host(self, t: ArrayLike) -> tuple[np.ndarray, np.ndarray] | None:
        """The levels as NumPy arrays, computed on the CPU.

        So what depends on them is the same on every device, and waits for none.

        Args:
          t: time, of any shape, in [0, 1].

        Returns:
          `(alpha, sigma)`, each of the shape of t; None where t is not on the host.
        """
        times = checks.host_values(t)
        if times is None:
            return None
        try:
            device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX was started without its CPU
            device = None
        with jax.ensure_compile_time_eval(), jax.default_device(device):
            alpha, sigma = self(times)
        if isinstance(alpha, jax.core.Tracer):  # inside `jax.shard_map`
            return None
        return np.asarray(alpha), np.asarray(sigma)


@dataclasses.dataclass(frozen=True)
class CosineSchedule(Schedule):
    """`alpha = cos((t + offset) / 1.008 * pi / 2)`.

    `offset=0` is the schedule of the published code of Kamb & Ganguli (2025), for which x_0 is
    noise-free; `offset=0.008` is that of Nichol & Dhariwal (2021), equation 17, without its
    division by alpha_0 (1.00008), so a little noise (sigma = 0.0125) is left at t = 0.

    Args:
      offset: shift of the time axis, in [0, 0.008].

    Raises:
      ValueError: if offset lies outside [0, 0.008].
    """

    offset: float = 0.0

    def __post_init__(self) -> None:
        _set(self, offset=checks.in_range("offset", self.offset, 0.0, 0.008))

    def __call__(self, t: ArrayLike) -> tuple[Float[Array, "*t"], Float[Array, "*t"]]:
        """See `Schedule.__call__`."""
        angle = (jnp.asarray(t, jnp.result_type(float)) + self.offset) * (math.pi / 2 / 1.008)
        # At t = 1 with the largest offset the cosine is 0, or a rounding error below.
        return jnp.maximum(jnp.cos(angle), 0), jnp.sin(angle)

    @property
    def references(self) -> tuple[Reference, ...]:
        """See `Cited.references`."""
        return (Reference("nichol2021", "the cosine schedule"),)


@dataclasses.dataclass(frozen=True)
class LinearBetaSchedule(Schedule):
    """The schedule of DDPM (Ho et al. 2020): betas rise linearly over `num_steps` steps.

    `alpha_k² = prod_{j <= k} (1 - beta_j)` at t = k / num_steps, log-linear between.

    Args:
      beta_first: beta of the first step, in (0, 1).
      beta_last: beta of the last step, in (0, 1).
      num_steps: number of steps between t = 0 and t = 1, at most a million.

    Raises:
      ValueError: if an argument lies outside its range.
    """

    beta_first: float = 1e-4
    beta_last: float = 0.02
    num_steps: int = 1000

    def __post_init__(self) -> None:
        _set(self, num_steps=checks.integer("num_steps", self.num_steps, 1, _MOST_STEPS))
        for name in ("beta_first", "beta_last"):
            beta = checks.in_range(name, getattr(self, name), 0.0, 1.0, open_ends=True)
            _set(self, **{name: beta})

    def __call__(self, t: ArrayLike) -> tuple[Float[Array, "*t"], Float[Array, "*t"]]:
        """See `Schedule.__call__`."""
        betas = np.linspace(self.beta_first, self.beta_last, self.num_steps)
        log_alpha = 0.5 * np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        knots = np.linspace(0.0, 1.0, self.num_steps + 1)
        t = jnp.asarray(t, jnp.result_type(float))
        return _from_log_alpha(jnp.interp(t, jnp.asarray(knots), jnp.asarray(log_alpha)))

    @property
    def references(self) -> tuple[Reference, ...]:
        """See `Cited.references`."""
        return (Reference("ho2020", "the linear schedule of beta"),)


@dataclasses.dataclass(frozen=True)
class ExponentialSchedule(Schedule):
    """The Ornstein-Uhlenbeck process run for a time `horizon`: `alpha = exp(-horizon * t)`.

    Args:
      horizon: length of the process in units of its relaxation time, in (0, 1e6). The default
        ends at alpha = 0.0067; the cosine schedule ends at 0.0125.

    Raises:
      ValueError: if horizon lies outside (0, 1e6).
    """

    horizon: float = 5.0

    def __post_init__(self) -> None:
        horizon = checks.in_range("horizon", self.horizon, 0.0, _LONGEST, open_ends=True)
        _set(self, horizon=horizon)

    def __call__(self, t: ArrayLike) -> tuple[Float[Array, "*t"], Float[Array, "*t"]]:
        """See `Schedule.__call__`."""
        return _from_log_alpha(-self.horizon * jnp.asarray(t, jnp.result_type(float)))


def same_noise(
    t: Float[np.ndarray, "*t"], schedule: Schedule, other: Schedule
) -> Float[np.ndarray, "*t"]:
    """The times at which another schedule has the noise levels that a schedule has at t.

    Args:
      t: times in [0, 1], of any shape.
      schedule: whose times they are.
      other: whose times are wanted.

    Returns:
      The times, in float64; the nearest where the other does not go so far.
    """
    if schedule == other:
        return np.asarray(t, np.float64)
    fine = np.arange(_FINE + 1) / _FINE
    return np.interp(_noise_angle(schedule, np.asarray(t)), _noise_angle(other, fine), fine)


def _noise_angle(schedule: Schedule, t: Float[np.ndarray, "*t"]) -> Float[np.ndarray, "*t"]:
    """`arctan(sigma / alpha)`, which rises from 0 to pi/2, and is linear in t for the cosine's."""
    alpha, sigma = schedule.on_host(t) or schedule(t)
    return np.arctan2(np.asarray(sigma, np.float64), np.asarray(alpha, np.float64))


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": CosineSchedule,
    "linear": LinearBetaSchedule,
    "exponential": ExponentialSchedule,
}
"""The schedules of this library, by the names that the command line has for them."""


def schedule_config(schedule: Schedule) -> dict[str, Any]:
    """A schedule as JSON values: the name of its class, "kind", and its arguments.

    Args:
      schedule: one of `SCHEDULES`.

    Returns:
      What `schedule_from_config` makes the schedule of.

    Raises:
      ValueError: if it is of a class that is not this library's.
    """
    name = type(schedule).__name__
    checks.one_of("schedule", name, _by_class_name())
    return {"kind": name, **dataclasses.asdict(schedule)}  # type: ignore[call-overload]


def schedule_from_config(config: Mapping[str, Any]) -> Schedule:
    """The inverse of `schedule_config`.

    Args:
      config: as `schedule_config` returns it.

    Returns:
      The schedule.

    Raises:
      ValueError: if an argument lies outside its range.
      KeyError: if the class is missing, or not known.
      TypeError: if it is no mapping, or an argument is not known.
    """
    arguments = dict(config)
    return _by_class_name()[arguments.pop("kind")](**arguments)


def _by_class_name() -> dict[str, type[Schedule]]:
    return {schedule.__name__: schedule for schedule in SCHEDULES.values()}


def _set(schedule: Schedule, **fields: float) -> None:
    """Keeps Python numbers, whatever numbers were given: they are hashed, and written as JSON."""
    for name, value in fields.items():
        object.__setattr__(schedule, name, value)


def _from_log_alpha(log_alpha: Array) -> tuple[Array, Array]:
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))
