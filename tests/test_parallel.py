import itertools
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment import FAST
from flax import nnx

import elsjax
from elsjax.nn import ResNet, UNet
from elsjax.parallel import interleave, shard_range

MIXED = np.array([0, 2, 2, 1, 0])
MESHES = {(2, 1): [1], (4, 1): [None, MIXED], (2, 2): [None, 1, MIXED]}
SMALL = (7, 6, 2)
MACHINES = [
    *[(kind, window, SMALL) for kind, window in [("is", None), ("es", None), ("ls", 3)]],
    *[(kind, window, SMALL) for kind, window in [("els", 3), ("bbels", 3)]],
    *[(kind, 7, (12, 11, 3)) for kind in ("els", "bbels")],
]


def data(count, shape=SMALL):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def noisy(batch, shape=SMALL):
    return np.random.default_rng(1).standard_normal((batch, *shape))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize(("kind", "window", "shape"), MACHINES)
def test_a_mesh_changes_nothing(x64, mesh, kind, window, shape):
    # Neither the images, the classes nor the batch divide by the devices.
    images, labels, x = data(11, shape), np.arange(11) % 3, noisy(5, shape)
    t = np.array([0.0, 0.1, 0.4, 0.8, 1.0])
    one = elsjax.ScoreMachine(kind, images, labels, window=window, block_size=2)
    many = elsjax.ScoreMachine(
        kind, images, labels, window=window, block_size=2, mesh=elsjax.make_mesh(*mesh)
    )
    for label in MESHES[mesh]:
        found, expected = (machine.denoise(x, t, label) for machine in (many, one))
        np.testing.assert_allclose(found, expected, atol=1e-12)


def formula(x, t, label):
    return jnp.tanh(x + jnp.roll(x, 1, axis=1)) * (t + label).reshape(-1, 1, 1, 1)


def other_denoisers():
    settings = {"schedule": elsjax.LinearBetaSchedule(), "rngs": nnx.Rngs(0)}
    yield ResNet(SMALL, width=8, num_layers=2, prediction="velocity", **settings)
    yield UNet(
        (8, 8, 2), widths=(8, 16), embedding_width=8, num_classes=3, prediction="noise", **settings
    )
    yield elsjax.FunctionDenoiser(formula, SMALL, prediction="score", num_classes=3)


@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (1, 4), (2, 2)], ids=str)
@pytest.mark.parametrize("which", range(3), ids=["resnet", "unet", "function"])
def test_batches_of_any_denoiser_are_split(x64, which, mesh):
    one = list(other_denoisers())[which]
    many = one.with_mesh(elsjax.make_mesh(*mesh))
    x, t = noisy(5, one.image_shape), np.array([0.1, 0.2, 0.4, 0.6, 0.8])
    questions = [(x, t, MIXED), (x, 0.5, 2), (x[:1], 0.3, [1])]
    for x, t, label in questions:
        label = None if one.num_classes is None else label
        for form in ("denoise", "predict_noise", "score"):
            found, expected = (getattr(denoiser, form)(x, t, label) for denoiser in (many, one))
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=form)


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (1, 4)], ids=str)
def test_the_same_samples_on_any_devices(x64, mesh, solver):
    network, _, function = other_denoisers()
    machine = elsjax.ScoreMachine("ls", data(9), np.arange(9) % 3, window=3)
    process = {"times": [0.9, 0.6, 0.3, 0], "solver": solver, "key": jax.random.key(1)}
    for denoiser, label in [(network, None), (machine, MIXED), (function, MIXED)]:
        expected = elsjax.sample(denoiser, noisy(5), label=label, **process)
        found = elsjax.sample(
            denoiser, noisy(5), label=label, mesh=elsjax.make_mesh(*mesh), **process
        )
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_each_device_takes_its_share_of_a_batch():
    shares = []

    def function(x, t, label):
        shares.append({(*shard.data.shape, shard.device.id) for shard in x.addressable_shards})
        return x

    denoiser = elsjax.FunctionDenoiser(function, SMALL, prediction="x0")
    many = denoiser.with_mesh(elsjax.make_mesh(2, 2))
    assert many.denoise(noisy(6), 0.5).shape == (6, *SMALL)
    assert shares == [{(2, *SMALL, device.id) for device in jax.devices()}]


