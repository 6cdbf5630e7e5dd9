"""Jobs inside this session: a command line's `main` on the session's first ranks, instead of processes of its own.

A test marked `jobs(n)` runs on rank 0 of a session of at least n ranks, as if it were alone; the other ranks serve:
they take part in every `start` until it has ended (conftest.py). A job costs milliseconds instead of the seconds that
as many interpreters need to start, and sees what a launched one sees: its own world of ranks, its own signal handlers,
an environment without MPI's variables. What only a launcher shows (aborts, signals, killed ranks) is jobs.py's part.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest import mock

import numpy as np
import pytest
from folding import unfolded
from jobs import device_arguments, environment

from dnewton.cli import launch
from dnewton.comm import library
from dnewton.comm.communicator import Comm

MPI = library.mpi()
MAINS = {
    "dnewton.train": "dnewton.cli.train",
    "dnewton.predict": "dnewton.cli.predict",
    "dnewton.compare": "dnewton.cli.compare",
    "dnewton.plan": "dnewton.cli.plan",
    "dnewton.info": "dnewton.cli.info",
    "dnewton.data": "dnewton.data.__main__",
    "dnewton.export": "dnewton.cli.export",
    "dnewton.report": "dnewton.cli.report",
    "dnewton.watch": "dnewton.cli.watch",
    "fit_job": "fit_job",
}
HOMES = (1, 3, 4, 16)  # sizes of sessions; a test that needs n ranks runs at the first that has them
PATIENCE = 20.0  # seconds for the other ranks to come to the end of a job that failed on one
JOB, DONE = 1, 2  # tags

_control = MPI.COMM_WORLD.Dup()
_stderr: list[IO[str]] = []
_worlds: list[Comm] = []  # MPI may still read what a job's agreement on stops sent


class Aborted(BaseException):
    """In the place of MPI_Abort, which would end the session."""


class Ranks(MPI.Intracomm):
    """A communicator that remembers those made of it: MPI libraries have about 2,000 to give."""

    made: list[MPI.Intracomm]

    def _of(self, found: MPI.Intracomm) -> Ranks:
        part = Ranks(found)
        part.made = self.made
        self.made.append(part)
        return part

    def Dup(self, info: Any = None) -> Any:
        return self._of(super().Dup())

    def Split(self, color: int = 0, key: int = 0) -> Any:
        return self._of(super().Split(color, key))

    def Split_type(self, split_type: int, key: int = 0, info: Any = MPI.INFO_NULL) -> Any:
        return self._of(super().Split_type(split_type, key, info))

    def Abort(self, errorcode: int = 0) -> Any:
        raise Aborted(errorcode)


@dataclass(frozen=True)
class Done:
    """What subprocess.run would say."""

    returncode: int
    stdout: str  # of dnewton.train with long lines whole again
    stderr: str
    printed: str = ""  # as it was printed


def keep_stderr() -> None:
    """For :func:`end_session`; before pytest captures it."""
    _stderr.append(os.fdopen(os.dup(2), "w"))


def end_session(message: str) -> None:
    """Say it, show where this rank is, and end all ranks at once; any rank may call it."""
    print(f"\nrank {_control.rank}: {message}; ending the session", file=_stderr[0])
    faulthandler.dump_traceback(file=_stderr[0])
    _stderr[0].flush()
    MPI.COMM_WORLD.Abort(3)


def home(ranks: int) -> int:
    """The number of ranks of the session in which a test that needs so many runs."""
    return next(size for size in HOMES if size >= ranks)


def needs(ranks: int, *values: Any) -> Any:
    """Values of a test's parameters with which it needs so many ranks."""
    return pytest.param(*values, marks=pytest.mark.jobs(ranks))


