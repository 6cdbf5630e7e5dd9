"""What the poolings share: windows that move over the channels of an image or a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import model_validator

from dnewton.arrays.image_windows import Pair
from dnewton.config.layer_entry import LayerSection, Shape
from dnewton.model.layers.images import Pad2, Size2, image_of, needs_image, needs_one_number, on_shape, window_shape


class PoolSection(LayerSection):
    """Options of a pooling; the stride is the size unless given."""

    size: Size2  # of a window
    stride: Size2 | None = None  # steps between two windows; default the size
    padding: Pad2 = (0, 0)  # positions on each side, at most half of the size

    @model_validator(mode="after")
    def _padding_fits(self) -> PoolSection:
        if any(2 * p > s for p, s in zip(self.padding, self.size, strict=True)):
            raise ValueError(f"padding {list(self.padding)} must be at most half of size {list(self.size)}")
        return self

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """The channels stay."""
        needs_image(shape, where)
        stride = self.stride or self.size
        needs_one_number({"size": self.size, "stride": stride, "padding": self.padding}, shape, where)
        _, size, moved, padding = self.window(shape)
        return window_shape(shape[0], shape, size, moved, padding, "size", where)

    def window(self, shape: Shape) -> tuple[Pair, Pair, Pair, Pair]:
        """Image, size, stride and padding on an input of that shape."""
        size, stride = on_shape(self.size, shape, 1), on_shape(self.stride or self.size, shape, 1)
        return image_of(shape), size, stride, on_shape(self.padding, shape, 0)


@dataclass(frozen=True)
class Window:
    """A window over an image of height and width `image`."""

    image: Pair
    size: Pair
    stride: Pair
    padding: Pair
