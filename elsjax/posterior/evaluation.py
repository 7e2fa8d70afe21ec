"""The one way in: dictionary x method x answers, block by block, on one device or a mesh.

scheme      chooses a method for each part, and cuts the work
evaluate    places a batch on the devices and runs one program for all parts
of_part     the queries of a part, tile by tile
_stream     a tile, against the training images, block by block
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from elsjax import parallel
from elsjax.posterior import index, ranking, shares, softmax
from elsjax.posterior.answers import Question, evidence_constant, located
from elsjax.posterior.dictionaries import Dictionary, ImagePart, Part, WindowPart
from elsjax.posterior.lookup import Lookup
from elsjax.posterior.methods import Block, Method, Plan
from elsjax.posterior.ranking import Largest
from elsjax.posterior.scheme import Scheme, choose_scheme
from elsjax.posterior.shares import LEAST_VARIANCE, Levels, Share
from elsjax.posterior.training_set import TrainingSet


def evaluate(
    dictionary: Dictionary,
    question: Question,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    *,
    memory_budget: int | None = None,
    block_size: int | None = None,
    lookup: Lookup | None = None,
) -> dict[str, Array]:
    """The answers for a batch.

    Args:
      dictionary: which entries.
      question: what is asked for.
      x: noisy images.
      levels: of each.
      training_set: the training images.
      ranges: range [start, stop) of the images that count, for all or for each; None for all.
      memory_budget: bytes; None for the default.
      block_size: training images of a block; None to follow from the budget.
      lookup: indices of some parts, for the mean of noisy images of one noise level; then "error"
        is an estimate of its error, 0 where there is none. None to look at every entry.

    Returns:
      Answers by name, [B, H, W, size].
    """
    count, mesh = len(x), training_set.mesh
    batch = -(-count // (1 if mesh is None else mesh.shape[parallel.SAMPLE]))
    if ranges is not None and ranges.ndim == 2:
        batch = 1  # each for itself
    scheme = choose_scheme(
        dictionary, question, training_set, batch, x.dtype, memory_budget, block_size
    )
    x, levels, ranges = shares.placed(mesh, x, levels, ranges)
    found = _compiled(dictionary, question, scheme, x, levels, training_set, ranges, lookup)
    return {name: array[:count] for name, array in found.items()}


@functools.partial(jax.jit, static_argnames=("dictionary", "question", "scheme"))
def _compiled(
    dictionary: Dictionary,
    question: Question,
    scheme: Scheme,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    lookup: Lookup | None = None,
) -> dict[str, Array]:
    """`evaluate` for a batch that is placed."""
    answer = functools.partial(_of_device, dictionary, question, scheme)
    of_lookup = None if lookup is None else lookup.partition_specs()
    return shares.on_devices(answer, x, levels, training_set, ranges, lookup, of_lookup)


def _of_device(
    dictionary: Dictionary,
    question: Question,
    scheme: Scheme,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    ranges: Int[Array, "2"] | Int[Array, "b 2"] | None,
    lookup: Lookup | None = None,
) -> dict[str, Array]:
    """What one device computes of `evaluate`."""
    if ranges is not None and ranges.ndim == 2:  # each noisy image for itself

        def one(arguments: tuple[Array, Levels, Array]) -> dict[str, Array]:
            x, levels, ranges = jax.tree.map(lambda a: a[None], arguments)
            of_one = _of_device(dictionary, question, scheme, x, levels, training_set, ranges[0])
            return jax.tree.map(lambda array: array[0], of_one)

        return lax.map(one, (x, levels, ranges))
    share = shares.share_of(training_set, ranges)
    found = []
    for number, (method, plan) in enumerate(zip(scheme.methods, scheme.plans, strict=True)):
        if lookup is not None and lookup.indices[number] is not None:
            found.append(_looked_up(method.part, number, x, levels, training_set, lookup))
            continue
        of_method = of_part(method, plan, question, x, levels, share, training_set)
        if lookup is not None:
            of_method["error"] = jnp.zeros_like(of_method["mean"][..., :1])
        found.append(of_method)
    answers = put_together(dictionary.parts, found, x.shape)
    if "log_evidence" in answers:
        origins = [method.origin(training_set.mean_pixel) for method in scheme.methods]
        constant = evidence_constant(dictionary, x, *levels, origins[0])
        answers["log_evidence"] += constant[..., None]
    return answers


def _looked_up(
    part: Part,
    number: int,
    x: Float[Array, "b h w c"],
    levels: Levels,
    training_set: TrainingSet,
    lookup: Lookup,
) -> dict[str, Array]:
    """The mean at the pixels of a part, of that number, through its index, and its error."""
    of_part = lookup.indices[number]
    assert isinstance(part, WindowPart)
    assert of_part is not None
    mean, error = index.posterior_mean(
        part,
        x,
        levels.alpha[0],
        levels.sigma[0],
        training_set.mean_pixel,
        *of_part,
        lookup.tolerance,
        sharded=training_set.mesh is not None,
    )
    return {"mean": mean, "error": error[..., None]}


def of_part(
    method: Method,
    plan: Plan,
    question: Question,
    x: Float[Array, "b h w c"],
    levels: Levels,
    share: Share,
    training_set: TrainingSet,
) -> dict[str, Array]:
    """Answers at one part's pixels, over a share of the training images.

    Args:
      method: how logits are had.
      plan: how the work is cut; does not change the result beyond rounding.
      question: what is asked for.
      x: noisy images.
      levels: of each.
      share: training images that count.
      training_set: of which they are.

    Returns:
      Answers by name, [B, len(part.pixels), size].
    """
    part, origin = method.part, method.origin(training_set.mean_pixel)
    queries, resolution = _queries(method, x, levels, origin, training_set.largest_norm)
    num, batch, per_image, size = queries.shape
    queries, resolution = queries.reshape(num, -1, size), resolution.reshape(-1)

    def answer(tile: tuple[Array, Array]) -> dict[str, Array]:
        return question.finish(*_stream(method, plan, question, *tile, origin, share), origin)

    rows = batch * per_image
    if rows <= plan.rows:
        found = answer((queries, resolution))
    else:
        tiles = -(-rows // plan.rows)
        padding = tiles * plan.rows - rows
        queries = jnp.pad(queries, ((0, 0), (0, padding), (0, 0)))
        queries = queries.reshape(num, tiles, plan.rows, size).transpose(1, 0, 2, 3)
        resolution = jnp.pad(resolution, (0, padding)).reshape(tiles, plan.rows)
        found = lax.map(answer, (queries, resolution))
        found = {
            name: array.swapaxes(0, 1).reshape(array.shape[1], rows + padding, -1)[:, :rows]
            for name, array in found.items()
        }
    answers = {}
    for name, array in found.items():
        array = array.reshape(len(array), batch, per_image, -1)
        if isinstance(part, ImagePart) and name not in question.of_channels:
            array = jnp.broadcast_to(array, (1, batch, len(part.pixels), array.shape[-1]))
        answers[name] = method.by_pixels(array)
    if "log_evidence" in answers:
        entries = jnp.asarray(share.total, x.dtype) * part.keys_per_image
        answers["log_evidence"] -= jnp.log(entries)
    if "place" in answers:
        sources = located(part, answers["image"], answers.pop("place"))
        answers["row"], answers["column"] = sources
    return answers


def _queries(
    method: Method,
    x: Float[Array, "b h w c"],
    levels: Levels,
    origin: Float[Array, " c"],
    largest_norm: Float[Array, ""],
) -> tuple[Float[Array, "s b q e"], Float[Array, "b q"]]:
    """Queries with the factor of the keys' squared norms appended, and their logits' resolution."""
    alpha, sigma = levels
    gain = alpha / jnp.maximum(sigma * sigma, LEAST_VARIANCE)
    per_image = (slice(None), None, None, None)
    shifted = (x - alpha[per_image] * origin[None, None, None]) * gain[per_image]
    queries = method.queries(shifted)
    norm_gain = -0.5 * alpha * gain
    appended = jnp.broadcast_to(norm_gain[None, :, None, None], (*queries.shape[:3], 1))
    # A window is of at most so many strips.
    size, key_size = queries.shape[3], method.part.key_size
    squares = key_size / size * jnp.max(jnp.sum(queries * queries, axis=3), axis=0)
    largest = largest_norm * math.sqrt(key_size // x.shape[3])
    terms = jnp.sqrt(squares) * largest + jnp.abs(norm_gain)[:, None] * largest**2
    roundings = (1 + math.sqrt(key_size) / 4) * jnp.finfo(x.dtype).eps
    return jnp.concatenate([queries, appended], axis=-1), lax.stop_gradient(roundings * terms)


def _stream(
    method: Method,
    plan: Plan,
    question: Question,
    queries: Float[Array, "s r e"],
    resolution: Float[Array, " r"],
    origin: Float[Array, " c"],
    share: Share,
) -> tuple[softmax.PosteriorState, Largest | None]:
    """What a tile of queries knows after all training images, block by block."""
    request, rows = question.request, queries.shape[1]
    tile = method.tile(queries)

    def add_block(
        known: tuple[softmax.PosteriorState, Largest | None], places: Array, counts: Array
    ) -> tuple[softmax.PosteriorState, Largest | None]:
        seen, ranked = known
        numbers = share.numbers[places]
        if request.top:
            order = jnp.argsort(jnp.where(counts, numbers, jnp.iinfo(jnp.int32).max))
            counts, places, numbers = counts[order], places[order], numbers[order]
        images = method.shifted(share.pixels[places], origin)
        block = Block(images, counts.astype(queries.dtype), numbers)
        found, ranked = method.state(tile, block, request, ranked)
        return softmax.merge(seen, found), ranked

    shape, ranked = (method.num_groups, rows), None
    seen = softmax.empty(shape, method.part.value_size, queries.dtype, request)
    if request.top:
        ranked = ranking.none(request.top, jnp.zeros(shape, queries.dtype))
    seen, ranked = share.varying((seen, ranked))
    if ranked is not None:
        ranked = ranked.resolved(jnp.broadcast_to(resolution, shape))
    seen, ranked = share.fold(add_block, (seen, ranked), plan.images)
    if share.sharded:
        seen = softmax.merge_over(seen, parallel.DATA)
        ranked = None if ranked is None else ranking.merge_over(ranked, parallel.DATA)
    return seen, ranked


def put_together(
    parts: tuple[Part, ...], answers: list[dict[str, Array]], shape: tuple[int, ...]
) -> dict[str, Array]:
    """What each part knows, [B, its pixels, size], as images, [B, H, W, size]."""
    order = np.argsort(np.concatenate([part.pixels for part in parts]))
    return {
        name: jnp.concatenate([of_part[name] for of_part in answers], axis=1)[:, order].reshape(
            *shape[:3], -1
        )
        for name in answers[0]
    }
