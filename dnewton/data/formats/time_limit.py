"""Work that may never end, or crash, in a damaged file, tried in a process of its own first.

A library that loops or crashes in its C code cannot be stopped from Python. A child of this process does the same work
before: what it survives the process will survive, too.
"""

from __future__ import annotations

import faulthandler
import math
import os
import resource
import select
import signal
import warnings
from collections.abc import Callable

from dnewton.errors import UserError


def tried(work: Callable[[], object], seconds: float, path: str, library: str) -> None:
    """Do `work` in a child process; its exceptions are dropped, since they will come again.

    Raises UserError, naming `path` and `library`, where it takes more than `seconds` or crashes.
    """
    ended, end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries, which the child does not use
        child = os.fork()
    if child == 0:
        _work(work, seconds)
    os.close(end)
    try:
        if not select.select([ended], [], [], seconds)[0]:
            raise UserError(
                f"{path}: {library} did not come to an end within {seconds:g} s: the file is damaged, or its disk very "
                "slow (data.timeout)"
            )
    finally:
        os.close(ended)
        os.kill(child, signal.SIGKILL)  # at its end there is nothing left to lose
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        name = signal.Signals(os.WTERMSIG(status)).name
        raise UserError(f"{path}: is damaged: {library} crashes on it ({name})")


def _work(work: Callable[[], object], seconds: float) -> None:
    """The child's part, which does not return. The end of the process closes the pipe."""
    try:
        faulthandler.disable()
        limit = math.ceil(seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))  # should the parent be killed
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
    finally:
        os._exit(0)
