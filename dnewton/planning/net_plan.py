"""A net laid out on a grid: the shape of every layer and the split that its activations are in. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dnewton.arrays.image_windows import Pair, output_size
from dnewton.config.schema import LayerSpec, NetSection
from dnewton.errors import UserError
from dnewton.grid import Grid, Kind, Move, Split, SplitAxis, moves


@dataclass(frozen=True)
class LayerShape:
    """One layer of the chain with its shapes, (C, H, W) or (features,), before any layout."""

    index: int
    spec: LayerSpec
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    @cached_property
    def kind(self) -> str:
        """conv, dense, maxpool, avgpool or flatten."""
        return self.spec.kind

    @cached_property
    def parametric(self) -> bool:
        """True for layers with weights."""
        return self.kind in ("conv", "dense")

    @property
    def name(self) -> str:
        """The layer's name in model files, PyTorch's way."""
        return f"layers.{self.index}"

    @property
    def kernel_size(self) -> int:
        """Numbers of a patch per channel: kh * kw, or 1."""
        return math.prod(self.spec.options.kernel) if self.kind == "conv" else 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[out, in, kh, kw] or [out, in]."""
        if self.kind == "conv":
            return (self.out_shape[0], self.in_shape[0], *self.spec.options.kernel)
        return (self.out_shape[0], self.in_shape[0])

    @cached_property
    def activation(self) -> str:
        """The activation's name; layers without weights are linear."""
        return self.spec.options.activation if self.parametric else "linear"


def spatial(shape: tuple[int, ...]) -> int:
    """Positions of an image, 1 for features."""
    return math.prod(shape[1:])


def infer_shapes(net: NetSection, source: str = "net") -> tuple[LayerShape, ...]:
    """Shapes of every layer from the input's.

    Raises UserError naming the layer and both shapes when they do not fit.
    """
    shape: tuple[int, ...] = tuple(net.input)
    layers = []
    for index, spec in enumerate(net.layers):
        out = _out_shape(spec, shape, f"{source}: net.layers[{index}] ({spec.kind})")
        layers.append(LayerShape(index, spec, shape, out))
        shape = out
    if not any(layer.parametric for layer in layers):
        raise UserError(f"{source}: net.layers: at least one conv or dense layer is needed")
    if len(shape) != 1:
        raise UserError(f"{source}: net.layers: the last layer gives {list(shape)}, features are needed; add flatten")
    if net.loss == "logistic" and shape[0] != 1:
        raise UserError(f"{source}: net.loss: logistic needs one output, the last layer has {shape[0]}")
    if net.loss == "cross_entropy" and shape[0] < 2:
        raise UserError(f"{source}: net.loss: cross_entropy needs two outputs or more; use logistic for one")
    return tuple(layers)


def _out_shape(spec: LayerSpec, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    options = spec.options
    if spec.kind == "dense":
        if len(shape) != 1:
            raise UserError(f"{where}: needs [features] but gets the image {list(shape)}; put flatten before it")
        return (options.units,)
    if len(shape) != 3:
        raise UserError(f"{where}: needs an image [channels, height, width] but gets {list(shape)}")
    if spec.kind == "flatten":
        return (math.prod(shape),)
    kernel = options.kernel if spec.kind == "conv" else options.size
    padded = [shape[1 + a] + 2 * options.padding[a] for a in (0, 1)]
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        word = "kernel" if spec.kind == "conv" else "size"
        raise UserError(f"{where}: {word} {list(kernel)} does not fit into {list(shape)}, {padded} with its padding")
    h, w = output_size((shape[1], shape[2]), kernel, options.stride or kernel, options.padding)
    return (options.channels if spec.kind == "conv" else shape[0], h, w)


@dataclass(frozen=True)
class LayerPlan:
    """A layer on the grid: its input arrives in split `source`, is moved to `in_split` and leaves in `out_split`."""

    shape: LayerShape
    source: Split
    in_split: Split
    out_split: Split
    in_units: SplitAxis
    out_units: SplitAxis
    split_kind: Kind | None
    first: bool  # the first parametric layer: no cotangent of its input is ever needed

    def message_out(self, grid: Grid, rank: int) -> int:
        """Numbers per sample in `rank`'s output slice."""
        return grid.width(self.out_split, self.out_units, rank) * spatial(self.shape.out_shape)

    def message_in(self, grid: Grid, rank: int, split: Split | None = None) -> int:
        """Numbers per sample in `rank`'s input slice (in another split if given)."""
        return grid.width(split or self.in_split, self.in_units, rank) * spatial(self.shape.in_shape)


@dataclass(frozen=True)
class NetPlan:
    """The whole chain on a grid; the outputs end in `full` on every rank."""

    grid: Grid
    layers: tuple[LayerPlan, ...]

    @property
    def outputs(self) -> int:
        """K, the number of network outputs."""
        return self.layers[-1].shape.out_shape[0]

    @property
    def input_split(self) -> Split:
        """The split in which each rank reads its features."""
        return self.layers[0].source

    @property
    def input_units(self) -> SplitAxis:
        """What the input's split cuts: channels, or single features."""
        return self.layers[0].in_units

    def incoming(self, layer: LayerPlan) -> tuple[Move, ...]:
        """The redistribution before a layer."""
        return moves(self.grid, layer.source, layer.in_split)

    def outgoing(self) -> tuple[Move, ...]:
        """The redistribution that brings the outputs to `full`."""
        return moves(self.grid, self.layers[-1].out_split, "full")

    def parametric(self) -> tuple[LayerPlan, ...]:
        """The layers with weights."""
        return tuple(layer for layer in self.layers if layer.shape.parametric)

    def depends_on_sample(self, position: int) -> bool:
        """False where ∂z^L over the output of the layer at `position` is the same for all samples: linear above."""
        above = self.layers[position + 1 :]
        return any(layer.shape.kind == "maxpool" or layer.shape.activation != "linear" for layer in above)

    def kept_numbers(self) -> int:
        """Numbers per sample that a kept forward pass holds on the rank with the largest slices.

        All ranks count by it which passes they keep: what is recomputed is a collective matter.
        """

        def largest(split: Split, units: SplitAxis) -> int:
            return -(-units.count // self.grid.parts(split)) * units.size

        total = self.outputs
        for layer in self.layers:
            total += largest(layer.in_split, layer.in_units) * spatial(layer.shape.in_shape)
            if layer.shape.activation != "linear" or layer.shape.kind == "maxpool":
                total += largest(layer.out_split, layer.out_units) * spatial(layer.shape.out_shape)
        return total

    def describe(self) -> list[str]:
        """One line per layer for the log: kind, shapes and splits."""
        lines = []
        for layer in self.layers:
            s = layer.shape
            how = layer.split_kind.name if layer.split_kind else layer.in_split
            moved = " then ".join(f"{m.source}->{m.target}" for m in self.incoming(layer))
            extra = f", input redistributed {moved}" if moved else ""
            shapes = f"{list(s.in_shape)} -> {list(s.out_shape)}"
            lines.append(f"{s.name:10s} {s.kind:8s} {shapes:28s} {how}{extra}")
        return lines


def conv_image(shape: tuple[int, ...]) -> Pair:
    """Height and width of an image shape (C, H, W)."""
    return shape[1], shape[2]
