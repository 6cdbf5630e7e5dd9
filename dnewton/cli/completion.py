"""Command line: `dnewton completion bash` prints a script by which the shell completes dnewton's words (by shtab)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from dnewton.cli import verbs
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")
EXAMPLES = (
    "dnewton completion bash > ~/.local/share/bash-completion/completions/dnewton",
    "dnewton completion zsh > ~/.zfunc/_dnewton",
    "dnewton completion tcsh > ~/.dnewton.completion",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton completion", "Print a script that completes dnewton's words.", rank, EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, help="the shell that will read it")
    return parser


def whole_parser(files: Any, folders: Any) -> argparse.ArgumentParser:
    """A parser of all verbs; `files` and `folders` is what completes an option that names one."""
    whole = argparse.ArgumentParser(prog="dnewton", description="Distributed Newton training of neural networks.")
    whole.add_argument("--version", action="store_true", help="the version")
    below = whole.add_subparsers(dest="verb", metavar="VERB")
    for verb, summary in verbs.SUMMARIES.items():
        make = getattr(verbs.module_of(verb), "make_parser", None)  # a verb without completes as a word alone
        own = [] if make is None else [make()]
        for action in [action for parser in own for action in parser._actions]:
            if "FILE" in str(action.metavar) or action.metavar in ("IN", "OUT"):
                action.complete = files
            elif "DIR" in str(action.metavar):
                action.complete = folders
        below.add_parser(verb, help=summary, parents=own, add_help=False)
    return whole


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = make_parser(comm.rank).parse_args(argv)
    try:
        import shtab
    except ImportError:
        raise UserError("completion: needs shtab; pip install 'dnewton[completion]'") from None
    if comm.rank == 0:
        print(shtab.complete(whole_parser(shtab.FILE, shtab.DIRECTORY), args.shell))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    run(_main, argv, needs_mpi=False)
