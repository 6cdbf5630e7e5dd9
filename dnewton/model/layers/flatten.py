"""Images and sequences to features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.arrays.image_windows import Pair
from dnewton.arrays.namespace import Array, namespace
from dnewton.config.layer_entry import LAYERS, Arrangement, LayerSection, Shape
from dnewton.grid import Split, SplitAxis
from dnewton.model.layers.images import image_of, needs_image


@LAYERS.add("flatten")
class FlattenSection(LayerSection):
    """`flatten`: channel-major, as in PyTorch."""

    bare = True

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(features,)."""
        needs_image(shape, where)
        return (math.prod(shape),)

    def arrangements(self, shape: Shape, split: Split, axis: SplitAxis) -> list[Arrangement]:
        """Slices stay on channel boundaries, or are cut again by single features through `full`."""
        channels = SplitAxis(shape[0], math.prod(shape[1:]))
        single = SplitAxis(math.prod(shape), 1)
        return [Arrangement(split, split, channels), Arrangement("full", "full", single)]

    def operation(self, shape: Shape) -> Flatten:
        """The operation on inputs of that shape."""
        return Flatten(image_of(shape))


@dataclass(frozen=True)
class Flatten:
    """(N, H, W, C) to (N, C·H·W), channel-major as in PyTorch, so that slices stay on channel boundaries."""

    image: Pair

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """The flattened slice; no state is kept."""
        n, h, w, c = z.shape
        xp = namespace(z)
        return xp.reshape(xp.permute_dims(z, (0, 3, 1, 2)), (n, c * h * w)), None

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of :meth:`forward`, which is linear."""
        return self.forward(t)[0]

    def backward(self, cot: Array, state: Array | None) -> Array:
        """(N or 1, K, C·H·W) to (N or 1, K, H, W, C)."""
        n, k, f = cot.shape
        h, w = self.image
        xp = namespace(cot)
        return xp.permute_dims(xp.reshape(cot, (n, k, f // (h * w), h, w)), (0, 1, 3, 4, 2))
