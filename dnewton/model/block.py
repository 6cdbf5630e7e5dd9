"""A rank's block of a layer's weights inside its flat vector θ."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.linear_algebra import column_sums
from dnewton.arrays.namespace import Array, namespace
from dnewton.planning.net_plan import LayerPlan, NetPlan


@dataclass(frozen=True)
class Block:
    """This rank's block W[O, I] of one layer, and the bias slice if this rank owns it, inside its flat vector θ.

    W is (|O|, kernel·|I|), patches in the order (kh, kw, channel).
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

    def at_bias(self, array: Array) -> Array:
        """View of the positions, the axis before the last, to which the bias is added."""
        return array[..., self.layer.spec.options.bias_positions, :]

    def add_bias(self, s: Array, theta: Array) -> None:
        """s += the bias of a vector laid out like θ; only where `has_bias`."""
        here = self.at_bias(s)
        here += self.bias(theta)

    def add(self, out: Array, weight: Array, d: Array) -> None:
        """out += a gradient in W, and in the bias the sum of cotangents (N, Q, O)."""
        here = self.weight(out)
        here += weight
        if self.has_bias:
            bias = self.bias(out)
            bias += self.bias_sums(d)

    def bias_sums(self, d: Array) -> Array:
        """The sum over samples and positions of what belongs to the bias of cotangents (N, Q, O)."""
        here = self.at_bias(d)
        return column_sums(namespace(d).reshape(here, (here.shape[0] * here.shape[1], here.shape[2])))

    @property
    def name(self) -> str:
        """The layer's name in model files."""
        return self.layer.spec.name

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[out, in] or [out, in, kernel...] of the whole layer."""
        return self.layer.spec.weight_shape

    @property
    def kernel_size(self) -> int:
        """Numbers of a patch per channel."""
        return self.layer.spec.kernel_size

    def whole_shape(self) -> tuple[int, ...]:
        """The shape, in PyTorch's order, that the rank's block has: (O, I) or (O, I, kernel...)."""
        channels = self.inputs[1] - self.inputs[0]
        return (self.shape[0], channels, *self.weight_shape[2:])

    def to_file_order(self, weight: Array) -> Array:
        """W as [out, in] or [out, in, kernel...]."""
        o, c, *kernel = self.whole_shape()
        if not kernel:
            return weight
        xp = namespace(weight)
        inner = range(1, len(kernel) + 1)
        return xp.permute_dims(xp.reshape(weight, (o, *kernel, c)), (0, len(kernel) + 1, *inner))

    def from_file_order(self, weight: Array) -> Array:
        """The inverse of :meth:`to_file_order`."""
        xp = namespace(weight)
        if weight.ndim > 2:
            weight = xp.permute_dims(weight, (0, *range(2, weight.ndim), 1))
        return xp.reshape(weight, self.shape)


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
        shape = (out[1] - out[0], (inputs[1] - inputs[0]) * layer.spec.kernel_size)
        block = Block(layer, position, out, inputs, shape, layer.split_kind.owns_bias(grid, rank), offset)
        blocks.append(block)
        offset += block.size
    return blocks
