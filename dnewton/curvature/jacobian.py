"""Explicit Jacobian blocks J_p = ∂z^L/∂θ_p on a subsample S, in the representation that costs least.

With D^m[i,k,q,o] = ∂z^L_{i,k}/∂s^m_{i,q,o} and the patches φ[i,q,I], row (i, k) of a block is Σ_q D[i,k,q,O] ⊗ φ[i,q,I]
(Wang et al. 2018, equations 16-20). `factored` keeps D and φ; `dense` keeps the rows, contracted over positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from dnewton.arrays import Array, namespace, sample_blocks
from dnewton.curvature.blocks import BlockJacobian, Factored, Rows, merged
from dnewton.curvature.sensitivity import PerSample, Pooled, Selection, Sensitivity, Shared
from dnewton.layers.linear import Linear
from dnewton.network import Block, Cotangent, Network, Tape

Representation = Literal["auto", "factored", "dense"]

# The stated machine for `auto`: matrix products at FLOPS, everything else bound by BANDWIDTH; a direction takes
# about PRODUCTS products with J, over which building the rows is spread.
FLOPS, BANDWIDTH, PRODUCTS = 5e10, 1e10, 30
CACHED = 8 << 20  # bytes of rows and D that are worked on at a time: they must stay in cache between two products


@dataclass(frozen=True, eq=False)
class Unit:
    """Blocks that share one diagonal system: their indices and their common span of θ."""

    blocks: tuple[int, ...]
    span: slice

    @property
    def size(self) -> int:
        """Number of variables."""
        return int(self.span.stop - self.span.start)


def units(blocks: Sequence[Block], per_layer: bool) -> list[Unit]:
    """The diagonal systems of a rank: one over all its blocks, or one per layer block (`diagonal_unit`)."""
    if per_layer:
        return [Unit((i,), block.span) for i, block in enumerate(blocks)]
    return [Unit(tuple(range(len(blocks))), slice(0, blocks[-1].span.stop))]


@dataclass(frozen=True)
class Piece:
    """A block's J on some of the samples (all of them for dense layers)."""

    here: slice
    j: BlockJacobian

    def within(self, here: slice) -> slice:
        """Samples of S, counted from the piece's first."""
        return slice(here.start - self.here.start, here.stop - self.here.start)


