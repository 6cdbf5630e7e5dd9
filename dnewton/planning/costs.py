"""What holding the curvature and solving with it costs: seconds of operations and traffic, and bytes held.

Pure functions of the plan, for the rank with the largest slices, so that every rank decides alike (docs/method.md has
the formulas). Seconds = operations / flops + bytes / bandwidth, by the rates of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dnewton.hardware.rates import Rates
from dnewton.planning.net_plan import NetPlan, spatial

Sharing = Literal["shared", "sample", "pooled"]

OVERHEAD = 5e-5  # seconds that the calls of one product with a block take, however small the block
EXPECTED_CG = 12.0
EXPECTED_KRONECKER = 5.0  # assumed iterations of a solve to ‖r‖ ≤ 0.1 ‖g‖
PRODUCTS = 30  # with J in a direction, over which building the rows is spread
MOST_ROWS = 2048  # of J that a sampled preconditioner is made from
CACHE = 8 << 20  # bytes of rows and D that are worked on at a time: they must stay in cache between two products
EVIDENCE_ROWS = 1000  # of J J^T whose eigenvalues `C: auto` finds; beyond, they are estimated
LANCZOS_STEPS = 30  # from each of the vectors by which they are
ROWS = 64 << 20  # bytes of rows that a matrix to factor is summed from at a time
DIRECT_RATE = (
    0.7  # of the rate of large products: forming a triangle in tiles, factoring (scripts/bench/direct_solve.py)
)
WIDE = 8  # bytes of a number of a matrix that had to be formed in float64


@dataclass(frozen=True)
class BlockShape:
    """The largest rank's block of one layer: |O|, |I| with the kernel, positions, and what kind of D it has."""

    name: str
    o: int
    i: int
    q: int
    held: int  # positions at which D is kept: fewer than q after max-pooling
    sharing: Sharing
    slope: bool
    window: int  # offsets of the pooling that follows
    conv: bool
    inputs: int  # numbers per sample of the input slice
    outputs: int  # of the output slice
    moved: int  # of the input as it arrives, where it is redistributed

    @property
    def size(self) -> int:
        """Variables, a bias included."""
        return self.o * (self.i + 1)

    @property
    def single(self) -> bool:
        """One position to a sample: the Gram matrix of rows is that of D times that of φ."""
        return not self.conv and self.q == 1

    def d_numbers(self, outputs: int) -> float:
        """Numbers per sample of D."""
        if self.sharing == "shared":
            return float(self.q * self.o) if self.slope or self.q > 1 else 0.0
        masks = self.window * self.held * self.o if self.sharing == "pooled" else 0
        return float(outputs * self.held * self.o + masks)

    def numbers(self, representation: str, outputs: int) -> float:
        """Numbers per sample that a representation keeps besides the forward pass."""
        if representation == "dense":
            return float(outputs * self.size)
        return self.d_numbers(outputs) + (self.q * self.i if self.conv else 0)

    def bytes(self, representation: str, outputs: int, itemsize: int, half: bool) -> float:
        """Bytes per sample of these; with `half`, D, patches and rows take two a number."""
        numbers = self.numbers(representation, outputs)
        if not half:
            return numbers * itemsize
        rounded = numbers
        if representation == "factored":
            d = 0.0 if self.sharing == "shared" else float(outputs * self.held * self.o)
            rounded = d + (self.q * self.i if self.conv else 0)
        return rounded * 2 + (numbers - rounded) * itemsize


def blocks_of(plan: NetPlan) -> list[BlockShape]:
    """The blocks of the rank with the largest slices, in layer order."""
    found = []
    for position, layer in enumerate(plan.layers):
        if layer.split_kind is None:
            continue
        spec = layer.spec
        q = spatial(spec.out_shape)
        o = plan.largest(layer.out_split, layer.out_units)
        channels = plan.largest(layer.in_split, layer.in_units)
        arriving = plan.largest(layer.source, layer.source_units[0])
        above = plan.pooled_by(position)
        pooling = None if above is None else plan.layers[above].spec
        by_sample: Sharing = "sample" if plan.above_depends_on_sample[position] else "shared"
        found.append(
            BlockShape(
                spec.name,
                o,
                channels * spec.kernel_size,
                q,
                held=q if pooling is None else spatial(pooling.out_shape),
                sharing=by_sample if pooling is None else "pooled",
                slope=spec.activation != "linear",
                window=1 if pooling is None else pooling.options.pooled_window(),
                conv=spec.options.copies_patches,
                inputs=channels * spatial(spec.in_shape),
                outputs=o * q,
                moved=arriving * spatial(spec.in_shape) if plan.incoming(layer)[0] else 0,
            )
        )
    return found


