"""A net laid out on a grid: the shape of every layer and the split that its activations are in. Pure functions.

Layers form a graph in topological order: `back` says whose outputs a layer takes. Most take the one before; a skip
connection's addition takes two (docs/layout.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dnewton.config.layer_entry import LayerSpec, Shape, expand
from dnewton.config.schema import NetSection
from dnewton.errors import UserError
from dnewton.grid import Grid, Kind, Move, Split, SplitAxis, ceil_div, moves

DATA = -1  # the producer of what comes from the data


def spatial(shape: Shape) -> int:
    """Positions of an image or a sequence, 1 for features."""
    return math.prod(shape[1:])


def infer_shapes(net: NetSection, source: str = "net") -> tuple[LayerSpec, ...]:
    """The layers with the shapes of their inputs and outputs, from the input's.

    Raises UserError naming the layer and both shapes when they do not fit.
    """
    specs = expand(net.layers, tuple(net.input), "layers", f"{source}: net.layers")
    shape = specs[-1].out_shape
    if not any(spec.parametric for spec in specs):
        raise UserError(f"{source}: net.layers: at least one conv or dense layer is needed")
    if len(shape) != 1:
        raise UserError(f"{source}: net.layers: the last layer gives {list(shape)}, features are needed; add flatten")
    if problem := net.loss.outputs_problem(shape[0]):
        raise UserError(f"{source}: net.loss: {problem}")
    return tuple(specs)


@dataclass(frozen=True)
class LayerPlan:
    """A layer on the grid: its inputs arrive in `sources` and are moved to `in_split`; it leaves in `out_split`.

    Along `in_units` what is moved is cut. Inputs that arrive cut along other axes come through `full`.
    """

    spec: LayerSpec
    sources: tuple[Split, ...]
    in_split: Split
    out_split: Split
    source_units: tuple[SplitAxis, ...]
    in_units: SplitAxis
    out_units: SplitAxis
    split_kind: Kind | None
    first: bool  # no weights below: no cotangent of its input is ever needed

    @property
    def source(self) -> Split:
        """The split in which the (first) input arrives."""
        return self.sources[0]

    def message_out(self, grid: Grid, rank: int) -> int:
        """Numbers per sample in `rank`'s output slice."""
        return grid.width(self.out_split, self.out_units, rank) * spatial(self.spec.out_shape)

    def message_in(self, grid: Grid, rank: int) -> int:
        """Numbers per sample in `rank`'s input slice."""
        return grid.width(self.in_split, self.in_units, rank) * spatial(self.spec.in_shape)


