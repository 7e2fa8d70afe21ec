import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import elsjax
from elsjax import cli
from elsjax.experiments.comparison import check_comparison
from elsjax.experiments.states import States

SHAPE = (8, 8, 1)


class Shrunk(elsjax.Denoiser):
    """A denoiser of no kind that the library knows: half of what is seen."""

    schedule = elsjax.CosineSchedule()
    image_shape = SHAPE

    def posterior_mean(self, x, t, label):
        return x / 2


class Memory:
    """A store that keeps arrays in memory, and is interrupted after some of them."""

    def __init__(self, most):
        self.kept, self.damaged, self.most = {}, [], most

    def load_arrays(self, name, like):
        return self.kept.get(name)

    def save_arrays(self, name, arrays):
        self.kept[name] = {key: array.copy() for key, array in arrays.items()}
        self.most -= 1
        if self.most == 0:
            raise KeyboardInterrupt

    def warn_damaged(self, name, reason):
        self.damaged.append(name)

    def remove(self, name):
        del self.kept[name]


def _noise(num_samples=3):
    return elsjax.initial_noise(jax.random.key(2), num_samples, SHAPE)


def _machine(kind="is", **options):
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)
    return elsjax.ScoreMachine(kind, images, **options)


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_any_denoisers_are_compared_under_their_names(solver):
    process = {"solver": solver, "key": jax.random.key(3)}
    network, machines = Shrunk(), {"replay": _machine(), "half / 2": Shrunk()}
    calls = []
    found = elsjax.compare(
        network,
        machines,
        _noise(),
        num_steps=3,
        network_steps=(3, 6),
        **process,
        batch_size=2,
        progress=lambda *call: calls.append(call),
    )
    assert (list(found.machines), list(found.network)) == (["replay", "half / 2"], [3, 6])
    np.testing.assert_array_equal(found.noise, _noise())
    names = dict.fromkeys(name for name, _, _ in calls)
    assert list(names) == ["network-3", "network-6", "replay", "half / 2"]
    assert [call[1:] for call in calls if call[0] == "network-6"][-1] == (8, 8)
    times = np.array([2, 1, 0]) / 3
    for name, denoiser in machines.items():
        path = elsjax.sample(denoiser, _noise(), times=times, return_trajectory=True, **process)
        np.testing.assert_array_equal(found.machines[name].times, times)
        np.testing.assert_allclose(found.machines[name].images, path.x[-1], atol=1e-5)
        np.testing.assert_allclose(found.machines[name].x0, path.x0, atol=1e-5)
    np.testing.assert_allclose(found.measures("half / 2", 3)["r2"], 1, atol=1e-6)
    np.testing.assert_allclose(found.agreement("half / 2"), 1, atol=1e-6)
    r = {name: found.measures(name, 6)["pearson_r"] for name in machines}
    np.testing.assert_array_equal(found.measures("replay")["pearson_r"], r["replay"])
    better = found.better("half / 2", "replay", 6)
    np.testing.assert_array_equal(better, r["half / 2"] > r["replay"])
    rows = found.summary("replay")
    assert {row["solver"] for row in rows} == {solver}
    assert [(row["machine"], row["network_steps"]) for row in rows] == [
        (name, steps) for steps in (3, 6) for name in machines
    ]
    assert rows[3]["num_better_than_replay"] == better.sum()
    assert "num_better_than_replay" not in rows[2]
    assert rows[2]["pearson_r"] == pytest.approx(np.median(r["replay"]))


