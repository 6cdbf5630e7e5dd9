"""Command lines of an MPI job: a parser that is silent on all ranks but the first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import IO, NoReturn

from dnewton import __version__
from dnewton.errors import UserError


class Parser(argparse.ArgumentParser):
    """Argument errors as UserError, help on rank 0 only; every one has --version."""

    def __init__(self, prog: str, description: str, rank: int, examples: Sequence[str] = ()) -> None:
        """`examples`: whole command lines for the end of the help."""
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            epilog="\n  ".join(["examples:", *examples]) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.rank = rank
        self.examples = tuple(examples)
        self.add_argument("--version", action="version", version=f"dnewton {__version__}")

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the message."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        if self.rank == 0:
            super()._print_message(message, file)
