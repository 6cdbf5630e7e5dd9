"""Explicit Jacobian blocks J_p = ∂z^L/∂θ_p on a subsample S, in the representation that costs least.

With D^m[i,k,q,o] = ∂z^L_{i,k}/∂s^m_{i,q,o} and the patches φ[i,q,I], row (i, k) of a block is Σ_q D[i,k,q,O] ⊗ φ[i,q,I]
(Wang et al. 2018, equations 16-20). `factored` keeps D and φ; `dense` keeps the rows, contracted over positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dnewton.arrays import Array, namespace, sample_blocks
from dnewton.layers.linear import Linear
from dnewton.network import Block, Cotangent, Network, Tape

Representation = Literal["auto", "factored", "dense"]

# The stated machine for `auto`: matrix products at FLOPS, everything else bound by BANDWIDTH; a direction takes
# about PRODUCTS products with J, over which building the rows is spread.
FLOPS, BANDWIDTH, PRODUCTS = 5e10, 1e10, 30


class Sensitivity(Protocol):
    """D of one block in some form."""

    def contract(self, t: Array) -> Array:
        """Σ_{q,o} D[i,k,q,o] t[i,q,o]: (S, Q, O) to (S, K)."""
        ...

    def expand(self, w: Array) -> Array:
        """Σ_k w[i,k] D[i,k,q,o]: (S, K) to (S, Q, O)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


def _nbytes(*arrays: Array | None) -> int:
    return sum(int(a.nbytes) for a in arrays if a is not None)


@dataclass(frozen=True)
class Selection:
    """The last layer: D is the identity's columns [lo, hi), times the slope of an output activation if there is one."""

    lo: int
    hi: int
    outputs: int
    slope: Array | None  # (S, 1, O)

    def contract(self, t: Array) -> Array:
        u = namespace(t).zeros((t.shape[0], self.outputs), dtype=t.dtype)
        u[:, self.lo : self.hi] = t[:, 0] if self.slope is None else (t * self.slope)[:, 0]
        return u

    def expand(self, w: Array) -> Array:
        e = w[:, None, self.lo : self.hi]
        return e if self.slope is None else e * self.slope

    @property
    def nbytes(self) -> int:
        return _nbytes(self.slope)


@dataclass(frozen=True)
class Shared:
    """D[i,k,q,o] = A[k,q,o] σ′[i,q,o], A the same for all samples (the layer before the last): D is never formed."""

    outer: Array  # (K, Q·O)
    slope: Array | None  # (S, Q, O)

    def contract(self, t: Array) -> Array:
        t = t if self.slope is None else t * self.slope
        return namespace(t).reshape(t, (t.shape[0], t.shape[1] * t.shape[2])) @ self.outer.T

    def expand(self, w: Array) -> Array:
        e = w @ self.outer
        if self.slope is None:
            return e[:, None, :]
        return namespace(e).reshape(e, self.slope.shape) * self.slope

    @property
    def nbytes(self) -> int:
        return _nbytes(self.outer, self.slope)


@dataclass(frozen=True)
class PerSample:
    """D stored sample-major, (S, K, Q, O)."""

    d: Array

    def contract(self, t: Array) -> Array:
        xp, (s, k, q, o) = namespace(t), self.d.shape
        return xp.matmul(xp.reshape(self.d, (s, k, q * o)), xp.reshape(t, (s, q * o, 1)))[:, :, 0]

    def expand(self, w: Array) -> Array:
        xp, (s, k, q, o) = namespace(w), self.d.shape
        return xp.reshape(xp.matmul(w[:, None, :], xp.reshape(self.d, (s, k, q * o))), (s, q, o))

    @property
    def nbytes(self) -> int:
        return _nbytes(self.d)


