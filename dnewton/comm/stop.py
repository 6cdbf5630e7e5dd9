"""What a rank looks after while it computes and waits: requests to stop, limits of time, ranks that do not answer.

Stopping together. A signal may reach one rank only, and ranks that leave a computation at different places wait for
each other for ever. So the places where a rank may stop are numbered, alike on all ranks: *points*, between batches for
example. Whoever wants to stop tells the others; every rank gives the number of the first point at which it can stop (a
rank that stands at a point that one, else the next); all stop at the first point that is not before the largest of
these numbers. Nothing is sent until somebody wants to stop. Ranks learn of it at points and while they wait.

Replicas pass different numbers of batches between two sums over the replicas. Before such a sum lies a *seam*: a point
whose number is larger than those of all points before it, and after which all replicas count alike again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm, Watch

NOTICE = 1
WHERE = 2
HERE = 3  # messages: somebody wants to stop; where are you; here
SEAM = 1 << 24  # points between two seams, at most
PAUSE = 5e-4  # seconds between two looks while ranks agree
GRACE = 5.0  # seconds in which a rank that is asked must answer
TEXT = 48  # bytes of a phase's name in a message
TIME_LIMIT, CHECKPOINT = -1, -2  # reasons besides the numbers of signals


class Stopped(Exception):
    """All ranks leave the computation at the same point, for the same reason."""

    def __init__(self, reason: int, rank: int) -> None:
        """`reason`: a signal's number, TIME_LIMIT or CHECKPOINT, which `rank` gave."""
        super().__init__(reason, rank)
        self.reason = reason
        self.rank = rank

    @property
    def why(self) -> str:
        """In words."""
        if self.reason < 0:
            return "the limit of time" if self.reason == TIME_LIMIT else "a checkpoint"
        return f"{signal.Signals(self.reason).name} on rank {self.rank}"


class Unanswered(Exception):
    """A rank that others wait for does not answer."""


