"""Batches of mixed times, windows and labels, divided on the host into what goes together."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from elsjax import checks
from elsjax.process.windows import WindowSchedule

Batch = TypeVar("Batch")


class Group(NamedTuple):
    """Noisy images of a batch that are looked at together.

    Attributes:
      places: in the batch.
      window: that they are seen through.
      label: one for all; [B] where it is traced; None for none.
      time: one for all, where that is asked for.
    """

    places: np.ndarray
    window: int | None
    label: Any
    time: Any


def groups_of(
    window: int | WindowSchedule | None,
    t: ArrayLike,
    label: ArrayLike | None,
    batch: int,
    *,
    by_time: bool = False,
) -> list[Group]:
    """Divides a batch by windows, labels and, if asked for, times, as far as they are known."""
    times = checks.host_values(t) if by_time or isinstance(window, WindowSchedule) else None
    sides: list[int | None] = []
    if not isinstance(window, WindowSchedule):
        sides = [window] * batch
    else:
        if times is None:
            raise ValueError(
                "t must be a value on the host, not traced or on an accelerator: the window "
                "depends on it (pass a Python number, or give the machine one window)"
            )
        sides = [window(time) for time in np.broadcast_to(times, batch)]
    labels = None if label is None else checks.host_values(label)
    each: list[int | None] = [None] * batch
    if labels is not None:
        each = np.broadcast_to(labels, batch).tolist()
    moments = [None] * batch
    if by_time and times is not None:
        moments = np.broadcast_to(times, batch).astype(float).tolist()
    found: dict[tuple, list[int]] = {}
    for place, key in enumerate(zip(sides, each, moments, strict=True)):
        found.setdefault(key, []).append(place)
    groups = [Group(np.asarray(places), *key) for key, places in found.items()]
    if label is None or labels is not None:
        return groups
    traced = jnp.asarray(label)
    return [g._replace(label=traced[g.places] if traced.ndim else traced) for g in groups]


def in_groups(
    groups: list[Group], of_each: Batch, answer: Callable[[Group, Batch], dict[str, Array]]
) -> dict[str, Array]:
    """What is found for each group of a batch, in the order of the batch.

    Args:
      groups: of the batch.
      of_each: arrays of the batch, [B, ...].
      answer: maps a group and its own rows of these arrays to what is found for it.

    Returns:
      What is found, by name, [B, ...].
    """
    if len(groups) == 1:
        return answer(groups[0], of_each)
    found = []
    for group in groups:
        places = group.places
        found.append(answer(group, jax.tree.map(lambda array, of=places: array[of], of_each)))
    return scattered(found, groups)


def scattered(found: list[dict[str, Array]], groups: list[Group]) -> dict[str, Array]:
    """What was found for groups of a batch, in the order of the batch."""
    if len(groups) == 1:
        return found[0]
    order = np.argsort(np.concatenate([group.places for group in groups]))
    return {name: jnp.concatenate([one[name] for one in found])[order] for name in found[0]}


def sides_of(window: int | WindowSchedule | None) -> list[int | None]:
    """The windows that a machine looks through."""
    return [*sorted(set(window.windows))] if isinstance(window, WindowSchedule) else [window]
