"""The examples of the documentation run."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def examples(name):
    """The Python blocks of a page."""
    text = (DOCS / name).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_a_network_of_ones_own():
    names = {}
    blocks = [block for block in examples("networks.md") if "import torch" not in block]
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert names["images"].shape == (2, 32, 32, 1)
    assert np.isfinite(names["images"]).all()
    assert np.isfinite(names["found"].measures("bbels", network_steps=5)["pearson_r"]).all()
    # The posterior mean of standard normal pixels is alpha x_t.
    denoiser, noise = names["denoiser"], names["noise"]
    alpha, _ = denoiser.schedule(0.5)
    np.testing.assert_allclose(denoiser.denoise(noise, 0.5), alpha * noise, rtol=1e-5)


def test_a_network_in_pytorch():
    pytest.importorskip("torch")
    names = {}
    (block,) = (block for block in examples("networks.md") if "import torch" in block)
    exec(block, names)
    assert names["images"].shape == (2, 32, 32, 1)
    assert np.isfinite(names["images"]).all()
