"""Settings of all tests: several CPU devices, and no silent broadcasting between ranks."""

import json
import os
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from flax import nnx

with jaxtyping.install_import_hook("elsjax", "annotations.checked"):
    import elsjax
    from elsjax import cli

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # of processes that tests start
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # starts JAX, after which the number of devices stays

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Each compiled program holds memory mappings, of which a process may have only so many."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def refuses(tmp_path, capsys):
    """Asserts that a command refuses its words in one line, with status 2, and writes nothing."""

    def check(words: list[str], message: str) -> None:
        assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("elsjax: ")
        assert output.err.count("\n") == 1
        assert message in output.err
        assert not list(tmp_path.iterdir())

    return check


@pytest.fixture
def refuses_here(tmp_path, capsys):
    """As `refuses`, where something lies beside the folder to write: all of it stays as it is."""

    def state():
        return {
            path: path.read_bytes() if path.is_file() else path.is_dir()
            for path in tmp_path.rglob("*")
        }

    def check(words: list[str], message: str) -> None:
        before = state()
        assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("elsjax: ")
        assert output.err.count("\n") == 1
        assert message in output.err
        assert state() == before

    return check


@pytest.fixture(scope="session")
def small_network(tmp_path_factory) -> str:
    """The file of an untrained network of images [8, 8, 1], as `elsjax train` leaves it."""
    folder = tmp_path_factory.mktemp("network")
    network = elsjax.nn.UNet((8, 8, 1), widths=(4, 8), embedding_width=8, rngs=nnx.Rngs(0))
    elsjax.save_network(network, folder / "network.safetensors")
    trained = {"dataset": "mnist5k", "split": "train", "num_images": 40, "image_size": 8}
    (folder / "config.json").write_text(json.dumps(trained))
    return str(folder / "network.safetensors")


@pytest.fixture
def tfds_dir() -> str:
    """A TFDS directory with MNIST, FashionMNIST and CIFAR10 prepared."""
    directory = os.environ.get("TFDS_DATA_DIR") or SHARED / "data" / "tfds"
    if not Path(directory, "mnist").is_dir():
        pytest.skip("no prepared TFDS data sets: set TFDS_DATA_DIR")
    return str(directory)


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Posterior means by brute force in float64, with their inputs."""
    path = SHARED / "reference" / "score_machines.npz"
    if not path.is_file():
        pytest.skip("no reference arrays beside the repository")
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def published_networks() -> dict[str, np.ndarray]:
    """Small networks of the published architecture: weights, inputs, outputs in float64."""
    path = SHARED / "reference" / "networks.npz"
    if not path.is_file():
        pytest.skip("no reference arrays beside the repository")
    with np.load(path) as archive:
        return dict(archive)
