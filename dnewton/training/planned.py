"""What a run on so many ranks would be: layout, memory, bytes and seconds, from the configuration alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dnewton.arrays.namespace import DEVICE_SLACK
from dnewton.config.layer_entry import LayerSpec
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config
from dnewton.errors import UserError
from dnewton.grid import Grid, ceil_div, grids
from dnewton.hardware.rates import Rates
from dnewton.planning import costs, curvature_plan, grid_search, newton_times, traffic_forecast
from dnewton.planning.batches import with_batch_size
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.grid_search import Workload
from dnewton.planning.machine import MachineConstants, Price
from dnewton.planning.memory import PROCESS, STEP, Budget
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.newton_times import Assumed, NewtonTimes
from dnewton.planning.pass_times import Passes
from dnewton.planning.replicas import RankDivision, layout
from dnewton.planning.step_times import Steps
from dnewton.solvers import registry
from dnewton.solvers.newton.adaptive import Operations, SampledRows

SETTLING = 4  # iterations after which seconds are forecast
REPORT_CALLS = 120.0  # array operations of a line of metrics


def workload(
    config: Config, samples: int, others: int, outputs: int, replicas: int, resident: float = math.inf
) -> Workload:
    """What the planner plans for: a replica's share of the training set and of S with newton, mini-batches with others.

    The rest of the training set is kept like the test set.
    """
    solver = config.solver
    rest = 0
    s = 1
    if isinstance(solver, NewtonSection):
        s = ceil_div(solver.subsample_size(samples, outputs), replicas)
        rest = samples - ceil_div(samples, replicas)
        samples -= rest
    batch = solver.batch_size if isinstance(solver, NewtonSection) else getattr(solver, "batch", solver.batch_size)
    assert batch != "auto"  # see planning.batches
    return Workload(
        samples,
        s,
        outputs,
        batch,
        8 if config.parallel.dtype == "float64" else 4,
        resident=resident,
        others=rest + others,
    )


def largest_product(plan: NetPlan, work: Workload, config: Config) -> float:
    """Operations of the largest matrix product, by which the number of BLAS threads is chosen."""
    at_once = max(min(work.batch, work.samples), work.subsample)
    gram = 0
    if isinstance(config.solver, NewtonSection):
        few = work.outputs * work.subsample <= curvature_plan.LARGEST_EXACT
        gram = work.subsample if few or config.solver.subproblem == "exact" else 0
    return costs.largest_product(plan, at_once, gram)


@dataclass(frozen=True)
class Problem:
    """A configuration with the sizes of its data, and the machine that it is planned for."""

    config: Config
    shapes: tuple[LayerSpec, ...]
    samples: int
    tested: int
    machine: MachineConstants
    rates: Rates  # by which the form of the curvature is chosen
    source: str = "config"
    memory: float | None = None  # bytes per rank, where `parallel.memory: auto` is known
    kept: Mapping[int, Rates] = field(default_factory=dict)  # measured ones, by the number of BLAS threads


@dataclass(frozen=True)
class Planned:
    """A run on some ranks. `seconds` are those of an iteration by phase, `bytes` of one replica, None where they depend
    on the method's own messages."""

    ranks: int
    division: RankDivision
    plan: NetPlan
    work: Workload
    how: CurvaturePlan | Budget
    seconds: Mapping[str, float]
    bytes: Mapping[str, int] | None

    @property
    def total(self) -> float:
        """Seconds of an iteration."""
        return sum(self.seconds.values())

    @property
    def grid(self) -> Grid:
        """Of a replica."""
        return self.plan.grid

    @property
    def all_bytes(self) -> int | None:
        """Of an iteration, all replicas."""
        return None if self.bytes is None else sum(self.bytes.values()) * self.division.replicas

    @property
    def idle(self) -> int:
        """Ranks that own no weights."""
        return self.plan.idle() * self.division.replicas

    def layout(self) -> str:
        """`2 x 4`, or `3 of 2 x 4` for three replicas."""
        grid = f"{self.grid.rows} x {self.grid.cols}"
        served = f" + {self.division.servers}" if self.division.servers else ""
        return (f"{self.division.replicas} of {grid}" if self.division.replicas > 1 else grid) + served


def plan_run(
    problem: Problem, ranks: int, division: RankDivision | None = None, grid: tuple[int, int] | None = None
) -> Planned:
    """Plan for `ranks` ranks, divided and laid out as the configuration says unless given.

    Raises UserError where the ranks do not fit, or the memory.
    """
    config, source = problem.config, problem.source
    parallel, options = config.parallel, config.solver
    if division is None and parallel.replicas == "best" and isinstance(options, NewtonSection):
        return best_replicas(problem, ranks)
    divided = division or layout(config, ranks, source)
    config = with_batch_size(config, problem.shapes, divided.model_ranks)
    parallel, options = config.parallel, config.solver
    work = workload(config, problem.samples, problem.tested, problem.shapes[-1].out_shape[0], divided.replicas)
    fixed = grid or (None if parallel.grid == "auto" else parallel.grid)
    limit = problem.memory or (math.inf if parallel.memory == "auto" else float(parallel.memory))
    stated = grid_search.Machine.shared(problem.machine.share(ranks))
    plan = grid_search.choose(
        problem.shapes, divided.model_ranks, work, grid=fixed, memory=limit, machine=stated, source=source
    )
    process = PROCESS if parallel.device == "cpu" else math.ceil(DEVICE_SLACK / STEP) * float(STEP)
    price = Price.on(problem.machine, ranks, work.itemsize, largest_product(plan, work, config))
    how: CurvaturePlan | Budget
    if isinstance(options, NewtonSection):
        rates = problem.kept.get(price.threads, problem.rates)
        how = curvature_plan.decide(
            plan,
            work,
            options,
            memory=limit,
            process=process,
            rates=rates,
            source=source,
            on_device=parallel.device == "cuda",
        )
        moved = traffic_forecast.iteration_bytes(plan, iteration_of(options, how, work, problem.tested))
        done = replace(newton_times.assumed(options), rows=_settled_rows(plan, work, how))
        seconds = newton_seconds(options, how, plan, work, price, divided.replicas, problem.tested, done)
        return Planned(ranks, divided, plan, work, how, seconds, moved)
    how = registry.budget_for(options, plan, work, divided, limit, process, source)
    passes = Passes(plan, price, how.batch)
    found = dict(registry.seconds_for(options, Steps(passes, work, divided.replicas, divided.servers)))
    found["evaluate"] = found.get("evaluate", 0.0) + passes.forward(ceil_div(problem.tested, divided.replicas))
    return Planned(ranks, divided, plan, work, how, {**found, "report": _report(price, ranks)}, None)