class Vigil(Watch):
    """One rank's part. It communicates on a communicator of its own, and no figure counts that."""

    def __init__(self, world: Comm, timeout: float) -> None:
        """`timeout`: seconds of waiting after which the others must say that they live. Collective over the world."""
        self._world = world
        self._channel = world.apart()
        self.timeout = timeout
        self._at = 0
        self._held = 0
        self._generation = 0  # stops so far
        self._wanted: int | None = None  # a reason, not yet told to others
        self._known: int | None = None  # a reason and a rank, coded
        self._next: int | None = None  # the same of the stop after this one
        self._mine = np.zeros(2, dtype=np.int64)
        self._agreed = np.zeros(2, dtype=np.int64)
        self._request: Any = None
        self._target: int | None = None
        self._sent: list[tuple[Any, Any]] = []  # what MPI may still read
        self._inquiry = 0
        self._asked = 0.0
        self._asked_for = 0.0
        self._answers = dict[int, tuple[str, int]]()
        self._before = dict[int, tuple[str, int]]()
        self._moves = 0
        self._since = 0.0  # how often this rank has got further, in a wait since when
        self._deadline: float | None = None
        self._due: float | None = None
        self._reserve = 0.0

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

    def point(self) -> None:
        """See :class:`Watch`. Raises Stopped, alike on all ranks."""
        self._moves += 1
        if self._held:
            self._messages(waiting=False)
        else:
            self._at += 1
            self._stop_at(self._at)

    def seam(self) -> None:
        """See :class:`Watch`. Raises Stopped, alike on all ranks."""
        if not self._held:
            self._stop_at(self._at | (SEAM - 1))
            self._at = (self._at | (SEAM - 1)) + 1

    def inside(self) -> bool:
        """See :class:`Watch`: True where others have got further, so that the result will not be used."""
        self._moves += 1
        if not self._held:
            self._stop_at(self._at)
        return self._known is not None and not self._held

    @contextmanager
    def held(self) -> Iterator[None]:
        """No stop inside: what is half changed could not be saved."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def again(self) -> None:
        """Go on after a stop; all ranks count from the same number."""
        self._generation += 1
        self._known = self._next
        self._next = None
        self._target = self._request = None
        self._at = int(self._agreed[0] | (SEAM - 1)) + 1

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
        """Whether somebody wants to stop; the first to want it tells the others."""
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
        """Say once per stop where this rank can stop, and why."""
        if self._request is None and self._known is not None:
            self._mine[:] = point, self._known
            self._request = self._channel.begin_largest(self._mine, self._agreed)

    def _settled(self) -> bool:
        if self._target is None and self._request is not None and self._request.Test():
            self._target = int(self._agreed[0])
        return self._target is not None

    def attend(self, waiting_since: float) -> None:
        """See :class:`Watch`: take part in what the others agree. Raises Unanswered."""
        self.look(waiting_since)
        if self._settled():
            self.again()

    # --- waiting ----------------------------------------------------------------------------------------------------

    def look(self, waiting_since: float) -> None:
        """While this rank waits: say where it can stop if somebody wants to, answer, and ask who does not answer.

        Raises Unanswered.
        """
        if self._noticed(waiting=True):
            self._propose(self._at + 1)
            self._settled()
        self._wait(waiting_since)

    def busy(self) -> None:
        """See :class:`Watch`: answer, in the middle of work that has no places to stop at."""
        self._moves += 1
        self._messages(waiting=False)

    def _wait(self, since: float) -> None:
        self._moves = self._moves + (since != self._since)
        self._since = since
        self._messages(waiting=True)
        now = time.monotonic()
        if self.armed and now - since > self.timeout:  # before, ranks read files for as long as it takes
            self._inquire(since, now)

    def _inquire(self, waiting_since: float, now: float) -> None:
        others = set(range(self._world.size)) - {self._world.rank}
        if self._asked_for != waiting_since or now - self._asked > max(self.timeout, 3 * GRACE):
            self._before = self._answers if self._asked_for == waiting_since else {}
            self._inquiry = self._inquiry + 1
            self._asked = now
            self._asked_for = waiting_since
            self._answers = {}
            for rank in others:
                self._tell(rank, WHERE, self._inquiry)
        if now - self._asked < GRACE:
            return
        silent = sorted(others - set(self._answers))
        waited, phase = now - waiting_since, self._world.ledger.phase
        if silent:
            first = min({self._world.rank, *self._answers})
            if self._world.rank == first or now - self._asked > 2 * GRACE:  # one message for all, if possible
                who = f"rank {silent[0]} does" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))} do"
                raise Unanswered(
                    f"{who} not answer; rank {self._world.rank} has waited for {waited:.0f} s in phase {phase} "
                    f"(parallel.timeout: {self.timeout:g}; raise it where a step may take longer)"
                )
        elif self._answers == self._before and all(a.startswith("waiting") for a, _ in self._answers.values()):
            places = ", ".join(f"rank {r} in {a.split()[1]}" for r, (a, _) in sorted(self._answers.items()))
            raise Unanswered(f"all ranks wait for each other: rank {self._world.rank} in {phase}, {places}")

    # --- messages ---------------------------------------------------------------------------------------------------

    def _messages(self, waiting: bool) -> None:
        while (found := self._channel.arrived()) is not None:
            source, tag = found
            message = np.zeros(16 + TEXT, dtype=np.uint8)
            self._channel.receive(message, source, tag)
            generation, number = (int(n) for n in message[:16].view(np.int64))
            if tag == NOTICE:
                if generation > self._generation:
                    self._next = number  # this rank has still to go on after the last stop
                elif generation == self._generation and self._known is None:
                    self._known = number
            elif tag == WHERE:
                where = f"{'waiting' if waiting else 'busy'} {self._world.ledger.phase} {number}"
                self._tell(source, HERE, self._moves, where)
            else:
                where, _, inquiry = message[16:].tobytes().rstrip(b"\0").decode().rpartition(" ")
                if inquiry == str(self._inquiry):
                    self._answers[source] = where, number

    def _tell(self, rank: int, tag: int, number: int = 0, text: str = "") -> None:
        message = np.zeros(16 + TEXT, dtype=np.uint8)
        message[:16].view(np.int64)[:] = self._generation, number
        coded = text.encode()[:TEXT]
        message[16 : 16 + len(coded)] = np.frombuffer(coded, dtype=np.uint8)
        self._sent = [(request, buffer) for request, buffer in self._sent if not request.Test()]
        self._sent.append((self._channel.send(message, rank, tag), message))
