"""How a run holds the curvature and solves with it within its memory: decided once, before training, from the plan.

Pure functions of the plan, the options and the machine's rates, so that every rank decides alike (docs/method.md has
the formulas). When memory is short, first the batches, then the chunks of S shrink, then the smaller representation of
every block is taken, then `implicit`; what does not fit then is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dnewton.config.newton import NewtonSection
from dnewton.errors import UserError
from dnewton.grid import ceil_div, piece_sizes
from dnewton.hardware.rates import Rates
from dnewton.planning import costs
from dnewton.planning.batches import settled
from dnewton.planning.costs import BlockShape, Cost
from dnewton.planning.grid_search import Workload, sample_bytes
from dnewton.planning.net_plan import LayerPlan, NetPlan

How = Literal["explicit", "implicit"]

LARGEST_EXACT = 4000  # rows of a matrix to factor, unless exact solves are asked for
GRAM_FLOOR = {4: 1e-3, 8: 1e-6}  # by itemsize: ‖r‖² is a difference in Gram coordinates, so ‖r‖ ends at about √ε ‖g‖
SWEEP = 16 << 20  # bytes of a chunk's K-fold sweep that should stay in cache, where no messages make chunks dear
MESSAGES = 64 << 20  # where they do: few enough for fresh memory not to cost more than the messages
DEVICE_SWEEP = 1 << 30  # on a GPU: enough to work on while the host begins what comes next
CLEARLY = 2.0  # how much faster passes must be by the model, which knows them less well
VECTORS = 13  # of the length of θ: θ, ∇f, d, d_previous (two while a step is taken), trial point, best, and CG's
EXACT = ("primal", "dual")


@dataclass(frozen=True)
class CurvaturePlan:
    """What was decided; the same on every rank."""

    how: How
    held: Mapping[str, str]  # representation by layer name, where it is explicit
    ways: tuple[str, ...]  # how every diagonal unit is solved; empty where the whole system is
    chunk: int  # samples of S at a time
    batch: int
    activation_cache_bytes: float  # bytes for kept forward passes beyond those of S
    parts: Mapping[str, float]  # the planned peak, by what it is for
    rates: Rates
    note: str = ""  # for the log
    keeps_jacobian: bool = False  # while trial points are evaluated
    rows: int = 0  # the most that a sampled preconditioner may be made from
    whole_primal: bool = False  # exact solves of the whole system are by the matrix of all variables, not of K|S| rows

    @property
    def peak(self) -> float:
        """Planned peak of resident bytes on the largest rank."""
        p = self.parts
        both = p["passes"] + p["curvature"] if self.keeps_jacobian else max(p["passes"], p["curvature"])
        return p["process"] + p["vectors"] + p["data"] + p["subsample"] + both

    @property
    def factors(self) -> bool:
        """Whether matrices are factored."""
        return any(way in (*EXACT, "sampled") for way in self.ways)

    @property
    def learns(self) -> bool:
        """Whether the size of the preconditioner follows the iterations of CG."""
        return self.rows > 0

    def chunks(self, samples: int, subsample: int) -> dict[int, int]:
        """The pieces that S is worked through in: how many there are of which size."""
        return piece_sizes(subsample, subsample if samples <= self.batch else self.batch, self.chunk)

    def describe(self) -> list[str]:
        """Lines for the log."""
        mib = {name: f"{name} {value / 2**20:.1f}" for name, value in self.parts.items()}
        if self.how == "explicit":
            names = ", ".join(f"{k} {v}" for k, v in self.held.items())
            what = f"jacobian: {names}"
        else:
            what = "jacobian: implicit, nothing stored; products by passes" + self.note
        solved = f"; local systems: {', '.join(self.ways)}" if self.ways else ""
        rates = f"{self.rates.flops / 1e9:.3g} Gflop/s, {self.rates.bandwidth / 1e9:.3g} GB/s"
        return [
            f"{what}; {self.chunk} samples at a time{solved} (by {rates})",
            f"planned memory of the largest rank: {self.peak / 2**20:.1f} MiB (MiB: {', '.join(mib.values())})",
        ]


@dataclass(frozen=True)
class _Setting:
    """What the decisions are made from."""

    plan: NetPlan
    work: Workload
    options: NewtonSection
    rates: Rates
    blocks: tuple[BlockShape, ...]
    on_device: bool

    @property
    def units(self) -> list[tuple[BlockShape, ...]]:
        layers = self.options.diagonal_unit == "layer"
        return [(b,) for b in self.blocks] if layers else [self.blocks]

    @property
    def numbers(self) -> int:
        return sum(b.size for b in self.blocks)

    def joined(self, batch: int) -> bool:
        return self.work.samples <= batch

    def subsample_bytes(self, batch: int) -> float:
        return self.pass_bytes(self.work.samples if self.joined(batch) else self.work.subsample)

    @property
    def sweep(self) -> float:
        """Numbers per sample and right-hand side of a cotangent's way through the widest layer."""
        widest = max(2.0 * b.outputs + (b.inputs + b.moved if m else 0) for m, b in enumerate(self.blocks))
        return widest + self.plan.waiting_numbers

    @property
    def jacobian_sweep(self) -> float:
        """As :attr:`sweep` for the K-fold sweep, which starts with what all samples share."""
        numbers = 0.0
        for m, b in enumerate(self.blocks):
            inputs = b.inputs + b.moved if m else 0
            if b.sharing == "shared":
                numbers = max(numbers, float(b.outputs + inputs) if b.slope else 0.0)
            else:
                numbers = max(numbers, 2.0 * b.outputs + inputs)
        return numbers + self.plan.waiting_numbers

    def working_bytes(self, batch: int) -> float:
        """A batch on its way forward and back, besides its pass."""
        forward = max(2.0 * math.prod(x.spec.out_shape) / _parts(self.plan, x) for x in self.plan.layers)
        numbers = max(forward, self.sweep) + self.blocks[0].inputs
        return min(batch, self.work.samples) * (numbers * self.work.itemsize + 32.0 * self.work.outputs)

    def pass_bytes(self, samples: int) -> float:
        """Kept forward passes."""
        return float(samples * self.plan.kept_numbers() * self.work.itemsize)


