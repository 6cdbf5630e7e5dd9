"""The chain of layers on a layout: this rank's weight blocks, the forward pass and the backward sweep.

Data are (N, features) or (N, H, W, C) slices in the plan's input split. Cotangents carry K right-hand sides; a
cotangent is complete and identical on every holder of its slice (docs/layout.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dnewton.arrays.namespace import Array, multiply, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.grid import Move, SplitAxis, moves
from dnewton.model.cotangent import Cotangent
from dnewton.model.layers.activation import ACTIVATIONS
from dnewton.model.layers.linear import Conv, Dense, Linear
from dnewton.model.layers.pool import Flatten, MaxIndices, Pool
from dnewton.planning.net_plan import LayerPlan, NetPlan, conv_image


@dataclass(frozen=True)
class Block:
    """This rank's block W[O, I] of one layer, and the bias slice if this rank owns it, inside its flat vector θ.

    W is (|O|, kh·kw·|I|), patches in the order (kh, kw, channel).
    """

    layer: LayerPlan
    position: int
    out: tuple[int, int]
    inputs: tuple[int, int]
    shape: tuple[int, int]
    has_bias: bool
    offset: int

    @property
    def weights(self) -> int:
        """Numbers in W."""
        return self.shape[0] * self.shape[1]

    @property
    def size(self) -> int:
        """Numbers in W and the bias."""
        return self.weights + (self.shape[0] if self.has_bias else 0)

    @property
    def span(self) -> slice:
        """Where the block lies in θ."""
        return slice(self.offset, self.offset + self.size)

    def weight(self, theta: Array) -> Array:
        """View of W in a vector laid out like θ."""
        return namespace(theta).reshape(theta[self.offset : self.offset + self.weights], self.shape)

    def bias(self, theta: Array) -> Array:
        """View of the bias; only where `has_bias`."""
        return theta[self.offset + self.weights : self.offset + self.size]

    def add(self, out: Array, weight: Array, d: Array) -> None:
        """out += a gradient in W, and in the bias the sum of cotangents (N, Q, O)."""
        here = self.weight(out)
        here += weight
        if self.has_bias:
            bias = self.bias(out)
            bias += namespace(d).sum(d, axis=(0, 1))

    def whole_shape(self) -> tuple[int, ...]:
        """The shape, in PyTorch's order, that the rank's block has: (O, I) or (O, I, kh, kw)."""
        channels = self.inputs[1] - self.inputs[0]
        return (self.shape[0], channels, *self.layer.shape.weight_shape[2:])

    def to_file_order(self, weight: Array) -> Array:
        """W as [out, in, kh, kw] or [out, in]."""
        o, c, *kernel = self.whole_shape()
        if not kernel:
            return weight
        xp = namespace(weight)
        return xp.permute_dims(xp.reshape(weight, (o, *kernel, c)), (0, 3, 1, 2))

    def from_file_order(self, weight: Array) -> Array:
        """The inverse of :meth:`to_file_order`."""
        xp = namespace(weight)
        if weight.ndim == 4:
            weight = xp.permute_dims(weight, (0, 2, 3, 1))
        return xp.reshape(weight, self.shape)


@dataclass
class Tape:
    """What a forward pass of one batch leaves for the backward sweep."""

    z: Array
    inputs: list[Array | None] = field(default_factory=list)
    outputs: list[Array | None] = field(default_factory=list)
    codes: list[Array | None] = field(default_factory=list)

    def part(self, some: slice) -> Tape:
        """The pass of some of the samples, as views."""

        def cut(arrays: list[Array | None]) -> list[Array | None]:
            return [None if a is None else a[some, ...] for a in arrays]

        return Tape(self.z[some, ...], cut(self.inputs), cut(self.outputs), cut(self.codes))


Visit = Callable[[Block, Linear, Cotangent, Array], Array | None]  # see Network.backward
Pushed = dict[int, tuple[Array | None, Array]]  # see Network.tangents


class Network:
    """The network on this rank: its blocks and the passes over batches."""

    def __init__(self, plan: NetPlan, comm: Comm) -> None:
        self.plan = plan
        self.comm = comm
        self.ops: list[Linear | Pool | Flatten] = [_operation(layer) for layer in plan.layers]
        self.blocks: list[Block] = blocks_of(plan, comm.rank)
        self.size = sum(b.size for b in self.blocks)
        self._block_at = {b.position: b for b in self.blocks}
        grid, last = plan.grid, plan.layers[-1]
        self._into = [moves(grid, layer.source, layer.in_split) for layer in plan.layers]
        self._back = [moves(grid, layer.in_split, layer.source) for layer in plan.layers]
        self._out = moves(grid, last.out_split, "full")
        self._out_back = moves(grid, "full", last.out_split)

    def forward(self, theta: Array, x: Array, keep: bool = True) -> Tape:
        """Outputs z^L (N, K) on every rank; with `keep`, what the backward sweep needs.

        Collective over the forward-sum groups of every layer.
        """
        tape, z = Tape(x), x
        for i, layer in enumerate(self.plan.layers):
            z = self._move(z, self._into[i], layer.in_units)
            op = self.ops[i]
            code = None
            kept = z
            if isinstance(op, (Pool, Flatten)):
                z, code = op.forward(z)
                kept = None
            else:
                z = self._affine(theta, self._block_at[i], op, z)
            if keep:
                tape.inputs.append(kept)
                tape.outputs.append(z if layer.shape.activation != "linear" else None)
                tape.codes.append(code)
        tape.z = self._move(z, self._out, self.plan.layers[-1].out_units)
        return tape

    def _affine(self, theta: Array, block: Block, op: Linear, z: Array) -> Array:
        s = op.forward(block.weight(theta), z)
        if block.has_bias:
            s += block.bias(theta)
        assert block.layer.split_kind is not None
        s = self.comm.allreduce(s, block.layer.split_kind.forward)
        activation = block.layer.shape.activation
        return s if activation == "linear" else ACTIVATIONS[activation].value(s)

    def backward(self, theta: Array, tape: Tape, cot: Array, visit: Visit) -> None:
        """Sweep a cotangent of the outputs (N or 1, K, outputs) back; `visit` sees each block's, last layer first.

        A leading 1 (the same for all samples) is kept as long as nothing depends on the sample. `visit` may return this
        rank's part of the cotangent of the block's input, fit to be overwritten; else it is the block's cotangent
        times W.
        Collective over the backward-sum groups of every layer but the first.
        """
        cot = self._move(cot, self._out_back, self.plan.layers[-1].out_units)
        winners: MaxIndices | None = None
        for i in range(len(self.plan.layers) - 1, -1, -1):
            layer, op = self.plan.layers[i], self.ops[i]
            if isinstance(op, (Pool, Flatten)):
                winners = self._winners(i, op, tape)
                if winners is not None:
                    continue  # the cotangent stays pooled for the layer below
                cot = op.backward(cot, tape.codes[i])
            else:
                block = self._block_at[i]
                here = self._cotangent(op, layer, cot, tape.outputs[i], winners)
                winners = None
                given = visit(block, op, here, tape.inputs[i])
                if layer.first:
                    return
                cot = op.input_cotangent(block.weight(theta), here, tape.z.shape[0]) if given is None else given
                del here, given  # as large as the cotangent itself
                assert layer.split_kind is not None
                cot = self.comm.allreduce(cot, layer.split_kind.backward)
            cot = self._move(cot, self._back[i], layer.in_units)

    def _winners(self, i: int, op: Pool | Flatten, tape: Tape) -> MaxIndices | None:
        """The maxima of a pooling that follows a convolution directly, where its cotangent can stay pooled."""
        if not isinstance(op, Pool) or not op.maximum or op.padding != (0, 0) or i == 0 or self._back[i]:
            return None
        code = tape.codes[i]
        return MaxIndices(op, code) if isinstance(self.ops[i - 1], Conv) and code is not None else None

    def _cotangent(
        self, op: Linear, layer: LayerPlan, cot: Array, z: Array | None, winners: MaxIndices | None
    ) -> Cotangent:
        outer = op.positions(cot)
        if z is None:
            return Cotangent(outer, None, winners)
        slope = ACTIVATIONS[layer.shape.activation].slope
        if winners is None:
            return Cotangent(outer, op.positions(slope(z)[:, None, ...])[:, 0, ...])
        return Cotangent(outer, slope(winners.gather(op.positions(z[:, None, ...])[:, 0, ...])), winners)

    def gradient(self, theta: Array, tape: Tape, cot: Array, out: Array) -> None:
        """Add Σ over the batch of ∂ξ/∂θ to `out`, for cot = ∂ξ/∂z (N, K). Collective like :meth:`backward`."""

        self.pull(theta, tape, cot[:, None, :], 0, out)

    def pull(self, theta: Array, tape: Tape, cot: Array, mine: int, out: Array) -> None:
        """out += Jᵀ cot[:, mine] on this rank's blocks, for cotangents (N, K, outputs) that ranks may have chosen
        differently. Collective like :meth:`backward`."""

        def add(block: Block, op: Linear, here: Cotangent, z: Array) -> None:
            d = here.one(mine).keep_whole()[:, 0, ...]  # (N, Q, O)
            block.add(out, op.weight_gradient(d, z), d)

        self.backward(theta, tape, cot, add)

    def tangents(
        self, theta: Array, tape: Tape, v: Array, tangents: int = 1, mine: int = 0, pushed: Pushed | None = None
    ) -> Array:
        """∂z^L along directions v in θ, (tangents, N, outputs), the same on every rank.

        This rank's v belongs to tangent `mine`: all ranks in one tangent give J v, each in its own the pieces J_p v_p.
        `pushed` takes, by block position, the tangents of the block's input slice (None in the first layer with
        weights) and of its s, each with the leading axis `tangents`.
        Collective over the forward-sum groups of every layer, with `tangents` times a forward pass's numbers.
        """
        xp, n = namespace(v), int(tape.z.shape[0])
        t: Array | None = None  # (tangents, N, ...); None below the first layer with weights
        for i, layer in enumerate(self.plan.layers):
            op, code = self.ops[i], tape.codes[i]
            if t is not None:
                t = self._move(t, self._into[i], layer.in_units)
            if isinstance(op, (Pool, Flatten)):
                if t is not None:
                    t = xp.stack([op.push(t[j, ...], code) for j in range(tangents)])
                continue
            block, z = self._block_at[i], tape.inputs[i]
            own = op.forward(block.weight(v), z)
            if block.has_bias:
                own += block.bias(v)
            s = zeros((tangents, *own.shape), own)
            if t is not None:
                flat = op.forward(block.weight(theta), xp.reshape(t, (tangents * n, *t.shape[2:])))
                s = xp.reshape(flat, s.shape)
            s[mine, ...] += own
            assert layer.split_kind is not None
            s = self.comm.allreduce(s, layer.split_kind.forward)
            if pushed is not None:
                pushed[i] = t, s
            t = s
            if tape.outputs[i] is not None:
                slope = ACTIVATIONS[layer.shape.activation].slope(tape.outputs[i])
                t = multiply(s, slope, s) if pushed is None else s * slope
        return self._move(t, self._out, self.plan.layers[-1].out_units)

    def whole_input(self, array: Array) -> Array:
        """This rank's slice of what there is per input feature (last axis), made whole. Collective over the world."""
        plan = self.plan
        return self._move(array, moves(plan.grid, plan.input_split, "full"), plan.input_units)

    def whole_slice(self, block: Block, array: Array, of_outputs: bool = False) -> Array:
        """A layer's input slice (or what belongs to its output slice, on the last axis), made whole. Collective."""
        layer, grid = block.layer, self.plan.grid
        split, units = (layer.out_split, layer.out_units) if of_outputs else (layer.in_split, layer.in_units)
        return self._move(array, moves(grid, split, "full"), units)

    def _move(self, array: Array, steps: tuple[Move, ...], units: SplitAxis) -> Array:
        grid, rank = self.plan.grid, self.comm.rank
        for step in steps:
            if step.group == "none":
                origin = grid.bounds(step.source, units, rank)[0]
                lo, hi = grid.bounds(step.target, units, rank)
                array = array[..., (lo - origin) * units.size : (hi - origin) * units.size]
            else:
                widths = [grid.width(step.source, units, r) for r in grid.members(step.group, rank)]
                array = self.comm.gather_features(array, step.group, widths)
        return array


def _operation(layer: LayerPlan) -> Linear | Pool | Flatten:
    shape, options = layer.shape, layer.shape.spec.options
    if shape.kind == "dense":
        return Dense()
    image = conv_image(shape.in_shape)
    if shape.kind == "conv":
        return Conv(image, options.kernel, options.stride, options.padding)
    if shape.kind == "flatten":
        return Flatten(image)
    return Pool(shape.kind == "maxpool", image, options.size, options.stride or options.size, options.padding)


def blocks_of(plan: NetPlan, rank: int) -> list[Block]:
    """The blocks of a rank of the grid, one per layer with weights."""
    grid = plan.grid
    blocks = []
    offset = 0
    for position, layer in enumerate(plan.layers):
        if layer.split_kind is None:
            continue
        out = grid.bounds(layer.out_split, layer.out_units, rank)
        lo, hi = grid.bounds(layer.in_split, layer.in_units, rank)
        inputs = (lo * layer.in_units.size, hi * layer.in_units.size)
        shape = (out[1] - out[0], (inputs[1] - inputs[0]) * layer.shape.kernel_size)
        block = Block(layer, position, out, inputs, shape, layer.split_kind.owns_bias(grid, rank), offset)
        blocks.append(block)
        offset += block.size
    return blocks
