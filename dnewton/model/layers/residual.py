"""Skip connections: the input of a chain of layers is added to its output (He, Zhang, Ren, Sun 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from dnewton.arrays.namespace import Array
from dnewton.config.layer_entry import LAYERS, LayerEntry, LayerSection, LayerSpec, Shape, expand
from dnewton.errors import UserError
from dnewton.grid import ceil_div
from dnewton.model.layers.conv import ConvSection
from dnewton.model.layers.dense import DenseSection
from dnewton.model.layers.images import image_of


@LAYERS.add("residual")
class ResidualSection(LayerSection):
    """`residual: [layers...]`, or `residual: {layers: [...], projection: true}` where the shapes differ: the input then
    goes through a dense layer, or a 1 x 1 convolution whose stride is the ratio of the sizes, before it is added."""

    layers: Annotated[list[LayerEntry], Field(min_length=1)]  # whose output is added to their input
    projection: bool = False  # whether the input goes through a linear layer where the shapes differ

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, value: Any) -> Any:
        return {"layers": value} if isinstance(value, list) else value

    def expand(self, name: str, shape: Shape, where: str) -> list[LayerSpec]:
        """The chain, the projection if there is one, and the addition."""
        specs = expand(self.layers, shape, f"{name}.layers", f"{where}.layers")
        out, chain = specs[-1].out_shape, len(specs)
        if out == shape and not self.projection:
            return [*specs, LayerSpec(name, Add(), (out, out), out, back=(1, chain + 1))]
        section = _projection(shape, out, where)
        made = f"{where}: its layers make {list(out)} of {list(shape)}, which cannot be added"
        if section is None:
            raise UserError(
                f"{made}, and no projection leads there; change kernel, stride or padding, or leave flatten out"
            )
        if not self.projection:
            raise UserError(f"{made}; use residual: {{layers: [...], projection: true}}")
        specs.append(LayerSpec(f"{name}.projection", section, (shape,), out, back=(chain + 1,)))
        return [*specs, LayerSpec(name, Add(), (out, out), out, back=(2, 1))]


def _projection(shape: Shape, out: Shape, where: str) -> LayerSection | None:
    """What brings the input to the shape of the output, if anything does."""
    if len(shape) != len(out):
        return None
    if len(shape) == 1:
        return DenseSection(units=out[0])
    (h, w), (h_out, w_out) = image_of(shape), image_of(out)
    along = ceil_div(w, w_out)
    across = ceil_div(h, h_out) if len(shape) == 3 else along
    section = ConvSection(channels=out[0], kernel=(1, 1), stride=(across, along))
    return section if section.out_shape(shape, where) == out else None


class Add(LayerSection):
    """The addition at the end of a skip connection: no entry of a net, but made by `residual`."""

    word = "add"

    def operation(self, shape: Shape) -> Sum:
        """The operation."""
        return Sum()


@dataclass(frozen=True)
class Sum:
    """The sum of two outputs; see :class:`~dnewton.model.layers.interface.Meeting`."""

    def forward(self, a: Array, b: Array) -> tuple[Array, Array | None]:
        """a + b."""
        return a + b, None

    def push_all(self, tangents: Sequence[Array | None], state: Array | None) -> Array | None:
        """Their sum; None where no weights are below."""
        total = None
        for t in tangents:
            if t is not None:
                total = t if total is None else total + t
        return total

    def parts(self, cot: Array, state: Array | None) -> list[Array]:
        """The same for both."""
        return [cot, cot]
