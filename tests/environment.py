"""Settings of all tests: their own environment, several CPU devices, fast compilation."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest

for _name in [name for name in os.environ if name.startswith(("JAX_", "XLA_"))]:
    del os.environ[_name]

import jax  # noqa: E402

# Most of a test would be LLVM's optimisation of programs that then run for milliseconds. What they
# compute is the same but for rounding, the memory they need the same to the byte. Where rounding
# or speed counts, a test calls `denoise_optimised`. Processes that tests start have no flags
# unless they are given these.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
_OPTIMISED: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
if jax.__version_info__ < (0, 11, 1):  # the flag is gone from later ones
    FAST += " --xla_cpu_use_fusion_emitters=false"
    _OPTIMISED["xla_cpu_use_fusion_emitters"] = True
os.environ["XLA_FLAGS"] = FAST

import jaxtyping  # noqa: E402
import prepared  # noqa: E402
from flax import nnx  # noqa: E402
from hypothesis import settings  # noqa: E402

with jaxtyping.install_import_hook("elsjax", "annotations.checked"):
    import elsjax
    from elsjax import cli

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # starts JAX, after which flags and the number of devices stay
del os.environ["XLA_FLAGS"]
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # of processes that tests start

# JAX's tracing makes objects without end, few of them garbage.
gc.freeze()
gc.set_threshold(50_000, 20, 100)

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")


@jax.jit(compiler_options=_OPTIMISED)
def denoise_optimised(machine, x, t):
    """`machine.denoise(x, t)`, of one window, compiled as users have it."""
    return machine.denoise(x, t)


REFERENCE = Path(__file__).parent / "reference"
_MANY_MAPPINGS = 20_000  # of 65,530, Linux's limit
TFDS_DATA_DIR = os.environ.get("TFDS_DATA_DIR")


@pytest.fixture(autouse=True, scope="session")
def _own_environment(tmp_path_factory):
    """Nothing of who runs the tests: no caches, no settings, no width of a terminal."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("ELSJAX_", "MPL", "TFDS_", "XDG_")) or name in ("COLUMNS", "LINES"):
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Each compiled program holds memory mappings, of which a process may have only so many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def refuses(tmp_path, capsys):
    """Asserts that a command refuses its words in one line, with status 2, and changes nothing."""

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
def cache_dir(tmp_path_factory, monkeypatch) -> Path:
    """Where decoded data sets are cached in a test, for itself alone."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(directory))
    return directory / "datasets"


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory) -> str:
    """A TFDS directory with a few random images as MNIST, FashionMNIST and CIFAR10."""
    directory = tmp_path_factory.mktemp("tfds")
    for name in prepared.SHAPES:
        prepared.prepare(name, directory)
    return str(directory)


@pytest.fixture
def tfds_dirs(tfds_dir) -> list[str]:
    """This directory, and the one of the real data sets where TFDS_DATA_DIR names one."""
    real = TFDS_DATA_DIR is not None and Path(TFDS_DATA_DIR, "mnist").is_dir()
    return [tfds_dir, TFDS_DATA_DIR] if real else [tfds_dir]


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Posterior means by brute force in float64, with their inputs."""
    with np.load(REFERENCE / "score_machines.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def locality() -> dict[str, np.ndarray]:
    """PCA locality and PSPC by their definitions in float64, with their inputs."""
    with np.load(REFERENCE / "locality.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def published_networks() -> dict[str, np.ndarray]:
    """Small networks of the published architecture: weights, inputs, outputs in float64."""
    with np.load(REFERENCE / "networks.npz") as archive:
        return dict(archive)
