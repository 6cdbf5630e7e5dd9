"""Global average pooling: one number per channel (Lin, Chen, Yan 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.image_windows import Pair
from dnewton.arrays.namespace import Array, namespace, ones
from dnewton.config.layer_entry import LAYERS, LayerSection, Shape
from dnewton.model.layers.images import image_of, needs_image


@LAYERS.add("global_avgpool")
class GlobalAvgPoolSection(LayerSection):
    """`global_avgpool`: images or sequences to [channels] features; no flatten is needed after it."""

    bare = True

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(channels,)."""
        needs_image(shape, where)
        return (shape[0],)

    def operation(self, shape: Shape) -> GlobalAvgPool:
        """The operation on inputs of that shape."""
        return GlobalAvgPool(image_of(shape))


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean over all positions; see :class:`~dnewton.model.layers.interface.Transform`."""

    image: Pair

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """(N, H, W, C) to (N, C)."""
        return namespace(z).mean(z, axis=(1, 2)), None

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of :meth:`forward`, which is linear."""
        return self.forward(t)[0]

    def backward(self, cot: Array, state: Array | None) -> Array:
        """(N or 1, K, C) to (N or 1, K, H, W, C)."""
        h, w = self.image
        return cot[:, :, None, None, :] * (ones((h, w, 1), cot) / (h * w))
