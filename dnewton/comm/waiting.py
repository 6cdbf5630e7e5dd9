"""How a rank waits for a message.

MPI libraries spin while they wait. With more ranks than cores, spinning ranks take the core from those they wait for:
one sum of 100 kB on 16 ranks and 2 cores then takes a second, against 9 ms by yielding. A large message goes in pieces,
one or a few whenever it is tested for: while it may be on its way, pauses must stay short.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from dnewton.comm.stop_hooks import StopHooks

YIELDS = 5  # sched_yield() so often, then sleep
SHORT, LONG = 2e-4, 2e-3  # seconds of a sleep: at first, and after so many tests
SHORT_PAUSES, PIECE = 100, 4096  # that many, and one more for so many bytes of a message
LOOK = 64  # tests of a request between two calls of the stop hooks, where a rank spins


def complete(request: Any, stops: StopHooks, yields: bool, size: int) -> None:
    """Wait until a request about a message of `size` bytes is complete; now and then the stop hooks look for signals
    and at the clock (:mod:`dnewton.comm.stop`). `yields`: the core is given away meanwhile."""
    tests, since = 0, 0.0
    short = SHORT_PAUSES + size // PIECE
    stops.poll()  # also where the request is complete already
    while not request.Test():
        tests += 1
        if yields:
            if tests <= YIELDS:
                os.sched_yield()
                continue
            time.sleep(SHORT if tests < short else LONG)
        elif tests % LOOK:
            continue
        since = since or time.monotonic()
        stops.look(since)


def size_of(arguments: Sequence[Any]) -> int:
    """Bytes of the largest argument of a collective: arrays, or lists that begin with one."""
    firsts = (argument[0] if isinstance(argument, list) else argument for argument in arguments)
    return max((int(getattr(first, "nbytes", 0)) for first in firsts), default=0)
