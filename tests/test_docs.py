"""The examples of the README and of the documentation: Python blocks run, commands are parsed.

Pages that the site executes as it is built (MyST-NB) have their code in cells, and do not run here.
"""

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import elsjax
from elsjax import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
RUN_HERE = [page for page in PAGES if "file_format: mystnb" not in page.read_text()]
LANGUAGES = {"bash", "bibtex", "json", "python", "text"}  # of fences that are no directives


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(text, language):
    """The fenced blocks of a language, indented or not."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def run(block, names):
    """Runs a block; shapes in comments, as in `x  # [2, 3]`, hold, of numbers that are finite."""
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        value = None
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), "block", "eval"), names)
        else:
            exec(compile(ast.Module([statement], []), "block", "exec"), names)
        if isinstance(statement, ast.Assign):
            value = eval(ast.unparse(statement.targets[0]), names)
        source = "\n".join(lines[statement.lineno - 1 : statement.end_lineno])
        said = re.search(r"# \[(\d+(?:, \d+)*)\]", source)
        if said is not None:
            shape = tuple(map(int, said[1].split(", ")))
            assert np.shape(value) == shape, ast.unparse(statement)
            assert np.isfinite(value).all(), ast.unparse(statement)


def run_page(text, torch):
    """Runs the Python blocks of a page in one namespace: those that need PyTorch, or the others."""
    names = {}
    for block in blocks(text, "python"):
        if ("import torch" in block) == torch:
            run(block, names)
    return names


def commands(text):
    """The words after `elsjax` of each command in the Bash blocks of a page."""
    found = []
    for block in blocks(text, "bash"):
        for part in re.split(r"\n|&&", block.replace("\\\n", " ")):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]  # a variable of the environment
            if words and words[0] == "elsjax":
                found.append([word for word in words[1:] if word != "--help"])
    return found


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An empty folder to run in; the data sets of examples are short, and windows few."""
    monkeypatch.chdir(tmp_path)
    load_dataset, published_windows = elsjax.load_dataset, elsjax.published_windows

    def load_few(name, *args, **options):
        if name == "mnist5k":
            options["limit"] = min(options.get("limit", 20), 20)
        return load_dataset(name, *args, **options)

    def two_windows(name):
        return elsjax.WindowSchedule(published_windows(name).windows[::19])

    monkeypatch.setattr(elsjax, "load_dataset", load_few)
    monkeypatch.setattr(elsjax, "published_windows", two_windows)


def is_of_normal_pixels(denoiser, noise, **_):
    """The posterior mean of standard normal pixels is alpha x_t."""
    alpha, _ = denoiser.schedule(0.5)
    np.testing.assert_allclose(denoiser.denoise(noise, 0.5), alpha * noise, rtol=1e-5)


@pytest.mark.parametrize("page", RUN_HERE, ids=name_of)
@pytest.mark.usefixtures("small")
def test_python_blocks_run(page):
    names = run_page(page.read_text(), torch=False)
    if page.name == "own_network.md":
        is_of_normal_pixels(**names)


@pytest.mark.parametrize(
    "page", [page for page in RUN_HERE if "import torch" in page.read_text()], ids=name_of
)
@pytest.mark.usefixtures("small")
def test_pytorch_blocks_run(page):
    pytest.importorskip("torch")
    run_page(page.read_text(), torch=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_parsed(page):
    for words in commands(page.read_text()):
        assert callable(cli.parse(words)), words


def test_no_block_is_overlooked():
    for page in PAGES:
        text = page.read_text()
        languages = re.findall(r"^[ >]*(?:```+|~~~+) *(\w\S*)", text, re.MULTILINE)
        assert set(languages) <= LANGUAGES, page
        for language in ("python", "bash"):
            assert len(blocks(text, language)) == languages.count(language), page
    of_readme = (ROOT / "README.md").read_text()
    assert blocks(of_readme, "python")
    assert ["compare"] in commands(of_readme)
    assert len(commands((ROOT / "docs/howto/commands.md").read_text())) > 10


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("x = nothing", NameError),
        ("assert 1 == 2", AssertionError),
        ("import numpy\nx = numpy.zeros((2, 3))  # [2, 2]", AssertionError),
        ("import numpy\nnumpy.zeros(3) / 2  # [2], halves", AssertionError),
        ("import numpy\nx = numpy.full(3, numpy.nan)  # [3]", AssertionError),
    ],
)
def test_a_broken_block_fails(block, error):
    with pytest.raises(error):
        run_page(f"# A page\n\n```python\n{block}\n```\n", torch=False)


def test_blocks_of_a_page_share_their_names():
    names = run_page(
        "```python\nx = [1]  # [1]\n```\n\n- \n  ```python\n  y = x * 2\n  ```\n", False
    )
    assert names["y"] == [1, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("elsjax sample --colour red", "not understood: --colour red"),
        ("pip install . && elsjax nope  # here", "not understood: nope"),
        ("XLA_FLAGS=--xla_cpu=1 elsjax train --seed x", "--seed"),
        ("elsjax sample \\\n  --machine elf", "invalid choice 'elf'"),
    ],
)
def test_a_broken_command_fails(line, message):
    (words,) = commands(f"```bash\n{line}\n```\n")
    with pytest.raises(ValueError, match=message):
        cli.parse(words)
