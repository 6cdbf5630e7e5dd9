"""The planner: picks the grid and every layer's split by dynamic programming over a stated cost. Pure functions.

Cost of one Newton iteration, in seconds of the slowest rank: arithmetic / rate + patches copied / copy rate
+ for every message latency * ceil(log2 ranks) + bytes / bandwidth. Docs: docs/layout.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dnewton.errors import UserError
from dnewton.grid import KINDS, Grid, Group, Kind, Split, SplitAxis, grids, moves
from dnewton.planning.net_plan import LayerPlan, LayerShape, NetPlan, spatial


@dataclass(frozen=True)
class Machine:
    """The stated machine: flop/s and copied bytes/s of a rank, bytes/s and seconds of a message."""

    flops: float = 5e10
    copy_rate: float = 4e9
    bandwidth: float = 2e9
    latency: float = 2e-5
    read_rate: float = 1e9  # bytes/s of samples from disk, where they are streamed

    @classmethod
    def shared(cls, share: float) -> Machine:
        """The machine of a rank that has `share` of a core to itself: below one, ranks wait for each other's turns."""
        if share >= 1:
            return cls(flops=cls.flops * share)
        return cls(cls.flops * share, cls.copy_rate * share, cls.bandwidth * share, latency=5e-4 / share)


@dataclass(frozen=True)
class Workload:
    """What an iteration does: l samples, |S| of them for the Jacobian, K outputs, function evaluations and CG steps."""

    samples: int
    subsample: int
    outputs: int
    batch: int = 1024
    itemsize: int = 4
    evaluations: float = 1.3
    cg: int = 30
    resident: float = math.inf  # bytes of samples that a rank keeps; what is larger is streamed
    others: int = 0  # samples of test and validation parts


State = tuple[Split, SplitAxis]


def choose(
    layers: tuple[LayerShape, ...],
    ranks: int,
    work: Workload,
    *,
    grid: tuple[int, int] | None = None,
    memory: float = math.inf,
    machine: Machine | None = None,
    source: str = "config",
) -> NetPlan:
    """The cheapest plan on `ranks` ranks whose largest rank needs at most `memory` bytes (or the smallest, if none).

    Raises UserError when a fixed grid does not have `ranks` ranks.
    """
    machine = machine or Machine()
    candidates = grids(ranks)
    if grid is not None:
        if grid[0] * grid[1] != ranks:
            fitting = ", ".join(f"[{g.rows}, {g.cols}]" for g in candidates)
            raise UserError(
                f"{source}: parallel.grid: {list(grid)} has {grid[0] * grid[1]} ranks but the job has {ranks}; "
                f"use auto or one of {fitting}"
            )
        candidates = [Grid(*grid)]
    plans = [(*_best_on(layers, g, work, machine), g) for g in candidates]
    sized = [(cost, memory_bytes(plan, work), plan) for cost, plan, _ in plans]
    feasible = [entry for entry in sized if entry[1] <= memory]
    if feasible:
        return min(feasible, key=lambda entry: entry[0])[2]
    return min(sized, key=lambda entry: entry[1])[2]


def _best_on(layers: tuple[LayerShape, ...], grid: Grid, work: Workload, machine: Machine) -> tuple[float, NetPlan]:
    """Shortest path over the states (split, units) that an activation can be in."""
    first_parametric = next(layer.index for layer in layers if layer.parametric)
    shape = layers[0].in_shape
    start = SplitAxis(shape[0], 1)
    paths: dict[State, tuple[float, tuple[LayerPlan, ...]]] = {}
    for split in dict.fromkeys(grid.canonical(s) for s in ("full", "row", "col", "all")):  # data arrive in any split
        paths[split, start] = (0.0, ())
    for layer in layers:
        reached: dict[State, tuple[float, tuple[LayerPlan, ...]]] = {}
        for (split, units), (cost, done) in paths.items():
            for option in _options(layer, split, units, layer.index == first_parametric):
                if not done and moves(grid, option.source, option.in_split):
                    continue  # the data are read where they are needed
                total = cost + _layer_cost(option, grid, work, machine)
                if not done:
                    total += _read_cost(option, grid, work, machine)
                state = (grid.canonical(option.out_split), option.out_units)
                if state not in reached or total < reached[state][0]:
                    reached[state] = (total, (*done, option))
        paths = reached
    best = math.inf, NetPlan(grid, ())
    for (split, units), (cost, done) in paths.items():
        final = cost + _move_cost(grid, split, "full", units, 1, work.samples * work.evaluations, work, machine)
        if final < best[0]:
            best = final, NetPlan(grid, done)
    return best


def _options(layer: LayerShape, split: Split, units: SplitAxis, first: bool) -> list[LayerPlan]:
    if not layer.parametric:
        if layer.kind != "flatten":
            return [LayerPlan(layer, split, split, split, units, units, None, first=False)]
        channels = SplitAxis(layer.in_shape[0], spatial(layer.in_shape))
        single = SplitAxis(layer.out_shape[0], 1)
        return [  # keep slices on channel boundaries, or re-cut by single features through `full`
            LayerPlan(layer, split, split, split, units, channels, None, first=False),
            LayerPlan(layer, split, "full", "full", units, single, None, first=False),
        ]
    wanted = layer.spec.options.split
    kinds = [KINDS[wanted]] if wanted else list(KINDS.values())
    out = SplitAxis(layer.out_shape[0], 1)
    return [LayerPlan(layer, split, kind.source, kind.target, units, out, kind, first) for kind in kinds]


