from pathlib import Path

import nbformat
import pytest
from environment import FAST
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).resolve().parents[1].glob("notebooks/*.ipynb"))


@pytest.mark.filterwarnings("default")  # of the notebook machinery, none of ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_without_outputs(monkeypatch, path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    # Compiled fast, what it computes takes long; so of fewer images.
    monkeypatch.setenv("XLA_FLAGS", FAST)
    for cell in notebook.cells:
        cell.source = cell.source.replace("limit=400", "limit=10")
    NotebookClient(notebook, timeout=300).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures
