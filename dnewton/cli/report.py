"""Command line: `dnewton report runs/letters -o letters.html` draws what runs have written; no MPI."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from dnewton.cli import output_file
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.reporting.runs import Run, read_runs

EXAMPLES = (
    "dnewton report runs/letters -o letters.html",
    "dnewton report runs/seed-1 runs/seed-2 runs/seed-3 runs/adam -o compare.html",
    "dnewton report runs/letters -o metrics.csv",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton report", "Draw what runs have written, also while they go on.", rank, EXAMPLES)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run directories; those that differ only in their seed are one band"
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", help=f"what to write: {', '.join(WRITERS)} (default: the run's name.html, here)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if args.out is None:
        args.out = (os.path.basename(os.path.abspath(args.runs[0])) if len(args.runs) == 1 else "report") + ".html"
    if Path(args.out).suffix.lower() not in WRITERS:
        raise UserError(f"-o {args.out}: the suffix says what to write: {', '.join(WRITERS)}")
    output_file.check("-o", args.out, args.overwrite)
    return args


def _html(runs: Sequence[Run]) -> bytes:
    from dnewton.reporting.page import page

    return page(runs).encode("utf-8", "replace")


def _svg(runs: Sequence[Run]) -> bytes:
    from dnewton.reporting.sheet import sheet

    return sheet(runs).encode("utf-8", "replace")


def _png(runs: Sequence[Run]) -> bytes:
    from dnewton.reporting.raster import png

    return png(runs)


def _json(runs: Sequence[Run]) -> bytes:
    from dnewton.reporting.tables import as_json

    return as_json(runs).encode("utf-8", "replace")


def _csv(runs: Sequence[Run]) -> bytes:
    from dnewton.reporting.tables import as_csv

    return as_csv(runs).encode("utf-8", "replace")


WRITERS: dict[str, Callable[[Sequence[Run]], bytes]] = {
    ".html": _html,
    ".svg": _svg,
    ".png": _png,
    ".json": _json,
    ".csv": _csv,
}


def report(args: argparse.Namespace) -> str:
    """Write the file of a parsed command line and return a line about it. Raises UserError."""
    runs = read_runs(args.runs)
    content = WRITERS[Path(args.out).suffix.lower()](runs)
    output_file.write(args.out, content)
    lines = sum(len(found.records) for found in runs)
    return f"{args.out}: {len(runs)} run(s) with {lines:,} lines of metrics ({len(content):,} bytes)"


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    with comm.raise_together():
        if comm.rank == 0:
            print(report(args), flush=True)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point, for one process: no launcher is needed."""
    run(_main, argv, needs_mpi=False)
