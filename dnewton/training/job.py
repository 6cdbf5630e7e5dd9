"""From a configuration to a laid-out job: sources, plan, this rank's columns, network, objective and solver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dnewton.arrays.namespace import DEVICE_SLACK, load_lapack
from dnewton.comm.communicator import Comm
from dnewton.config.layer_entry import LayerSpec
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config, regulariser
from dnewton.data import scale_check
from dnewton.data.parts import Loaded, load_parts, open_parts
from dnewton.data.samples import Samples, Streamed, Window
from dnewton.data.sources import Source
from dnewton.data.targets import Targets, class_labels
from dnewton.errors import UserError
from dnewton.grid import ceil_div
from dnewton.hardware import calibration, node
from dnewton.hardware.device import Device, open_device
from dnewton.hardware.rates import Rates, stated
from dnewton.loggers import loggers
from dnewton.model.network import Network
from dnewton.model.objective import Objective
from dnewton.model.weighted_loss import loss_of
from dnewton.planning import curvature_plan, grid_search
from dnewton.planning.batches import with_batch_size
from dnewton.planning.machine import MachineConstants
from dnewton.planning.memory import PROCESS, STEP, Budget
from dnewton.planning.net_plan import NetPlan, infer_shapes
from dnewton.planning.replicas import ProcessGroups, RankDivision, layout
from dnewton.solvers import registry
from dnewton.solvers.interface import Solver
from dnewton.storage.model_header import check_width, describe, naming_unknowns
from dnewton.training import error_bars
from dnewton.training.equations import EquationSet, TermsObjective, described_targets
from dnewton.training.fingerprint import fingerprint
from dnewton.training.planned import Problem, best_replicas, largest_product, with_replicas, workload

if TYPE_CHECKING:
    from dnewton.solvers.baselines.parameter_server import Server

READERS = 64 << 20  # what readers hold besides the columns they were asked for
SHARE = 0.75  # of the node's free memory that a job takes by default
SLACK = 28 << 20  # what libraries take when they are first used, and what the allocator keeps


@dataclass
class Job:
    """Everything a run needs on this rank."""

    config: Config
    groups: ProcessGroups
    comm: Comm  # all ranks that train
    device: Device  # where this rank's arrays are
    plan: NetPlan
    network: Network
    objective: Objective
    solver: Solver
    targets: Targets
    others: dict[str, Samples]  # test and validation
    description: dict[str, str]  # header entries of model files
    strategy: curvature_plan.CurvaturePlan | Budget
    notes: list[str]
    features: str  # a checksum of some samples' features
    baseline: float  # the training score of a model that knows no features
    equations: EquationSet | None = None  # where the data are points with equations


def assemble(
    config: Config,
    world: Comm,
    source: str,
    calibrate: bool = False,
    given: Mapping[str, Source] | None = None,
    equations: EquationSet | None = None,
) -> Job | Server:
    """Plan the layout, read the data and build the solver; `source` names the configuration in messages, `calibrate`
    measures the machine's rates again, `given` are parts of the data that are no files, `equations` stand for all data.

    A rank that serves gets its server instead.

    Raises UserError alike on all ranks. Collective over the world.
    """
    with world.raise_together():
        if world.rank == 0:
            loggers.check(config.output.loggers)
    alone = shapes = infer_shapes(config.net, source)
    if equations is not None:
        with world.raise_together():
            shapes = equations.layers(alone, config, source)
    asked = f"{source}: parallel.device: {config.parallel.device}"
    divided = layout(config, world.size, source)
    best = config.parallel.replicas == "best" and isinstance(config.solver, NewtonSection)
    parallel, trains = config.parallel, divided.place(world.rank) is not None
    device, about_device = open_device(parallel.device, parallel.device_buffers, world, asked, trains)
    notes = [*about_device]
    check_width(config, math.prod(config.net.input))
    labels = partial(class_labels, outputs=shapes[-1].out_shape[0], loss=config.net.loss)
    if equations is None:
        parts = open_parts(config.data, config.net.input, config.solver.seed, world, given, labels)
    else:
        parts = equations.parts()
    memory = _memory_per_rank(config, world, device)
    resident = world.minmax(_resident(config, memory, device, world))[0]  # alike on all ranks: the plan depends on it
    scored = sum(part.samples for part in (parts.test, parts.validation) if part is not None)
    if best:
        config, note = _with_best_replicas(config, shapes, parts.train.samples, scored, memory, world, source)
        divided = layout(config, world.size, source)
        notes.append(note)
    config = with_batch_size(config, shapes, divided.model_ranks)
    groups = ProcessGroups.of(divided, world)
    work = workload(config, parts.train.samples, scored, shapes[-1].out_shape[0], groups.layout.replicas, resident)
    grid = None if config.parallel.grid == "auto" else config.parallel.grid
    at = grid_search.Machine.shared(world.least_cores)
    plan = grid_search.choose(
        shapes, groups.layout.model_ranks, work, grid=grid, memory=memory, machine=at, source=source
    )
    flops = largest_product(plan, work, config)
    node.limit_threads(world.ranks_on_node, world.cores, flops)  # the rates are measured with so many
    in_use = float(node.resident_bytes() + SLACK) if device.is_host else device.peak_bytes() + DEVICE_SLACK
    in_use = world.minmax(in_use)[1]
    process = math.ceil(in_use / STEP) * float(STEP)  # in steps, so that two runs decide alike
    if device.is_host:
        process = max(process, PROCESS)  # as `plan` assumes
    how: curvature_plan.CurvaturePlan | Budget
    origin = ""
    factors = False
    options = config.solver
    if isinstance(options, NewtonSection):
        rates, origin = calibration.rates(config, world, device, calibrate)
        config = config.with_rates(rates.flops, rates.bandwidth)
        soft = math.inf if config.data.max_resident == "auto" else float(config.data.max_resident - READERS)
        how = curvature_plan.decide(
            plan,
            work,
            options,
            memory=memory,
            process=process,
            rates=rates,
            soft=soft,
            source=source,
            on_device=not device.is_host,
        )
        passes = how.activation_cache_bytes
        factors = how.factors
    else:
        if calibrate:
            raise UserError(f"--calibrate: {options.name} decides nothing by the machine's rates; it is for newton")
        how = registry.budget_for(options, plan, work, groups.layout, memory, process, source)
        passes = 0.0
    terms = 1 if equations is None else len(equations.residuals())
    error_bars.check(config, plan, parts.train.samples, memory, how, source, terms)
    notes.extend(note for part in (parts.train, parts.test, parts.validation) if part for note in part.notes)
    notes.append(groups.layout.describe())
    notes.append(f"grid: {plan.grid.rows} x {plan.grid.cols} ranks; memory per rank: {memory / 2**30:.2f} GiB")
    notes.extend(plan.describe())
    notes.extend(_too_many_ranks(plan, groups.layout, parts.train.samples))
    notes.extend([*how.describe(), *([f"rates: {origin}"] if origin else [])])
    if groups.workers is None or groups.model is None:
        from dnewton.config.baselines import ServedSection  # newton needs neither
        from dnewton.solvers.baselines.parameter_server import Server

        assert isinstance(options, ServedSection)
        with world.raise_together():  # errors of the workers while they read are raised here, too
            return Server(groups, plan, options, config.parallel.dtype)
    network = Network(plan, groups.model.on_grid(plan.grid))
    bounds = plan.grid.bounds(plan.input_split, plan.input_units, network.comm.rank)
    dtype = config.parallel.dtype
    data_shape = config.net.data_shape if equations is None else shapes[0].in_shape
    window = Window.of(data_shape, plan.input_units, bounds)
    with world.raise_together() if groups.layout.servers else nullcontext():
        if equations is None:
            loaded = load_parts(
                parts, config.data, window, work.outputs, config.net.loss, dtype, resident, groups.workers
            )
        else:
            loaded = equations.loaded(work.outputs, dtype)
    targets = loaded.targets
    error_bars.check_targets(config, targets.real, source)
    y = loaded.train.targets
    if equations is None:
        notes.extend(_streams(loaded, groups.workers))
        notes.extend(scale_check.about_features(loaded.train, window.width, config.data, groups.workers))
        notes.extend(scale_check.about_targets(y, config.data, config.net.loss, targets))
    else:
        notes.extend(equations.notes(plan.variables))
    shared = groups.layout.replicas > 1 and isinstance(options, NewtonSection)
    beside = {"test": loaded.test, "validation": loaded.validation}
    with groups.workers.raise_together() if not device.is_host else nullcontext():  # a card may be full
        train = loaded.train.on(device.like)
        others = {k: v.on(device.like) for k, v in beside.items() if v is not None}
    ingredients = (
        network,
        network.comm,
        train,
        loss_of(config.net.loss, loaded.train),
        targets.metric_sum(config.net.loss, weighted=loaded.train.total is not None),
        regulariser(config, loaded.train.weight),
        how.batch,
        passes,
    )
    if equations is not None:
        objective: Objective = TermsObjective(equations.terms, *ingredients)
    else:
        objective = _shared_objective(groups, *ingredients) if shared else Objective(*ingredients)
    solver = registry.make(options, objective, groups, how)
    if device.is_host and isinstance(options, NewtonSection) and (options.subproblem == "exact" or factors):
        load_lapack()  # which solvers import when they need it: too late for the limit of its threads
    notes.insert(0, node.limit_threads(world.ranks_on_node, world.cores, flops))  # readers bring libraries, too
    notes.extend(solver.describe())
    meaning = targets if equations is None else described_targets(alone)
    description = describe(config, network, window, loaded.scaling, meaning, parts.train)
    if equations is not None:
        description = naming_unknowns(description, list(equations.unknown))
    return Job(
        config,
        groups,
        groups.workers,
        device,
        plan,
        network,
        objective,
        solver,
        targets,
        others,
        description,
        how,
        notes,
        fingerprint(loaded.train, window, network.comm),
        scale_check.baseline(y, targets, loaded.train.weights),
        equations,
    )


def _with_best_replicas(
    config: Config, shapes: tuple[LayerSpec, ...], samples: int, scored: int, memory: float, world: Comm, source: str
) -> tuple[Config, str]:
    """`parallel.replicas: best` as a number, alike on all ranks, and a line for the log. Collective over the world."""
    on_node = int(world.minmax(float(world.ranks_on_node))[1])
    rates = stated(config.parallel.device)
    if config.parallel.rates != "auto":
        rates = Rates(config.parallel.rates.flops, config.parallel.rates.bandwidth)
    cores, nodes = max(1, round(world.least_cores * on_node)), ceil_div(world.size, on_node)
    machine = MachineConstants(rates.flops, rates.bandwidth, cores=cores, nodes=nodes)
    problem = Problem(config, shapes, samples, scored, machine, rates, source, memory)
    found = best_replicas(problem, world.size)
    note = f"parallel.replicas: best is {found.division.replicas}, forecast at {found.total:.3g} s per iteration"
    return with_replicas(config, found.division.replicas), note


def _too_many_ranks(plan: NetPlan, division: RankDivision, samples: int) -> list[str]:
    """A line for the log where ranks have nothing to do."""
    lines = []
    if idle := plan.idle():
        lines.append(
            f"{idle} of {plan.grid.size} model ranks own no weights: no layer has units enough for them; fewer ranks "
            "would do"
        )
    if division.replicas > samples:
        lines.append(f"{division.replicas} replicas share {samples} samples: fewer ranks would do")
    return lines


def _shared_objective(groups: ProcessGroups, *ingredients: Any) -> Objective:
    """The objective of newton's replicas, which share the curvature subsample."""
    from dnewton.solvers.newton.replicated import SharedObjective  # newton's: other methods need not import it

    objective = SharedObjective(*ingredients)
    objective.groups = groups
    return objective


