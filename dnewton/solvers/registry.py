"""From `solver.name` to the solver."""

from __future__ import annotations

from dnewton.config.baselines import (
    AdamSection,
    AnySolver,
    AveragingSection,
    DelayCompensatedSection,
    DownpourSection,
    ElasticSection,
    EntropySection,
    HessianFreeSection,
    KFACSection,
    RankMSection,
    ServedSection,
    SGDSection,
)
from dnewton.config.newton import NewtonSection
from dnewton.data.sampling import subsample_size
from dnewton.errors import UserError
from dnewton.grid import ceil_div
from dnewton.model.network import blocks_of
from dnewton.model.objective import Objective
from dnewton.planning import memory as memory_plan
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.grid_search import Workload
from dnewton.planning.memory import Budget
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.replicas import ProcessGroups, RankDivision
from dnewton.solvers.baselines import kfac_assignment
from dnewton.solvers.baselines.async_workers import AsyncElastic, DelayCompensated, Downpour
from dnewton.solvers.baselines.averaging import Averaging
from dnewton.solvers.baselines.elastic import Elastic
from dnewton.solvers.baselines.entropy_sgd import Entropy
from dnewton.solvers.baselines.first_order import SGD, Adam
from dnewton.solvers.baselines.hessian_free import HessianFree
from dnewton.solvers.baselines.kfac import KFAC
from dnewton.solvers.baselines.rank_m import RankM
from dnewton.solvers.baselines.workers import Workers
from dnewton.solvers.interface import Solver
from dnewton.solvers.newton.newton import Newton
from dnewton.solvers.newton.replicated import ReplicaComm, ReplicatedNewton, SharedObjective

# Vectors of the length of θ that a solver holds: gradients, copies, messages and the best model included.
VECTORS = {"sgd": 7, "adam": 9, "adamw": 9, "entropy_sgd": 15, "parle": 15, "rank_m": 21}


def budget_for(
    options: AnySolver, plan: NetPlan, work: Workload, layout: RankDivision, memory: float, process: float, source: str
) -> Budget:
    """What a comparison solver needs on the largest rank. Raises UserError when it does not fit."""
    batch = getattr(options, "batch", 1)
    kept = 0
    extra = 0.0
    if isinstance(options, ServedSection) and options.servers:
        _check_servers(options, plan, work, layout, memory, process, source)
    if isinstance(options, KFACSection):
        sizes = kfac_assignment.layer_sizes(plan)
        place = kfac_assignment.place(
            sizes,
            layout.replicas,
            layout.model_ranks,
            options.name,
            options.assignment,
            options.grad_worker_fraction,
            source,
        )
        ranks = [(w, m) for w in range(layout.replicas) for m in range(layout.model_ranks)]
        extra = 2.0 * work.itemsize * max(kfac_assignment.held_numbers(sizes, place, options.name, *at) for at in ranks)
    if isinstance(options, HessianFreeSection):
        kept = ceil_div(subsample_size(options.subsample, work.samples), layout.replicas)
    return memory_plan.fit(
        plan,
        work,
        vectors=VECTORS.get(options.name, 12),
        batch=options.batch_size,
        step=batch,
        kept=kept,
        extra=extra,
        memory=memory,
        process=process,
        source=source,
    )


def _check_servers(
    options: ServedSection,
    plan: NetPlan,
    work: Workload,
    layout: RankDivision,
    memory: float,
    process: float,
    source: str,
) -> None:
    """Raise UserError when a server's slices, and dc_asgd's copies of them for every worker, do not fit."""
    numbers = sum(b.size for m in range(layout.model_ranks) for b in blocks_of(plan, m))
    copies = 5 + (layout.replicas if options.name == "dc_asgd" else 0)
    needed = process + copies * work.itemsize * numbers / layout.servers
    if needed > memory:
        raise UserError(
            f"{source}: parallel.memory: a server needs {needed / 2**20:.0f} MiB and may use {memory / 2**20:.0f}; "
            "allow more, or raise solver.server_ranks"
        )


def make(options: AnySolver, objective: Objective, groups: ProcessGroups, how: CurvaturePlan | Budget) -> Solver:
    """The solver of a rank that trains. Collective over the workers."""
    if isinstance(options, NewtonSection):
        assert isinstance(how, CurvaturePlan)
        if isinstance(objective, SharedObjective):
            assert groups.workers is not None
            comm = ReplicaComm(objective.comm, groups.workers, groups.replica)
            return ReplicatedNewton(objective, options, comm, how, groups)
        return Newton(objective, options, objective.comm, how)
    workers = Workers(groups, objective, getattr(options, "batch", 1), options.seed)
    if isinstance(options, SGDSection):
        return SGD(workers, options)
    if isinstance(options, AdamSection):
        return Adam(workers, options)
    if isinstance(options, ElasticSection):
        return Elastic(workers, options) if options.mode == "sync" else AsyncElastic(workers, options, groups)
    if isinstance(options, DownpourSection):
        return Downpour(workers, options, groups)
    if isinstance(options, DelayCompensatedSection):
        return DelayCompensated(workers, options, groups)
    if isinstance(options, AveragingSection):
        return Averaging(workers, options)
    if isinstance(options, EntropySection):
        return Entropy(workers, options)
    if isinstance(options, KFACSection):
        return KFAC(workers, options, groups)
    if isinstance(options, RankMSection):
        return RankM(workers, options)
    if isinstance(options, HessianFreeSection):
        return HessianFree(workers, options)
    raise AssertionError(options)