class Jacobian:
    """J_p of this rank on S, held block by block."""

    def __init__(self, batches: list[list[BlockJacobian]], sizes: list[int], outputs: int) -> None:
        """`batches[b][i]` is block i on the samples of batch b."""
        self.samples, self.outputs = sum(sizes), outputs
        ends = [sum(sizes[: b + 1]) for b in range(len(sizes))]
        here = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.pieces: list[list[Piece]] = []
        for i in range(len(batches[0])):
            whole = merged([batch[i] for batch in batches])
            if whole is not None:
                self.pieces.append([Piece(slice(0, self.samples), whole)])
            else:
                self.pieces.append([Piece(part, batch[i]) for part, batch in zip(here, batches, strict=True)])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(piece.j.nbytes for pieces in self.pieces for piece in pieces)

    def representations(self) -> dict[str, str]:
        """Representation per layer name, for the log."""
        names = {Factored: "factored", Rows: "dense"}
        return {p[0].j.block.layer.shape.name: names[type(p[0].j)] for p in self.pieces}

    def times(self, v: Array, unit: Unit) -> Array:
        """Σ over the unit's blocks of J v, (S, K). Communicates nothing."""
        u = self._zeros(v)
        for piece in self._of(unit):
            u[piece.here] += piece.j.times(v)
        return u

    def add_transposed(self, w: Array, unit: Unit, out: Array) -> None:
        """out += Jᵀ w on the unit's blocks. Communicates nothing."""
        for piece in self._of(unit):
            piece.j.add_transposed(w[piece.here], out)

    def add_curved(self, v: Array, unit: Unit, bend: Callable[[Array, slice], Array], out: Array) -> None:
        """out += Jᵀ bend(J v) on the unit's blocks; `bend` acts on the samples of a slice by themselves.

        Rows and D are by far the largest things in memory: both products with them are done while they are in cache.
        """
        pieces = self._of(unit)
        begun = [piece.j.begin(v) for piece in pieces]
        edges = sorted({0, self.samples, *(p.here.start for p in pieces), *(p.here.stop for p in pieces)})
        for start, stop in pairwise(edges):
            active = [
                (p, b) for p, b in zip(pieces, begun, strict=True) if p.here.start <= start and stop <= p.here.stop
            ]
            width = sum(p.j.nbytes // max(1, p.here.stop - p.here.start) for p, _ in active)
            for part in sample_blocks(stop - start, width, CACHED):
                here = slice(start + part.start, start + part.stop)
                u = namespace(v).zeros((here.stop - here.start, self.outputs), dtype=v.dtype)
                for p, b in active:
                    u += p.j.part_times(b, p.within(here))
                w = bend(u, here)
                for p, b in active:
                    p.j.part_transposed(w, p.within(here), b, out)
        for piece, b in zip(pieces, begun, strict=True):
            piece.j.end(b, out)

    def gram_times(self, y: Array, unit: Unit) -> Array:
        """J Jᵀ y of the unit, (S, K). Communicates nothing."""
        u = self._zeros(y)
        for i in unit.blocks:
            pieces = self.pieces[i]
            if len(pieces) == 1:
                u += pieces[0].j.gram_times(y)
                continue
            block = pieces[0].j.block
            through = namespace(y).zeros((block.span.stop,), dtype=y.dtype)
            for piece in pieces:
                piece.j.add_transposed(y[piece.here], through)
            for piece in pieces:
                u[piece.here] += piece.j.times(through)
        return u

    def gram(self, unit: Unit) -> Array | None:
        """J Jᵀ of the unit as a matrix (S·K, S·K); None where S is held in several pieces."""
        total = None
        for i in unit.blocks:
            if len(self.pieces[i]) > 1:
                return None
            found = self.pieces[i][0].j.gram()
            total = found if total is None else total + found
        return total

    def rows(self, unit: Unit) -> Array | None:
        """J of the unit as a matrix (S·K, variables); None where S is held in several pieces."""
        if any(len(self.pieces[i]) > 1 for i in unit.blocks):
            return None
        found = [self.pieces[i][0].j.as_rows() for i in unit.blocks]
        return found[0] if len(found) == 1 else namespace(found[0]).concat(found, axis=1)

    def _of(self, unit: Unit) -> list[Piece]:
        return [piece for i in unit.blocks for piece in self.pieces[i]]

    def _zeros(self, like: Array) -> Array:
        return namespace(like).zeros((self.samples, self.outputs), dtype=like.dtype)


def build(network: Network, theta: Array, tapes: Sequence[Tape], representation: Representation) -> Jacobian:
    """The Jacobian blocks at θ on the batches of S whose forward passes are `tapes`.

    Collective over the backward-sum groups of every layer but the first: K·|S| numbers per input number of a slice,
    or K where D does not depend on the sample.
    """
    outputs = network.plan.outputs
    batches = []
    for tape in tapes:
        found: list[BlockJacobian] = []

        def keep(block: Block, op: Linear, cot: Cotangent, z: Array, found: list[BlockJacobian] = found) -> None:
            found.append(_represent(network, block, op, cot, z, outputs, representation))

        xp = namespace(theta)
        network.backward(theta, tape, xp.eye(outputs, dtype=theta.dtype)[None], keep)
        batches.append(found[::-1])
    return Jacobian(batches, [int(t.z.shape[0]) for t in tapes], outputs)


def _represent(
    network: Network, block: Block, op: Linear, cot: Cotangent, z: Array, outputs: int, wanted: Representation
) -> BlockJacobian:
    sensitivity = _sensitivity(network, block, cot, z.shape[0], outputs)
    if wanted == "auto":
        q = cot.outer.shape[2] if cot.winners is None else math.prod(cot.winners.pool.image)
        wanted = cheapest(z.shape[0], outputs, q, *block.shape, z.dtype.itemsize, cot.outer.shape[2])
    if wanted == "factored":
        return Factored(block, op.rows(z), sensitivity)
    return Rows(block, _rows(block, op, cot, z, outputs), outputs)


def _sensitivity(network: Network, block: Block, cot: Cotangent, samples: int, outputs: int) -> Sensitivity:
    xp = namespace(cot.outer)
    if cot.winners is not None:
        d = cot.pooled(slice(None))
        return Pooled(PerSample(_repeated(d, samples)), cot.winners)
    if cot.outer.shape[0] == 1 and (samples > 1 or cot.slope is not None):
        _, k, q, o = cot.outer.shape
        if block.position == len(network.plan.layers) - 1:
            return Selection(*block.out, outputs, cot.slope, cot.outer)
        slope = cot.slope
        if slope is None and q > 1:  # without a slope the positions would be lost in `expand`
            slope = xp.ones((samples, q, o), dtype=cot.outer.dtype)
        return Shared(xp.reshape(cot.outer, (k, q * o)), slope)
    return PerSample(_repeated(cot.product(), samples))


def _repeated(d: Array, samples: int) -> Array:
    return d if d.shape[0] == samples else namespace(d).broadcast_to(d, (samples, *d.shape[1:]))


def _rows(block: Block, op: Linear, cot: Cotangent, z: Array, outputs: int) -> Array:
    """Σ_q D ⊗ φ for every sample and output, in sample blocks that stay in cache."""
    xp = namespace(z)
    (o, i), s = block.shape, z.shape[0]
    q = cot.outer.shape[2] if cot.winners is None else math.prod(cot.winners.pool.image)
    rows = xp.empty((s, outputs, block.size), dtype=z.dtype)
    for part in sample_blocks(s, (q * i + outputs * o * (2 * q + i)) * z.dtype.itemsize):
        n = part.stop - part.start
        here = _repeated(cot.product(part), n)
        left = xp.permute_dims(here, (0, 1, 3, 2))  # transposed by the matrix product, not copied
        found = xp.matmul(left, op.rows(z[part])[:, None])
        rows[part, :, : o * i] = xp.reshape(found, (n, outputs, o * i))
        if block.has_bias:
            rows[part, :, o * i :] = xp.sum(here, axis=2)
    return xp.reshape(rows, (s * outputs, block.size))


def cheapest(
    samples: int, outputs: int, positions: int, o: int, i: int, itemsize: int, held: int | None = None
) -> Representation:
    """The representation with the least seconds per Gauss-Newton product on the stated machine.

    factored: 4 S Q O I flops and D (with `held` positions, fewer than Q after pooling) read twice; dense: the rows read
    twice, and building them (2 S K Q O I flops) spread over the products of a direction.
    """
    factored = 4.0 * samples * positions * o * i / FLOPS
    factored += 2.0 * samples * (positions if held is None else held) * (outputs * o + o) * itemsize / BANDWIDTH
    dense = 2.0 * samples * outputs * o * i * itemsize / BANDWIDTH
    dense += 2.0 * samples * outputs * positions * o * i / FLOPS / PRODUCTS
    return "dense" if dense < factored else "factored"