def _memory_per_rank(config: Config, comm: Comm, device: Device) -> float:
    """`parallel.memory`, or three quarters of what the node or the GPU has left, shared by its ranks; the smallest of
    all ranks.

    Collective over the world.
    """
    if config.parallel.memory != "auto":
        return float(config.parallel.memory)
    return comm.minmax(SHARE * (_host_bytes(comm) if device.is_host else device.free_bytes()))[0]


def _host_bytes(comm: Comm) -> float:
    """This rank's share of what the node has left, with what it holds already."""
    return (node.available_memory() + comm.ranks_on_node * node.resident_bytes()) / comm.ranks_on_node


def _resident(config: Config, memory: float, device: Device, comm: Comm) -> float:
    """Bytes of samples that a rank keeps in memory; what is larger is streamed. A GPU's are read by the host first."""
    if config.data.max_resident != "auto":
        return max(0.0, float(config.data.max_resident) - node.resident_bytes()) / 2
    return (memory if device.is_host else min(memory, SHARE * _host_bytes(comm))) / 2


def _streams(loaded: Loaded, comm: Comm) -> list[str]:
    """A line for the log when samples are read from disk while training. Collective over the world."""
    parts = {"train": loaded.train, "test": loaded.test, "validation": loaded.validation}
    named = {k: isinstance(v.x, Streamed) for k, v in parts.items() if v is not None}
    streamed = [k for k, v in named.items() if comm.minmax(float(v))[1] > 0]
    return [f"data: {', '.join(streamed)} streamed from disk on at least one rank"] if streamed else []
