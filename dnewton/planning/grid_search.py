"""The planner: picks the grid and every layer's split by dynamic programming over a stated cost. Pure functions.

Cost of one Newton iteration, in seconds of the slowest rank: arithmetic / rate + patches copied / copy rate
+ for every message latency * ceil(log2 ranks) + bytes / bandwidth. Docs: docs/layout.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.config.layer_entry import LayerSpec
from dnewton.errors import UserError
from dnewton.grid import KINDS, SPLITS, Grid, Group, Kind, Split, SplitAxis, grids, moves
from dnewton.planning.net_plan import DATA, LayerPlan, NetPlan, spatial


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


Arrived = tuple[Split, SplitAxis]  # the split that an output is in, and the axis along which it is cut
State = tuple[tuple[int, Arrived], ...]  # by producer, what later layers still take


def choose(
    layers: tuple[LayerSpec, ...],
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


def _best_on(layers: tuple[LayerSpec, ...], grid: Grid, work: Workload, machine: Machine) -> tuple[float, NetPlan]:
    """Shortest path over the states that the outputs which are still needed can be in."""
    start = SplitAxis(layers[0].in_shape[0], 1)
    splits = dict.fromkeys(grid.canonical(s) for s in SPLITS)  # data arrive in any split
    paths: dict[State, tuple[float, tuple[LayerPlan, ...]]] = {((DATA, (s, start)),): (0.0, ()) for s in splits}
    trained: list[bool] = []
    last_use = {DATA: 0, len(layers) - 1: len(layers)}  # of every output; that of the last layer is the net's
    for position, layer in enumerate(layers):
        last_use.update((position - back, position) for back in layer.back)
    for position, layer in enumerate(layers):
        producers = [position - back for back in layer.back]
        below = any(p != DATA and trained[p] for p in producers)
        trained.append(layer.parametric or below)
        costs: dict[object, float] = {}
        reached: dict[State, tuple[float, tuple[LayerPlan, ...]]] = {}
        for state, (cost, done) in paths.items():
            outputs = dict(state)
            for option in _options(layer, [outputs[p] for p in producers], grid, first=not below):
                if not done and moves(grid, option.source, option.in_split):
                    continue  # the data are read where they are needed
                key = (option.sources, option.source_units, option.in_split, option.out_split, option.out_units)
                if key not in costs:
                    costs[key] = _layer_cost(option, grid, work, machine)
                total = cost + costs[key]
                if not done:
                    total += _read_cost(option, grid, work, machine)
                out = (position, (grid.canonical(option.out_split), option.out_units))
                after = tuple(o for o in (*state, out) if last_use[o[0]] > position)
                if after not in reached or total < reached[after][0]:
                    reached[after] = (total, (*done, option))
        paths = reached
    best = math.inf, NetPlan(grid, ())
    for ((_, (split, units)),), (cost, done) in paths.items():
        final = cost + _move_cost(grid, split, "full", units, 1, work.samples * work.evaluations, work, machine)
        if final < best[0]:
            best = final, NetPlan(grid, done)
    return best


def _options(layer: LayerSpec, arrived: list[Arrived], grid: Grid, first: bool) -> list[LayerPlan]:
    """The ways to lay out a layer whose inputs have arrived so."""
    sources = tuple(split for split, _ in arrived)
    axes = tuple(units for _, units in arrived)
    units = axes[0]
    if layer.parametric:
        kinds = [KINDS[layer.split]] if layer.split else list(KINDS.values())
        out = SplitAxis(layer.out_shape[0], 1)
        return [LayerPlan(layer, sources, k.source, k.target, axes, units, out, k, first) for k in kinds]
    if layer.options.whole:
        out = SplitAxis(layer.out_shape[0], 1)
        return [LayerPlan(layer, sources, "full", "full", axes, units, out, None, first=False)]
    if len(arrived) == 1:
        ways = layer.options.arrangements(layer.in_shape, sources[0], units)
        return [
            LayerPlan(layer, sources, way.in_split, way.out_split, axes, units, way.out_axis, None, first=False)
            for way in ways
        ]
    if len(set(axes)) > 1:  # cut along different axes: they meet where nothing is cut
        units = SplitAxis(layer.out_shape[0], 1)
        return [LayerPlan(layer, sources, "full", "full", axes, units, units, None, first=False)]
    meet = dict.fromkeys(grid.canonical(s) for s in SPLITS)
    return [LayerPlan(layer, sources, s, s, axes, units, units, None, first=False) for s in meet]


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
    return float(_share(grid, plan.source, plan.source_units[0]) * spatial(plan.spec.in_shape) * work.itemsize)


def _read_cost(first: LayerPlan, grid: Grid, work: Workload, machine: Machine) -> float:
    """Seconds to read the samples again in every pass, where they do not stay in memory."""
    data = work.samples * sample_bytes(first, grid, work)
    return (work.evaluations + 1) * data / machine.read_rate if data > work.resident else 0.0


def _layer_cost(plan: LayerPlan, grid: Grid, work: Workload, machine: Machine) -> float:
    spec = plan.spec
    kind = plan.split_kind
    q_in, q_out = spatial(spec.in_shape), spatial(spec.out_shape)
    evaluated = work.samples * work.evaluations
    right_hand_sides = work.samples + work.subsample * work.outputs
    cost = 0.0
    for source, units in zip(plan.sources, plan.source_units, strict=True):
        cost += _move_cost(grid, source, plan.in_split, units, q_in, evaluated, work, machine)
        cost += _move_cost(grid, plan.in_split, source, units, q_in, right_hand_sides, work, machine)
    inputs = _share(grid, plan.in_split, plan.in_units)
    outputs = _share(grid, plan.out_split, plan.out_units)
    if kind is None:
        touched = len(plan.sources) * inputs * q_in * work.itemsize * (evaluated + right_hand_sides)
        return cost + 2 * touched / machine.copy_rate
    cost += flops(spec, inputs, outputs, work, plan.first) / machine.flops
    # What is done number by number to the output (bias, activation, slopes) is repeated by ranks that share a slice.
    cost += outputs * q_out * work.itemsize * (2 * evaluated + 3 * right_hand_sides) / machine.copy_rate
    if spec.options.copies_patches:
        copied = q_out * spec.kernel_size * inputs * work.itemsize
        cost += copied * (evaluated + (1 if plan.first else 2) * right_hand_sides) / machine.copy_rate
    batches = math.ceil(work.samples / work.batch)
    cost += _message(grid, kind.forward, evaluated * outputs * q_out, batches * work.evaluations, work, machine)
    if not plan.first:
        cost += _message(grid, kind.backward, right_hand_sides * inputs * q_in, batches + 1, work, machine)
    return cost


def flops(spec: LayerSpec, inputs: int, outputs: int, work: Workload, first: bool) -> float:
    """Floating-point operations of one iteration on a block of `outputs` x `inputs` channels or features."""
    block = 2.0 * spatial(spec.out_shape) * outputs * inputs * spec.kernel_size
    passes = work.samples * (work.evaluations + (1 if first else 2)) + 2.0 * work.subsample * work.cg
    if not first:
        passes += work.subsample * work.outputs
    contraction = 4.0 * work.subsample * work.outputs * spatial(spec.out_shape) * outputs * work.cg
    return block * passes + contraction


def memory_bytes(plan: NetPlan, work: Workload) -> float:
    """What the largest rank must hold: its vectors, its data columns, φ and D of the subsample."""
    grid, numbers = plan.grid, 0.0
    for layer in plan.parametric():
        inputs = _share(grid, layer.in_split, layer.in_units) * layer.spec.kernel_size
        outputs = _share(grid, layer.out_split, layer.out_units)
        q = spatial(layer.spec.out_shape)
        numbers += 9.0 * inputs * outputs + work.subsample * q * (inputs + work.outputs * outputs)
    sample = sample_bytes(plan.layers[0], grid, work)
    data = work.samples * sample
    if data > work.resident:
        data = 3.0 * min(work.batch, work.samples) * sample  # the batch at work, the next one and its raw columns
    return numbers * work.itemsize + data


def fixed(layers: tuple[LayerSpec, ...], grid: Grid, kinds: list[Kind], work: Workload) -> NetPlan:
    """The plan with the given kind per parametric layer, in order (for tests and experiments)."""
    wanted = iter(kinds)
    pinned = []
    for layer in layers:
        if layer.parametric:
            layer = layer._replace(options=layer.options.model_copy(update={"split": next(wanted).name}))
        pinned.append(layer)
    return _best_on(tuple(pinned), grid, work, Machine())[1]