def largest_product(plan: NetPlan, samples: int, gram: int) -> float:
    """Operations of the largest matrix product of an iteration: of a layer with `samples` samples at a time, or of the
    Gram matrix of the inputs of `gram` samples."""
    blocks = blocks_of(plan)
    return max((2.0 * b.i * max(samples * b.q * b.o, gram**2) for b in blocks), default=0.0)


def cheapest(block: BlockShape, samples: int, outputs: int, itemsize: int, rates: Rates) -> str:
    """The representation with the least seconds per Gauss-Newton product.

    factored: 4 S Q O I operations and D read twice; dense: the rows read twice, and building them (2 S K Q O I
    operations) spread over the products of a direction.
    """
    operations = float(samples) * block.q * block.o * block.i
    held = block.held * block.o * (1 if block.sharing == "shared" else outputs + 1)
    factored = 4 * operations / rates.flops + 2.0 * samples * held * itemsize / rates.bandwidth
    dense = 2.0 * samples * outputs * block.o * block.i * itemsize / rates.bandwidth
    dense += 2 * operations * outputs / rates.flops / PRODUCTS
    return "dense" if dense < factored else "factored"


def building(
    blocks: Sequence[BlockShape], held: Mapping[str, str], samples: int, outputs: int, itemsize: int, rates: Rates
) -> float:
    """Seconds to build J: the K-fold sweep through all layers but the first, and the rows."""
    operations = traffic = 0.0
    for m, b in enumerate(blocks):
        one = 2.0 * b.q * b.o * b.i
        if b.sharing != "shared" or b.slope:
            operations += one if m else 0.0
            traffic += 2.0 * b.outputs + (b.inputs if m else 0)
        operations += one if held[b.name] == "dense" else 0.0
    rows = float(samples * outputs)
    return rows * operations / rates.flops + rows * traffic * itemsize / rates.bandwidth


def by_passes(blocks: Sequence[BlockShape], samples: int, itemsize: int, rates: Rates) -> float:
    """Seconds of one solve where a product is a tangent and a cotangent sweep, without messages."""
    operations = sum(6.0 * b.q * b.o * b.i for b in blocks)
    traffic = sum(8.0 * b.outputs + (3.0 * b.q * b.i if b.conv else 0.0) for b in blocks)
    each = samples * (operations / rates.flops + traffic * itemsize / rates.bandwidth)
    return EXPECTED_CG * (each + 4 * OVERHEAD * len(blocks))


@dataclass(frozen=True)
class Cost:
    """Seconds of one solve, and the bytes it takes besides the curvature and a few vectors."""

    seconds: float
    workspace: float


def to_factor(on_device: bool) -> float:
    """Matrices that factoring one takes: it, and its copy with λ on the diagonal; CuPy's factor is a third."""
    return 3.0 if on_device else 2.0


