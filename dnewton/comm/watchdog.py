"""Finds the rank that does not answer while others wait, and names it."""

from __future__ import annotations

from collections.abc import Callable

from dnewton.comm.communicator import Comm

GRACE = 5.0  # seconds in which a rank that is asked must answer


class Unanswered(Exception):
    """A rank that others wait for does not answer."""


class Watchdog:
    """Inquiries of a rank that has waited for longer than the timeout, and the answers."""

    def __init__(self, world: Comm, timeout: float, ask: Callable[[int, int], None]) -> None:
        """`timeout`: seconds of waiting before others are asked; `ask(rank, inquiry)` sends the question."""
        self.timeout = timeout
        self._world = world
        self._ask = ask
        self._inquiry = 0
        self._asked = 0.0
        self._asked_for = 0.0
        self._answers = dict[int, tuple[str, int]]()
        self._before = dict[int, tuple[str, int]]()

    def answered(self, source: int, text: str, moves: int) -> None:
        """A rank answers `waiting` or `busy`, its phase and the inquiry's number; `moves` counts its progress."""
        where, _, inquiry = text.rpartition(" ")
        if inquiry == str(self._inquiry):
            self._answers[source] = where, moves

    def inquire(self, waiting_since: float, now: float) -> None:
        """Ask all others, and check the answers. Raises Unanswered where one is silent, or all wait for each other."""
        others = set(range(self._world.size)) - {self._world.rank}
        if self._asked_for != waiting_since or now - self._asked > max(self.timeout, 3 * GRACE):
            self._before = self._answers if self._asked_for == waiting_since else {}
            self._inquiry += 1
            self._asked = now
            self._asked_for = waiting_since
            self._answers = {}
            for rank in others:
                self._ask(rank, self._inquiry)
        if now - self._asked < GRACE:
            return
        silent = sorted(others - set(self._answers))
        if silent:
            first = min({self._world.rank, *self._answers})
            if self._world.rank == first or now - self._asked > 2 * GRACE:  # one message for all, if possible
                raise Unanswered(self._about(silent, now - waiting_since))
        elif self._answers == self._before and all(a.startswith("waiting") for a, _ in self._answers.values()):
            places = ", ".join(f"rank {r} in {a.split()[1]}" for r, (a, _) in sorted(self._answers.items()))
            here = f"rank {self._world.rank} in {self._world.ledger.phase}"
            raise Unanswered(f"all ranks wait for each other: {here}, {places}")

    def _about(self, silent: list[int], waited: float) -> str:
        who = f"rank {silent[0]} does" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))} do"
        return (
            f"{who} not answer; rank {self._world.rank} has waited for {waited:.0f} s in phase "
            f"{self._world.ledger.phase} (parallel.timeout: {self.timeout:g}; raise it where a step may take longer)"
        )