def _share(grid: Grid, split: Split, units: SplitAxis) -> int:
    """Features of the largest slice."""
    return math.ceil(units.count / grid.parts(split)) * units.size


def _message(grid: Grid, group: Group, numbers: float, calls: float, work: Workload, machine: Machine) -> float:
    ranks = grid.ranks_in(group)
    if ranks == 1:
        return 0.0
    return calls * machine.latency * math.ceil(math.log2(ranks)) + numbers * work.itemsize / machine.bandwidth


def _move_cost(
    grid: Grid,
    source: Split,
    target: Split,
    units: SplitAxis,
    positions: int,
    samples: float,
    work: Workload,
    m: Machine,
) -> float:
    """Gathers on the way from `source` to `target`; what a rank receives counts."""
    calls = math.ceil(samples / work.batch)
    return sum(
        _message(grid, move.group, samples * _share(grid, move.target, units) * positions, calls, work, m)
        for move in moves(grid, source, target)
        if move.group != "none"
    )


def sample_bytes(plan: LayerPlan, grid: Grid, work: Workload) -> float:
    """Bytes of one sample on the rank with the largest slice of the first layer's input."""
    return float(_share(grid, plan.source, plan.in_units) * spatial(plan.shape.in_shape) * work.itemsize)


def _read_cost(first: LayerPlan, grid: Grid, work: Workload, machine: Machine) -> float:
    """Seconds to read the samples again in every pass, where they do not stay in memory."""
    data = work.samples * sample_bytes(first, grid, work)
    return (work.evaluations + 1) * data / machine.read_rate if data > work.resident else 0.0


def _layer_cost(plan: LayerPlan, grid: Grid, work: Workload, machine: Machine) -> float:
    shape, kind = plan.shape, plan.split_kind
    q_in, q_out = spatial(shape.in_shape), spatial(shape.out_shape)
    evaluated = work.samples * work.evaluations
    right_hand_sides = work.samples + work.subsample * work.outputs
    cost = _move_cost(grid, plan.source, plan.in_split, plan.in_units, q_in, evaluated, work, machine)
    cost += _move_cost(grid, plan.in_split, plan.source, plan.in_units, q_in, right_hand_sides, work, machine)
    inputs = _share(grid, plan.in_split, plan.in_units)
    outputs = _share(grid, plan.out_split, plan.out_units)
    if kind is None:
        touched = inputs * q_in * work.itemsize * (evaluated + right_hand_sides)
        return cost + 2 * touched / machine.copy_rate
    cost += flops(shape, inputs, outputs, work, plan.first) / machine.flops
    # What is done number by number to the output (bias, activation, slopes) is repeated by ranks that share a slice.
    cost += outputs * q_out * work.itemsize * (2 * evaluated + 3 * right_hand_sides) / machine.copy_rate
    if shape.kind == "conv":
        copied = q_out * shape.kernel_size * inputs * work.itemsize
        cost += copied * (evaluated + (1 if plan.first else 2) * right_hand_sides) / machine.copy_rate
    batches = math.ceil(work.samples / work.batch)
    cost += _message(grid, kind.forward, evaluated * outputs * q_out, batches * work.evaluations, work, machine)
    if not plan.first:
        cost += _message(grid, kind.backward, right_hand_sides * inputs * q_in, batches + 1, work, machine)
    return cost


def flops(shape: LayerShape, inputs: int, outputs: int, work: Workload, first: bool) -> float:
    """Floating-point operations of one iteration on a block of `outputs` x `inputs` channels or features."""
    block = 2.0 * spatial(shape.out_shape) * outputs * inputs * shape.kernel_size
    passes = work.samples * (work.evaluations + (1 if first else 2)) + 2.0 * work.subsample * work.cg
    if not first:
        passes += work.subsample * work.outputs
    contraction = 4.0 * work.subsample * work.outputs * spatial(shape.out_shape) * outputs * work.cg
    return block * passes + contraction


def memory_bytes(plan: NetPlan, work: Workload) -> float:
    """What the largest rank must hold: its vectors, its data columns, φ and D of the subsample."""
    grid, numbers = plan.grid, 0.0
    for layer in plan.parametric():
        inputs = _share(grid, layer.in_split, layer.in_units) * layer.shape.kernel_size
        outputs = _share(grid, layer.out_split, layer.out_units)
        q = spatial(layer.shape.out_shape)
        numbers += 9.0 * inputs * outputs + work.subsample * q * (inputs + work.outputs * outputs)
    sample = sample_bytes(plan.layers[0], grid, work)
    data = work.samples * sample
    if data > work.resident:
        data = 3.0 * min(work.batch, work.samples) * sample  # the batch at work, the next one and its raw columns
    return numbers * work.itemsize + data


def fixed(layers: tuple[LayerShape, ...], grid: Grid, kinds: list[Kind], work: Workload) -> NetPlan:
    """The plan with the given kind per parametric layer, in order (for tests and experiments)."""
    wanted = iter(kinds)
    pinned = []
    for layer in layers:
        if layer.parametric:
            options = layer.spec.options.model_copy(update={"split": next(wanted).name})
            layer = replace(layer, spec=layer.spec.model_copy(update={layer.kind: options}))
        pinned.append(layer)
    return _best_on(tuple(pinned), grid, work, Machine())[1]
