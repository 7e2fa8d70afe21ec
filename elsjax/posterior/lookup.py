"""Indices of the parts of dictionaries: which there are, and how they lie on a mesh."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from elsjax import parallel
from elsjax.posterior import index
from elsjax.posterior.dictionaries import Dictionary, Part, WindowPart
from elsjax.posterior.index import Patches, PatchIndex
from elsjax.posterior.training_set import TrainingSet

PartIndex = tuple[PatchIndex, Patches]

PartIndices = tuple[PartIndex | None, ...]
"""For each part of a dictionary an index and its patches; None where there is none."""

Indices = dict[int | None, dict[int | None, PartIndices]]
"""By label, then by window."""


class Lookup(NamedTuple):
    """What an evaluation looks up instead of going over every entry.

    Attributes:
      indices: of the dictionary's parts.
      tolerance: error estimate to go below, in pixels of [-1, 1].
    """

    indices: PartIndices
    tolerance: float | Float[Array, ""]

    def partition_specs(self) -> "Lookup":
        """How it lies on a mesh."""
        of_index = (index.partition_specs(), jax.P(parallel.DATA))
        return Lookup(tuple(None if one is None else of_index for one in self.indices), jax.P())  # type: ignore[arg-type, misc]


def indices(
    training_set: TrainingSet,
    dictionaries: dict[int | None, Dictionary],
    labels: Sequence[int | None],
    progress: Callable[[int, int], None] | None = None,
) -> Indices:
    """Loads or builds the indices of windows and labels, and lays their patches out.

    Args:
      training_set: 8-bit images, on every device.
      dictionaries: by window.
      labels: classes; None for all images.
      progress: called with how much is done, and with how much there is.

    Returns:
      The indices.

    Raises:
      ValueError: if the patches take more than `index.MOST_BYTES`.
    """
    todo = [
        (label, window, number)
        for label in labels
        for window, dictionary in dictionaries.items()
        for number, part in enumerate(dictionary.parts)
        if _pays(training_set, part, label)
    ]
    parts = {window: dictionary.parts for window, dictionary in dictionaries.items()}
    size = sum(_bytes(training_set, parts[window][number], label) for label, window, number in todo)
    if size > index.MOST_BYTES:
        raise ValueError(
            f"the patches of {len(todo)} indices take {size / 2**30:.1f} GiB, more than "
            f"{index.MOST_BYTES / 2**30:g}; choose fewer windows or labels"
        )
    found: Indices = {
        label: {window: (None,) * len(parts[window]) for window in parts} for label in labels
    }
    for done, (label, window, number) in enumerate(todo):
        part = parts[window][number]
        assert isinstance(part, WindowPart)
        one = _index(training_set, part, label, _step(progress, done, len(todo)))
        before = found[label][window]
        found[label][window] = (*before[:number], one, *before[number + 1 :])
    return found


def _pays(training_set: TrainingSet, part: Part, label: int | None) -> bool:
    start, stop = training_set.bounds(label)
    return not training_set.fuses and index.pays(part, stop - start)


def _bytes(training_set: TrainingSet, part: Part, label: int | None) -> int:
    start, stop = training_set.bounds(label)
    return (stop - start) * part.keys_per_image * part.key_size


def _step(
    progress: Callable[[int, int], None] | None, done: int, count: int
) -> Callable[[int, int], None] | None:
    """Progress in one of several indices."""
    if progress is None:
        return None
    return lambda part, whole: progress(done * 100 + 100 * part // whole, 100 * count)


def _index(
    training_set: TrainingSet,
    part: WindowPart,
    label: int | None,
    progress: Callable[[int, int], None] | None,
) -> PartIndex:
    """The index of a part over the images of a label, spread over the mesh, and its patches."""
    start, stop = training_set.bounds(label)
    pixels = np.asarray(training_set.pixels.addressable_data(0))[start:stop]
    built = index.load_or_build(pixels, part, progress=progress)
    mesh = training_set.mesh
    if mesh is not None:
        built = index.spread(built, mesh)
    patches = index.lay_out(built, training_set.pixels, part, start, training_set.mean_pixel, mesh)
    return built, patches
