"""Changing over from plain conjugate gradients to a way that needs a setup, once it would have paid."""

from __future__ import annotations

from collections.abc import Callable

from dnewton.arrays import Array
from dnewton.solvers.subproblem import PlainCG, System


class Later:
    """A system that is solved by plain conjugate gradients until what another way costs to set up has been spent.

    Nobody knows beforehand how many iterations a solve takes. Changing over after as many as the setup is worth costs
    at most twice what the better way would have.
    """

    def __init__(self, first: PlainCG, delay: int, change: Callable[[PlainCG], System]) -> None:
        """`change(first)` gives the system that goes on after `delay` iterations."""
        self._now: System = first
        self._first, self._left, self._change = first, delay, change

    @property
    def working(self) -> bool:
        """Not yet at its stopping rule."""
        return self._now.working

    def advance(self) -> None:
        """One iteration; see :class:`System`."""
        if self._left == 0 and self._now is self._first:
            self._now = self._change(self._first)
            if not self._now.working:
                return
        self._left -= 1
        self._now.advance()

    def finish(self, d: Array) -> None:
        """Put what has been found into the unit's span of d."""
        self._now.finish(d)
