"""Average pooling."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.image_windows import avg_pool, avg_unpool
from dnewton.arrays.namespace import Array
from dnewton.config.layer_entry import LAYERS, Shape
from dnewton.model.layers.pool import PoolSection, Window


@LAYERS.add("avgpool")
class AvgPoolSection(PoolSection):
    """`avgpool: {size, stride, padding}`; padded zeros count, as in PyTorch by default."""

    def operation(self, shape: Shape) -> AvgPool:
        """The operation on inputs of that shape."""
        return AvgPool(*self.window(shape))


@dataclass(frozen=True)
class AvgPool(Window):
    """Mean over windows; see :class:`~dnewton.model.layers.interface.Transform`."""

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        return avg_pool(z, self.size, self.stride, self.padding), None

    def push(self, t: Array, state: Array | None) -> Array:
        return self.forward(t)[0]

    def backward(self, cot: Array, state: Array | None) -> Array:
        return avg_unpool(cot, self.image, self.size, self.stride, self.padding)
