import inspect
import subprocess
import sys

import pytest

import elsjax


@pytest.mark.parametrize("name", elsjax.__all__)
def test_public_names_are_documented(name):
    public = getattr(elsjax, name)
    documentation = inspect.getdoc(public)
    assert documentation
    if inspect.isfunction(public) and public.__code__.co_argcount:
        gives = inspect.signature(public).return_annotation is not None
        parts = ("Args:", "Returns:") if gives else ("Args:",)
        refers = "arguments" in documentation
        assert refers or all(part in documentation for part in parts)


def test_import_is_light():
    code = "import sys, elsjax; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "elsjax.machines" in loaded
    heavy = {"tensorflow_datasets", "tensorflow", "matplotlib", "tyro", "flax", "optax"}
    heavy |= {"orbax", "safetensors", "elsjax.cli"}
    assert not loaded & heavy


def test_networks_are_loaded_when_asked_for():
    code = "import sys, elsjax; elsjax.nn.UNet; print('flax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        elsjax.train  # noqa: B018
