"""What the outer loop knows of a solver, and what every solver reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dnewton.arrays.namespace import Array

STOPPED = "\0stopped"  # for `close` in the place of an error: before the end, on demand
FORWARD = 1 / 3
BACKWARD = 2 / 3  # of a sample's gradient, by floating-point operations
# why a solver has nothing left to do
TOLERANCE = "tolerance"
NO_GRADIENT = "no gradient"
NO_PROGRESS = "no progress"


def gradient_ending(norm: float, first: float, tolerance: float) -> str:
    """The ending that ‖∇f‖ gives beside the `first` one, or nothing."""
    if norm == 0:
        return NO_GRADIENT
    return TOLERANCE if norm <= tolerance * first else ""


@dataclass(frozen=True)
class IterationReport:
    """What an iteration reports."""

    loss: float
    grad_norm: float | None  # None where nobody has computed it
    metric: float
    samples: int
    damping: float | None = None
    alpha: float | None = None
    ratio: float | None = None
    cg: int = 0
    active: bool = False
    cut: bool = False
    waited: float = 0.0
    trials: int = 0
    seen: float = 0.0  # gradient equivalents spent: samples times forward and backward passes (docs/solvers.md)
    seen_per_cg: float = 0.0  # and for each CG iteration
    solved: bool = False  # an inner solver ran: its iterations are reported
    score: float | None = None  # the best weights have the lowest; None: by f
    extra: Mapping[str, Any] = field(default_factory=dict)  # figures of this solver alone, the same on rank 0


@dataclass(frozen=True)
class SolverState:
    """A solver's state besides θ: vectors laid out like θ, alike on all replicas or one per worker, values, and tensors
    of other shapes, whole."""

    vectors: Mapping[str, Array] = field(default_factory=dict)
    own: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of all tensors, alike on all ranks
    whole: Mapping[str, Array] = field(default_factory=dict)  # those that this rank saves; all, when read


@dataclass
class StartPoint:
    """Where a run begins: θ, the iterations done, and what the solver had saved then (None: nothing, or not usable)."""

    theta: Array
    iteration: int = 0
    saved: SolverState | None = None
    position: int = 0  # batches done of the next iteration; one more than there are: all, and the workers have met
    given: bool = False  # θ by the user: no method may walk away from it first


class Solver(Protocol):
    """One optimisation method on this rank."""

    @property
    def theta(self) -> Array:
        """The point that is evaluated, saved and shipped."""
        ...

    @property
    def iteration(self) -> int:
        """Iterations done."""
        ...

    @property
    def position(self) -> int | None:
        """Batches done of the next iteration; None where only whole iterations can be saved."""
        return None

    @property
    def passes_before(self) -> int:
        """Iterations that `max_iterations` does not count: passes of another method before this one."""
        return 0

    @property
    def ending(self) -> str:
        """Why nothing is left to do, in a word of this module; empty while there is."""
        ...

    def begin(self, start: StartPoint) -> IterationReport:
        """Evaluate the starting point. Collective over the workers."""
        ...

    def step(self) -> IterationReport:
        """One iteration. Collective over the workers."""
        ...

    def saved(self) -> SolverState:
        """What a checkpoint holds besides θ and the iteration."""
        ...

    def describe(self) -> list[str]:
        """Lines for the log: what was derived from the options."""
        return []

    def close(self, error: str = "") -> None:
        """Give back what others wait for. Collective over the workers."""
        return
