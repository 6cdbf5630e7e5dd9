"""Command line: `dnewton watch runs/letters` shows a run in the terminal while it goes on; no MPI."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.reporting.follow import PATIENCE, Follower
from dnewton.reporting.terminal import Screen, headline, standing, view

EXAMPLES = (
    "dnewton watch runs/letters",
    "dnewton watch runs/letters --once",
    "ssh cluster dnewton watch work/runs/letters --once",
)
Wait = Callable[[float], bool]  # waits so many seconds; True where the user has asked for the end


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton watch", "Show a run in the terminal while it goes on; q ends it.", rank, EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="its run directory, which need not be there yet")
    parser.add_argument("--once", action="store_true", help="print one picture and exit")
    parser.add_argument("--every", metavar="S", type=float, default=1.0, help="seconds between two looks (default: 1)")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if not 0.05 <= args.every <= 3600:
        raise UserError(f"--every {args.every:g}: a number of seconds from 0.05 to 3600 is needed")
    if os.path.isfile(args.run):
        raise UserError(f"{args.run}: is a file; name the run directory that it lies in")
    return args


def _screen() -> Screen:
    size = shutil.get_terminal_size((80, 40))
    try:
        "⣿λ█".encode(sys.stdout.encoding or "ascii")
        fine = True
    except (UnicodeEncodeError, LookupError):
        fine = False
    return Screen(size.columns, size.lines, fine)


@contextmanager
def _keys() -> Iterator[Wait]:
    """A function that waits, and says whether q was pressed; the terminal gives single keys meanwhile."""
    if not sys.stdin.isatty():

        def sleep(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield sleep
        return
    import termios  # not on every system that can read a run directory
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def wait(seconds: float) -> bool:
        ready, _, _ = select.select([handle], [], [], seconds)
        return bool(ready) and os.read(handle, 1) in (b"q", b"Q", b"\x04", b"")

    tty.setcbreak(handle)
    try:
        yield wait
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _lively(follower: Follower, every: float) -> None:
    """A picture that is drawn again whenever the run has written something."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    lines: list[str] = [f"waiting for {follower.path}: it is not there yet (q ends)"]
    with _keys() as wait, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            if follower.look() and follower.run is not None:
                lines = view(follower.run, _screen())
            live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            if follower.ended or follower.silent > PATIENCE or wait(every):
                break
    print("\n".join(lines), flush=True)  # the picture stays when the screen is given back


def _lines(follower: Follower, every: float) -> None:
    """One line for every look that finds something, into a pipe or a file."""
    print(f"watching {follower.path}", flush=True)
    with _keys() as wait:
        while True:
            if follower.look() and follower.run is not None:
                print(standing(follower.run), flush=True)
            if follower.ended or follower.silent > PATIENCE or wait(every):
                break
    if follower.run is not None and follower.ended:
        print(f"{headline(follower.run)}: {follower.run.ended}", flush=True)


def _watch(args: argparse.Namespace) -> None:
    follower = Follower(args.run)
    if args.once:
        if not follower.look() or follower.run is None:
            raise UserError(f"{args.run}: is not there yet, or no run directory; without --once it is waited for")
        print("\n".join(view(follower.run, _screen())), flush=True)
        return
    try:
        (_lively if sys.stdout.isatty() else _lines)(follower, args.every)
    except KeyboardInterrupt:
        print(flush=True)
    if follower.silent > PATIENCE:
        resume = f"dnewton train --resume {args.run}"
        print(f"no sign of life for {follower.silent:.0f} s: its job seems to have been ended; {resume}", flush=True)


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    with comm.raise_together():
        if comm.rank == 0:
            _watch(args)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point, for one process: no launcher is needed."""
    run(_main, argv, needs_mpi=False)