def _settled_rows(plan: NetPlan, work: Workload, how: CurvaturePlan) -> int:
    """Rows of the sampled preconditioner after some iterations of the assumed length."""
    size = SampledRows()
    operations = Operations(tuple(costs.blocks_of(plan)), work.subsample, work.outputs)
    for _ in range(SETTLING):
        size.solved(newton_times.ASSUMED_CG, operations, how.rows)
    return size.rows


def newton_seconds(
    options: NewtonSection,
    how: CurvaturePlan,
    plan: NetPlan,
    work: Workload,
    price: Price,
    replicas: int,
    tested: int,
    done: Assumed,
) -> dict[str, float]:
    """Seconds of an iteration by phase, the evaluation of `tested` samples and the line of metrics included."""
    passes = Passes(plan, price, how.batch)
    found = NewtonTimes(passes, how, work, options, replicas).phases(done)
    evaluated = passes.forward(ceil_div(tested, replicas))
    return {**found, "evaluate": evaluated, "report": _report(price, plan.grid.size * replicas)}


def _report(price: Price, ranks: int) -> float:
    return REPORT_CALLS * price.call + 2 * price.scalars(ranks)


def iteration_of(options: NewtonSection, how: CurvaturePlan, work: Workload, tested: int) -> traffic_forecast.Iteration:
    """An iteration with one trial step and one solve, for the forecast of bytes."""
    full = options.curvature == "full"
    joint = options.curvature == "diagonal" and how.how == "implicit"
    return traffic_forecast.Iteration(
        work.samples,
        how.chunks(work.samples, work.subsample),
        columns=1 if options.combine == "none" else 2,
        combined=options.combine != "none",
        full_cg=Workload.cg if full else 0,
        how=how.how,
        joint_cg=Workload.cg if joint else 0,
        units=max(1, len(how.ways)),
        learns=how.learns,
        test_samples=tested,
        itemsize=work.itemsize,
    )


def best_replicas(problem: Problem, ranks: int) -> Planned:
    """Newton's plan with the number of replicas whose iterations are the quickest, laid out as the configuration says.

    Raises UserError where no number fits.
    """
    chosen = layout(with_replicas(problem.config, "auto"), ranks, problem.source)
    grid = problem.config.parallel.grid
    found: Planned | None = None
    refused: UserError | None = None
    for replicas in (d for d in range(1, ranks + 1) if ranks % d == 0 and not _cannot(problem, d)):
        if grid != "auto" and replicas * grid[0] * grid[1] != ranks:
            continue
        try:
            planned = plan_run(problem, ranks, replace(chosen, replicas=replicas, model_ranks=ranks // replicas))
        except UserError as error:
            refused = refused or error
            continue
        if found is None or planned.total < found.total:
            found = planned
    if found is None:
        raise refused or UserError(
            f"{problem.source}: parallel.replicas: best: parallel.grid: {list(grid)} does not divide the {ranks} ranks"
        )
    return found


def alternatives(problem: Problem, ranks: int) -> list[Planned]:
    """Other ways to lay out so many ranks, the quickest iterations first: every grid, and for newton every number of
    replicas; those that do not fit are left out."""
    chosen = layout(with_replicas(problem.config, "auto"), ranks, problem.source)
    workers = ranks - chosen.servers
    newton = isinstance(problem.config.solver, NewtonSection)
    if newton:
        counts = [d for d in range(1, workers + 1) if workers % d == 0]
    else:
        counts = [chosen.replicas]
    found = []
    for replicas in counts:
        division = replace(chosen, replicas=replicas, model_ranks=workers // replicas)
        for grid in grids(division.model_ranks):
            if newton and _cannot(problem, replicas):
                continue
            try:
                found.append(plan_run(problem, ranks, division, (grid.rows, grid.cols)))
            except UserError:
                continue
    return sorted(found, key=lambda planned: planned.total)


def _cannot(problem: Problem, replicas: int) -> bool:
    """What :class:`~dnewton.solvers.newton.replicated.ReplicatedNewton` refuses."""
    options = problem.config.solver
    if replicas == 1:
        return False
    assert isinstance(options, NewtonSection)
    size = options.subsample_size(problem.samples, problem.shapes[-1].out_shape[0])
    exact = options.curvature == "full" and options.subproblem == "exact"
    return options.C == "auto" or exact or size < replicas


def with_replicas(config: Config, replicas: int | str) -> Config:
    """The same run with another `parallel.replicas`."""
    return config.model_copy(update={"parallel": config.parallel.model_copy(update={"replicas": replicas})})