def ways(
    blocks: Sequence[BlockShape],
    held: Mapping[str, str],
    samples: int,
    outputs: int,
    itemsize: int,
    rates: Rates,
    on_device: bool = False,
) -> dict[str, Cost]:
    """Every way to solve a unit of these blocks with J held as `held` says, by name."""
    matrices = to_factor(on_device)
    s = float(samples)
    sk = float(samples * outputs)
    n = float(sum(b.size for b in blocks))
    flops = dict.fromkeys(("plain", "gram", "setup", "dual", "rows", "factors", "apply"), 0.0)
    moved = {"plain": 10.0 * n * itemsize, "gram": 30.0 * sk * 8}
    passed = sum(s * b.outputs for b in blocks if held[b.name] == "factored")  # φ Vᵀ of every block at once
    grams = 0.0
    widest = 0.0
    kronecker = 0.0
    dense_d = plain_d = 0.0
    rows = 0.0
    only_dense = True
    for b in blocks:
        factored = held[b.name] == "factored"
        only_dense &= factored and b.single
        flops["factors"] += 2.0 * s * b.i**2 + 4.0 * b.o**3 + 2.0 * b.i**3
        flops["apply"] += 2.0 * b.o * b.i * (b.o + b.i)
        kronecker += 4.0 * b.i**2 + 8.0 * b.o**2
        if not factored:
            there = s * b.numbers("dense", outputs) * itemsize
            moved["plain"] += there
            moved["gram"] += 2.0 * there
            flops["dual"] += sk * sk * b.o * b.i
            rows = max(rows, sk * b.size)
            continue
        products, by_gram = 4.0 * s * b.q * b.o * b.i, 2.0 * s * s * b.o
        use = b.single and by_gram < products
        flops["plain"] += products
        flops["gram"] += by_gram if use else products
        flops["setup"] += 2.0 * s * s * b.i if use else 0.0
        flops["rows"] += 2.0 * sk * b.q * b.o * b.i
        flops["dual"] += sk * sk * (b.o if b.single else b.o * b.i) + s * s * b.i
        grams += s * s if b.single and s < 2 * b.i else 0.0
        dense_d = max(dense_d, sk * b.q * b.o)
        plain_d = max(plain_d, sk * b.o if b.single else 0.0)
        rows = max(rows, 0.0 if b.single else sk * b.size)
        widest = max(widest, s * b.outputs)
        for way in ("plain", "gram"):
            moved[way] += 2.0 * s * b.d_numbers(outputs) * itemsize

    def seconds(operations: float, traffic: float) -> float:
        return operations / rates.flops + traffic / rates.bandwidth

    calls = OVERHEAD * len(blocks)
    setup = seconds(flops["setup"] + flops["plain"], 0.0)  # φφᵀ, J g, and Jᵀ y at the end
    plain = calls + seconds(flops["plain"], moved["plain"])
    preconditioned = 2 * calls + seconds(flops["plain"] + flops["apply"], moved["plain"])
    small = passed * itemsize + CACHE + 8.0 * sk * 8
    gram = calls + seconds(flops["gram"], moved["gram"])
    factors = seconds(flops["factors"], 0.0) if only_dense else math.inf
    return {
        "plain": Cost(EXPECTED_CG * plain, small),
        "gram": Cost(setup + EXPECTED_CG * gram, (grams + 2 * widest) * itemsize + small + 16.0 * sk * 8),
        "kronecker": Cost(
            factors + EXPECTED_KRONECKER * preconditioned,
            small + (kronecker + dense_d / max(1, len(blocks))) * itemsize,
        ),
        "diagonal": Cost(EXPECTED_CG * plain, small + CACHE),
        "primal": Cost(
            seconds((flops["rows"] + sk * n * n + n**3 / 3) / DIRECT_RATE, (6.0 * sk * n + 3 * n * n) * itemsize),
            matrices * n * n * WIDE + min(ROWS, 3 * sk * n * itemsize) * (1 + WIDE / itemsize),
        ),
        "dual": Cost(
            seconds((flops["dual"] + sk**3 / 3) / DIRECT_RATE, 6.0 * sk * sk * itemsize),
            (matrices * sk * sk + s * s) * WIDE
            + plain_d * (4 * itemsize + WIDE)
            + min(ROWS, rows * itemsize) * (1 + WIDE / itemsize)
            + CACHE,
        ),
    }


def sampled_bytes(
    blocks: Sequence[BlockShape], held: Mapping[str, str], samples: int, outputs: int, itemsize: int, rows: int
) -> float:
    """Bytes of a solve with the sampled preconditioner, made from so many rows of J in float64."""
    passed = kept = 0.0
    for b in blocks:
        factored = held[b.name] == "factored"
        passed += samples * b.outputs * itemsize if factored else 0.0
        if factored and b.single:
            kept += 8.0 * (rows * (b.i + 1) / outputs + 2.0 * rows * b.o)
        else:
            kept += 8.0 * 3.0 * rows * b.size
    vectors = 8.0 * 4 * sum(b.size for b in blocks)
    return passed + CACHE + 64.0 * samples * outputs + 8.0 * 4 * rows**2 + kept + vectors


def evidence_bytes(rows: int) -> float:
    """What `C: auto` needs for the eigenvalues of J Jᵀ of so many rows: it, its sum over ranks and LAPACK's copies."""
    return 8.0 * (4 * rows**2 if rows <= EVIDENCE_ROWS else (LANCZOS_STEPS + 6) * rows)
