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
        parts = ("Args:", "Returns:")
        refers = "arguments" in documentation
        assert refers or all(part in documentation for part in parts)


def test_import_loads_neither_tfds_nor_matplotlib_nor_the_command_line():
    code = "import sys, elsjax; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "elsjax.machines" in loaded
    assert not loaded & {"tensorflow_datasets", "tensorflow", "matplotlib", "tyro", "elsjax.cli"}
