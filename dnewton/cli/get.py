"""Command line: `python -m dnewton.data get NAME` says where a public data set comes from, and checks its files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.data.public_sets import SETS, about
from dnewton.errors import UserError

EXAMPLES = ("python -m dnewton.data get mnist", "python -m dnewton.data get usps --folder ~/data")


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    text = "Say where a public data set comes from, and check the files that were downloaded; nothing is downloaded."
    parser = Parser("python -m dnewton.data get", text, rank, EXAMPLES)
    parser.add_argument("name", metavar="NAME", help=f"of {', '.join(SETS)}")
    parser.add_argument("--folder", metavar="DIR", default=".", help="where the files are (default: here)")
    return parser


def main_of_get(comm: Comm, argv: Sequence[str]) -> None:
    """The verb's part of a job. Exits with 1 where a file differs from what is published. Raises UserError."""
    args = make_parser(comm.rank).parse_args(argv)
    folder = Path(args.folder).expanduser()
    fine = True
    with comm.raise_together():
        if not folder.is_dir():
            raise UserError(f"--folder {args.folder}: is not a folder")
        lines, fine = about(args.name, folder)
        if comm.rank == 0:
            print("\n".join(lines), flush=True)
    if not fine:
        sys.exit(1)
