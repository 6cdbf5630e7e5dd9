"""All ranks stop at one agreed point, when a signal, a limit of time or a checkpoint asks for it.

A signal may reach one rank only, and ranks that leave a computation at different places would wait for each other
without end. So the places where a rank may stop are numbered, the same on all ranks: *safe points*, for example between
batches. A rank that wants to stop tells the others; every rank states the number of the first safe point at which it
can stop (the one where it stands, or else the next); all stop at the first one that is not before the largest of these
numbers. Nothing is sent until a rank wants to stop. Ranks learn of it at safe points and while they wait.

Replicas pass different numbers of batches between two sums over the replicas. Before such a sum lies a *sync point*,
whose number is larger than those of all safe points before it; after it all replicas count the same again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.comm.stop_hooks import StopHooks
from dnewton.comm.watchdog import Watchdog

NOTICE, WHERE, HERE = 1, 2, 3  # messages: a rank wants to stop; where are you; here
SYNC = 1 << 24  # safe points between two sync points, at most
PAUSE = 5e-4  # seconds between two looks while ranks agree
TEXT = 48  # bytes of a phase's name in a message
TIME_LIMIT, CHECKPOINT, LOST = -1, -2, -3  # reasons besides the numbers of signals
WORDS = {TIME_LIMIT: "the limit of time", CHECKPOINT: "a checkpoint", LOST: "the loss of its run directory"}


class Stopped(Exception):
    """All ranks leave the computation at the same safe point, for the same reason."""

    def __init__(self, reason: int, rank: int) -> None:
        """`reason`: a signal's number, or TIME_LIMIT, CHECKPOINT or LOST, which `rank` gave."""
        super().__init__(reason, rank)
        self.reason = reason
        self.rank = rank

    @property
    def why(self) -> str:
        """In words."""
        if self.reason < 0:
            return WORDS[self.reason]
        return f"{signal.Signals(self.reason).name} on rank {self.rank}"