def test_a_class_is_found_out_to_be_unknown_on_a_mesh():
    _, network, _ = other_denoisers()
    many = network.with_mesh(elsjax.make_mesh(2, 2))
    x = noisy(3, network.image_shape).astype(np.float32)
    found = jax.jit(lambda label: many.denoise(x, 0.5, label))(np.array([0, 3, -1]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    with pytest.raises(ValueError, match=r"label=\[0, 3, 1\] must lie in 0 to 2"):
        many.denoise(x, 0.5, [0, 3, 1])
    with pytest.raises(ValueError, match="label=None: this network needs one"):
        many.denoise(x, 0.5)


def test_arrays_on_other_devices_than_the_mesh(x64):
    # Such as samples drawn on another mesh.
    mesh, other = elsjax.make_mesh(2, 2), elsjax.make_mesh(2)
    noise = jax.device_put(noisy(5), jax.NamedSharding(other, jax.P()))
    key, t, label = jax.device_put((jax.random.key(1), np.full(5, 0.5), MIXED), jax.devices()[1])
    network, _, function = other_denoisers()
    machine = elsjax.ScoreMachine("ls", data(9), np.arange(9) % 3, window=3)
    process = {"solver": "ancestral", "key": key, "times": [0.9, 0.5]}
    for denoiser, classes in [(network, None), (machine, label), (function, label)]:
        expected = elsjax.sample(denoiser, noisy(5), label=classes, **process)
        found = elsjax.sample(
            denoiser, noise, label=classes, mesh=mesh, return_trajectory=True, **process
        )
        np.testing.assert_allclose(found.x[-1], expected, atol=1e-10)
        score = denoiser.with_mesh(mesh).score(noise, t, classes)
        np.testing.assert_allclose(score, denoiser.score(noisy(5), 0.5, classes), atol=1e-10)
    found, expected = (
        elsjax.calibrate(model, candidate, [3], x, num_steps=2)
        for model, candidate, x in [
            (network.with_mesh(mesh), machine.with_mesh(other), noise),
            (network, machine, noisy(5)),
        ]
    )
    np.testing.assert_allclose(found.cosine, expected.cosine, atol=1e-10)


@pytest.mark.parametrize("which", ["network", "machine", "function"])
def test_transformations_on_a_mesh(x64, which):
    network, _, function = other_denoisers()
    machine = elsjax.ScoreMachine("ls", data(9), window=3)
    one = {"network": network, "machine": machine, "function": function}[which]
    label = 1 if one is function else None
    many = one.with_mesh(elsjax.make_mesh(2, 2))
    x = jnp.asarray(noisy(3))
    expected = one.denoise(x, 0.5, label)
    found = jax.vmap(lambda x: many.denoise(x[None], 0.5, label)[0])(x)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    found = jax.jit(lambda denoiser, x: denoiser.denoise(x, 0.5, label))(many, x)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    slopes = (
        jax.grad(lambda x, d=d: elsjax.sample(d, x, label=label, times=[0.9, 0.5, 0]).sum())(x)
        for d in (many, one)
    )
    np.testing.assert_allclose(*slopes, rtol=1e-10, atol=1e-10)


def test_a_machine_moves_to_other_devices(x64):
    images, x = data(11), noisy(5)
    one = elsjax.ScoreMachine("els", images, np.arange(11) % 3, window=3).without([4])
    expected = one.denoise(x, 0.4, MIXED)
    for mesh in [(4, 1), (2, 2), (1, 1)]:
        one = one.with_mesh(elsjax.make_mesh(*mesh))
        assert dict(one.training_set.mesh.shape) == dict(zip(("data", "sample"), mesh, strict=True))
        np.testing.assert_allclose(one.denoise(x, 0.4, MIXED), expected, atol=1e-12)


def test_indices_stay_on_their_devices(monkeypatch, tmp_path):
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path))
    mesh, other = elsjax.make_mesh(2, 2), elsjax.make_mesh(2)
    machine = elsjax.ScoreMachine("ls", data(9), window=3, mesh=mesh).with_index(1e-3)
    assert machine.with_mesh(elsjax.make_mesh(2, 2)) is machine
    with pytest.raises(ValueError, match="give it to the ScoreMachine, before with_index"):
        elsjax.sample(machine, noisy(2), 3, mesh=other)


@pytest.mark.parametrize("mesh", [(1, 1), (4, 1), (2, 2)], ids=str)
def test_fewer_images_than_devices(x64, mesh):
    images, x = data(2), noisy(1)
    one = elsjax.ScoreMachine("els", images, window=3)
    many = elsjax.ScoreMachine("els", images, window=3, mesh=elsjax.make_mesh(*mesh))
    np.testing.assert_allclose(many.denoise(x, 0.3), one.denoise(x, 0.3), atol=1e-12)


def test_sampling_on_a_mesh(x64):
    images = data(9, (6, 6, 1))
    noise = elsjax.initial_noise(jax.random.key(0), 3, (6, 6, 1))
    windows = elsjax.WindowSchedule((3, 3, 5))
    one = elsjax.ScoreMachine("bbels", images, window=windows)
    many = elsjax.ScoreMachine("bbels", images, window=windows, mesh=elsjax.make_mesh(2, 2))
    for solver in ("ddim", "ancestral"):
        found, expected = (
            elsjax.sample(machine, noise, 6, solver=solver, key=jax.random.key(1))
            for machine in (many, one)
        )
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_a_machine_on_a_mesh_is_an_argument_of_a_jitted_function(x64):
    images, x = data(5), noisy(2)
    many = elsjax.ScoreMachine("ls", images, window=3, mesh=elsjax.make_mesh(2, 2))
    found = jax.jit(lambda machine, x: machine.denoise(x, 0.5))(many, x)
    np.testing.assert_allclose(found, many.denoise(x, 0.5), atol=1e-12)
    slope = jax.grad(lambda x: many.denoise(x, 0.5).sum())(x)
    one = elsjax.ScoreMachine("ls", images, window=3)
    expected = jax.grad(lambda x: one.denoise(x, 0.5).sum())(x)
    np.testing.assert_allclose(slope, expected, atol=1e-10)


