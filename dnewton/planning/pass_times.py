"""Seconds of passes through a net on a layout, on the rank with the largest slices. Pure functions of the plan.

The arithmetic of each layer with its messages, as :mod:`dnewton.model.network` does them; `calls` are the array
operations that a layer's pass consists of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from dnewton.grid import ceil_div
from dnewton.planning import costs
from dnewton.planning.costs import BlockShape
from dnewton.planning.machine import Price
from dnewton.planning.net_plan import LayerPlan, NetPlan, spatial

LOSS, LOSS_GRADIENT = 12.0, 8.0  # array operations on the outputs: softmax, its logarithm, the metric
LOSS_ROW, LOSS_GRADIENT_ROW = 0.05, 0.035  # of an operation's call: sums along a sample's few outputs
POOLING = 4.0  # on the input of a pooling layer
UNPOOLING = 7.0  # on the output of a layer below one, where its cotangent goes back to the maxima


@dataclass(frozen=True)
class Passes:
    """A net's passes at a price."""

    plan: NetPlan
    price: Price
    batch: int

    @cached_property
    def blocks(self) -> list[BlockShape]:
        """The largest rank's, by layer with weights."""
        return costs.blocks_of(self.plan)

    @cached_property
    def variables(self) -> float:
        """Of the largest rank."""
        return float(sum(b.size for b in self.blocks))

    def vectors(self, operations: float) -> float:
        """Array operations on vectors of the length of a rank's θ."""
        return self.price.touch(self.variables, operations)

    def batches(self, samples: int, batch: int = 0) -> tuple[int, int]:
        """How many batches, and the samples of each, for so many samples."""
        size = max(1, min(batch or self.batch, samples))
        return ceil_div(samples, size), size

    def forward(self, samples: int, columns: int = 1, batch: int = 0, loss: bool = True) -> float:
        """A forward pass of some samples, or `columns` of them, from their features to the loss."""
        count, _ = self.batches(samples, batch)
        if not samples:
            return 0.0
        n = columns * samples / count
        seconds = self.price.touch(n * self.blocks[0].inputs, 1) + 4 * self.price.call
        blocks = iter(self.blocks)
        for at, layer in enumerate(self.plan.layers):
            seconds += self._moved(at, n, back=False)
            seconds += self._affine(layer, next(blocks), n) if layer.split_kind else self._without(layer, n, 1.0)
        seconds += self._outgoing(n)
        if loss:
            seconds += self.price.touch(n * self.plan.outputs, LOSS) + n * LOSS_ROW * self.price.call
        return count * seconds

    def backward(self, samples: int, columns: int = 1, batch: int = 0, weights: bool = True) -> float:
        """A gradient's sweep back, from the loss to the weights."""
        count, _ = self.batches(samples, batch)
        if not samples:
            return 0.0
        n = columns * samples / count
        seconds = self.price.touch(n * self.plan.outputs, LOSS_GRADIENT)
        seconds += (4 + n * LOSS_GRADIENT_ROW) * self.price.call
        blocks = iter(self.blocks)
        for at, layer in enumerate(self.plan.layers):
            if layer.split_kind:
                seconds += self._affine_back(layer, next(blocks), n, n if weights else 0.0)
            elif any(self.plan.needs_cotangent(p) for p in self.plan.producers(at)):
                seconds += self._without(layer, n, 0.7)
            seconds += self._moved(at, n, back=True)
        return count * seconds

    def sweep(self, chunks: Mapping[int, int]) -> float:
        """The K-fold sweep of the Jacobian over S, without what is kept of it: so many chunks of each size."""
        return sum(count * self._swept(size) for size, count in chunks.items())

    def _swept(self, n: int) -> float:
        """A K-fold sweep over n samples."""
        k = self.plan.outputs
        seconds = 0.0
        blocks = iter(self.blocks)
        for at, layer in enumerate(self.plan.layers):
            if layer.split_kind:
                block = next(blocks)
                by_sample = block.sharing != "shared" or block.slope
                rows = float(n * k if by_sample else k)
                seconds += self._affine_back(layer, block, rows, 0.0)
            elif any(self.plan.needs_cotangent(p) for p in self.plan.producers(at)):
                by_sample = layer.spec.depends_on_sample or self.plan.above_depends_on_sample[at]
                kept = any(self.plan.pooled_by(p) == at for p in self.plan.producers(at) if p >= 0)
                seconds += 0.0 if kept else self._without(layer, float(n * k if by_sample else k), 0.7)
            seconds += self._moved(at, float(n * k), back=True)
        return seconds

    def tangents(self, samples: int, tangents: int, chunk: int) -> float:
        """Tangent sweeps: this rank's own products, and those of all tangents through the layers."""
        count, _ = self.batches(samples, chunk)
        own = self.forward(samples, batch=chunk, loss=False)
        return own + self.forward(samples * tangents, batch=ceil_div(samples, count) * tangents, loss=False)

    def _affine(self, layer: LayerPlan, b: BlockShape, n: float) -> float:
        price = self.price
        seconds = price.product(n * b.q, b.i, b.o)
        written = n * b.q * b.o
        if b.conv:
            seconds += self._patches(layer, b, n) + price.touch(written, 2)
        seconds += price.touch(written, 2.0 if layer.spec.activation != "linear" else 1.0)
        assert layer.split_kind is not None
        return seconds + price.allreduce(written, self.plan.grid.ranks_in(layer.split_kind.forward)) + 3 * price.call

    def _patches(self, layer: LayerPlan, b: BlockShape, n: float) -> float:
        """Copies of what a kernel sees, a row of it at a time, or of the image where there is one channel."""
        kernel = layer.spec.kernel_size
        run = layer.spec.in_shape[-1] if b.i == kernel else b.i / math.sqrt(kernel)
        return self.price.blocked(n * b.q * b.i, run)

    def _affine_back(self, layer: LayerPlan, b: BlockShape, n: float, weighted: float) -> float:
        """Cotangents of `n` rows through a layer; the gradient of the weights for `weighted` of them."""
        price = self.price
        positions = n * b.q
        seconds = price.touch(positions * b.o, 2.0 if b.slope else 0.0) + 6 * price.call
        if b.sharing == "pooled":
            seconds += UNPOOLING * price.blocked(positions * b.o)
        if weighted:
            seconds += price.product(b.o, weighted * b.q, b.i) + price.read(weighted * b.q * b.o)
            seconds += self._patches(layer, b, weighted) if b.conv else 0.0
        if not layer.first:
            kernel = layer.spec.kernel_size  # one product for each offset of a kernel
            seconds += kernel * price.product(positions, b.o, b.i / kernel)
            seconds += price.blocked(positions * b.i, b.i / kernel) if b.conv else 0.0
            assert layer.split_kind is not None
            seconds += price.allreduce(n * b.inputs, self.plan.grid.ranks_in(layer.split_kind.backward))
        return seconds

    def _without(self, layer: LayerPlan, n: float, operations: float) -> float:
        """A layer without weights: a flatten only changes the shape."""
        if not layer.spec.options.pooled_window() and math.prod(layer.spec.in_shape) == math.prod(layer.spec.out_shape):
            return 2 * self.price.call
        numbers = self.plan.largest(layer.in_split, layer.in_units) * spatial(layer.spec.in_shape)
        if layer.spec.options.pooled_window():
            return POOLING * operations * self.price.blocked(n * numbers) + 6 * self.price.call
        return self.price.touch(n * numbers, POOLING * operations) + 6 * self.price.call

    def _moved(self, at: int, n: float, back: bool) -> float:
        grid, layer = self.plan.grid, self.plan.layers[at]
        total = 0.0
        every = self.plan.returning(layer) if back else self.plan.incoming(layer)
        for p, steps, units, shape in zip(
            self.plan.producers(at), every, layer.source_units, layer.spec.in_shapes, strict=True
        ):
            if back and not self.plan.needs_cotangent(p):
                continue
            for step in steps:
                if step.group != "none":
                    numbers = n * self.plan.largest(step.target, units) * spatial(shape)
                    total += self.price.gather(numbers, grid.ranks_in(step.group))
        return total

    def _outgoing(self, n: float) -> float:
        grid, last = self.plan.grid, self.plan.layers[-1]
        steps = [step for step in self.plan.outgoing() if step.group != "none"]
        return sum(
            self.price.gather(n * self.plan.largest(step.target, last.out_units), grid.ranks_in(step.group))
            for step in steps
        )
