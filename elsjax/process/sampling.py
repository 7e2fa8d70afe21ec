"""The reverse process, from noise at t = 1 to an image at t = 0: one loop for every denoiser.

Each step from t to s < t uses the posterior mean x0 = E[x_0 | x_t] and the noise it implies,
eps = (x_t - alpha_t x0) / sigma_t:

    ddim       x_s = alpha_s x0 + sigma_s eps: the probability-flow ODE in exponential form, first
               order (Song, Meng & Ermon 2021, equation 12 with eta = 0)
    heun       the same ODE, d(x / alpha) / d(sigma / alpha) = eps, by Heun's second-order method
               (Karras et al. 2022, algorithm 1); two evaluations a step, one for the last
    ancestral  the reverse SDE: x_s = alpha_s x0 + sqrt(sigma_s² - eta²) eps + eta z, with
               eta = (sigma_s / sigma_t) sqrt(1 - alpha_t² / alpha_s²) (DDPM, Ho et al. 2020; Song,
               Meng & Ermon 2021, equation 16 with eta = 1). z is the increment of one Brownian path
               a sample, so that any two grids and denoisers see the same noise; see
               `elsjax.process.brownian`

A step to t = 0 returns x0 itself, whatever the solver.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from elsjax import checks, parallel
from elsjax.process import brownian
from elsjax.process.denoisers import LEAST_SIGNAL, Denoiser, check_signal, noise_from_x0, per_image
from elsjax.process.schedules import Schedule
from elsjax.references import Reference

Solver = Literal["ddim", "heun", "ancestral"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

_DDIM = Reference("song2021ddim", "the DDIM solver")
_REFERENCES: dict[str, tuple[Reference, ...]] = {
    "ddim": (_DDIM,),
    "heun": (Reference("karras2022", "Heun's method"),),
    "ancestral": (
        Reference("ho2020", "ancestral sampling"),
        Reference("elalaoui2022", "stochastic localization"),
        Reference("li2020", "the virtual Brownian tree"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the reverse process, from time t to s.

    Attributes:
      index: number of the step, from 0.
      t: time it starts from.
      s: time it ends at.
      x0: posterior mean E[x_0 | x_t] at its start, [B, H, W, C].
      x: state x_s at its end, [B, H, W, C].
    """

    index: int
    t: float
    s: float
    x0: Float[Array, "b h w c"]
    x: Float[Array, "b h w c"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trajectory:
    """All states of a reverse process of S steps.

    Attributes:
      times: times of the states, [S + 1], falling.
      x: states x_t, the noise first and the sample last, [S + 1, B, H, W, C].
      x0: posterior means E[x_0 | x_t] at the start of each step, [S, B, H, W, C].
    """

    times: Float[Array, " states"]
    x: Float[Array, "states b h w c"]
    x0: Float[Array, "states-1 b h w c"]


def solver_references(solver: str) -> tuple[Reference, ...]:
    """What to cite for a solver, one of `SOLVERS`."""
    checks.one_of("solver", solver, SOLVERS)
    return _REFERENCES[solver]


def sample_keys(key: Key[Array, ""], num_samples: int) -> Key[Array, " b"]:
    """A key for each sample; that of sample b depends on key and b only, not on num_samples."""
    checks.key("key", key, ())
    num_samples = checks.positive_int("num_samples", num_samples)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_samples))


def keys_of_samples(key: Key[Array, "..."], num_samples: int) -> Key[Array, " b"]:
    """A key for each sample, [B], from one for the batch, see `sample_keys`, or from these."""
    checks.key("key", key, (), (num_samples,))
    return sample_keys(key, num_samples) if key.ndim == 0 else key


def initial_noise(
    key: Key[Array, ""], num_samples: int, image_shape: tuple[int, int, int]
) -> Float[Array, "b h w c"]:
    """Standard normal noise x_1; sample b depends on the key and b only, not on num_samples.

    Drawn in float32 whatever the precision it is used in, as all that is random here: it belongs to
    the seed.

    Args:
      key: typed key, `jax.random.key(seed)`.
      num_samples: B.
      image_shape: (H, W, C).

    Returns:
      Noise, [B, H, W, C].

    Raises:
      ValueError: if an argument is not as described.
    """
    shape = checks.image_shape("image_shape", image_shape)
    keys = sample_keys(key, num_samples)
    return _normal(keys, shape)