class BlockJacobian(Protocol):
    """J of one weight block on one batch of S."""

    @property
    def block(self) -> Block:
        """The weight block."""
        ...

    def times(self, v: Array) -> Array:
        """J v for a vector laid out like θ, (S, K)."""
        ...

    def add_transposed(self, w: Array, out: Array) -> None:
        """out += Jᵀ w, on this block's span of a vector laid out like θ."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


@dataclass(frozen=True)
class Factored:
    """J as D and φ: one matrix product with φ over all samples, one contraction with D."""

    block: Block
    phi: Array  # (S, Q, I)
    d: Sensitivity

    def times(self, v: Array) -> Array:
        xp, (s, q, i) = namespace(v), self.phi.shape
        t = xp.reshape(self.phi, (s * q, i)) @ self.block.weight(v).T
        if self.block.has_bias:
            t += self.block.bias(v)
        return self.d.contract(xp.reshape(t, (s, q, self.block.shape[0])))

    def add_transposed(self, w: Array, out: Array) -> None:
        xp, (s, q, i) = namespace(w), self.phi.shape
        e = xp.reshape(self.d.expand(w), (s * q, self.block.shape[0]))
        self.block.weight(out)[...] += e.T @ xp.reshape(self.phi, (s * q, i))
        if self.block.has_bias:
            self.block.bias(out)[...] += xp.sum(e, axis=0)

    @property
    def nbytes(self) -> int:
        return _nbytes(self.phi) + self.d.nbytes


@dataclass(frozen=True)
class Rows:
    """J as its rows, contracted over positions: far smaller than D and φ for convolutions on large images."""

    block: Block
    rows: Array  # (S·K, |O|·|I| [+ |O|]), laid out like the block's span of θ
    outputs: int

    def times(self, v: Array) -> Array:
        u = self.rows @ v[self.block.span]
        return namespace(u).reshape(u, (u.shape[0] // self.outputs, self.outputs))

    def add_transposed(self, w: Array, out: Array) -> None:
        out[self.block.span] += namespace(w).reshape(w, (w.shape[0] * self.outputs,)) @ self.rows

    @property
    def nbytes(self) -> int:
        return _nbytes(self.rows)


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


class Jacobian:
    """J_p of this rank on S, held block by block and batch by batch."""

    def __init__(self, batches: list[list[BlockJacobian]], sizes: list[int], outputs: int) -> None:
        self._batches, self._sizes, self.outputs = batches, sizes, outputs
        self.samples = sum(sizes)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(b.nbytes for batch in self._batches for b in batch)

    def representations(self) -> dict[str, str]:
        """Representation per layer name, for the log."""
        names = {Factored: "factored", Rows: "dense"}
        return {b.block.layer.shape.name: names[type(b)] for b in self._batches[0]}

    def times(self, v: Array, unit: Unit) -> Array:
        """Σ over the unit's blocks of J v, (S, K). Communicates nothing."""
        xp = namespace(v)
        u = xp.zeros((self.samples, self.outputs), dtype=v.dtype)
        for batch, here in zip(self._batches, self._slices(), strict=True):
            for i in unit.blocks:
                u[here] += batch[i].times(v)
        return u

    def add_transposed(self, w: Array, unit: Unit, out: Array) -> None:
        """out += Jᵀ w on the unit's blocks. Communicates nothing."""
        for batch, here in zip(self._batches, self._slices(), strict=True):
            for i in unit.blocks:
                batch[i].add_transposed(w[here], out)

    def _slices(self) -> list[slice]:
        ends = [sum(self._sizes[: i + 1]) for i in range(len(self._sizes))]
        return [slice(end - size, end) for end, size in zip(ends, self._sizes, strict=True)]


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
    q = cot.outer.shape[2]
    if wanted == "auto":
        wanted = cheapest(z.shape[0], outputs, q, *block.shape, z.dtype.itemsize)
    if wanted == "factored":
        return Factored(block, op.rows(z), sensitivity)
    return Rows(block, _rows(block, op, cot, z, outputs), outputs)


def _sensitivity(network: Network, block: Block, cot: Cotangent, samples: int, outputs: int) -> Sensitivity:
    xp = namespace(cot.outer)
    if cot.outer.shape[0] == 1 and (samples > 1 or cot.slope is not None):
        _, k, q, o = cot.outer.shape
        if block.position == len(network.plan.layers) - 1:
            return Selection(*block.out, outputs, cot.slope)
        slope = cot.slope
        if slope is None and q > 1:  # without a slope the positions would be lost in `expand`
            slope = xp.ones((samples, q, o), dtype=cot.outer.dtype)
        return Shared(xp.reshape(cot.outer, (k, q * o)), slope)
    d = cot.product()
    return PerSample(d if d.shape[0] == samples else xp.broadcast_to(d, (samples, *d.shape[1:])))


def _rows(block: Block, op: Linear, cot: Cotangent, z: Array, outputs: int) -> Array:
    """Σ_q D ⊗ φ for every sample and output, in sample blocks that stay in cache."""
    xp = namespace(z)
    (o, i), d, s = block.shape, cot.product(), z.shape[0]
    rows = xp.empty((s, outputs, block.size), dtype=z.dtype)
    q = d.shape[2]
    for part in sample_blocks(s, (q * i + outputs * o * (q + i)) * z.dtype.itemsize):
        n = part.stop - part.start
        here = d[part] if d.shape[0] == s else xp.broadcast_to(d, (n, *d.shape[1:]))
        left = xp.reshape(xp.permute_dims(here, (0, 1, 3, 2)), (n, outputs * o, q))
        rows[part, :, : o * i] = xp.reshape(xp.matmul(left, op.rows(z[part])), (n, outputs, o * i))
        if block.has_bias:
            rows[part, :, o * i :] = xp.sum(here, axis=2)
    return xp.reshape(rows, (s * outputs, block.size))


def cheapest(samples: int, outputs: int, positions: int, o: int, i: int, itemsize: int) -> Representation:
    """The representation with the least seconds per Gauss-Newton product on the stated machine.

    factored: 4 S Q O I flops and D read twice; dense: the rows read twice, and building them (2 S K Q O I flops)
    spread over the products of a direction.
    """
    factored = 4.0 * samples * positions * o * i / FLOPS
    factored += 2.0 * samples * positions * (outputs * o + o) * itemsize / BANDWIDTH
    dense = 2.0 * samples * outputs * o * i * itemsize / BANDWIDTH
    dense += 2.0 * samples * outputs * positions * o * i / FLOPS / PRODUCTS
    return "dense" if dense < factored else "factored"