def _parts(plan: NetPlan, layer: LayerPlan) -> int:
    return plan.grid.parts(layer.out_split)


def decide(
    plan: NetPlan,
    work: Workload,
    options: NewtonSection,
    *,
    memory: float = math.inf,
    process: float = 0.0,
    rates: Rates | None = None,
    soft: float = math.inf,
    source: str = "config",
    on_device: bool = False,
) -> CurvaturePlan:
    """The strategy that is fastest by the stated model and needs at most `memory` bytes on the largest rank, or on its
    GPU (`on_device`).

    `process` are the bytes that the process holds already; passes are kept up to `soft` bytes in all. Raises UserError
    when nothing fits, or not what the options ask for.
    """
    options = settled(options, [layer.spec for layer in plan.layers], work.itemsize, plan.grid.size)
    at = _Setting(plan, work, options, rates or Rates(), tuple(costs.blocks_of(plan)), on_device)
    vectors = float(VECTORS * at.numbers * work.itemsize)
    if options.C == "auto":  # beside J and the passes, as vectors are
        vectors += costs.evidence_bytes(work.subsample * work.outputs)
    data = data_bytes(plan, work)
    fixed = process + vectors + data
    batch = min(int(options.batch_size), 1 << 30)

    def least(batch: int) -> float:
        one = 0.0 if at.joined(batch) else at.pass_bytes(batch)
        return fixed + at.subsample_bytes(batch) + one + at.working_bytes(batch)

    while batch > 1 and least(batch) > memory:
        batch = ceil_div(min(batch, work.samples), 2)
    if least(batch) > memory:
        raise UserError(_too_little(source, memory, least(batch), plan.grid.size))
    held_back = at.subsample_bytes(batch)
    left = memory - fixed - held_back
    found = _curvature(at, left, source)
    if found.size > left:
        raise UserError(_too_little(source, memory, fixed + held_back + found.size, plan.grid.size))
    keeps = False
    if not options.by_paper:  # J, with the passes of S, stays while a trial point has passes of its own
        beside = at.working_bytes(batch) + (0.0 if at.joined(batch) else at.pass_bytes(batch))
        keeps = found.how == "explicit" and found.size + held_back + beside <= left
    if keeps:
        held_back *= 2
        left = memory - fixed - held_back
    room = min(left, soft - fixed - held_back) - at.working_bytes(batch) - (found.size if keeps else 0.0)
    passes, rest = 0.0, at.pass_bytes(work.samples - work.subsample)
    if not at.joined(batch):  # all passes, or what there is room for besides the one at work
        passes = rest if room >= rest else max(0.0, room - at.pass_bytes(batch))
    at_work = at.working_bytes(batch) + (0.0 if at.joined(batch) or passes == rest else at.pass_bytes(batch))
    parts = {
        "process": process,
        "vectors": vectors,
        "data": data,
        "subsample": held_back,
        "passes": passes + at_work,
        "curvature": found.size,
    }
    messages = found.how == "implicit" and options.curvature == "diagonal" and plan.grid.size > 1
    note = ", with messages while solving, all ranks in step" if messages else ""
    return CurvaturePlan(
        *found[:4], batch, max(0.0, passes), parts, at.rates, note, keeps, found.rows, whole_primal(at)
    )


