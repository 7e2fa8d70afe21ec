"""What to cite for what was used, as BibTeX."""

from elsjax import checks
from elsjax.data.datasets import dataset_references, named_datasets
from elsjax.process.sampling import SOLVERS, solver_references
from elsjax.references import Cited, Reference, bibliography

_ALWAYS = (
    Reference("elsjax", "the software"),
    Reference("kamb2025", "the theory of score machines"),
)


class BibTeX(str):
    """Text that is shown as it is where it is the value of a line or of a cell."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def citation(*used: Cited | str) -> BibTeX:
    """What to cite for what was used, as BibTeX.

        print(elsjax.citation(machine, network, "ancestral", "cifar10"))

    Args:
      used: things used, of any number and in any order: denoisers (machines, networks, functions),
        each of which brings its noise schedule; schedules; data sets, or their names, such as
        "cifar10"; names of solvers, such as "ancestral"; a `Comparison`; a `Memorization`;
        a `TrainingConfig`.

    Returns:
      The library and the paper of its theory, then what the things used rest on, in the order they
      are given. Each entry comes once, below a line that says what it is cited for. A string, which
      is also shown as it reads.

    Raises:
      ValueError: if something is no such thing, or of an unknown name.
    """
    told = [*_ALWAYS]
    for number, one in enumerate(used):
        told += _references(f"used[{number}]", one)
    purposes: dict[str, list[str]] = {}
    for key, purpose in dict.fromkeys(told):
        purposes.setdefault(key, []).append(purpose)
    entries = bibliography()
    return BibTeX(
        "\n\n".join(
            f"% for {'; '.join(of_key)}\n{entries[key]}" for key, of_key in purposes.items()
        )
    )


def _references(name: str, one: object) -> tuple[Reference, ...]:
    """What to cite for one thing; raises ValueError if that is not known."""
    if isinstance(one, Cited):
        return one.references
    if not isinstance(one, str):
        raise ValueError(
            f"{name}={one!r} must be a denoiser, Schedule, Dataset, Comparison or TrainingConfig, "
            "or the name of a solver or a data set"
        )
    datasets = named_datasets()
    checks.one_of(name, one, (*SOLVERS, *datasets))
    return dataset_references(one) if one in datasets else solver_references(one)
