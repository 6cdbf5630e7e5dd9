"""How a command line runs as an MPI job: exit codes, one line for a user's mistake, a traceback for our own."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import NoReturn

import numpy as np

from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement
from dnewton.comm.watchdog import Unanswered
from dnewton.errors import UserError, one_line
from dnewton.hardware import node

SHUTDOWN = 0.8  # seconds that a job takes to end
DUPLICATE = 1.0  # seconds in which a second SIGINT counts as the first: a terminal and a launcher may both send it
REQUEUE = 85  # exit code: stopped before the end; continue with --resume
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)


ASK = ("-h", "--help", "--version")

Main = Callable[[Comm, Sequence[str]], None]


def run(
    main: Main,
    argv: Sequence[str] | None,
    trains: bool = False,
    needs_mpi: bool = True,
    any_launcher: bool = False,
) -> NoReturn:
    """Run a command line on the whole job and exit. `argv`: sys.argv's words after the first by default.

    `trains`: a batch job's tasks are its ranks. `needs_mpi`: also where no launcher started this process; a command
    line of one process otherwise loads no MPI library, and one that only asks for help never does. `any_launcher`: also
    where the launcher does not fit the MPI library.

    A UserError (raised alike on all ranks) prints one line on rank 0 and exits 2 everywhere; any other exception
    prints this rank's traceback and ends the whole job at once with code 1. Collective over all processes.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    np.seterr(all="ignore")  # overflow and NaN at a trial point are expected, and checked where they matter
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    comm: Comm | None = None
    code = 0
    try:
        comm = _communicator(words, needs_mpi)
        if comm.uses_mpi and not any_launcher:
            check_launcher(comm.size, os.environ, trains)
        with _silent_beside_others(comm):
            main(comm, words)
    except UserError as error:
        code = 2
        if (comm is None or comm.rank == 0) and library.told_rank(os.environ) == 0:
            print(f"dnewton: error: {one_line(error)}", file=sys.stderr)
    except BrokenPipeError:
        code = 141  # as a process that SIGPIPE ends
    except Unanswered as silence:
        say(f"{silence}; ending the job")
        _abort(comm)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        trace = traceback.format_exc()
        who = f"rank {comm.rank} of {comm.size}" if comm is not None else "this process"
        say(f"{who} failed; ending the job\n{trace}")
        _abort(comm)
    _flush()
    sys.exit(code)


def _communicator(words: Sequence[str], needs_mpi: bool) -> Comm:
    options = words[: words.index("--")] if "--" in words else words
    asks = any(word in ASK for word in options)
    return Comm.alone() if asks or not (needs_mpi or library.started_by_launcher()) else Comm.world()


@contextmanager
def _silent_beside_others(comm: Comm) -> Iterator[None]:
    """One answer is enough where a launcher started several processes that do without MPI."""
    if comm.uses_mpi or library.told_rank(os.environ) == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _abort(comm: Comm | None) -> None:
    if comm is None:
        sys.exit(1)
    comm.abort()


def _flush() -> None:
    """Write what is still in the streams. Where that fails - a full disk, a pipe without a reader, a terminal that is
    gone - the interpreter's own attempt at its end would fail, too, and turn success into a failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed when the process began
                stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def say(text: str) -> None:
    """A line of this rank on standard error."""
    print(f"dnewton: {text}", file=sys.stderr, flush=True)


def check_launcher(ranks: int, environment: Mapping[str, str], trains: bool = True) -> None:
    """Raise UserError where the launcher started several processes and MPI sees each as a job of one rank: the launcher
    and the MPI library use different protocols (PMI)."""
    told = {f"{name}_SIZE": library.number(environment.get(f"{name}_SIZE")) for name in library.LAUNCHERS}
    if not any(told.values()):
        slurm = ["SLURM_STEP_NUM_TASKS", *(["SLURM_NTASKS"] if trains else [])]
        told = {name: library.number(environment.get(name)) for name in slurm}
    for name, size in told.items():
        if ranks == 1 and size > 1:
            raise UserError(
                f"{name} is {size}, but MPI sees 1 rank: the launcher does not fit the MPI library; "
                "with MPICH or Intel MPI use srun --mpi=pmi2 or their own mpiexec, with Open MPI srun --mpi=pmix or "
                "its mpirun (for one rank in a larger allocation: mpiexec -n 1)"
            )


def catch_signals(comm: Comm, stops: StopAgreement) -> None:
    """Install handlers: each of `SIGNALS` on any rank stops the job at the next safe point, or at once before the
    training; SIGHUP not where it is ignored. A second SIGINT ends the job at once."""
    first: list[float] = []

    def handle(number: int, _: object) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if not stops.armed:
            say(f"{name} on rank {comm.rank} before the training; ending the job")
            comm.abort(REQUEUE)
        elif number == signal.SIGINT and first and now - first[0] > DUPLICATE:
            say(f"{name} again on rank {comm.rank}; ending the job at once")
            comm.abort(128 + number)
        if number == signal.SIGINT and not first:
            first.append(now)
        stops.want(number)

    for number in SIGNALS:
        # nohup asks for SIGHUP to be ignored. That is said again: MPI libraries over UCX have put in a handler of their
        # own, which turns on debugging output.
        ignored = number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
        signal.signal(number, signal.SIG_IGN if ignored else handle)


def ignore_signals() -> None:
    """Everything is saved: a signal from now on must not turn success into a failure."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def limit_time(stops: StopAgreement, seconds: float | None) -> None:
    """Stop by rank 0's clock, `seconds` after its process was started."""
    if seconds is not None:
        stops.limit(time.monotonic() - node.process_age() + seconds - SHUTDOWN)
