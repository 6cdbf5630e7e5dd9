"""From a `solver` section to the solver and the memory that it needs, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping

from dnewton.config.types import SolverSection
from dnewton.errors import UserError
from dnewton.model.block import blocks_of
from dnewton.model.objective import Objective
from dnewton.planning import memory as memory_plan
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.grid_search import Workload
from dnewton.planning.memory import Budget
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.replicas import ProcessGroups, RankDivision
from dnewton.planning.step_times import Steps
from dnewton.solvers.interface import Solver
from dnewton.solvers.kind import kind_of, rule_of

SERVER_COPIES = 5  # of a server's slices: the centre, what the rule keeps beside it, messages


def make(options: SolverSection, objective: Objective, groups: ProcessGroups, how: CurvaturePlan | Budget) -> Solver:
    """The solver of a rank that trains. Collective over the workers."""
    return kind_of(options).make(objective, options, groups, how)


def seconds_for(options: SolverSection, steps: Steps) -> Mapping[str, float]:
    """Seconds of an iteration of a comparison solver by phase."""
    return kind_of(options).seconds(options, steps)


def budget_for(
    options: SolverSection,
    plan: NetPlan,
    work: Workload,
    layout: RankDivision,
    memory: float,
    process: float,
    source: str,
) -> Budget:
    """What a comparison solver needs on the largest rank. Raises UserError when it does not fit."""
    if options.servers:
        _check_servers(options, plan, work, layout, memory, process, source)
    kind = kind_of(options)
    needs = kind.needs(options, plan, work, layout, source)
    assert options.batch_size != "auto"  # which newton alone has
    return memory_plan.fit(
        plan,
        work,
        vectors=kind.vectors,
        batch=options.batch_size,
        step=getattr(options, "batch", 1),
        kept=needs.samples,
        extra=needs.bytes,
        memory=memory,
        process=process,
        source=source,
    )


def _check_servers(
    options: SolverSection,
    plan: NetPlan,
    work: Workload,
    layout: RankDivision,
    memory: float,
    process: float,
    source: str,
) -> None:
    """Raise UserError when a server's slices, and the rule's copies of them for every worker, do not fit."""
    numbers = sum(b.size for m in range(layout.model_ranks) for b in blocks_of(plan, m))
    copies = SERVER_COPIES + rule_of(options).copies_per_worker * layout.replicas
    needed = process + copies * work.itemsize * numbers / layout.servers
    if needed > memory:
        raise UserError(
            f"{source}: parallel.memory: a server needs {needed / 2**20:.0f} MiB and may use {memory / 2**20:.0f}; "
            "allow more, or raise solver.server_ranks"
        )
