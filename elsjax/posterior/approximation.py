"""Posterior means with a tolerance: an index where there is one, the exact methods elsewhere."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from elsjax import parallel
from elsjax.posterior import evaluation, index
from elsjax.posterior.answers import Question
from elsjax.posterior.dictionaries import Dictionary, Part, WindowPart
from elsjax.posterior.evaluation import Levels, Scheme
from elsjax.posterior.index import Patches, PatchIndex
from elsjax.posterior.training_set import TrainingSet

PartIndices = tuple[tuple[PatchIndex, Patches] | None, ...]
"""For each part of a dictionary an index and its patches; None where there is none."""

Indices = dict[int | None, dict[int | None, PartIndices]]
"""By label, then by window."""


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
) -> tuple[PatchIndex, Patches]:
    """The index of a part over the images of a label, spread over the mesh, and its patches."""
    start, stop = training_set.bounds(label)
    pixels = np.asarray(training_set.pixels.addressable_data(0))[start:stop]
    built = index.load_or_build(pixels, part, progress=progress)
    mesh = training_set.mesh
    if mesh is not None:
        built = index.spread(built, mesh)
    patches = index.lay_out(built, training_set.pixels, part, start, training_set.mean_pixel, mesh)
    return built, patches


def evaluate(
    dictionary: Dictionary,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    bounds: tuple[int, int],
    part_indices: PartIndices | None,
    tolerance: float,
    memory_budget: int | None,
    block_size: int | None,
) -> dict[str, Array]:
    """Posterior means and estimates of their errors, for noisy images of one noise level.

    Args:
      dictionary: which entries.
      x: noisy images.
      levels: signal and noise level, scalars.
      training_set: the training images, on every device.
      bounds: range of those that count.
      part_indices: of the dictionary's parts; None for none.
      tolerance: error estimate to go below, in pixels of [-1, 1].
      memory_budget: see `evaluation.scheme`.
      block_size: see `evaluation.scheme`.

    Returns:
      "mean", [B, H, W, C], and "error", [B, H, W, 1].
    """
    if part_indices is None:
        part_indices = (None,) * len(dictionary.parts)
    mesh, count = training_set.mesh, len(x)
    batch = -(-count // (1 if mesh is None else mesh.shape[parallel.SAMPLE]))
    plan = evaluation.scheme(
        dictionary, Question(), training_set, batch, x.dtype, memory_budget, block_size
    )
    levels = Levels(*(jnp.broadcast_to(level, x.shape[:1]) for level in levels))
    x, levels, ranges = evaluation.placed(mesh, x, levels, jnp.asarray(bounds))
    found = _compiled(dictionary, plan, x, levels, training_set, ranges, part_indices, tolerance)
    return {name: array[:count] for name, array in found.items()}


@functools.partial(jax.jit, static_argnames=("dictionary", "plan"))
def _compiled(
    dictionary: Dictionary,
    plan: Scheme,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"],
    part_indices: PartIndices,
    tolerance: Float[Array, ""],
) -> dict[str, Array]:
    """`evaluate` for a batch that is placed."""
    answer = functools.partial(_of_device, dictionary, plan)
    mesh = training_set.mesh
    if mesh is not None:
        samples, everywhere = jax.P(parallel.SAMPLE), jax.P()
        specs = tuple(
            None if one is None else (index.partition_specs(), jax.P(parallel.DATA))
            for one in part_indices
        )
        images = jax.tree.map(lambda _: everywhere, training_set)
        answer = jax.shard_map(
            answer,
            mesh=mesh,
            in_specs=(samples, samples, images, everywhere, specs, everywhere),
            out_specs=samples,
        )
    return answer(x, levels, training_set, ranges, part_indices, tolerance)


def _of_device(
    dictionary: Dictionary,
    plan: Scheme,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"],
    part_indices: PartIndices,
    tolerance: Float[Array, ""],
) -> dict[str, Array]:
    """What one device computes of `evaluate`."""
    share = evaluation.share(training_set, ranges)
    found = []
    for method, cut, one in zip(plan.methods, plan.plans, part_indices, strict=True):
        if one is None:
            answers = evaluation.of_part(method, cut, Question(), x, levels, share, training_set)
            answers["error"] = jnp.zeros_like(answers["mean"][..., :1])
        else:
            assert isinstance(method.part, WindowPart)
            mean, error = index.posterior_mean(
                method.part,
                x,
                levels.alpha[0],
                levels.sigma[0],
                training_set.mean_pixel,
                *one,
                tolerance,
                sharded=training_set.mesh is not None,
            )
            answers = {"mean": mean, "error": error[..., None]}
        found.append(answers)
    return evaluation.put_together(dictionary.parts, found, x.shape)
