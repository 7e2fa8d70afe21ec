"""Machines as programs: traced once, within their memory, for every platform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elsjax
from elsjax.posterior import evaluation
from elsjax.posterior.answers import Question
from elsjax.posterior.dictionaries import Dictionary
from elsjax.posterior.scheme import choose_scheme
from elsjax.posterior.shares import Levels


def _images(num, shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num, *shape))


def _machine(kind, images, window, **options):
    return elsjax.ScoreMachine(kind, images, window=window, **options)


def test_machine_is_a_pytree_and_differentiable_forwards():
    machine = _machine("bbels", _images(5, (6, 6, 1)), 3)
    x = jnp.asarray(_images(1, (6, 6, 1), seed=1), jnp.float32)
    jitted = jax.jit(lambda machine, x, t: machine.denoise(x, t))
    np.testing.assert_allclose(jitted(machine, x, 0.4), machine.denoise(x, 0.4), atol=1e-6)
    direction = jnp.ones_like(x)
    _, slope = jax.jvp(lambda x: machine.denoise(x, 0.6), (x,), (direction,))
    step = 1e-2
    ahead, behind = (machine.denoise(x + s * direction, 0.6) for s in (step, -step))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), atol=2e-3)


def test_machines_in_jit_and_vmap_leak_nothing_and_trace_once():
    machine = _machine("bbels", _images(5, (6, 6, 1)), 3)
    x = jnp.asarray(_images(3, (6, 6, 1), seed=1), jnp.float32)
    traced = []

    def posterior(machine, x):
        traced.append(x.shape)
        return machine.posterior(x[None], 0.4, top=2)

    expected = machine.posterior(x, 0.4, top=2)
    as_argument = jax.jit(jax.vmap(posterior, in_axes=(None, 0)))
    closed_over = jax.jit(jax.vmap(lambda x: posterior(machine, x)))
    with jax.checking_leaks():
        as_argument(machine, x + 1)
    traced.clear()
    for _ in range(2):
        for found in (as_argument(machine, x), closed_over(x)):
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(one[:, 0], other, rtol=1e-4, atol=1e-5)
    assert len(traced) == 1  # of the one closed over; the other was traced before
    np.testing.assert_allclose(machine.denoise(x, 0.4), expected.mean, atol=1e-6)


def test_a_second_call_does_not_retrace():
    images = _images(9, (6, 6, 1))
    machine = elsjax.ScoreMachine("bbels", images, np.arange(9) % 3, window=3)
    x = _images(2, (6, 6, 1), seed=1)
    first = machine.denoise(x, 0.3, 1)
    programs = evaluation._compiled._cache_size()
    second = machine.denoise(2 * x, 0.7, 2)  # another time and class, the same program
    assert evaluation._compiled._cache_size() == programs
    assert np.abs(first - second).max() > 0
    machine.denoise(x[:1], 0.3, 1)  # a batch of another size has its own
    assert evaluation._compiled._cache_size() == programs + 1


def _temporary_bytes(kind, num_images, window, budget, batch=1):
    images = np.zeros((num_images, 32, 32, 1), np.uint8)
    machine = elsjax.ScoreMachine(kind, images, window=window)
    dictionary = Dictionary(kind, (32, 32, 1), window)
    x = jnp.zeros((batch, 32, 32, 1))
    plan = choose_scheme(dictionary, Question(), machine.training_set, batch, x.dtype, budget, None)
    levels = Levels(jnp.full(batch, 0.5), jnp.full(batch, 0.5))
    lowered = evaluation._compiled.lower(
        dictionary, Question(), plan, x, levels, machine.training_set, None
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("kind", "window"),
    [("is", None), ("es", None), ("ls", 17), ("els", 3), ("els", 17), ("bbels", 17)],
)
@pytest.mark.parametrize("batch", [1, 8])
def test_memory_keeps_to_the_budget_whatever_the_number_of_images(kind, window, batch):
    budget = 2**26
    few, many = (_temporary_bytes(kind, n, window, budget, batch) for n in (1000, 5000))
    assert few <= budget
    # Beyond the block that the budget allows, nothing grows.
    assert many <= budget
    assert _temporary_bytes(kind, 20_000, window, budget, batch) <= many * 1.01


@pytest.mark.parametrize(
    ("kind", "window"),
    [("is", None), ("es", None), ("ls", 5), ("els", 3), ("els", 7), ("bbels", 3), ("bbels", 7)],
)
@pytest.mark.parametrize(("mesh", "top"), [(None, None), ((2, 2), None), (None, 3)])
def test_kernels_lower_for_every_platform(kind, window, mesh, top):
    images = np.zeros((10, 12, 12, 3), np.uint8)
    machine = _machine(kind, images, window, mesh=mesh and elsjax.make_mesh(*mesh))

    @jax.jit
    def evaluate(x):
        return machine.denoise(x, 0.5) if top is None else machine.posterior(x, 0.5, top=top)

    export = jax.export.export(evaluate, platforms=["cpu", "cuda", "tpu"])
    exported = export(jax.ShapeDtypeStruct((2, 12, 12, 3), jnp.float32))
    assert exported.out_avals[0].shape == (2, 12, 12, 3)
    # Every product states full precision: none may fall to TF32 or bfloat16.
    products = re.findall(r"stablehlo\.dot_general.*", exported.mlir_module())
    assert products
    assert all("HIGHEST" in product for product in products)