def sample(
    denoiser: Denoiser,
    noise: Float[ArrayLike, "b h w c"],
    num_steps: int | None = None,
    label: ArrayLike | None = None,
    solver: Solver = "ddim",
    key: Key[Array, "..."] | None = None,
    *,
    times: ArrayLike | None = None,
    mesh: jax.sharding.Mesh | None = None,
    return_trajectory: bool = False,
) -> Float[Array, "b h w c"] | Trajectory:
    """Runs the reverse process from noise to images.

    Args:
      denoiser: a `ScoreMachine`, a network, or any other `Denoiser`.
      noise: x at the first time, usually standard normal, [B, H, W, C]. Sample b depends on
        noise[b] only (and on its key, for "ancestral").
      num_steps: number of steps of the uniform time grid from 1 to 0; None for 20, or as many as
        times has.
      label: class to condition on, integer or [B]; None for unconditional.
      solver: "ddim" or "heun", of the probability-flow ODE (Song, Meng & Ermon 2021; Karras et
        al. 2022), or "ancestral", of the reverse SDE (Ho et al. 2020).
      key: typed key, needed by "ancestral" and used by it only: one for the batch, from which
        sample b folds in b, or one for each sample, [B]. Of Threefry, JAX's default: the draws of
        others depend on the batch.
      times: time grid instead of the uniform one: falling, within [0, 1], at least two.
      mesh: devices to share the work, see `Denoiser.with_mesh`; None for where the denoiser is.
      return_trajectory: return all states instead of the last.

    Returns:
      Images at the last time, [B, H, W, C], or a `Trajectory`.

    Raises:
      ValueError: if an argument is not as described, or the denoiser refuses noise, label or the
        first time.
    """
    steps = reverse_process(denoiser, noise, num_steps, label, solver, key, times=times, mesh=mesh)
    if not return_trajectory:
        for step in steps:
            x = step.x
        return x
    taken = list(steps)
    x = jnp.asarray(checks.array("noise", noise), taken[0].x.dtype)
    x = parallel.everywhere(x, denoiser.mesh if mesh is None else mesh)
    return Trajectory(
        times=jnp.asarray([taken[0].t] + [step.s for step in taken]),
        x=jnp.stack([x] + [step.x for step in taken]),
        x0=jnp.stack([step.x0 for step in taken]),
    )


def reverse_process(
    denoiser: Denoiser,
    noise: Float[ArrayLike, "b h w c"],
    num_steps: int | None = None,
    label: ArrayLike | None = None,
    solver: Solver = "ddim",
    key: Key[Array, "..."] | None = None,
    *,
    times: ArrayLike | None = None,
    mesh: jax.sharding.Mesh | None = None,
    first_step: int = 0,
) -> Iterator[Step]:
    """The steps of `sample`, one by one, for progress and for saving as one goes.

    Arguments are those of `sample` and are checked at once, not at the first step.

    Args:
      denoiser: see `sample`.
      noise: see `sample`; the state x after `first_step` steps, where that is not 0.
      num_steps: see `sample`.
      label: see `sample`.
      solver: see `sample`.
      key: see `sample`.
      times: see `sample`.
      mesh: see `sample`.
      first_step: number of steps taken already; the rest gives what an uninterrupted run gives.

    Returns:
      An iterator over the steps.

    Raises:
      ValueError: as `sample`, or if first_step is not a step of the grid.
    """
    checks.instance(
        "denoiser", denoiser, Denoiser, "a ScoreMachine, a network or a FunctionDenoiser"
    )
    checks.one_of("solver", solver, SOLVERS)
    grid = time_grid(denoiser.schedule, num_steps, times)
    first_step = checks.integer("first_step", first_step, 0, len(grid) - 2)
    denoiser.check(noise, label, grid[first_step])
    if solver == "heun":
        check_signal(denoiser.schedule, grid[first_step], LEAST_SIGNAL)
    x = jnp.asarray(checks.array("noise", noise), jnp.result_type(float))
    if key is None and solver == "ancestral":
        raise ValueError("key=None: solver='ancestral' needs one, such as jax.random.key(0)")
    keys = None if key is None else keys_of_samples(key, x.shape[0])
    if keys is not None and solver == "ancestral":
        brownian.check_keys(keys)
    if mesh is not None:
        denoiser = denoiser.with_mesh(mesh)
    x, keys = parallel.everywhere((x, keys), denoiser.mesh)
    return _steps(denoiser, x, grid, first_step, label, solver, keys)


