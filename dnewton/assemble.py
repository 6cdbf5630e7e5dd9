"""From a configuration to a laid-out job: sources, plan, this rank's columns, network, objective and solver."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton import machine, planner
from dnewton.arrays import Array
from dnewton.comm import Comm
from dnewton.config import Config, regulariser
from dnewton.curvature.losses import LOSSES
from dnewton.data.prepare import Scaling, Targets, check_shapes, load_columns
from dnewton.data.sources import Source, from_arrays, is_bundled, open_file, read_bundled
from dnewton.errors import UserError
from dnewton.netplan import NetPlan, infer_shapes
from dnewton.network import Network
from dnewton.objective import Objective, Samples, subsample_size
from dnewton.solvers.newton import Newton


@dataclass
class Job:
    """Everything a run needs on this rank."""

    config: Config
    comm: Comm
    plan: NetPlan
    network: Network
    objective: Objective
    solver: Newton
    targets: Targets
    test: Samples | None
    notes: list[str]


def assemble(config: Config, comm: Comm, source: str) -> Job:
    """Plan the layout, read the data and build the solver; `source` names the configuration in messages.

    Raises UserError alike on all ranks. Collective over the world.
    """
    shapes = infer_shapes(config.net, source)
    _refuse_what_is_missing(config, source)
    notes = [machine.limit_threads(comm.ranks_on_node, comm.cores)]
    train = _open(config.data.train, "train", config, comm)
    test = _open(config.data.test, "test", config, comm) if config.data.test else None
    memory = _memory_per_rank(config, comm)
    outputs = shapes[-1].out_shape[0]
    work = planner.Workload(
        train.samples, subsample_size(config.solver.subsample, train.samples), outputs,
        config.solver.batch_size, 8 if config.parallel.dtype == "float64" else 4,
    )  # fmt: skip
    grid = None if config.parallel.grid == "auto" else config.parallel.grid
    stated = planner.Machine.shared(comm.least_cores)
    plan = planner.choose(shapes, comm.size, work, grid=grid, memory=memory, machine=stated, source=source)
    needed = planner.memory_bytes(plan, work)
    _check_memory(needed, memory, comm, source, notes)
    notes.append(f"grid: {plan.grid.rows} x {plan.grid.cols} ranks; memory per rank: {memory / 2**30:.2f} GiB")
    notes.extend(plan.describe())
    comm = comm.on_grid(plan.grid)
    network = Network(plan, comm)
    with comm.together():
        targets, train_samples, test_samples = _read(config, plan, comm.rank, train, test, outputs)
    loss = LOSSES[config.net.loss]
    c = regulariser(config, train.samples)
    objective = Objective(
        network, comm, train_samples, loss, targets.metric_sum(), c, config.solver.batch_size,
        _for_passes(memory, needed),
    )  # fmt: skip
    solver = Newton(objective, config.solver, comm)
    return Job(config, comm, plan, network, objective, solver, targets, test_samples, notes)


def _open(name: str, part: str, config: Config, comm: Comm) -> Source:
    """The source of a part. Collective over the world: a bundled set (small) is read on rank 0 and broadcast."""
    if is_bundled(name):
        x, y = read_bundled(name, part) if comm.rank == 0 else (None, None)
        source = from_arrays(name, comm.array_from_root(x), comm.array_from_root(y))
    else:
        with comm.together():
            source = open_file(name, part)
    check_shapes(source, config.net.input, f"data.{part}")
    return source


def _refuse_what_is_missing(config: Config, source: str) -> None:
    if config.parallel.device != "cpu":
        raise UserError(f"{source}: parallel.device: cuda is not available in this version; use cpu")
    replicas = config.parallel.replicas
    if replicas != 1:
        raise UserError(f"{source}: parallel.replicas: {replicas} is not available in this version; use 1")


def _memory_per_rank(config: Config, comm: Comm) -> float:
    """`parallel.memory`, or half of what the node has left, shared by its ranks; the smallest of all ranks."""
    if config.parallel.memory != "auto":
        return float(config.parallel.memory)
    return comm.extremes(0.5 * machine.available_memory() / comm.ranks_on_node)[0]


def _check_memory(needed: float, memory: float, comm: Comm, source: str, notes: list[str]) -> None:
    """Refuse what cannot fit into the machine at all; note what does not fit into `parallel.memory`."""
    available = comm.extremes(float(machine.available_memory()))[0]
    if needed > available:
        raise UserError(
            f"{source}: net: the largest of {comm.size} rank(s) needs {needed / 2**30:.1f} GiB for weights, data and "
            f"Jacobian, the node has {available / 2**30:.1f}; use more ranks, or a smaller net, subsample or data set"
        )
    if needed > memory:
        notes.append(f"no layout fits parallel.memory: the largest rank needs {needed / 2**30:.2f} GiB")


def _for_passes(memory: float, planned: float) -> float:
    """What is left for kept forward passes besides the vectors, the data and the Jacobian."""
    return max(0.0, memory - planned) if math.isfinite(memory) else memory


def _read(
    config: Config, plan: NetPlan, rank: int, train: Source, test: Source | None, outputs: int
) -> tuple[Targets, Samples, Samples | None]:
    dtype, how = config.parallel.dtype, config.data.scale
    bounds = plan.grid.bounds(plan.input_split, plan.input_units, rank)
    y = train.targets()
    targets = Targets.fit(y, outputs, config.net.loss, config.data.scale_targets, train.name)
    scaling: Scaling | str = how

    def part(source: Source, raw: Array) -> Samples:
        nonlocal scaling
        x, scaling = load_columns(source, config.net.input, plan.input_units, bounds, scaling, dtype)
        return Samples(x, targets.encode(raw, dtype, source.name))

    train_samples = part(train, y)
    return targets, train_samples, part(test, test.targets()) if test else None
