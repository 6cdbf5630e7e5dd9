"""What a run changes of the process around it, and puts back: BLAS threads, floating-point warnings, Ctrl-C."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dnewton.cli.launch import say
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement
from dnewton.comm.watchdog import Unanswered
from dnewton.errors import UserError


@contextmanager
def kept() -> Iterator[None]:
    """Inside, overflow gives no warnings and BLAS may be limited; afterwards both are as they were."""
    from threadpoolctl import ThreadpoolController

    blas = [
        (library, library.num_threads) for library in ThreadpoolController().select(user_api="blas").lib_controllers
    ]
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        for library, threads in blas:
            if library.num_threads != threads:
                library.set_num_threads(threads)


@contextmanager
def interruptible(stops: StopAgreement) -> Iterator[list[int]]:
    """Inside, a first Ctrl-C asks all ranks to stop at the next safe point, which fills the list; a second one
    interrupts at once. Only the main thread hears signals."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if asked or not stops.armed:
            raise KeyboardInterrupt
        asked.append(number)
        stops.want(number)

    before = signal.getsignal(signal.SIGINT)
    if before is None or before is signal.SIG_IGN:  # not Python's to handle, or not wanted
        yield asked
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def failing_together(comm: Comm) -> Iterator[None]:
    """An internal failure of one rank of several ends the whole job at once, with that rank's traceback: the others
    would wait for it without end. A UserError is raised alike on all ranks."""
    try:
        yield
    except UserError:
        raise
    except Unanswered as silence:
        if comm.size == 1:
            raise
        say(f"{silence}; ending the job")
        comm.abort()
    except BaseException:
        if comm.size == 1:
            raise
        trace = traceback.format_exc()
        say(f"rank {comm.rank} of {comm.size} failed; ending the job\n{trace}")
        comm.abort()
