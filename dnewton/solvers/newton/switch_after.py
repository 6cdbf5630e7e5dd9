"""Changing over to a way that needs a setup, once it would have paid."""

from __future__ import annotations

from collections.abc import Callable

from dnewton.arrays.namespace import Array
from dnewton.solvers.newton.cg import LocalSolver


class SwitchAfter:
    """A system that is solved one way until another, dearer to set up, would have been paid for.

    Nobody knows beforehand how many iterations a solve takes. Changing over after as many as the setup is worth costs
    at most twice what the better way would have.
    """

    def __init__(self, first: LocalSolver, after: int, change: Callable[[], LocalSolver]) -> None:
        """`change()` gives the system that continues after `after` iterations."""
        self._now = first
        self._left = after
        self._change = change

    @property
    def working(self) -> bool:
        """Not yet at its stopping rule."""
        return self._now.working

    def advance(self) -> None:
        """One iteration; see :class:`System`."""
        if self._left == 0:
            self._now = self._change()
        self._left -= 1
        if self._now.working:
            self._now.advance()

    def finish(self, d: Array) -> None:
        """Put the solution into the unit's span of d."""
        self._now.finish(d)
