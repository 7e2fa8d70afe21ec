import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from elsjax.posterior import softmax


def _state(logits, values):
    def weigh(weights):
        return weights.sum(-1), weights @ values

    return softmax.from_logits(logits, weigh)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 19), scale=st.sampled_from([1.0, 1e2, 1e6]), seed=st.integers(0, 99))
def test_merge_is_the_softmax_of_all_in_any_order(cut, scale, seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        logits, values = scale * rng.normal(size=(3, 20)), rng.normal(size=(20, 2))
        parts = [_state(logits[:, cut:], values[cut:]), _state(logits[:, :cut], values[:cut])]
        empty = softmax.empty((3,), 2, logits.dtype)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        expected = weights @ values / weights.sum(1, keepdims=True)
        for a, b in (parts, parts[::-1]):
            merged = softmax.merge(softmax.merge(empty, a), softmax.merge(b, empty))
            np.testing.assert_allclose(softmax.mean(merged), expected, rtol=1e-9, atol=1e-12)


def test_empty_states_have_weight_exactly_zero_and_no_nan():
    empty = softmax.empty((2,), 1, np.float32)
    merged = softmax.merge(empty, empty)
    np.testing.assert_array_equal(merged.weight, [0, 0])
    np.testing.assert_array_equal(merged.total, [[0], [0]])