@pytest.mark.filterwarnings("ignore:.* are of different scales")  # the network is not trained
def test_compare_returns_what_the_command_saves(small_network, tmp_path):
    words = ["compare", "--network", small_network, "--limit", "20", "--window", "3,3,5,7"]
    words += ["--num-samples", "2", "--num-steps", "4", "--network-steps", "4", "--seed", "2"]
    words += ["--protocol", "published", "--machine", "is", "bbels"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    data = elsjax.load_dataset("mnist5k", limit=20, image_size=8)
    windows = elsjax.WindowSchedule((3, 3, 5, 7))
    machines = {
        kind: elsjax.ScoreMachine(kind, data.pixels, window=window, mesh=elsjax.make_mesh())
        for kind, window in (("is", None), ("bbels", windows))
    }
    found = elsjax.compare(
        elsjax.load_network(small_network).with_mesh(elsjax.make_mesh()),
        machines,
        _noise(2),
        num_steps=4,
        network_steps=(4,),
        protocol="published",
    )
    with np.load(tmp_path / "run" / "comparison.npz") as archive:
        arrays = dict(archive)
    for name, samples in {"network_4": found.network[4], **found.machines}.items():
        np.testing.assert_allclose(samples.images, arrays[name], atol=1e-6)
        np.testing.assert_array_equal(samples.times, arrays[f"times_{name}"])
    for kind in machines:
        measures = found.measures(kind, 4)
        for name in ("pearson_r", "r2"):
            np.testing.assert_allclose(measures[name], arrays[f"{name}_{kind}_4"], atol=1e-5)
    # The machines start a step later.
    agreement = found.agreement("bbels")
    np.testing.assert_allclose(arrays["agreement_bbels"], agreement, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(agreement), np.arange(4)[:, None].repeat(2, 1) == 0)


@pytest.mark.parametrize("damage", [{}, {"taken": np.asarray(99)}, {"x": np.full(1, np.nan)}])
def test_an_interrupted_comparison_goes_on(damage):
    arguments = (Shrunk(), {"a/b": _machine()}, _noise())
    options = {"num_steps": 3, "network_steps": (3,), "batch_size": 2}
    whole = elsjax.compare(*arguments, **options)
    store = Memory(most=6)
    with pytest.raises(KeyboardInterrupt):
        elsjax.compare(*arguments, **options, states=States(store))
    assert sorted(store.kept) == [
        *("state-a%2Fb-0.npz", "state-network-3-0.npz", "state-network-3-2.npz")
    ]
    store.kept["state-a%2Fb-0.npz"] |= damage
    calls, states = [], States(store)
    found = elsjax.compare(
        *arguments, **options, states=states, progress=lambda *call: calls.append(call)
    )
    assert [call for call in calls if call[0] == "network-3"] == [
        *(("network-3", 2, 4), ("network-3", 4, 4))
    ]
    assert store.damaged == (["state-a%2Fb-0.npz"] if damage else [])
    np.testing.assert_array_equal(found.network[3].images, whole.network[3].images)
    np.testing.assert_array_equal(found.machines["a/b"].images, whole.machines["a/b"].images)
    np.testing.assert_array_equal(found.machines["a/b"].x0, whole.machines["a/b"].x0)
    states.forget()
    assert store.kept == {}


def test_one_class_for_all_is_one_for_each():
    network = elsjax.nn.ResNet(SHAPE, width=8, num_layers=1, num_classes=3, rngs=nnx.Rngs(0))
    machines = {"is": _machine(labels=np.array([0, 1, 2, 0, 1]))}
    options = {"num_steps": 2, "network_steps": (2,), "batch_size": 2}
    one, each = (
        elsjax.compare(network, machines, _noise(), label=label, **options)
        for label in (1, jnp.ones(3, int))
    )
    np.testing.assert_array_equal(one.label, [1, 1, 1])
    np.testing.assert_array_equal(one.network[2].images, each.network[2].images)
    np.testing.assert_array_equal(one.machines["is"].images, each.machines["is"].images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": "mnist"}, "network='mnist' must be a Denoiser"),
        ({"machines": {}}, "machines={} must map names to at least one denoiser"),
        ({"machines": [Shrunk()]}, "must map names to at least one denoiser"),
        ({"machines": {"is": None}}, r"machines\['is'\]=None must be a Denoiser"),
        ({"machines": {1: Shrunk()}}, "machines has the name 1; expected a text"),
        ({"machines": {"network-4": Shrunk()}}, "name 'network-4'; .* other than network-4"),
        ({"noise": np.zeros((2, 8, 8))}, r"noise has shape \[2, 8, 8\]"),
        ({"noise": np.zeros((2, 9, 8, 1))}, r"x has shape \[2, 9, 8, 1\]"),
        ({"noise": np.full((1, *SHAPE), np.nan)}, "noise must be finite"),
        ({"label": 1}, "label=.* was given, but .* knows no classes"),
        ({"label": [1, 2]}, r"label has shape \[2\]"),
        ({"num_steps": 1}, "num_steps=1 must be at least 2 for protocol='late'"),
        ({"network_steps": ()}, r"network_steps=\(\) must hold at least one"),
        ({"network_steps": (4, 0)}, r"network_steps\[1\]=0 must be"),
        ({"protocol": "fair"}, "protocol='fair' is not known"),
        ({"solver": "euler"}, "solver='euler' is not known; expected one of ddim, heun, ancestral"),
        ({"solver": "ancestral"}, "key=None: solver='ancestral' needs one"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, r"key has shape \[2\]"),
        ({"batch_size": 0}, "batch_size=0 must be"),
    ],
)
def test_wrong_input_is_refused_before_any_work(changed, message):
    arguments = {"network": Shrunk(), "machines": {"half": Shrunk()}, "noise": _noise()}
    arguments |= {"num_steps": 4, "network_steps": (4,)} | changed
    for compare in (check_comparison, elsjax.compare):
        with pytest.raises(ValueError, match=message):
            compare(**arguments)


def test_samples_that_there_are_not():
    found = elsjax.compare(Shrunk(), {"a": Shrunk()}, _noise(), num_steps=2, network_steps=(4,))
    with pytest.raises(ValueError, match="machine='b' is not known; expected one of a"):
        found.measures("b", 4)
    with pytest.raises(ValueError, match="machine='b' is not known"):
        found.summary("b")
    with pytest.raises(ValueError, match="no samples of network_steps=2; expected one of 4"):
        found.agreement("a")