class StopAgreement(StopHooks):
    """One rank's part. It has a communicator of its own, whose messages are not counted in the metrics."""

    def __init__(self, world: Comm, timeout: float) -> None:
        """`timeout`: seconds of waiting after which the others are asked for an answer. Collective over the world."""
        self._world = world
        self._channel = world.dup()
        self._watchdog = Watchdog(world, timeout, lambda rank, inquiry: self._tell(rank, WHERE, inquiry))
        self._at = 0
        self._no_stop_depth = 0
        self._generation = 0  # stops so far
        self._wanted: int | None = None  # a reason, not yet told to others
        self._known: int | None = None  # a reason and a rank, coded
        self._next: int | None = None  # the same of the stop after this one
        self._proposed = np.zeros(2, dtype=np.int64)
        self._agreed = np.zeros(2, dtype=np.int64)
        self._request: Any = None
        self._target: int | None = None
        self._sent: list[tuple[Any, Any]] = []  # buffers that MPI may still read
        self._moves = 0
        self._since = 0.0  # progress of this rank; start of its present wait
        self._deadline: float | None = None
        self._due: float | None = None
        self._reserve = 0.0

    @property
    def timeout(self) -> float:
        """Seconds of waiting after which the other ranks are asked for an answer."""
        return self._watchdog.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._watchdog.timeout = seconds

    # --- stopping ---------------------------------------------------------------------------------------------------

    def want(self, reason: int) -> None:
        """Ask for a stop. It sends nothing, so a signal handler may call it."""
        self._wanted = reason if self._wanted is None else max(reason, self._wanted)

    def limit(self, deadline: float | None) -> None:
        """Stop when rank 0's time.monotonic() says so."""
        self._deadline = deadline

    def due(self, at: float | None) -> None:
        """Stop for a checkpoint when rank 0's time.monotonic() says so."""
        self._due = at

    def reserve(self, seconds: float) -> None:
        """Stop that much before the limit of time: a checkpoint takes so long."""
        self._reserve = seconds

    def safe_point(self) -> None:
        """See :class:`StopHooks`. Raises Stopped, the same on all ranks."""
        self._moves += 1
        if self._no_stop_depth:
            self._messages(waiting=False)
        else:
            self._at += 1
            self._stop_at(self._at)

    def sync_point(self) -> None:
        """See :class:`StopHooks`. Raises Stopped, the same on all ranks."""
        if not self._no_stop_depth:
            self._stop_at(self._at | (SYNC - 1))
            self._at = (self._at | (SYNC - 1)) + 1

    def stop_requested(self) -> bool:
        """See :class:`StopHooks`: True where the agreed point is a later one, so that the result will not be used."""
        self._moves += 1
        if not self._no_stop_depth:
            self._stop_at(self._at)
        return self._known is not None and not self._no_stop_depth

    @contextmanager
    def no_stop(self) -> Iterator[None]:
        """No stop inside: a partly updated state could not be saved."""
        self._no_stop_depth += 1
        try:
            yield
        finally:
            self._no_stop_depth -= 1

    def resume(self) -> None:
        """Resume after a stop; all ranks count from the same number."""
        self._generation += 1
        self._known = self._next
        self._next = None
        self._target = self._request = None
        self._at = int(self._agreed[0] | (SYNC - 1)) + 1

    def _stop_at(self, point: int) -> None:
        if not self._noticed():
            return
        self._propose(point)
        since = time.monotonic()
        while not self._settled():
            time.sleep(PAUSE)
            self._wait(since)
        if point >= int(self._agreed[0]):
            reason, rank = divmod(int(self._agreed[1]), self._world.size)
            raise Stopped(reason, rank)

    def _noticed(self, waiting: bool = False) -> bool:
        """Whether a rank wants to stop; the first one tells the others."""
        self._messages(waiting)
        if not self.armed:
            return False
        if self._known is None:
            if self._world.rank == 0:
                now = time.monotonic()
                if self._deadline is not None and now >= self._deadline - self._reserve:
                    self.want(TIME_LIMIT)
                elif self._due is not None and now >= self._due:
                    self.want(CHECKPOINT)
            wanted = self._wanted
            self._wanted = None  # a signal may come between any two lines
            if wanted is not None:
                self._known = wanted * self._world.size + self._world.rank
                for rank in range(self._world.size):
                    if rank != self._world.rank:
                        self._tell(rank, NOTICE, self._known)
        return self._known is not None

    def _propose(self, point: int) -> None:
        """Say once per stop at which point this rank can stop, and why."""
        if self._request is None and self._known is not None:
            self._proposed[:] = point, self._known
            self._request = self._channel.begin_max(self._proposed, self._agreed)

    def _settled(self) -> bool:
        if self._target is None and self._request is not None and self._request.Test():
            self._target = int(self._agreed[0])
        return self._target is not None

    def serve(self, waiting_since: float) -> None:
        """See :class:`StopHooks`: take part in what the others agree. Raises Unanswered."""
        self.look(waiting_since)
        if self._settled():
            self.resume()

    # --- waiting ----------------------------------------------------------------------------------------------------

    def look(self, waiting_since: float) -> None:
        """While this rank waits: propose a point if a rank wants to stop, answer, and inquire after the timeout.

        Raises Unanswered.
        """
        if self._noticed(waiting=True):
            self._propose(self._at + 1)
            self._settled()
        self._wait(waiting_since)

    def poll(self) -> None:
        """See :class:`StopHooks`: answer messages in the middle of work without safe points."""
        self._moves += 1
        self._messages(waiting=False)

    def _wait(self, since: float) -> None:
        self._moves = self._moves + (since != self._since)
        self._since = since
        self._messages(waiting=True)
        now = time.monotonic()
        if self.armed and now - since > self._watchdog.timeout:  # before that, ranks may read files for any time
            self._watchdog.inquire(since, now)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _messages(self, waiting: bool) -> None:
        while (arrived := self._channel.arrived()) is not None:
            source, tag = arrived
            message = np.zeros(16 + TEXT, dtype=np.uint8)
            self._channel.receive(message, source, tag)
            generation, number = (int(n) for n in message[:16].view(np.int64))
            if tag == NOTICE:
                if generation > self._generation:
                    self._next = number  # this rank has not yet resumed after the last stop
                elif generation == self._generation and self._known is None:
                    self._known = number
            elif tag == WHERE:
                where = f"{'waiting' if waiting else 'busy'} {self._world.ledger.phase} {number}"
                self._tell(source, HERE, self._moves, where)
            else:
                self._watchdog.answered(source, message[16:].tobytes().rstrip(b"\0").decode(), number)

    def close(self) -> None:
        """Take in what others have sent, so that the communicator can be given back. Collective over the world."""
        for _ in range(2):
            self._channel.barrier()
            while (arrived := self._channel.arrived()) is not None:
                self._channel.receive(np.zeros(16 + TEXT, dtype=np.uint8), *arrived)
        for request, _ in self._sent:
            self._channel.wait(request)
        self._sent = []

    def _tell(self, rank: int, tag: int, number: int = 0, text: str = "") -> None:
        message = np.zeros(16 + TEXT, dtype=np.uint8)
        message[:16].view(np.int64)[:] = self._generation, number
        coded = text.encode()[:TEXT]
        message[16 : 16 + len(coded)] = np.frombuffer(coded, dtype=np.uint8)
        self._sent = [(request, buffer) for request, buffer in self._sent if not request.Test()]
        self._sent.append((self._channel.send(message, rank, tag), message))