@dataclass(frozen=True)
class NetPlan:
    """The whole net on a grid; the outputs end in `full` on every rank."""

    grid: Grid
    layers: tuple[LayerPlan, ...]

    @property
    def outputs(self) -> int:
        """K, the number of network outputs."""
        return self.layers[-1].spec.out_shape[0]

    @property
    def input_split(self) -> Split:
        """The split in which each rank reads its features."""
        return self.layers[0].source

    @property
    def input_units(self) -> SplitAxis:
        """What the input's split cuts: channels, or single features."""
        return self.layers[0].source_units[0]

    # --- the graph --------------------------------------------------------------------------------------------------

    def producers(self, position: int) -> tuple[int, ...]:
        """The layers whose outputs the layer at `position` takes; DATA for the data."""
        return tuple(position - back for back in self.layers[position].spec.back)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """By position, the layers that take its output."""
        found: list[list[int]] = [[] for _ in self.layers]
        for position in range(len(self.layers)):
            for producer in self.producers(position):
                if producer != DATA:
                    found[producer].append(position)
        return tuple(map(tuple, found))

    @cached_property
    def trained(self) -> tuple[bool, ...]:
        """By position, whether its output depends on weights: the layer's own or those of a layer below."""
        found: list[bool] = []
        for position, layer in enumerate(self.layers):
            below = any(p != DATA and found[p] for p in self.producers(position))
            found.append(layer.spec.parametric or below)
        return tuple(found)

    def needs_cotangent(self, producer: int) -> bool:
        """Whether a backward sweep goes on to a producer."""
        return producer != DATA and self.trained[producer]

    @cached_property
    def above_depends_on_sample(self) -> tuple[bool, ...]:
        """By position, False where ∂z^L over its output is the same for all samples: linear on all ways up."""
        found = [False] * len(self.layers)
        for position in reversed(range(len(self.layers))):
            users = self.consumers[position]
            found[position] = any(found[u] or self.layers[u].spec.depends_on_sample for u in users)
        return tuple(found)

    def pooled_by(self, position: int) -> int | None:
        """The pooling at whose maxima alone the cotangent of the layer at `position` is not zero, where the layer can
        keep it there: directly above it, and nothing moved between."""
        users = self.consumers[position]
        if len(users) != 1 or not self.layers[position].spec.options.takes_pooled:
            return None
        above = self.layers[users[0]]
        return users[0] if above.spec.options.pooled_window() and not self.incoming(above)[0] else None

    # --- what is moved ----------------------------------------------------------------------------------------------

    def incoming(self, layer: LayerPlan) -> tuple[tuple[Move, ...], ...]:
        """The redistribution of every input of a layer."""
        return tuple(moves(self.grid, source, layer.in_split) for source in layer.sources)

    def returning(self, layer: LayerPlan) -> tuple[tuple[Move, ...], ...]:
        """The redistribution of the cotangents of every input of a layer."""
        return tuple(moves(self.grid, layer.in_split, source) for source in layer.sources)

    def outgoing(self) -> tuple[Move, ...]:
        """The redistribution that brings the outputs to `full`."""
        return moves(self.grid, self.layers[-1].out_split, "full")

    def parametric(self) -> tuple[LayerPlan, ...]:
        """The layers with weights."""
        return tuple(layer for layer in self.layers if layer.spec.parametric)

    @property
    def variables(self) -> int:
        """Weights and biases of all ranks."""
        shapes = [layer.spec.weight_shape for layer in self.parametric()]
        return sum(math.prod(shape) + shape[0] for shape in shapes)

    # --- sizes ------------------------------------------------------------------------------------------------------

    def largest(self, split: Split, units: SplitAxis) -> int:
        """Features of the largest slice."""
        return ceil_div(units.count, self.grid.parts(split)) * units.size

    def idle(self) -> int:
        """Ranks that own no weights: no layer has units enough for them."""
        grid = self.grid

        def owns(layer: LayerPlan, rank: int) -> bool:
            out = grid.width(layer.out_split, layer.out_units, rank)
            return out * grid.width(layer.in_split, layer.in_units, rank) > 0

        return sum(not any(owns(layer, rank) for layer in self.parametric()) for rank in range(grid.size))

    def kept_numbers(self) -> int:
        """Numbers per sample that a kept forward pass holds on the rank with the largest slices.

        All ranks count by it which passes they keep: what is recomputed is a collective matter.
        """
        total = self.outputs
        for layer in self.layers:
            if len(layer.sources) == 1:  # an addition keeps nothing
                total += self.largest(layer.in_split, layer.in_units) * spatial(layer.spec.in_shape)
            if layer.spec.depends_on_sample:
                total += self.largest(layer.out_split, layer.out_units) * spatial(layer.spec.out_shape)
        return total

    @cached_property
    def waiting_numbers(self) -> int:
        """Numbers per sample, and right-hand side, of outputs that wait for a later layer while others are at work, on
        the rank with the largest slices: what skip connections add to a pass on its way."""
        most = 0
        for position in range(len(self.layers)):
            passed = {p for later in range(position + 1, len(self.layers)) for p in self.producers(later)}
            waiting = [self.layers[p] for p in passed if DATA < p < position]
            most = max(most, sum(self.largest(w.out_split, w.out_units) * spatial(w.spec.out_shape) for w in waiting))
        return most

    def describe(self) -> list[str]:
        """One line per layer for the log: kind, shapes and splits."""
        lines = []
        width = max(10, *(len(layer.spec.name) for layer in self.layers))
        for layer in self.layers:
            s = layer.spec
            how = layer.split_kind.name if layer.split_kind else layer.in_split
            moved = [" then ".join(f"{m.source}->{m.target}" for m in steps) for steps in self.incoming(layer) if steps]
            extra = f", input redistributed {' and '.join(moved)}" if moved else ""
            shapes = f"{list(s.in_shape)} -> {list(s.out_shape)}"
            lines.append(f"{s.name:{width}s} {s.kind:8s} {shapes:28s} {how}{extra}")
        return lines
