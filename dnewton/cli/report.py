"""Command line: `dnewton report RUN [RUN...] -o report.html` draws runs on one page, or writes their figures."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from dnewton import __version__
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError, one_line
from dnewton.reporting.page import page
from dnewton.reporting.runs import Run, read_run
from dnewton.training.history import history_of

EXAMPLES = (
    "dnewton report runs/surface -o report.html",
    "dnewton report runs/seed1 runs/seed2 runs/adam -o report.html",
    "dnewton report runs/surface -o metrics.csv",
)


def _html(runs: Sequence[Run]) -> str:
    return page(runs, __version__)


def _table(runs: Sequence[Run]) -> list[dict[str, object]]:
    """One row for each line of metrics, with the run's name."""
    rows: list[dict[str, object]] = []
    for one in runs:
        columns = {name: values.tolist() for name, values in history_of(one.records).items()}
        rows += ({"run": one.name, **{name: v[k] for name, v in columns.items()}} for k in range(len(one.records)))
    return rows


def _csv(runs: Sequence[Run]) -> str:
    rows = _table(runs)
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)
    return out.getvalue()


def _json(runs: Sequence[Run]) -> str:
    found = [{"run": r.name, "ended": r.ended, "config": r.config, "metrics": list(r.records)} for r in runs]
    return json.dumps(found, indent=1) + "\n"


WRITERS: dict[str, Callable[[Sequence[Run]], str]] = {".html": _html, ".csv": _csv, ".json": _json}


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton report", "Draw runs on one page, or write their figures as a table.", rank, EXAMPLES)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directories, also of runs that go on")
    parser.add_argument("-o", "--out", metavar="FILE", default="report.html", help="(default: %(default)s)")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    ending = os.path.splitext(args.out)[1]
    if ending not in WRITERS:
        raise UserError(f"-o {args.out}: the name must end in {', '.join(WRITERS)}")
    return args


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    with comm.raise_together():
        if comm.rank == 0:
            runs = [read_run(path) for path in args.runs]
            text = WRITERS[os.path.splitext(args.out)[1]](runs)
            temporary = f"{args.out}.tmp"
            try:
                Path(temporary).write_text(text, encoding="utf-8")
                os.replace(temporary, args.out)
            except OSError as error:
                raise UserError(f"-o {args.out}: cannot be written: {one_line(error.strerror or error)}") from None
            print(f"{len(runs)} run(s) in {args.out} ({len(text):,} characters)", flush=True)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point, for one process: no launcher is needed."""
    run(_main, argv, needs_mpi=False)
