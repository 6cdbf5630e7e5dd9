"""Seconds of a Newton iteration by phase, on the rank with the largest slices. Pure functions of the plan.

The products are counted as :mod:`dnewton.curvature` and :mod:`dnewton.solvers.newton` do them. What depends on the
numbers of a run - trial steps, solves, iterations of CG, rows of the preconditioner - is given, or assumed as stated.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.config.newton import NewtonSection
from dnewton.grid import ceil_div
from dnewton.hardware.rates import Rates
from dnewton.planning import costs
from dnewton.planning.costs import BlockShape
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.grid_search import Workload
from dnewton.planning.machine import Price
from dnewton.planning.pass_times import Passes

CG_VECTORS = 7.0  # array operations on vectors in an iteration of CG
COMBINE_VECTORS = 8.0
SCALAR_CALLS = 30.0  # array operations on few numbers: what the combination decides, CG's scalars
ASSUMED_CG = 10.0  # iterations of a local solve to the default tolerance
ASSUMED_FULL_CG = 30.0
ASSUMED_ROWS = 256
CALLS_OF_A_PRODUCT = 8.0


@dataclass(frozen=True)
class Assumed:
    """What an iteration of Newton does that depends on the numbers of the run."""

    trials: float = 1.0
    solves: float = 1.0
    cg: float = ASSUMED_CG  # iterations, of all solves together
    rows: int = ASSUMED_ROWS  # of the sampled preconditioner


def assumed(options: NewtonSection) -> Assumed:
    """What is assumed where nothing is known."""
    return Assumed(cg=min(ASSUMED_FULL_CG if options.curvature == "full" else ASSUMED_CG, float(options.max_cg)))


@dataclass(frozen=True)
class NewtonTimes:
    """The phases of one iteration. `replicas` share the samples; `work` is one replica's."""

    passes: Passes
    how: CurvaturePlan
    work: Workload
    options: NewtonSection
    replicas: int = 1

    def phases(self, did: Assumed) -> dict[str, float]:
        """Seconds by the names of phases in metrics.jsonl."""
        work, passes, ranks = self.work, self.passes, self._ranks
        scalars = self._price.scalars(ranks * self.replicas)
        gradient = passes.backward(work.samples, batch=self.how.batch) + passes.vectors(5) + scalars
        if self.replicas > 1:
            gradient += self._price.allreduce(passes.variables, self.replicas)
            gradient += self._price.bcast(passes.variables, self.replicas)
        forward = passes.forward(work.samples, batch=self.how.batch) + passes.vectors(3) + scalars
        forward += self._price.kept(min(self._kept_samples, work.samples) * passes.plan.kept_numbers())
        return {
            "function": did.trials * forward,
            "gradient": gradient,
            "jacobian": self._jacobian(),
            "cg": self._cg(did),
            "combine": did.solves * self._combine(),
        }

    @property
    def _kept_samples(self) -> float:
        """Samples whose forward passes stay for the gradient and the Jacobian."""
        if self.work.samples <= self.how.batch:
            return float(self.work.samples)
        one = max(1.0, float(self.passes.plan.kept_numbers() * self.work.itemsize))
        return self.work.subsample + self.how.activation_cache_bytes / one

    @property
    def _ranks(self) -> int:
        return self.passes.plan.grid.size

    @property
    def _price(self) -> Price:
        return self.passes.price

    @property
    def _outputs(self) -> float:
        return float(self.work.subsample * self.work.outputs)

    @property
    def _units(self) -> list[list[BlockShape]]:
        layers = self.options.diagonal_unit == "layer"
        return [[b] for b in self.passes.blocks] if layers else [self.passes.blocks]

    # --- the Jacobian -----------------------------------------------------------------------------------------------

    def _jacobian(self) -> float:
        price, s, k = self._price, float(self.work.subsample), self.work.outputs
        total = price.touch(self._outputs, 4)
        if self.how.how == "implicit":
            return total
        total += self.passes.sweep(self.how.chunks(self.work.samples, self.work.subsample))
        for b in self.passes.blocks:
            if self.how.held[b.name] == "dense":
                total += s * k * 2.0 * b.q * b.o * b.i / price.flops + price.touch(s * k * b.size, 1)
            elif b.conv:
                total += price.touch(s * b.q * b.i, 1)
        return total

    # --- products with J --------------------------------------------------------------------------------------------

    def _times(self, b: BlockShape, back: bool = False) -> float:
        """J v or Jᵀ w of one block on S."""
        price, s, k = self._price, float(self.work.subsample), self.work.outputs
        if self.how.held[b.name] == "dense":
            return price.read(s * k * b.size)
        rows = s * b.q
        seconds = price.product(b.o, rows, b.i) if back else price.product(rows, b.i, b.o)
        seconds += price.touch(rows * b.o, 1) + CALLS_OF_A_PRODUCT / 2 * price.call
        if b.sharing == "shared":
            if b.slope:  # else D selects outputs
                seconds += price.product(s, b.q * b.o, k) + price.touch(rows * b.o, 1)
            return seconds
        if b.sharing == "pooled":
            seconds += price.touch(rows * b.o, 2)
        return seconds + price.read(s * k * b.held * b.o) + s * price.call / 10

    def _product(self, blocks: list[BlockShape]) -> float:
        """One product with G of a local system: D and rows are read once for both directions."""
        price, s, k = self._price, float(self.work.subsample), self.work.outputs
        seconds = price.touch(self._outputs, 6)
        for b in blocks:
            seconds += self._times(b) + self._times(b, back=True)
            held = b.size if self.how.held[b.name] == "dense" else b.held * b.o
            if self.how.held[b.name] == "dense" or b.sharing != "shared":
                seconds -= price.read(s * k * held) * 0.5
        return seconds

    # --- solves -----------------------------------------------------------------------------------------------------

    def _cg(self, did: Assumed) -> float:
        if self.options.curvature == "full":
            return self._whole(did)
        if self.how.how == "implicit":
            return did.cg * len(self._units) * (self._by_passes(self._ranks) + self._vectors())
        total = self._price.call * SCALAR_CALLS * did.solves
        for way, unit in zip(self.how.ways, self._units, strict=True):
            total += self._solve(way, unit, did)
        return total / self._price.relief

    def _vectors(self) -> float:
        return self.passes.vectors(CG_VECTORS) + SCALAR_CALLS / 2 * self._price.call

    def _by_passes(self, tangents: int) -> float:
        """A product where J is not held: a tangent sweep and a gradient's."""
        s, chunk = self.work.subsample, self.how.chunk
        seconds = self.passes.tangents(s, tangents, chunk) + self.passes.vectors(2)
        count, _ = self.passes.batches(s, chunk)
        return seconds + self.passes.backward(s * tangents, batch=ceil_div(s, count) * tangents)

    def _whole(self, did: Assumed) -> float:
        """`curvature: full`: products with a sum over ranks."""
        price, ranks = self._price, self._ranks
        if self.how.how == "implicit":
            each = self._by_passes(1)
        else:
            each = self._product(self.passes.blocks) + price.allreduce(self._outputs, ranks)
        if self.options.subproblem == "exact":
            rates = Rates(price.flops * ranks, price.memory)
            ways = self._ways(self.passes.blocks, rates)
            return ways["dual"] + price.allreduce(self._outputs**2, ranks) + 2 * did.solves * each
        if self.replicas > 1:
            each += price.allreduce(self.passes.variables, self.replicas) + price.bcast(
                self.passes.variables, self.replicas
            )
        return did.cg * (each + 2 * price.scalars(ranks * self.replicas) + self._vectors())

    def _ways(self, unit: list[BlockShape], rates: Rates) -> dict[str, float]:
        work = self.work
        found = costs.ways(unit, self.how.held, work.subsample, work.outputs, work.itemsize, rates)
        return {name: cost.seconds for name, cost in found.items()}

    def _solve(self, way: str, unit: list[BlockShape], did: Assumed) -> float:
        price, share = self._price, sum(b.size for b in unit) / max(1.0, self.passes.variables)
        each = self._product(unit) + share * self.passes.vectors(CG_VECTORS) + SCALAR_CALLS / 2 * price.call
        if self.options.replica_solve == "exact" and self.replicas > 1:
            each += price.allreduce(share * self.passes.variables, self.replicas)
        if way == "sampled":
            return did.cg * (each + self._precondition(unit, did.rows)) + self._sampled(unit, did)
        if way == "plain":
            return did.cg * each
        ways = self._ways(unit, Rates(price.flops, price.memory))
        if way in ("primal", "dual"):
            return ways[way] + 2 * did.solves * each
        assumed = costs.EXPECTED_KRONECKER if way == "kronecker" else costs.EXPECTED_CG
        return ways[way] / assumed * did.cg

    def _rows(self, rows: int) -> tuple[float, float]:
        """Samples and rows of J that the preconditioner is made from."""
        k = self.work.outputs
        wanted = max(1, min(self.work.subsample, min(rows, self.how.rows) // k))
        samples = ceil_div(self.work.subsample, ceil_div(self.work.subsample, wanted))
        return float(samples), float(samples * k)

    def _sampled(self, unit: list[BlockShape], did: Assumed) -> float:
        """Making the preconditioner: A Aᵀ once, a factor for every solve."""
        wide = self._price.wide()
        samples, rows = self._rows(did.rows)
        seconds = 0.0
        for b in unit:
            if self.how.held[b.name] == "factored" and not b.conv:
                seconds += wide.product(samples, b.i, samples) + wide.product(rows, b.o, rows)
                seconds += wide.touch(rows * rows, 3) + wide.touch(rows * b.o, 6) + wide.touch(samples * b.i, 2)
            else:
                seconds += rows * 2.0 * b.q * b.o * b.i / self._price.flops if self._factored(b) else 0.0
                seconds += wide.product(rows, b.size, rows) + wide.touch(rows * b.size, 6)
        factor = wide.touch(rows * rows, 2) + rows**3 / 3 / (costs.DIRECT_RATE * wide.flops) + 10 * wide.call
        return seconds + did.solves * factor

    def _factored(self, b: BlockShape) -> bool:
        return self.how.held[b.name] == "factored"

    def _precondition(self, unit: list[BlockShape], rows_wanted: int) -> float:
        """One application of it."""
        wide = self._price.wide()
        samples, rows = self._rows(rows_wanted)
        seconds = 2 * wide.read(rows * rows) + self.passes.vectors(1)
        seconds += wide.touch(float(sum(b.size for b in unit)), 4)
        for b in unit:
            seconds += CALLS_OF_A_PRODUCT * 2 * wide.call
            if self._factored(b) and not b.conv:
                seconds += wide.product(samples, b.i, b.o) + wide.product(b.o, samples, b.i)
                seconds += 2 * wide.read(rows * b.o) + samples * wide.call / 5
            else:
                seconds += 2 * wide.read(rows * b.size)
        return seconds

    # --- the combination --------------------------------------------------------------------------------------------

    def _combine(self) -> float:
        price, ranks = self._price, self._ranks
        columns = 1 if self.options.combine == "none" else 2
        if self.how.how == "implicit":
            images = columns * self.passes.tangents(self.work.subsample, 1, self.how.chunk)
        else:
            images = columns * sum(self._times(b) for b in self.passes.blocks)
        images += price.allreduce(columns * self._outputs, ranks) + price.touch(columns * self._outputs, 8)
        everybody = ranks * self.replicas
        told = price.scalars(everybody)
        if self.how.how == "implicit" or self.replicas > 1:  # else scalars ride in the sum of the images
            told += price.scalars(everybody)
        seconds = images + told + self.passes.vectors(COMBINE_VECTORS) + 2 * SCALAR_CALLS * price.call
        if self.replicas > 1:
            seconds += 3 * price.scalars(self.replicas)
            if self.options.replica_solve == "average" and self.options.curvature == "diagonal":
                seconds += price.allreduce(self.passes.variables, self.replicas)
                seconds += price.bcast(self.passes.variables, self.replicas) + self.passes.vectors(2)
        return seconds