def whole_primal(at: _Setting) -> bool:
    """Whether an exact solve of the whole system is by all variables: there are fewer of them than of K|S| rows."""
    whole = at.options.curvature == "full" and at.options.subproblem == "exact"
    return whole and at.plan.variables < at.work.subsample * at.work.outputs


def _too_little(source: str, memory: float, needed: float, ranks: int) -> str:
    return (
        f"{source}: parallel.memory: the largest of {ranks} rank(s) needs {needed / 2**20:.0f} MiB and may use "
        f"{memory / 2**20:.0f}; allow more, or use more ranks, or a smaller net, subsample or data set"
    )


def data_bytes(plan: NetPlan, work: Workload) -> float:
    """Samples and targets on the rank with the largest slice; a few batches of them where they are streamed."""
    sample, data = sample_bytes(plan.layers[0], plan.grid, work), 0.0
    for count in (work.samples, work.others):
        here = count * sample
        if here > work.resident:  # the batch at work, the next one and its raw columns
            here = 3.0 * min(work.batch, count) * sample
        data += here + count * work.outputs * work.itemsize
    return data


class Found(NamedTuple):
    """A way to hold the curvature and to solve with it: see :class:`CurvaturePlan`, and the bytes that it takes."""

    how: How
    held: Mapping[str, str]
    ways: tuple[str, ...]
    chunk: int
    size: float
    rows: int = 0


def _curvature(at: _Setting, left: float, source: str) -> Found:
    """The fastest way to hold the curvature within `left` bytes; the last one tried if none fits."""
    wanted = at.options.jacobian
    found: Found | None = None
    half = at.options.jacobian_dtype != "auto"
    if wanted in ("auto", "factored", "dense"):
        item = at.work.itemsize
        s = at.work.subsample
        k = at.work.outputs
        if wanted == "auto":
            choices = [
                {b.name: costs.cheapest(b, s, k, item, at.rates) for b in at.blocks},
                {b.name: min(("factored", "dense"), key=lambda r: b.numbers(r, k)) for b in at.blocks},
            ]
        else:
            choices = [{b.name: wanted for b in at.blocks}]
        for held in choices:
            found = _explicit(at, held, left)
            if found is not None and found.size <= left:
                return found if wanted != "auto" or half else _by_passes_instead(at, found, left)
        if (wanted != "auto" or half) and found is None:
            found = _explicit(at, choices[0], math.inf)
        if half and found is not None:
            return found  # it is what was asked for, and too large
    plain = at.options.preconditioner in ("auto", "none")
    if wanted == "implicit" or (wanted == "auto" and plain and at.options.subproblem != "exact"):
        return _implicit(at, left)
    if found is None:
        asked = f"subproblem: {at.options.subproblem}, preconditioner: {at.options.preconditioner}"
        raise UserError(f"{source}: solver ({asked}): does not fit into {left / 2**20:.0f} MiB; use subproblem: cg")
    return found


def _by_passes_instead(at: _Setting, found: Found, left: float) -> Found:
    """Passes, where they cost no more messages than J would and are clearly faster: with very many outputs."""
    options, work = at.options, at.work
    whole = options.curvature == "full"
    if options.subproblem == "exact" or options.preconditioner not in ("auto", "none"):
        return found
    if not whole and at.plan.grid.size > 1:
        return found  # local solves have no messages: that is the method
    item, s, k = work.itemsize, work.subsample, work.outputs
    solve = sum(
        min(c.seconds for c in costs.ways(unit, found.held, s, k, item, at.rates).values())
        for unit in ([at.blocks] if whole else at.units)
    )
    explicit = costs.building(at.blocks, found.held, s, k, item, at.rates) + solve
    passes = costs.by_passes(at.blocks, s, item, at.rates) * (1 if whole else len(at.units))
    instead = _implicit(at, left)
    return instead if CLEARLY * passes < explicit and instead.size <= left else found


