"""The notebooks are executed as the site is built; here, that they are what it needs."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_valid_and_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_every_notebook_is_in_a_toctree():
    toctrees = "".join(
        toctree
        for page in ROOT.glob("docs/**/*.md")
        for toctree in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(), re.M | re.S)
    )
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert re.search(rf"\bnotebooks/{path.stem}$", toctrees, re.MULTILINE), path
