"""Where network and machines start, and the steps that they take.

On a uniform grid of S steps for the machines:

    late       both at t = 1 - 1 / S
    aligned    both at t = 1
    published  the network at t = 1, the machine at 1 - 1 / S, looking through the window of the
               grid point above, as the code of Kamb & Ganguli (2025) does
    ten-step   both at the 900th of 1,000 steps of DDPM's linear schedule, in ten steps to 0, with
               estimates clipped to [-1, 1]: what later papers on analytic denoisers report
               (Lukoianov et al. 2025). Each is asked at its own time of these noise levels

A step from t to s takes an error of the predicted noise, times sigma_s - sigma_t alpha_s / alpha_t,
into x_s. From 1 to 0.95 that factor is 6.2, at the next step 0.86: where a network starts at t = 1,
its first step adds several times the signal of x_0.95 in errors, which no theory of it predicts.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from elsjax import checks
from elsjax.process.windows import WindowSchedule

Protocol = Literal["late", "aligned", "published", "ten-step"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
TEN_STEPS = (*((k + 1) / 1000 for k in range(900, -1, -100)), 0.0)
"""Time grid of the protocol "ten-step", of `LinearBetaSchedule()`: papers count steps from 0."""


def numbers_of_steps(
    protocol: Protocol, num_steps: int | None, network_steps: Sequence[int] | None
) -> tuple[int, tuple[int, ...]]:
    """Numbers of steps of machines and of the network.

    Args:
      protocol: see `compare`.
      num_steps: see `compare`.
      network_steps: see `compare`.

    Returns:
      `(num_steps, network_steps)`, with what None stands for.

    Raises:
      ValueError: if they are not positive, or not those of the protocol.
    """
    checks.one_of("protocol", protocol, PROTOCOLS)
    own = len(TEN_STEPS) - 1
    if protocol != "ten-step":
        num_steps = 20 if num_steps is None else checks.positive_int("num_steps", num_steps)
        given = (20, 150) if network_steps is None else network_steps
        return num_steps, checks.positive_ints("network_steps", given)
    if num_steps not in (None, own):
        raise ValueError(f"num_steps={num_steps} must be {own} for protocol='ten-step'")
    if network_steps is not None and tuple(network_steps) != (own,):
        raise ValueError(f"network_steps={network_steps} must be ({own},) for protocol='ten-step'")
    return own, (own,)


def machine_grid(
    protocol: Protocol, num_steps: int, window: WindowSchedule | int | None
) -> tuple[np.ndarray, WindowSchedule | int | None]:
    """Time grid and window of the machine in a comparison.

    Args:
      protocol: "late", "aligned", "published" or "ten-step", see `compare`.
      num_steps: S, steps of the uniform grid from 1 to 0.
      window: window of the machine.

    Returns:
      `(times, window)`: times for `elsjax.sample`, and the window to look through.

    Raises:
      ValueError: if the protocol is unknown or num_steps too small for it.
    """
    checks.one_of("protocol", protocol, PROTOCOLS)
    checks.positive_int("num_steps", num_steps)
    if protocol == "ten-step":
        return np.array(TEN_STEPS), window
    if protocol == "aligned":
        return _uniform(num_steps), window
    if num_steps == 1:
        raise ValueError(f"num_steps=1 must be at least 2 for protocol={protocol!r}")
    if protocol == "published" and isinstance(window, WindowSchedule):
        window = WindowSchedule((*window.windows[1:], window.windows[-1]))
    return _uniform(num_steps)[1:], window


def network_grid(protocol: Protocol, num_steps: int, network_steps: int) -> np.ndarray:
    """Time grid of the network in a comparison.

    Args:
      protocol: as `machine_grid`.
      num_steps: S, steps of the machine's grid from 1 to 0.
      network_steps: steps of the network from 1 to 0; from where it starts it takes its share, and
        as many as the machine where both numbers are the same.

    Returns:
      Times for `elsjax.sample`.

    Raises:
      ValueError: as `machine_grid`, or if network_steps is not positive.
    """
    checks.positive_int("network_steps", network_steps)
    times, _ = machine_grid(protocol, num_steps, None)
    if protocol == "ten-step":
        return times
    if protocol != "late":
        return _uniform(network_steps)
    if network_steps == num_steps:
        return times
    return times[0] * _uniform(max(1, round(network_steps * times[0])))


def _uniform(num_steps: int) -> np.ndarray:
    """The uniform time grid from 1 to 0."""
    return np.arange(num_steps, -1, -1) / num_steps
