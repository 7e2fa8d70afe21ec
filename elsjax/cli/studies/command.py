"""What the commands of `elsjax study` share: a run, a table on the screen, a report to open."""

import abc
from pathlib import Path
from typing import Generic, TypeVar

from elsjax.cli.account import Account, print_table
from elsjax.experiments.runs import Run

Found = TypeVar("Found", bound=Account)


class StudyCommand(abc.ABC, Generic[Found]):
    """A study as a command.

    Attributes:
      out: folder to write.
      overwrite: replace the folder if it exists.
    """

    out: Path
    overwrite: bool

    def __call__(self) -> None:
        """Runs the command.

        Raises:
          ValueError: if an option does not fit, before anything is computed or written.
          FloatingPointError: if what is computed is not finite; what was kept before stays.
        """
        with Run(self.out, overwrite=self.overwrite) as run:
            account = self._run(run)
        self._print(account)
        print(f"open {self.out / 'report.html'}")

    @abc.abstractmethod
    def _run(self, run: Run) -> Found:
        """Writes the results; returns what is to be said of them."""

    def _print(self, account: Found) -> None:
        """Prints what was found."""
        print_table(account.table())
