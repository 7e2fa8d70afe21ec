"""Words of the command line that are wrong, and how errors and warnings are told."""

import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from run_folders import tree

from elsjax import checks, cli
from elsjax.cli.datasets import Datasets


@pytest.mark.parametrize("columns", ["20", "80"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command; expected one of compare, sample, mosaic, study"),
        (["nope"], "not understood: nope"),
        (["--nope"], "not understood: --nope"),
        (["sample", "--colour", "red"], "not understood: --colour red"),
        (["sample", "--seed"], "--seed: its value is missing"),
        (["sample", "--seed", "x"], "--seed: invalid literal for int() with base 10: 'x'"),
        (["sample", "--seed", "9" * 5000], "--seed: Exceeds the limit"),
        (["sample", "--machine", "elf"], "--machine: invalid choice 'elf'; expected one of is, es"),
        (["sample", "│ ── ╯"], "not understood: │ ── ╯"),
        (["sample", "a\nb"], "not understood: a b"),
        (["sample", "y" * 900], "y" * 900),
        (["train", "--learning-rate", "3"], "learning_rate=3.0 must lie in (0, 1)"),
        (["import-torch"], "missing: file"),
        (["bench", "--window"], "window=() must hold at least one value"),
        (["bench", "--machine"], "machine=() must hold at least one value"),
        (["sample", "--num-steps", "9" * 13], "num_steps=9999999999999 must lie in"),
        (["train", "--weights", "nowhere"], "weights='nowhere' is not a file"),
    ],
)
def test_words_that_are_no_command(tmp_path, monkeypatch, capsys, columns, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("elsjax: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert not list(tmp_path.iterdir())


def _raises(error):
    def call(command):
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("one\n  two"), 2, "elsjax: one two\n"),
        (OSError(28, "No space left"), 2, "elsjax: [Errno 28] No space left\n"),
        (RecursionError("deep"), 2, "elsjax: the input is too large: deep\n"),
        (OverflowError("big"), 2, "elsjax: the input is too large: big\n"),
        (MemoryError(), 2, "elsjax: the input is too large: MemoryError\n"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
            2,
            "elsjax: not enough memory: RESOURCE_EXHAUSTED: out of memory\n",
        ),
        (FloatingPointError("diverged"), 1, "elsjax: diverged\n"),
        (KeyboardInterrupt(), 130, "elsjax: interrupted; the same command goes on where"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, error, status, line):
    monkeypatch.setattr(Datasets, "__call__", _raises(error))
    assert cli.main(["datasets"]) == status
    assert capsys.readouterr().err.startswith(line)


def test_warnings_of_ours_are_one_line_and_others_hidden(monkeypatch, capsys):
    def warn(command):
        checks.warn("ours\n is long")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("theirs", stacklevel=1)

    monkeypatch.setattr(Datasets, "__call__", warn)
    assert cli.main(["datasets"]) == 0
    assert capsys.readouterr().err == "elsjax: warning: ours is long\n"


def test_nobody_reads_the_output():
    code = "import sys; from elsjax import cli; sys.exit(cli.main(['datasets']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


def test_bench_without_the_module_resource(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert sys.modules["elsjax.cli.bench"]._peak_memory_mb() is None


def test_import_torch_replaces_networks_only(tmp_path, small_network, capsys):
    source, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
    source.write_bytes(b"no network")

    def refused(message, *words, out=out):
        before = tree(tmp_path)
        assert cli.main(["import-torch", str(source), "--out", str(out), *words]) == 2
        assert message in capsys.readouterr().err
        assert tree(tmp_path) == before

    refused("there is no folder", out=tmp_path / "below" / "out.safetensors")
    for content in (b"mine", b"", b"\xff" * 100, np.uint64(2**60).tobytes()):
        out.write_bytes(content)
        refused("exists; choose another or pass --overwrite")
        refused("is no network that elsjax wrote", "--overwrite")
    out.unlink()
    out.symlink_to(small_network)
    refused("is no network that elsjax wrote", "--overwrite")
    out.unlink()
    out.mkdir()
    refused("is no network that elsjax wrote", "--overwrite")
    out.rmdir()
    out.write_bytes(Path(small_network).read_bytes())
    refused("a.pt", "--overwrite")  # it may be replaced, but what is to replace it is none
