"""What a solver's file registers: its YAML section, how it is made, and what it needs besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import SolverSection
from dnewton.model.objective import Objective
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.grid_search import Workload
from dnewton.planning.memory import Budget
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.replicas import ProcessGroups, RankDivision
from dnewton.planning.step_times import Steps
from dnewton.solvers.baselines.server_rules import Rule
from dnewton.solvers.interface import Solver

S = TypeVar("S", bound=SolverSection)
Make = Callable[[Objective, S, ProcessGroups, CurvaturePlan | Budget], Solver]


@dataclass(frozen=True)
class Needs:
    """What a method holds besides vectors: `samples` whose forward passes last, and other `bytes`."""

    samples: int = 0
    bytes: float = 0.0


def no_needs(options: Any, plan: NetPlan, work: Workload, layout: RankDivision, source: str) -> Needs:
    """Nothing besides vectors."""
    return Needs()


def any_layout(options: Any, layout: RankDivision, source: str) -> None:
    """Every division of the ranks will do."""


def unknown_seconds(options: Any, steps: Steps) -> Mapping[str, float]:
    """Nothing: a method that does not say how it spends its time."""
    return {}


@dataclass(frozen=True)
class SolverKind(Generic[S]):
    """A method, or a family of methods with one section."""

    section: type[S]
    make: Make[S]  # collective over the workers
    vectors: int = 12  # of the length of θ: gradients, copies, messages and the best model included
    needs: Callable[[S, NetPlan, Workload, RankDivision, str], Needs] = no_needs  # of the largest rank
    check: Callable[[S, RankDivision, str], None] = any_layout  # raises UserError where the ranks do not fit
    seconds: Callable[[S, Steps], Mapping[str, float]] = unknown_seconds  # of an iteration by phase; newton's: planning
    rule: Callable[[S], Rule] | None = None  # of the parameter servers, where the method may have them


def kind_of(options: SolverSection) -> SolverKind[Any]:
    """The kind whose section `options` is."""
    kind = SOLVERS[options.name]
    assert isinstance(kind, SolverKind)
    return kind


def rule_of(options: SolverSection) -> Rule:
    """The parameter servers' rule of a method that has them."""
    rule = kind_of(options).rule
    assert rule is not None
    return rule(options)
