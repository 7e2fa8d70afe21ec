"""The command line: one frozen dataclass per command, `elsjax COMMAND --help` for its options."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import jax
import tyro
from tqdm import tqdm
from tyro import _errors as parsing

from elsjax import checks
from elsjax.cli.bench import Bench
from elsjax.cli.calibrate import Calibrate
from elsjax.cli.compare import Compare
from elsjax.cli.datasets import Datasets
from elsjax.cli.import_torch import ImportTorch
from elsjax.cli.mosaic import Mosaic
from elsjax.cli.sample import Sample
from elsjax.cli.studies import Study
from elsjax.cli.train import Train
from elsjax.cli.zoo import Zoo
from elsjax.storage import cache_folder

_LONGEST = 2000  # characters of a line on stderr

Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Mosaic, tyro.conf.subcommand("mosaic")]
    | Annotated[Study, tyro.conf.subcommand("study", description="Experiments, each a command.")]
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
    Warnings of this library are told in one line each on stderr, those of others are not.

    Args:
      arguments: words after the program's name; None for those of the process.

    Returns:
      Exit status: 0; 2 for a wrong input, 1 where numbers overflow, as in training that diverged,
      130 if interrupted, each told in one line on stderr; 141 if nobody reads the output.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name of a file may hold what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        with _own_warnings():
            if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
                _keep_programs()
            parse(sys.argv[1:] if arguments is None else arguments)()
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except (ValueError, OSError) as error:
        _tell(str(error))
        return 2
    except (MemoryError, OverflowError, RecursionError) as error:
        _tell(f"the input is too large: {str(error) or type(error).__name__}")
        return 2
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        _tell(f"not enough memory: {error}")
        return 2
    except FloatingPointError as error:
        _tell(str(error))
        return 1
    except KeyboardInterrupt:
        _tell("interrupted; the same command goes on where it stopped")
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
        checks.warn(f"compiled programs are not kept: {error}")
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _tell(message: str) -> None:
    """One line on stderr; what a hostile input makes long is cut in the middle."""
    line = " ".join(message.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    print(f"elsjax: {line}", file=sys.stderr)


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    """Tells warnings of this library in one line, above progress bars, and hides all others."""

    def show(message: Warning | str, *_: Any) -> None:
        with tqdm.external_write_mode(sys.stderr):
            _tell(f"warning: {message}")

    with warnings.catch_warnings():
        if not sys.warnoptions:  # python -W and PYTHONWARNINGS ask for more
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", checks.ElsjaxWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def parse(arguments: Sequence[str]) -> Command:
    """The command that words ask for; calling it runs it.

    Args:
      arguments: words after the program's name.

    Returns:
      The command, whose options are of the right types; what they mean is checked as it runs.

    Raises:
      ValueError: if the words ask for no command; the message is one line.
    """

    def refuse(event: parsing.ParseErrorEvent) -> None:
        raise ValueError(f"{_complaint(event)} (see {event.prog} --help)")

    with parsing.on_parse_error(refuse):
        return tyro.cli(Command, prog="elsjax", args=list(arguments))  # type: ignore[arg-type]


def _complaint(event: parsing.ParseErrorEvent) -> str:
    """What is wrong with the words."""
    match event:
        case parsing.UnrecognizedArgs(tokens=words):
            return f"not understood: {' '.join(words)}"
        case parsing.MissingSubcommand(subcommand_spec=commands):
            return f"no command; expected one of {', '.join(commands.parser_from_name)}"
        case parsing.InvalidChoice(argument=argument, value=value, choices=choices):
            return (
                f"{argument.display_name()}: invalid choice {value!r}; expected one of "
                f"{', '.join(choices)}"
            )
        case parsing.MissingArgs(missing_arguments=missing):
            return f"missing: {', '.join(one.arg.display_name() for one in missing)}"
        case parsing.BadValue(argument=argument):
            return f"{argument.display_name()}: its value is missing"
        case parsing.InstantiationFailure(message=message, argument=argument):
            return message if argument is None else f"{argument.display_name()}: {message}"
        case _:
            return f"not understood ({type(event).__name__})"