def _chunk(at: _Setting, per_sample: float, left: float, messages: bool) -> int:
    """Samples at a time: few enough to fit, and to stay in cache unless every chunk has messages of its own."""
    limit = min(left, MESSAGES if messages else SWEEP)
    if at.on_device:
        limit = max(limit, min(left / 4, DEVICE_SWEEP))
    return int(max(1, min(at.work.subsample, limit // max(1.0, per_sample))))


def _sums_back(at: _Setting) -> bool:
    """Whether a backward sweep sends messages."""
    grid = at.plan.grid
    return grid.size > 1 and any(
        (layer.split_kind is not None and not layer.first and grid.ranks_in(layer.split_kind.backward) > 1)
        or any(at.plan.incoming(layer))
        for layer in at.plan.layers
    )


def _explicit(at: _Setting, held: Mapping[str, str], left: float) -> Found | None:
    """With J held block by block; None where no way that the options allow fits."""
    work, options = at.work, at.options
    item, s, k = work.itemsize, work.subsample, work.outputs
    half = options.jacobian_dtype != "auto"
    per_sample = sum(b.bytes(held[b.name], k, item, half) for b in at.blocks)
    if s > int(options.batch_size):  # the inputs of several batches are put together
        per_sample += sum(b.i for b in at.blocks if not b.conv) * item
    jacobian = s * per_sample
    temporary = max(1.0, k * at.jacobian_sweep * item)
    chunk = _chunk(at, temporary, left - jacobian, _sums_back(at))
    if options.curvature == "full":
        possible = costs.ways(at.blocks, held, s, k, item, at.rates, at.on_device)
        cost = possible["dual" if options.subproblem == "exact" else "plain"]
        primal = costs.to_factor(at.on_device) * costs.WIDE * at.plan.variables**2 + 2 * costs.ROWS  # and rows
        workspace = primal if whole_primal(at) else cost.workspace
        return Found("explicit", held, (), chunk, jacobian + max(chunk * temporary, workspace))
    if samples_preconditioner(options):
        for rows in _halvings(min(costs.MOST_ROWS, s * k), least=k):
            need = max(costs.sampled_bytes(unit, held, s, k, item, rows) for unit in at.units)
            if jacobian + need * len(at.units) <= left:
                size = jacobian + max(chunk * temporary, need * len(at.units))
                return Found("explicit", held, ("sampled",) * len(at.units), chunk, size, rows)
    ways: list[str] = []
    lasting = passing = 0.0
    for unit in at.units:
        possible = costs.ways(unit, held, s, k, item, at.rates, at.on_device)
        allowed = allowed_ways(possible, sum(b.size for b in unit), s * k, item, options)
        fitting = {name: cost for name, cost in allowed.items() if jacobian + cost.workspace <= left}
        if not fitting:
            return None
        way = min(fitting, key=lambda name: fitting[name].seconds)
        ways.append(way)
        need = fitting[way].workspace
        kept = way not in (*EXACT, "plain")
        here = min(need, possible["plain"].workspace) if kept else need  # only while the system is at work
        lasting += need - here  # until all systems of the rank are solved
        passing = max(passing, here)
    return Found("explicit", held, tuple(ways), chunk, jacobian + max(chunk * temporary, lasting + passing))


def samples_preconditioner(options: NewtonSection) -> bool:
    """Whether the local systems are preconditioned by G on few samples."""
    by_itself = not options.by_paper and options.subproblem == "auto" and options.preconditioner == "auto"
    return by_itself or options.preconditioner == "sampled"


def _halvings(rows: int, least: int) -> list[int]:
    """Numbers of rows to be tried, of one sample at least."""
    return [r for i in range(rows.bit_length()) if (r := rows >> i) >= max(least, min(rows, 16))]


def allowed_ways(
    found: Mapping[str, Cost], variables: int, rows: int, itemsize: int, options: NewtonSection
) -> dict[str, Cost]:
    """The ways that `solver.subproblem`, `preconditioner` and `cg_tolerance` allow."""
    if options.subproblem == "exact":
        return {name: found[name] for name in EXACT}
    names = set(found) - {"diagonal"}
    if options.preconditioner in ("diagonal", "kronecker"):
        names = {options.preconditioner} if options.subproblem == "cg" else {options.preconditioner, "primal", "dual"}
    elif options.preconditioner == "none" or options.subproblem == "cg":
        names -= {"kronecker"}  # the paper's method has none, unless it is asked for
    if options.warm_start or options.tolerance_of_cg < GRAM_FLOOR[itemsize]:
        names -= {"gram"}
    if options.subproblem == "cg" or variables > LARGEST_EXACT:
        names -= {"primal"}
    if options.subproblem == "cg" or rows > LARGEST_EXACT:
        names -= {"dual"}
    return {name: found[name] for name in names}


def _implicit(at: _Setting, left: float) -> Found:
    ranks = at.plan.grid.size if at.options.curvature == "diagonal" else 1
    per_sample = 2 * ranks * at.sweep * at.work.itemsize
    images = 6.0 * ranks * at.work.subsample * at.work.outputs * at.work.itemsize
    chunk = _chunk(at, per_sample, left - images, messages=at.plan.grid.size > 1)
    ways = ("passes",) * len(at.units) if at.options.curvature == "diagonal" else ()
    return Found("implicit", {}, ways, chunk, images + chunk * per_sample)
