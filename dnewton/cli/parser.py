"""Command lines of an MPI job: a parser that is silent on all ranks but the first."""

from __future__ import annotations

import argparse
from typing import IO, NoReturn

from dnewton.errors import UserError


class Parser(argparse.ArgumentParser):
    """Argument errors as UserError, help on rank 0 only."""

    def __init__(self, prog: str, description: str, rank: int) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.rank = rank

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the message."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        if self.rank == 0:
            super()._print_message(message, file)
