"""What a Newton iteration starts from and what it tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from dnewton.arrays.namespace import Array
from dnewton.solvers.interface import SolverState, StartPoint
from dnewton.solvers.newton import cg, combine


@dataclass
class State:
    """What an iteration starts from; all of it is in a checkpoint but what follows from θ."""

    theta: Array
    damping: float
    previous: Array | None = None
    iteration: int = 0
    first_norm: float = math.nan
    evaluated: int = 0  # the iteration whose batches f and ∇f were evaluated in (older after rejected steps)

    @classmethod
    def restored(cls, start: StartPoint, saved: SolverState) -> State:
        """As :meth:`saved` has left it."""
        values = saved.values
        return cls(
            start.theta,
            float(values["lambda"]),
            saved.vectors.get("previous"),
            start.iteration,
            float(values["first_norm"]),
            int(values["evaluated"]),
        )

    def saved(self) -> SolverState:
        """What a checkpoint holds besides θ and the iteration."""
        values = {"lambda": self.damping, "first_norm": self.first_norm, "evaluated": self.evaluated}
        vectors = {} if self.previous is None else {"previous": self.previous}
        return SolverState(vectors, values={k: repr(v) for k, v in values.items()})


class Tried(NamedTuple):
    """The last direction of an iteration, and how often f was evaluated."""

    direction: combine.Direction
    solution: cg.Solution
    waited: float
    trials: int
    solves: int = 1
