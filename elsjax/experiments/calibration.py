"""The locality scale P(t) of a network: the window whose machine predicts its noise best.

At each time of the network's own reverse process, every candidate window's machine predicts the
noise in the network's x_t. The measure is the cosine similarity of the two predictions (Kamb &
Ganguli 2025, section 5.1); each sample has its best window, and P(t) is the median over samples,
the wider of the two in the middle if their number is even.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from elsjax import checks, parallel
from elsjax.experiments.states import States
from elsjax.machines import ScoreMachine
from elsjax.process.denoisers import Denoiser, noise_from_x0, per_image
from elsjax.process.sampling import Solver, Step, reverse_process
from elsjax.process.windows import WindowSchedule


class Similarity(NamedTuple):
    """How well one window's machine predicts the network at one time.

    Attributes:
      step: number of the step, from 0 at t = 1.
      t: its time.
      number: of the candidate, from 0.
      cosine: cosine similarity of the noise predictions, [B].
      error: mean squared error of the machine's E[x_0 | x_t] from the network's, [B].
    """

    step: int
    t: float
    number: int
    cosine: np.ndarray
    error: np.ndarray


def similarities(
    network: Denoiser,
    machine: ScoreMachine,
    windows: Sequence[int],
    noise: Float[ArrayLike, "b h w c"],
    num_steps: int | None = None,
    label: ArrayLike | None = None,
    *,
    solver: Solver = "ddim",
    key: Key[Array, "..."] | None = None,
    first: int = 0,
) -> Iterator[Similarity]:
    """Compares every window at every time of the network's reverse process, one after another.

    Args:
      network: whose locality scale is sought.
      machine: machine of a local kind; its own window does not matter.
      windows: candidates, odd.
      noise: noise to start from, [B, H, W, C].
      num_steps: steps of the uniform time grid from 1 to 0; None for 20.
      label: class to condition on, integer or [B]; None for unconditional.
      solver: of the network's reverse process, see `elsjax.sample`.
      key: see `elsjax.sample`.
      first: number of results to leave out, because they are there already.

    Returns:
      An iterator, with the windows of one step after another.

    Raises:
      ValueError: if an argument is not as described, or one of the two refuses noise or label.
      FloatingPointError: while it goes on, if the network predicts noise that is not finite.
    """
    checks.instance("machine", machine, ScoreMachine, "ScoreMachine('ls', images, window=3)")
    if machine.window is None:
        raise ValueError(f"machine of kind={machine.kind!r} must be one that has a window")
    sides = checks.positive_ints("windows", windows, odd=True)
    candidates = [machine.with_window(side) for side in sides]
    first = checks.integer("first", first, 0, sys.maxsize)
    machine.check(noise, label)
    steps = reverse_process(network, noise, num_steps, label, solver, key)
    x = jnp.asarray(checks.array("noise", noise))
    return _similarities(candidates, x, steps, label, first, network.mesh)


def _similarities(
    candidates: list[ScoreMachine],
    x: Float[Array, "b h w c"],
    steps: Iterator[Step],
    label: ArrayLike | None,
    first: int,
    mesh: jax.sharding.Mesh | None,
) -> Iterator[Similarity]:
    x = parallel.everywhere(x, mesh)
    for step in steps:
        for number, candidate in enumerate(candidates):
            if step.index * len(candidates) + number < first:
                continue
            x0 = parallel.everywhere(candidate.denoise(x, step.t, label), mesh)
            cosine, error = _compare(x, x0, step.x0, *candidate.schedule(step.t))
            if not np.isfinite([cosine, error]).all():
                raise FloatingPointError(
                    f"no window is like the network at t={step.t:g}: the noise that it predicts "
                    "is not finite, or overflows"
                )
            yield Similarity(step.index, step.t, number, np.asarray(cosine), np.asarray(error))
        x = step.x


@jax.jit
def _compare(
    x: Array, machine_x0: Array, network_x0: Array, alpha: Array, sigma: Array
) -> tuple[Array, Array]:
    """Cosine of the noise predictions and mean squared error of x0, [B] each."""
    ours, theirs = (
        noise_from_x0(x, x0, per_image(alpha), per_image(sigma)).reshape(x.shape[0], -1)
        for x0 in (machine_x0, network_x0)
    )
    norms = jnp.linalg.norm(ours, axis=1) * jnp.linalg.norm(theirs, axis=1)
    cosine = jnp.where(jnp.isfinite(norms), (ours * theirs).sum(1) / norms, jnp.nan)
    return cosine, ((machine_x0 - network_x0) ** 2).mean((1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Similarities of all windows at all times.

    Attributes:
      times: times of the steps, falling from 1, [S].
      windows: candidates, rising, [W].
      cosine: cosine similarity of the noise predictions, [S, W, B].
      error: mean squared error of the machine's E[x_0 | x_t] from the network's, [S, W, B].
    """

    times: Float[np.ndarray, " s"]
    windows: tuple[int, ...]
    cosine: Float[np.ndarray, "s w b"]
    error: Float[np.ndarray, "s w b"]

    def schedule(self, *, monotone: bool = False) -> WindowSchedule:
        """P(t), on the grid of the times.

        At t = 1 no signal is left in x_t and every window predicts the same noise: the entry is
        that of the time before.

        Args:
          monotone: let P(t) never fall as the noise rises: of all such schedules, that with the
            largest sum over times of the median similarity.

        Returns:
          The schedule.

        Raises:
          ValueError: if a similarity is NaN.
        """
        checks.finite("cosine", self.cosine)
        best = np.sort(self.cosine.argmax(1), axis=1)[::-1]
        chosen = best[:, best.shape[1] // 2].tolist()
        if monotone:
            chosen = _rising_path(np.median(self.cosine, axis=2)[::-1])
        windows = [self.windows[index] for index in chosen]
        if len(windows) > 1 and self.times[0] == 1:
            windows[-1] = windows[-2]
        return WindowSchedule(tuple(windows))


def calibrate(
    network: Denoiser,
    machine: ScoreMachine,
    windows: Sequence[int],
    noise: Float[ArrayLike, "b h w c"],
    *,
    num_steps: int = 20,
    label: Int[ArrayLike, "..."] | None = None,
    solver: Solver = "ddim",
    key: Key[Array, "..."] | None = None,
    states: States | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Compares every window with the network at every time of the network's reverse process.

    Args:
      network: whose locality scale is sought.
      machine: machine of a local kind; its own window does not matter.
      windows: candidates, odd.
      noise: noise to start from, [B, H, W, C].
      num_steps: S, steps of the uniform time grid from 1 to 0.
      label: class to condition on, integer or [B]; None for unconditional.
      solver: of the network's reverse process, see `elsjax.sample`.
      key: see `elsjax.sample`.
      states: keeps what is found on the way, so that an interrupted calibration goes on; None to
        keep nothing.
      progress: called with the number of windows compared, over all times, and how many there are.

    Returns:
      The similarities, with the windows rising; `calibration.schedule()` is P(t).

    Raises:
      ValueError: if an argument is not as described, or one of the two refuses noise or label.
      FloatingPointError: if the network predicts noise that is not finite.
    """
    sides = tuple(sorted(set(checks.positive_ints("windows", windows, odd=True))))
    compared = functools.partial(
        similarities, network, machine, sides, noise, num_steps, label, solver=solver, key=key
    )
    compared()  # refuses what does not fit, before a state is looked for
    states = States() if states is None else states
    shape = (num_steps, len(sides), len(checks.array("noise", noise)))
    total = num_steps * len(sides)
    new = {"cosine": np.full(shape, np.nan), "error": np.full(shape, np.nan), "done": np.asarray(0)}
    state = states.load("similarities", new, lambda state: 0 <= int(state["done"]) <= total)
    before = int(state["done"])
    if progress is not None:
        progress(before, total)
    for done, found in enumerate(compared(first=before), before + 1):
        state["cosine"][found.step, found.number] = found.cosine
        state["error"][found.step, found.number] = found.error
        state["done"] = np.asarray(done)
        states.save("similarities", state)
        if progress is not None:
            progress(done, total)
    times = np.arange(num_steps, 0, -1) / num_steps
    return Calibration(times, sides, state["cosine"], state["error"])


def _rising_path(scores: Float[np.ndarray, "s w"]) -> list[int]:
    """Indices, never falling, of the largest sum of one score from each row."""
    totals, before = scores[0], []
    for row in scores[1:]:
        best = np.maximum.accumulate(totals)
        # The first index that reaches each running maximum.
        where = np.array([int(np.argmax(totals[: end + 1])) for end in range(len(totals))])
        before.append(where)
        totals = row + best
    path = [int(np.argmax(totals))]
    for where in reversed(before):
        path.append(int(where[path[-1]]))
    return path[::-1]
