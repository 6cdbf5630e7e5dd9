"""From `solver.name` to the solver."""

from __future__ import annotations

from dnewton import budget
from dnewton.budget import Budget
from dnewton.config_solvers import (
    AdamSection,
    AnySolver,
    AveragingSection,
    ElasticSection,
    EntropySection,
    SGDSection,
    SolverSection,
)
from dnewton.crew import Crew, Layout
from dnewton.netplan import NetPlan
from dnewton.objective import Objective
from dnewton.planner import Workload
from dnewton.solvers.averaging import Averaging
from dnewton.solvers.elastic import Elastic
from dnewton.solvers.entropy import Entropy
from dnewton.solvers.first_order import SGD, Adam
from dnewton.solvers.newton import Newton
from dnewton.solvers.solver import Solver
from dnewton.solvers.workers import Workers
from dnewton.strategy import Strategy

# Vectors of the length of θ that a solver holds, gradients, copies and messages included.
VECTORS = {"sgd": 6, "adam": 8, "adamw": 8}


def budget_for(
    options: AnySolver, plan: NetPlan, work: Workload, layout: Layout, memory: float, process: float, source: str
) -> Budget:
    """What a comparison solver needs on the largest rank. Raises UserError when it does not fit."""
    batch = getattr(options, "batch", 1)
    return budget.fit(
        plan, work, vectors=VECTORS.get(options.name, 8), batch=options.batch_size, step=batch,
        memory=memory, process=process, source=source,
    )  # fmt: skip


def make(options: AnySolver, objective: Objective, crew: Crew, how: Strategy | Budget) -> Solver:
    """The solver of a rank that trains. Collective over the workers."""
    if isinstance(options, SolverSection):
        assert isinstance(how, Strategy)
        return Newton(objective, options, objective.comm, how)
    workers = Workers(crew, objective, getattr(options, "batch", 1), options.seed)
    if isinstance(options, SGDSection):
        return SGD(workers, options)
    if isinstance(options, AdamSection):
        return Adam(workers, options)
    if isinstance(options, ElasticSection):
        return Elastic(workers, options)
    if isinstance(options, AveragingSection):
        return Averaging(workers, options)
    if isinstance(options, EntropySection):
        return Entropy(workers, options)
    raise NotImplementedError(options.name)