def time_grid(
    schedule: Schedule, num_steps: int | None = None, times: ArrayLike | None = None
) -> Float[np.ndarray, " states"]:
    """Times of the states of a reverse process; noise is left at all but the last.

    Args:
      schedule: noise schedule.
      num_steps: see `sample`.
      times: see `sample`.

    Returns:
      Times, falling, one more than steps.

    Raises:
      ValueError: if num_steps or times is not as described.
    """
    if num_steps is not None:
        num_steps = checks.positive_int("num_steps", num_steps)
    if times is None:
        num_steps = num_steps or 20
        return np.arange(num_steps, -1, -1) / num_steps
    grid = checks.array("times", times)
    if isinstance(grid, jax.core.Tracer) or not checks.is_real(grid):
        raise ValueError(f"times={times!r} must be numbers, known before the computation")
    grid = np.asarray(grid, np.float64)
    falls = grid.ndim == 1 and grid.size >= 2 and (np.diff(grid) < 0).all()
    if not (falls and grid[0] <= 1 and grid[-1] >= 0):
        raise ValueError(f"times={times} must be at least two times in [0, 1], falling")
    if num_steps not in (None, grid.size - 1):
        raise ValueError(f"num_steps={num_steps}, but times has {grid.size - 1} steps: give one")
    levels = schedule.on_host(grid[:-1])
    if levels is not None and (levels[1] == 0).any():
        raise ValueError(f"times={times}: no noise is left at t = {grid[:-1][levels[1] == 0][0]:g}")
    return grid


def _steps(
    denoiser: Denoiser,
    x: Float[Array, "b h w c"],
    grid: np.ndarray,
    first_step: int,
    label: ArrayLike | None,
    solver: Solver,
    keys: Key[Array, " b"] | None,
) -> Iterator[Step]:
    for index in range(first_step, len(grid) - 1):
        t, s = grid[index].item(), grid[index + 1].item()
        x0 = denoiser.denoise(x, t, label)
        levels = _Levels(*denoiser.schedule(t), *denoiser.schedule(s))
        if s == 0:
            x = x0
        elif solver == "ddim":
            x = _ddim(x, x0, levels)
        elif solver == "ancestral":
            x = _ancestral(x, x0, levels, keys)
        else:
            trial = _ddim(x, x0, levels)
            x = _heun(x, x0, trial, denoiser.denoise(trial, s, label), levels)
        yield Step(index, t, s, x0, x)


class _Levels(NamedTuple):
    """Signal and noise level at both ends of a step, scalars."""

    alpha: Array
    sigma: Array
    next_alpha: Array
    next_sigma: Array


@jax.jit
def _ddim(x: Array, x0: Array, levels: _Levels) -> Array:
    alpha, sigma, next_alpha, next_sigma = map(per_image, levels)
    return next_alpha * x0 + next_sigma * noise_from_x0(x, x0, alpha, sigma)


def _ancestral(x: Array, x0: Array, levels: _Levels, keys: Array | None) -> Array:
    root = brownian.root_snr(levels.alpha, levels.sigma)
    # No smaller, but for rounding.
    next_root = jnp.maximum(root, brownian.root_snr(levels.next_alpha, levels.next_sigma))
    fresh = brownian.increment(keys, root, next_root, x.shape[1:])
    return _localize(x, x0, levels, root / next_root, fresh)


@jax.jit
def _localize(x: Array, x0: Array, levels: _Levels, kept: Array, fresh: Array) -> Array:
    """u_s = u_t + (lambda_s - lambda_t) x0 + B_s - B_t, for u = alpha x / sigma², in x.

    In units of sqrt(lambda_s), of which `kept` is sqrt(lambda_t) and `fresh` the increment of B.
    """
    _, sigma, next_alpha, next_sigma = map(per_image, levels)
    kept = per_image(kept)
    before = next_sigma / sigma * kept * x
    return before + next_alpha * (1 - kept**2) * x0 + next_sigma * fresh


@jax.jit
def _heun(x: Array, x0: Array, trial: Array, trial_x0: Array, levels: _Levels) -> Array:
    alpha, sigma, next_alpha, next_sigma = map(per_image, levels)
    slope = noise_from_x0(x, x0, alpha, sigma)
    slope = (slope + noise_from_x0(trial, trial_x0, next_alpha, next_sigma)) / 2
    return next_alpha * (x / alpha + (next_sigma / next_alpha - sigma / alpha) * slope)


def _normal(keys: Key[Array, " b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """A standard normal draw for each key: the same in every precision."""
    draws = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
    return draws.astype(jnp.result_type(float))
