"""What layers on images share: options of one number or [height, width], and sequences as images of height 1."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dnewton.arrays.image_windows import Pair, output_size
from dnewton.config.layer_entry import Shape
from dnewton.errors import UserError


def _pair(value: Any) -> Any:
    """`3` means [3, 3]; a list of two is kept."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return tuple(value)
    raise ValueError("a whole number or [height, width] is needed")


Pixels = Annotated[int, Field(ge=1, le=65535)]
Margin = Annotated[int, Field(ge=0, le=65535)]
Size2 = Annotated[tuple[Pixels, Pixels], BeforeValidator(_pair)]
Pad2 = Annotated[tuple[Margin, Margin], BeforeValidator(_pair)]


def image_of(shape: Shape) -> Pair:
    """Height and width of an image (C, H, W), or of a sequence (C, L), which is one of height 1."""
    return (1, shape[1]) if len(shape) == 2 else (shape[1], shape[2])


def on_shape(option: Pair, shape: Shape, along: int) -> Pair:
    """An option of one number or [height, width] on an image as it is; on a sequence its number along the length, and
    `along` across it."""
    return option if len(shape) == 3 else (along, option[1])


def needs_image(shape: Shape, where: str) -> None:
    """Raise UserError unless a shape is (C, H, W) or (C, L)."""
    if len(shape) not in (2, 3):
        raise UserError(
            f"{where}: needs an image [channels, height, width] or a sequence [channels, length] but gets {list(shape)}"
        )


def needs_one_number(options: dict[str, Pair], shape: Shape, where: str) -> None:
    """Raise UserError where a sequence (C, L) meets an option with different numbers for height and width."""
    for name, value in options.items():
        if len(shape) == 2 and value[0] != value[1]:
            raise UserError(f"{where}: {name} {list(value)} is for images; one number is needed on {list(shape)}")


def window_shape(channels: int, shape: Shape, size: Pair, stride: Pair, padding: Pair, word: str, where: str) -> Shape:
    """The output's shape, where a window of `size` moves over an input. Raises UserError where it does not fit."""
    image = image_of(shape)
    padded = [n + 2 * p for n, p in zip(image, padding, strict=True)]
    if any(a > b for a, b in zip(size, padded, strict=True)):
        shown, room = (list(size), padded) if len(shape) == 3 else (size[1], padded[1])
        raise UserError(f"{where}: {word} {shown} does not fit into {list(shape)}, {room} with its padding")
    out = output_size(image, size, stride, padding)
    return (channels, *out) if len(shape) == 3 else (channels, out[1])
