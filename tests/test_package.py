import ast
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from jaxtyping import Array, Float

import elsjax
from elsjax import nn

PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (elsjax, nn)
    for name in package.__all__
}


def faults(public):
    """What the documentation of a function, or of a class and its public methods, leaves out."""
    if inspect.isfunction(public):
        return _faults_of_function(public)
    if not inspect.isclass(public):  # a module or a table
        return [] if public.__doc__ else ["no docstring"]
    documentation = inspect.cleandoc(public.__doc__ or "")
    found = [] if documentation else ["no docstring"]
    made_with = getattr(public, "_fields", None) or inspect.signature(public.__init__).parameters
    if not inspect.isabstract(public):
        found += _not_described(made_with, documentation)
    for name, member in inspect.getmembers(public):
        function = getattr(member, "fget", member)
        ours = inspect.isfunction(function) and not function.__module__.startswith("flax")
        if ours and not name.startswith("_"):
            found += [f"{name}: {fault}" for fault in _faults_of_function(function)]
    return found


def _faults_of_function(function):
    documentation = inspect.getdoc(function)
    if not documentation:
        return ["no docstring"]
    if re.search(
        r"(arguments|[Ss]ee|errors|ValueError)( as| that|) `[\w.]+`|same arguments", documentation
    ):
        return []  # said of another function
    signature = inspect.signature(function)
    arguments = [name for name in signature.parameters if name not in ("self", "cls")]
    found = _not_described(arguments, documentation)
    if arguments and signature.return_annotation is not None and "Returns:" not in documentation:
        found.append("no Returns")
    raises = re.search(r"\braise |\bchecks\.(?!host_values)", inspect.getsource(function))
    if raises and "Raises:" not in documentation:
        found.append("no Raises")
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    annotations = "".join(map(str, [*annotations, signature.return_annotation]))
    if re.search(r"(Float|Int|Real|UInt8)\[", annotations) and "[" not in documentation:
        found.append("no shapes")
    return found


def _not_described(arguments, documentation):
    described = re.findall(r"^  (\w+): ", documentation, re.MULTILINE)
    return [f"nothing of {name}" for name in arguments if name not in (*described, "self")]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    assert faults(PUBLIC[name]) == []


def test_what_is_left_out_of_the_documentation_of_a_function_is_found():
    def nothing(x):
        return x

    def one_line(x: Float[Array, " b"], size: int) -> int:
        """Checks and measures."""
        if size < 0:
            raise ValueError
        return x.shape[0]

    def complete(x: Float[Array, " b"], size: int) -> int:
        """Checks and measures.

        Args:
          x: numbers, [B].
          size: at least 0.

        Returns:
          How many.

        Raises:
          ValueError: if size is negative.
        """
        return one_line(x, size)

    assert faults(nothing) == ["no docstring"]
    missing = ["nothing of x", "nothing of size", "no Returns", "no Raises", "no shapes"]
    assert faults(one_line) == missing
    assert faults(complete) == []


def test_what_is_left_out_of_the_documentation_of_a_class_is_found():
    class Undocumented:
        def __init__(self, size):
            self.size = size

        def measure(self):
            return self.size

        @property
        def side(self):
            return self.size

    class Pair(NamedTuple):
        """Two.

        Attributes:
          first: the first.
        """

        first: int
        second: int

    missing = ["no docstring", "nothing of size", "measure: no docstring", "side: no docstring"]
    assert faults(Undocumented) == missing
    assert faults(Pair) == ["nothing of second"]


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
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        elsjax.fit  # noqa: B018


ROOT = Path(elsjax.__file__).parents[1]
FILES = [path for name in ("elsjax", "benchmarks", "tests") for path in (ROOT / name).rglob("*.py")]


def test_files_and_functions_fit_a_reader():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                documented = len((ast.get_docstring(node) or "").splitlines())
                assert lines - documented <= 60, (path, node.name)


def _imported(node):
    """Modules that `from module import names` is about: the names, where they are modules."""
    for one in node.names:
        path = ROOT / Path(*node.module.split("."), one.name)
        named = path.with_suffix(".py").exists() or path.is_dir()
        yield f"{node.module}.{one.name}" if named else node.module


def test_imports_go_one_way():
    imports = {}
    for path in (ROOT / "elsjax").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imports[name] = {
            found
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for found in _imported(node)
        }
    for name, found in imports.items():
        if not name.startswith("elsjax.cli") and name != "elsjax.__main__":
            assert not any(one.startswith("elsjax.cli") for one in found), name
    order = graphlib.TopologicalSorter(
        {name: found & imports.keys() for name, found in imports.items() if name != "elsjax"}
    )
    order.prepare()  # raises CycleError where there is a circle
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert "elsjax.cli" not in path.read_text(), path
