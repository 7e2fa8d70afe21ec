"""What the parts of the library rest on, as they tell it: keys of `references.bib`."""

import importlib.resources
import re
from typing import NamedTuple


class Reference(NamedTuple):
    """What to cite, and for what.

    Attributes:
      key: of an entry of `references.bib`.
      purpose: what it is cited for, such as "the cosine schedule".
    """

    key: str
    purpose: str


class Cited:
    """What `elsjax.citation` takes.

    A subclass that has more to cite extends `references`.
    """

    @property
    def references(self) -> tuple[Reference, ...]:
        """What to cite where this is used."""
        return ()


def bibliography() -> dict[str, str]:
    """The entries of `references.bib` by key, as they stand there."""
    text = (importlib.resources.files("elsjax") / "references.bib").read_text(encoding="utf-8")
    found = re.finditer(r"^@\w+\{(\w+),\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    return {entry[1]: entry[0] for entry in found}
