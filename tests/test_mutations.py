import mutations
import pytest
from mutated_inputs import KINDS, kind_of

NAMES = [kind.__name__ for kind in KINDS]


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield mutations.Harness(tmp_path_factory.mktemp("mutations"), patch)


# More of them: python tests/mutations.py 10000
@pytest.mark.parametrize("kind", NAMES)
def test_damaged_inputs_end_right_or_in_one_line(harness, kind):
    outcomes = [harness.outcome(seed) for seed in range(100) if kind_of(seed) == kind]
    assert len(outcomes) >= 6
    failed = [o for o in outcomes if o.ended.problems]
    assert not failed, "\n".join(
        f"{o.seed}: {o.words}: {o.ended.status}: {o.ended.problems}" for o in failed
    )
    # A damaged index is built again; of anything else some is beyond use.
    assert {outcome.ended.status for outcome in outcomes} >= {0 if kind == "index" else 2}
