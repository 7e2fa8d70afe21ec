"""How a dictionary is evaluated: a method for each of its parts, and blocks that fit the memory."""

from typing import NamedTuple

import jax.numpy as jnp

from elsjax import parallel
from elsjax.posterior.answers import Question
from elsjax.posterior.dictionaries import Dictionary, check_parts
from elsjax.posterior.methods import Method, Plan, choose
from elsjax.posterior.training_set import TrainingSet


class Scheme(NamedTuple):
    """How a dictionary is evaluated: a method and a plan for each of its parts. Static.

    Attributes:
      methods: one for each part.
      plans: how each cuts its work.
    """

    methods: tuple[Method, ...]
    plans: tuple[Plan, ...]


def choose_scheme(
    dictionary: Dictionary,
    question: Question,
    training_set: TrainingSet,
    batch: int,
    dtype: jnp.dtype,
    memory_budget: int | None,
    block_size: int | None,
) -> Scheme:
    """Chooses a method for each part, and how a device cuts its work.

    Args:
      dictionary: which entries.
      question: what is asked for.
      training_set: the training images.
      batch: number of noisy images that a device looks at together.
      dtype: of the noisy images.
      memory_budget: bytes; None for the default.
      block_size: training images of a block; None to follow from the budget.

    Returns:
      The scheme.

    Raises:
      ValueError: if the dictionary's parts do not hold every pixel once.
    """
    check_parts(dictionary)
    num_images, budget = images_of_device(training_set), memory_budget
    if budget is None:
        budget = default_budget(training_set)
    # What the two pairs of edges prepare may lie in memory while another part is computed.
    prepared = budget // 6
    use_fused = training_set.fuses and dtype == jnp.float32
    methods, plans = [], []
    for part in dictionary.parts:
        method = choose(part, question.request, use_fused=use_fused)
        plan = method.plan(batch, num_images, dtype.itemsize, budget - 2 * prepared)
        if block_size is not None:
            plan = plan._replace(images=min(block_size, num_images))
        methods.append(method)
        plans.append(plan)
    return Scheme(tuple(methods), tuple(plans))


def images_of_device(training_set: TrainingSet) -> int:
    """How many training images a device goes over at most."""
    shape = {} if training_set.mesh is None else training_set.mesh.shape
    return -(-training_set.num_images // shape.get(parallel.DATA, 1))


def default_budget(training_set: TrainingSet) -> int:
    """Bytes that one evaluation may use on each device, where no budget is given."""
    if training_set.platform != "cpu":
        return 3 * 2**27
    devices = 1 if training_set.mesh is None else training_set.mesh.size
    return max(2**22, 3 * 2**23 // devices)  # devices of a CPU share a cache