def start(ranks: int, *args: str, cwd: Path, module: str = "dnewton.train") -> Done:
    """Run a job to its end on ranks 0, ..., ranks - 1 of the session; only in a test marked `jobs`, on rank 0."""
    assert ranks <= _control.size, f"the test needs the mark jobs({ranks})"
    job = (ranks, [*args, *device_arguments(module, args)], str(cwd), module)
    for rank in range(1, ranks):
        _control.send(job, rank, JOB)
    results = [_run(*job)]
    for rank in range(1, ranks):
        failed = any(code not in (0, 2, launch.REQUEUE) for code, _, _ in results)
        _wait(lambda rank=rank: _control.iprobe(rank, DONE), PATIENCE if failed else None, results)  # type: ignore[misc]
        results.append(_control.recv(source=rank, tag=DONE))
    codes, outs, errors = zip(*results, strict=True)
    code = codes[0] if len(set(codes)) == 1 else next(c for c in codes if c)
    printed = "".join(outs)
    whole = unfolded(printed) if module == "dnewton.train" else printed
    return Done(code, whole, "".join(errors), printed)


def serve() -> bool:
    """Take part in a test's jobs until its end; returns whether it failed. On the ranks after the first."""
    while True:
        _wait(lambda: _control.iprobe(0, JOB))
        word = _control.recv(source=0, tag=JOB)
        if isinstance(word, bool):
            return word
        result = _run(*word)
        sent = _control.issend(result, 0, DONE)
        _wait(sent.Test, PATIENCE if result[0] == 1 else None, [result])


def end(failed: bool) -> None:
    """Let the others go: the test has ended."""
    for rank in range(1, _control.size):
        _control.send(failed, rank, JOB)


def _wait(condition: Callable[[], Any], seconds: float | None = None, results: list[Any] | None = None) -> None:
    """Without spinning. Ranks that do not come after one has failed wait for it, for ever: the session ends."""
    until = None if seconds is None else time.monotonic() + seconds
    pause = 2e-4
    while not condition():
        if until is not None and time.monotonic() > until:
            said = "".join(error for _, _, error in results or [])
            end_session(f"{said}\na job failed on one rank, and others wait for it")
        time.sleep(pause)
        pause = min(1.1 * pause, 5e-3)


@functools.cache
def _first(ranks: int) -> MPI.Intracomm:
    return _control.Create_group(_control.group.Incl(list(range(ranks))), ranks)


class _Only:
    """mpi4py's MPI with another world."""

    def __init__(self, world: MPI.Intracomm) -> None:
        self.COMM_WORLD = world

    def __getattr__(self, name: str) -> Any:
        return getattr(MPI, name)


@contextlib.contextmanager
def _as_a_process(world: MPI.Intracomm, argv: list[str], folder: str) -> Iterator[None]:
    """What a process has for itself, here for a while."""
    before = os.getcwd()
    handlers = {number: signal.getsignal(number) for number in launch.SIGNALS}
    real = Comm.of
    # What a launcher says: a job of several ranks is then one that uses MPI, and only its first rank prints help.
    launched = {"PMI_RANK": str(world.rank), "PMI_SIZE": str(world.size)} if world.size > 1 else {}

    def kept(mpi: Any) -> Comm:
        _worlds.append(real(mpi))
        return _worlds[-1]

    os.chdir(folder)
    try:
        with (
            mock.patch.dict(os.environ, {**environment(), **launched}, clear=True),
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(library, "mpi", lambda: _Only(world)),
            mock.patch.object(Comm, "of", kept),
            np.errstate(),
        ):
            yield
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run(ranks: int, args: list[str], folder: str, module: str) -> tuple[int, str, str]:
    """This rank's part of a job: its exit code and what it printed. Collective over the first ranks."""
    world = Ranks(_first(ranks))
    world.made = []
    out, err = io.StringIO(), io.StringIO()
    main = importlib.import_module(MAINS[module]).main
    code: Any = None
    with (
        _as_a_process(world, [module, *args], folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        except Aborted as abort:
            code = abort.args[0] or 1
        except BaseException:
            traceback.print_exc()
            code = 1
    for part in world.made:
        if part != MPI.COMM_NULL:
            part.Free()
    return code or 0, out.getvalue(), err.getvalue()