def test_images_are_split_between_devices():
    machine = elsjax.ScoreMachine("ls", data(11), window=3, mesh=elsjax.make_mesh(4))
    assert machine.num_images == 11
    shards = machine.training_set.pixels.addressable_shards
    assert [shard.data.shape[0] for shard in shards] == [3] * 4


@pytest.mark.parametrize("count", [1, 5, 8])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 4])
def test_interleaving(count, num_shards):
    interleaved = interleave(np.arange(count), num_shards).reshape(num_shards, -1)
    for start in range(count + 1):
        for stop in range(start, count + 1):
            taken = []
            for shard in range(num_shards):
                first, last = shard_range(start, stop, shard, num_shards)
                taken.append(list(interleaved[shard, first:last]))
            assert sorted(itertools.chain(*taken)) == list(range(start, stop))
            lengths = [len(images) for images in taken]
            assert max(lengths) - min(lengths) <= 1


def test_wrong_meshes():
    with pytest.raises(ValueError, match="data=3 × sample=2 needs 6 devices; there are 4"):
        elsjax.make_mesh(3, 2)
    with pytest.raises(ValueError, match="sample=0"):
        elsjax.make_mesh(sample=0)
    assert dict(elsjax.make_mesh(sample=2).shape) == {"data": 2, "sample": 2}
    other = jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,))
    with pytest.raises(
        ValueError, match=r"mesh has the axes \('x',\); expected \('data', 'sample'"
    ):
        elsjax.ScoreMachine("ls", data(3), window=3, mesh=other)
    network, _, function = other_denoisers()
    for denoiser in (elsjax.ScoreMachine("ls", data(3), window=3), network, function):
        for wrong, message in [(other, r"mesh has the axes \('x',\)"), (4, "mesh=4 must be")]:
            with pytest.raises(ValueError, match=message):
                denoiser.with_mesh(wrong)
            with pytest.raises(ValueError, match=message):
                elsjax.sample(denoiser, noisy(2), times=[0.9, 0], mesh=wrong)


TWO_PROCESSES = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import elsjax
from flax import nnx
from elsjax.nn import ResNet
from elsjax.posterior.index import search

search._FEWEST_PATCHES = 0  # even few patches are looked up through an index
images = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 1), np.uint8)
noise = np.random.default_rng(1).standard_normal((3, 6, 6, 1))
mesh = elsjax.make_mesh(4)
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
machine = elsjax.ScoreMachine("bbels", images, window=3, mesh=mesh)
exact, indexed = elsjax.sample(machine, noise, 3), elsjax.sample(machine.with_index(1e-9), noise, 3)
top = machine.without([4]).posterior(noise, 0.5, top=2).top
network = ResNet((6, 6, 1), width=8, num_layers=2, rngs=nnx.Rngs(0))
key = jax.random.key(1)
sde = elsjax.sample(
    network, noise, times=[0.9, 0.5, 0], solver="ancestral", key=key, mesh=mesh
)
np.savez(
    sys.argv[3], exact=exact, indexed=indexed, image=top.image, weight=top.weight, network=sde
)
"""


def test_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    outs = [tmp_path / f"{process}.npz" for process in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, address, str(process), str(out)],
            stderr=subprocess.PIPE,
            env={**os.environ, "XLA_FLAGS": FAST},
        )
        for process, out in enumerate(outs)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    with jax.enable_x64(True):
        images = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 1), np.uint8)
        machine = elsjax.ScoreMachine("bbels", images, window=3)
        noise = np.random.default_rng(1).standard_normal((3, 6, 6, 1))
        expected = elsjax.sample(machine, noise, 3)
        top = machine.without([4]).posterior(noise, 0.5, top=2).top
        network = ResNet((6, 6, 1), width=8, num_layers=2, rngs=nnx.Rngs(0))
        key = jax.random.key(1)
        sde = elsjax.sample(network, noise, times=[0.9, 0.5, 0], solver="ancestral", key=key)
    assert not (top.image == 4).any()
    for out in outs:
        found = np.load(out)
        np.testing.assert_allclose(found["exact"], expected, atol=1e-12)
        np.testing.assert_allclose(found["indexed"], expected, atol=1e-8)
        np.testing.assert_allclose(found["network"], sde, atol=1e-12)
        np.testing.assert_array_equal(found["image"], top.image)
        np.testing.assert_allclose(found["weight"], top.weight, atol=1e-12)
