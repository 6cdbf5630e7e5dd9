"""Explicit Jacobian blocks J_p = ∂z^L/∂θ_p on a subsample S, in the representation that costs least.

With D^m[i,k,q,o] = ∂z^L_{i,k}/∂s^m_{i,q,o} and the patches φ[i,q,I], row (i, k) of a block is Σ_q D[i,k,q,O] ⊗ φ[i,q,I]
(Wang et al. 2018, equations 16-20). `factored` keeps D and φ; `dense` keeps the rows, contracted over positions. S is
worked through in chunks, which bounds the temporaries: a chunk's K-fold sweep is written into arrays for all of S.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dnewton.arrays.namespace import (
    Array,
    block_bytes,
    empty,
    identity,
    itemsize,
    namespace,
    nbytes,
    on_cuda,
    ones,
    sample_blocks,
    zeros,
)
from dnewton.curvature.block_jacobian import BlockJacobian, Factored, Rows
from dnewton.curvature.gram import GramTerm, SampleMap
from dnewton.curvature.output_jacobian import OutputJacobian, PerSample, Pooled, Selection, Shared
from dnewton.curvature.sample_store import SampleStore
from dnewton.grid import ceil_div, even_slices
from dnewton.model.block import Block
from dnewton.model.cotangent import Cotangent
from dnewton.model.layers.interface import Linear
from dnewton.model.layers.max_pool import MaxIndices
from dnewton.model.network import Network, Tape
from dnewton.planning.costs import CACHE
from dnewton.planning.net_plan import NetPlan

Representation = Literal["factored", "dense"]


@dataclass(frozen=True, eq=False)
class LocalSystem:
    """Blocks that share one diagonal system: their indices and their common span of θ."""

    blocks: tuple[int, ...]
    span: slice

    @property
    def size(self) -> int:
        """Number of variables."""
        return int(self.span.stop - self.span.start)


def local_systems(blocks: Sequence[Block], per_layer: bool) -> list[LocalSystem]:
    """The diagonal systems of a rank: one over all its blocks, or one per layer block (`diagonal_unit`)."""
    if per_layer:
        return [LocalSystem((i,), block.span) for i, block in enumerate(blocks)]
    return [LocalSystem(tuple(range(len(blocks))), slice(0, blocks[-1].span.stop))]


class Jacobian:
    """J_p of this rank on S, held block by block."""

    def __init__(
        self, blocks: list[BlockJacobian], samples: int, outputs: int, sound: bool = True, halved: bool = False
    ) -> None:
        """`sound`: rounding has made nothing infinite. `halved`: some of it is held in half precision."""
        self.blocks = blocks
        self.samples = samples
        self.outputs = outputs
        self.sound = sound
        self._halved = halved

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(j.nbytes for j in self.blocks)

    def of(self, unit: LocalSystem) -> list[BlockJacobian]:
        """The unit's blocks."""
        return [self.blocks[i] for i in unit.blocks]

    def times(self, v: Array, unit: LocalSystem) -> Array:
        """Σ over the unit's blocks of J v, (S, K). Communicates nothing."""
        u = self._zeros(v)
        for j in self.of(unit):
            u += j.times(v)
        return u

    def add_transposed(self, w: Array, unit: LocalSystem, out: Array) -> None:
        """out += Jᵀ w on the unit's blocks. Communicates nothing."""
        for j in self.of(unit):
            j.add_transposed(w, out)

    def add_curved(self, v: Array, unit: LocalSystem, curve: Callable[[Array, slice], Array], out: Array) -> None:
        """out += Jᵀ curve(J v) on the unit's blocks; `curve` acts on the samples of a slice by themselves.

        Rows and D are by far the largest things in memory: both products with them are done while they are in cache.
        A GPU's cache is too small for that: there only what is made on the way bounds the samples at a time.
        """
        blocks = self.of(unit)
        begun = [j.begin(v) for j in blocks]
        width = sum(j.nbytes for j in blocks)
        if on_cuda(v) and not self._halved:
            width = 2 * max(nbytes(b) for b in begun)
        for here in sample_blocks(self.samples, width // max(1, self.samples), block_bytes(v, CACHE)):
            u = zeros((here.stop - here.start, self.outputs), v)
            for j, b in zip(blocks, begun, strict=True):
                u += j.part_times(b, here)
            w = curve(u, here)
            for j, b in zip(blocks, begun, strict=True):
                j.part_transposed(w, here, b, out)
        for j, b in zip(blocks, begun, strict=True):
            j.end(b, out)

    def gram_times(self, y: Array, unit: LocalSystem) -> Array:
        """J Jᵀ y of the unit, (S, K). Communicates nothing."""
        u = self._zeros(y)
        for j in self.of(unit):
            u += j.gram_times(y)
        return u

    def gram_terms(self, unit: LocalSystem, mapped: SampleMap, dtype: str) -> Iterator[GramTerm]:
        """What A Aᵀ of the unit is the sum of, A the rows of J after `mapped`, one at a time, in a precision."""
        for j in self.of(unit):
            yield from j.gram_terms(self.outputs, mapped, dtype)

    def make_input_grams(self, unit: LocalSystem) -> None:
        """Form φφᵀ for the unit's dense layers where products with it are cheaper than with φ."""
        for j in self.of(unit):
            if isinstance(j, Factored) and j.phi.shape[1] == 1 and j.phi.shape[0] < 2 * j.phi.shape[2]:
                j.make_inputs_gram()

    def rows(self, unit: LocalSystem, part: slice) -> Array:
        """J of the unit on some samples as a matrix (n·K, variables)."""
        rows = [j.as_rows(part) for j in self.of(unit)]
        return rows[0] if len(rows) == 1 else namespace(rows[0]).concat(rows, axis=1)

    def _zeros(self, like: Array) -> Array:
        return zeros((self.samples, self.outputs), like)


def build(
    network: Network,
    theta: Array,
    tapes: Sequence[Tape],
    how: Representation | Mapping[str, str],
    chunk: int = 2**31,
    dtype: str | None = None,
) -> Jacobian:
    """The Jacobian blocks at θ on the batches of S whose forward passes are `tapes`, `chunk` samples at a time.

    `how` is the representation of all blocks, or of each by its layer's name. With a `dtype`, float16 or bfloat16, what
    is held besides the forward pass is rounded to it.

    Collective over the backward-sum groups of every layer but the first: K·|S| numbers per input number of a slice,
    or K per chunk where D does not depend on the sample.
    """
    outputs = network.plan.outputs
    samples = sum(int(tape.z.shape[0]) for tape in tapes)
    building: dict[int, _Building] = {}
    start = 0
    for tape in tapes:
        n = int(tape.z.shape[0])
        for part in even_slices(n, ceil_div(n, chunk)):
            network.comm.stops.safe_point()
            here = slice(start + part.start, start + part.stop)

            def take(block: Block, op: Linear, cot: Cotangent, z: Array, here: slice = here) -> None:
                if block.position not in building:
                    wanted = how if isinstance(how, str) else how[block.name]
                    make = _BuildingFactored if wanted == "factored" else _BuildingRows
                    building[block.position] = make(network.plan, block, samples, outputs, dtype)
                building[block.position].take(here, op, cot, z)

            network.backward(theta, tape.part(part), identity(outputs, theta)[None, ...], take)
        start += n
    done = [building[block.position].done() for block in network.blocks]
    return Jacobian(done, samples, outputs, all(b.sound for b in building.values()), dtype is not None)


class _Building:
    """J of one block while the chunks of S arrive."""

    def __init__(self, plan: NetPlan, block: Block, samples: int, outputs: int, dtype: str | None) -> None:
        self.plan = plan
        self.block = block
        self.samples = samples
        self.outputs = outputs
        self.dtype = dtype
        self._stores: dict[str, SampleStore] = {}

    def take(self, here: slice, op: Linear, cot: Cotangent, z: Array) -> None:
        """Take in the samples `here` of S, whose cotangent and input are given."""
        raise NotImplementedError

    def done(self) -> BlockJacobian:
        """The block's J on all of S."""
        raise NotImplementedError

    @property
    def sound(self) -> bool:
        """Rounding has made nothing infinite."""
        return all(held.sound for held in self._stores.values())

    def _put(self, name: str, here: slice, values: Array, dtype: str | None = None) -> None:
        """Keep the values of some samples; those of all of them at once are kept as they are."""
        if here.stop - here.start == self.samples == values.shape[0]:
            self._stores[name] = SampleStore(values, dtype)
            return
        if name not in self._stores:
            self._stores[name] = SampleStore.room(self.samples, values, dtype)
        self._stores[name].put(here, values)

    def _keep(self, here: slice, cot: Cotangent) -> None:
        """Multiply the cotangent out to where D is kept; the sweep continues from there."""
        if self.dtype is not None:
            d = cot.keep()
            shape = (here.stop - here.start, *d.shape[1:])
            self._put("d", here, namespace(d).broadcast_to(d, shape), self.dtype)
            return
        if cot.slope is None and here.stop - here.start == self.samples == cot.outer.shape[0]:
            self._stores["d"] = SampleStore(cot.keep())
            return
        if "d" not in self._stores:
            self._stores["d"] = SampleStore.room(self.samples, cot.outer, None)
        cot.keep(self._stores["d"].part(here))


class _BuildingFactored(_Building):
    def take(self, here: slice, op: Linear, cot: Cotangent, z: Array) -> None:
        # A dense layer's inputs are the forward pass's own array: a rounded copy would be more, not less.
        self._put("phi", here, op.rows(z), self.dtype if self.block.layer.spec.options.copies_patches else None)
        self._pool = None
        if cot.winners is not None:
            self._pool = cot.winners.pool
            self._put("code", here, cot.winners.code)
            self._keep(here, cot)
        elif self.plan.above_depends_on_sample[self.block.position]:
            self._keep(here, cot)
        else:
            self._outer = cot.outer
            slope = cot.slope
            _, _, q, o = cot.outer.shape
            if slope is None and q > 1:  # without a slope the positions would be lost in `expand`
                slope = ones((z.shape[0], q, o), z)
            if slope is not None:
                self._put("slope", here, slope)

    def done(self) -> Factored:
        return Factored(self.block, self._stores["phi"], self._sensitivity())

    def _sensitivity(self) -> OutputJacobian:
        d = self._stores.get("d")
        slope = self._stores["slope"].array if "slope" in self._stores else None
        if self._pool is not None:
            assert d is not None
            return Pooled(PerSample(d), MaxIndices(self._pool, self._stores["code"].array, again=True))
        if d is not None:
            return PerSample(d)
        if self.block.position == len(self.plan.layers) - 1:
            return Selection(*self.block.out, self.outputs, slope, self._outer)
        _, k, q, o = self._outer.shape
        return Shared(namespace(self._outer).reshape(self._outer[0, ...], (k, q * o)), slope)


class _BuildingRows(_Building):
    def take(self, here: slice, op: Linear, cot: Cotangent, z: Array) -> None:
        """Σ_q D ⊗ φ for every sample and output, in sample blocks that stay in cache."""
        xp = namespace(z)
        block = self.block
        outputs = self.outputs
        if "rows" not in self._stores:
            like = empty((0, outputs, block.size), z)
            self._stores["rows"] = SampleStore.room(self.samples, like, self.dtype)
        (o, i) = block.shape
        s = z.shape[0]
        q = cot.outer.shape[2] if cot.winners is None else math.prod(cot.winners.pool.image)
        cot.keep_whole()
        width = (q * i + outputs * o * (2 * q + i)) * itemsize(z)
        for part in sample_blocks(s, width, block_bytes(z)):
            n = part.stop - part.start
            d = cot.product(part)
            if d.shape[0] != n:
                d = xp.broadcast_to(d, (n, *d.shape[1:]))
            left = xp.permute_dims(d, (0, 1, 3, 2))  # transposed by the matrix product, not copied
            weights = xp.reshape(xp.matmul(left, op.rows(z[part, ...])[:, None, ...]), (n, outputs, o * i))
            place = slice(here.start + part.start, here.start + part.stop)
            rows = self._stores["rows"].part(place) if self.dtype is None else empty((n, outputs, block.size), z)
            rows[:, :, : o * i] = weights
            if block.has_bias:
                rows[:, :, o * i :] = xp.sum(block.at_bias(d), axis=2)
            if self.dtype is not None:
                self._stores["rows"].put(place, rows)

    def done(self) -> Rows:
        return Rows(self.block, self._stores["rows"].flat(self.outputs), self.outputs)
