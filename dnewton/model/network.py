"""The layers on a layout: forward pass, backward sweep and tangent sweep of one rank.

Data are (N, features) or (N, H, W, C) slices in the plan's input split. Layers form a graph (skip connections), walked
in its order and back. Cotangents carry K right-hand sides; a cotangent is complete and identical on every holder of its
slice (docs/layout.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dnewton.arrays.namespace import Array, multiply, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.grid import Move, SplitAxis, moves
from dnewton.model.block import Block, blocks_of
from dnewton.model.cotangent import Cotangent
from dnewton.model.layers.activation import ACTIVATIONS
from dnewton.model.layers.interface import Linear
from dnewton.model.layers.max_pool import MaxIndices
from dnewton.planning.net_plan import DATA, LayerPlan, NetPlan


@dataclass
class Tape:
    """What a forward pass of one batch leaves for the backward sweep."""

    z: Array
    inputs: list[Array | None] = field(default_factory=list)  # of layers with weights
    kept: list[Array | None] = field(default_factory=list)  # what the slope of an activation is a function of
    states: list[Array | None] = field(default_factory=list)  # of layers without weights: the places of maxima

    def part(self, some: slice) -> Tape:
        """The pass of some of the samples, as views."""

        def cut(arrays: list[Array | None]) -> list[Array | None]:
            return [None if a is None else a[some, ...] for a in arrays]

        return Tape(self.z[some, ...], cut(self.inputs), cut(self.kept), cut(self.states))


Visit = Callable[[Block, Linear, Cotangent, Array], Array | None]  # see Network.backward
Pushed = dict[int, tuple[Array | None, Array]]  # see Network.tangents


class Network:
    """The network on this rank: its blocks and the passes over batches."""

    def __init__(self, plan: NetPlan, comm: Comm) -> None:
        self.plan = plan
        self.comm = comm
        self.ops: list[Any] = [layer.spec.options.operation(layer.spec.in_shape) for layer in plan.layers]
        self._alone = [getattr(op, "outputs", None) for op in self.ops]  # cheaper where nothing is kept
        self.blocks: list[Block] = blocks_of(plan, comm.rank)
        self.size = sum(b.size for b in self.blocks)
        self._block_at = {b.position: b for b in self.blocks}
        self._into = [plan.incoming(layer) for layer in plan.layers]
        self._back = [plan.returning(layer) for layer in plan.layers]
        self._out = plan.outgoing()
        self._out_back = moves(plan.grid, "full", plan.layers[-1].out_split)
        self._last_use = [max(users, default=len(plan.layers)) for users in plan.consumers]

    # --- forward ----------------------------------------------------------------------------------------------------

    def forward(self, theta: Array, x: Array, keep: bool = True) -> Tape:
        """Outputs z^L (N, K) on every rank; with `keep`, what the backward sweep needs.

        Collective over the forward-sum groups of every layer.
        """
        tape = Tape(x)
        outputs: dict[int, Array] = {DATA: x}
        for i, layer in enumerate(self.plan.layers):
            arrived = [
                self._move(outputs[p], steps, units)
                for p, steps, units in zip(self.plan.producers(i), self._into[i], layer.source_units, strict=True)
            ]
            self._forget(outputs, i)
            op = self.ops[i]
            inputs = kept = state = None
            if layer.spec.parametric:
                (inputs,) = arrived
                outputs[i], kept = self._affine(theta, self._block_at[i], op, inputs)
            else:
                data = (x,) if layer.spec.options.takes_data else ()
                alone = None if keep else self._alone[i]
                if alone is None:
                    outputs[i], state = op.forward(*arrived, *data)
                else:
                    outputs[i] = alone(*arrived, *data)
            if keep:
                tape.inputs.append(inputs)
                tape.kept.append(kept)
                tape.states.append(state)
        tape.z = self._move(outputs[len(self.plan.layers) - 1], self._out, self.plan.layers[-1].out_units)
        return tape

    def _forget(self, outputs: dict[int, Any], position: int) -> None:
        """Drop the outputs that the layer at `position` was the last to take."""
        for p in self.plan.producers(position):
            if p in outputs and p != DATA and self._last_use[p] == position:
                del outputs[p]

    def _affine(self, theta: Array, block: Block, op: Linear, z: Array) -> tuple[Array, Array | None]:
        """The layer's output, and what its activation's slope is a function of."""
        s = op.forward(block.weight(theta), z)
        if block.has_bias:
            block.add_bias(s, theta)
        assert block.layer.split_kind is not None
        s = self.comm.allreduce(s, block.layer.split_kind.forward)
        name = block.layer.spec.activation
        if name == "linear":
            return s, None
        activation = ACTIVATIONS[name]
        out = activation.value(s) if activation.over is None else activation.over(s)
        return out, out if activation.of == "z" else s

    # --- backward ---------------------------------------------------------------------------------------------------

    def backward(self, theta: Array, tape: Tape, cot: Array, visit: Visit) -> None:
        """Sweep a cotangent of the outputs (N or 1, K, outputs) back; `visit` sees each block's, last layer first.

        A leading 1 (the same for all samples) is kept as long as nothing depends on the sample. `visit` may return this
        rank's part of the cotangent of the block's input, fit to be overwritten; else it is the block's cotangent
        times W.
        Collective over the backward-sum groups of every layer with weights below.
        """
        last = len(self.plan.layers) - 1
        cots = {last: self._move(cot, self._out_back, self.plan.layers[last].out_units)}
        del cot
        pooled: dict[int, MaxIndices] = {}
        for i in range(last, -1, -1):
            if i not in cots:
                continue  # no weights at or below it
            layer = self.plan.layers[i]
            producers = self.plan.producers(i)
            here = cots.pop(i)
            if layer.spec.parametric:
                here = self._through(theta, tape, i, here, pooled.pop(i, None), visit)
                if here is None:
                    continue
                parts = [here]
            elif len(producers) == 1:
                (below,) = producers
                if not self.plan.needs_cotangent(below):
                    continue
                if self.plan.pooled_by(below) == i:
                    pooled[below] = MaxIndices(self.ops[i], tape.states[i])
                    cots[below] = here  # it stays pooled for the layer below
                    continue
                parts = [self.ops[i].backward(here, tape.states[i])]
            else:
                parts = self.ops[i].parts(here, tape.states[i])
            for p, part, steps, units in zip(producers, parts, self._back[i], layer.source_units, strict=True):
                if self.plan.needs_cotangent(p):
                    moved = self._move(part, steps, units)
                    cots[p] = cots[p] + moved if p in cots else moved
            del here, parts

    def _through(
        self, theta: Array, tape: Tape, i: int, cot: Array, winners: MaxIndices | None, visit: Visit
    ) -> Array | None:
        """The cotangent of the input of the layer with weights at `i`; None where nobody needs it."""
        layer, op, block = self.plan.layers[i], self.ops[i], self._block_at[i]
        here = self._cotangent(op, layer, cot, tape.kept[i], winners)
        del cot
        inputs = tape.inputs[i]
        assert inputs is not None
        given = visit(block, op, here, inputs)
        if layer.first:
            return None
        out = op.input_cotangent(block.weight(theta), here, tape.z.shape[0]) if given is None else given
        del here, given  # as large as the cotangent itself
        assert layer.split_kind is not None
        return self.comm.allreduce(out, layer.split_kind.backward)

    def _cotangent(
        self, op: Linear, layer: LayerPlan, cot: Array, kept: Array | None, winners: MaxIndices | None
    ) -> Cotangent:
        outer = op.positions(cot)
        if kept is None:
            return Cotangent(outer, None, winners)
        slope = ACTIVATIONS[layer.spec.activation].slope
        if winners is None:
            return Cotangent(outer, op.positions(slope(kept)[:, None, ...])[:, 0, ...])
        return Cotangent(outer, slope(winners.gather(op.positions(kept[:, None, ...])[:, 0, ...])), winners)

    def gradient(self, theta: Array, tape: Tape, cot: Array, out: Array) -> None:
        """Add Σ over the batch of ∂ξ/∂θ to `out`, for cot = ∂ξ/∂z (N, K). Collective like :meth:`backward`."""
        self.pull(theta, tape, cot[:, None, :], 0, out)

    def pull(self, theta: Array, tape: Tape, cot: Array, column: int, out: Array) -> None:
        """out += Jᵀ cot[:, column] on this rank's blocks, for cotangents (N, K, outputs) of which ranks may have chosen
        different columns. Collective like :meth:`backward`."""

        def add(block: Block, op: Linear, here: Cotangent, z: Array) -> None:
            d = here.one(column).keep_whole()[:, 0, ...]  # (N, Q, O)
            block.add(out, op.weight_gradient(d, z), d)

        self.backward(theta, tape, cot, add)

    # --- tangents ---------------------------------------------------------------------------------------------------

    def tangents(
        self, theta: Array, tape: Tape, v: Array, tangents: int = 1, column: int = 0, pushed: Pushed | None = None
    ) -> Array:
        """∂z^L along directions v in θ, (tangents, N, outputs), the same on every rank.

        This rank's v belongs to tangent `column`: all ranks in one give J v, each in its own gives the pieces J_p v_p.
        `pushed` takes, by block position, the tangents of the block's input slice (None where no weights are below) and
        of its s, each with the leading axis `tangents`.
        Collective over the forward-sum groups of every layer, with `tangents` times a forward pass's numbers.
        """
        xp = namespace(v)
        outputs: dict[int, Array | None] = {DATA: None}  # (tangents, N, ...); None where no weights are below
        for i, layer in enumerate(self.plan.layers):
            arrived = []
            for p, steps, units in zip(self.plan.producers(i), self._into[i], layer.source_units, strict=True):
                t = outputs[p]
                arrived.append(None if t is None else self._move(t, steps, units))
            self._forget(outputs, i)
            if layer.spec.parametric:
                outputs[i] = self._tangent(theta, tape, i, v, (tangents, column), arrived[0], pushed)
            elif len(arrived) == 1:
                (t,) = arrived
                op, state = self.ops[i], tape.states[i]
                outputs[i] = None if t is None else xp.stack([op.push(t[j, ...], state) for j in range(tangents)])
            else:
                outputs[i] = self.ops[i].push_all(arrived, tape.states[i])
        return self._move(outputs[len(self.plan.layers) - 1], self._out, self.plan.layers[-1].out_units)

    def _tangent(
        self, theta: Array, tape: Tape, i: int, v: Array, which: tuple[int, int], t: Array | None, pushed: Pushed | None
    ) -> Array:
        """The tangents of the output of the layer with weights at `i`; `which`: how many, and this rank's own."""
        xp = namespace(v)
        tangents, column = which
        layer, op, block = self.plan.layers[i], self.ops[i], self._block_at[i]
        own = op.forward(block.weight(v), tape.inputs[i])
        if block.has_bias:
            block.add_bias(own, v)
        s = zeros((tangents, *own.shape), own)
        if t is not None:
            flat = op.forward(block.weight(theta), xp.reshape(t, (tangents * t.shape[1], *t.shape[2:])))
            s = xp.reshape(flat, s.shape)
        s[column, ...] += own
        assert layer.split_kind is not None
        s = self.comm.allreduce(s, layer.split_kind.forward)
        if pushed is not None:
            pushed[i] = t, s
        kept = tape.kept[i]
        if kept is None:
            return s
        slope = ACTIVATIONS[layer.spec.activation].slope(kept)
        return multiply(s, slope, s) if pushed is None else s * slope

    # --- whole tensors ----------------------------------------------------------------------------------------------

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
        grid = self.plan.grid
        rank = self.comm.rank
        for step in steps:
            if step.group == "none":
                origin = grid.bounds(step.source, units, rank)[0]
                lo, hi = grid.bounds(step.target, units, rank)
                array = array[..., (lo - origin) * units.size : (hi - origin) * units.size]
            else:
                widths = [grid.width(step.source, units, r) for r in grid.members(step.group, rank)]
                array = self.comm.gather_features(array, step.group, widths)
        return array
