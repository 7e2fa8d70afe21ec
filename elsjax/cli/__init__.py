"""The command line: one frozen dataclass per command, `elsjax COMMAND --help` for its options."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import jax
import tyro

from elsjax.cli.bench import Bench
from elsjax.cli.calibrate import Calibrate
from elsjax.cli.compare import Compare
from elsjax.cli.datasets import Datasets
from elsjax.cli.import_torch import ImportTorch
from elsjax.cli.sample import Sample
from elsjax.cli.train import Train
from elsjax.cli.zoo import Zoo
from elsjax.storage import cache_folder

Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Datasets, tyro.conf.subcommand("datasets")]
    | Annotated[Zoo, tyro.conf.subcommand("zoo")]
    | Annotated[ImportTorch, tyro.conf.subcommand("import-torch")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Compiled programs are kept in JAX_COMPILATION_CACHE_DIR or, else, in the cache of "compiled".

    Args:
      arguments: words after the program's name; None for those of the process.

    Returns:
      Exit status: 0; 2 for a wrong input, 1 for training that diverged, 130 if interrupted, each
      told in one line on stderr.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs()
    try:
        _parse(sys.argv[1:] if arguments is None else arguments)()
    except (ValueError, OSError) as error:
        print(f"elsjax: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"elsjax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("elsjax: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _keep_programs() -> None:
    """Has JAX keep compiled programs, where that can be done; else it warns at each of them."""
    try:
        folder = cache_folder("compiled")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except OSError as error:
        warnings.warn(f"compiled programs are not kept: {error}", stacklevel=2)
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _parse(arguments: Sequence[str]) -> Command:
    """The command that the words ask for; ValueError, in one line, if they ask for none."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Command, prog="elsjax", args=list(arguments))  # type: ignore[arg-type]
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    # tyro draws a box; its message is what stands above the first rule.
    message = complaint.getvalue().split("│ ──")[0].split("\n", 1)[-1]
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", message).split())
    raise ValueError(f"{words} (see elsjax --help)")
