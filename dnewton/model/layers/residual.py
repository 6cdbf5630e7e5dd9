"""Skip connections: the input of a chain of layers is added to its output (He, Zhang, Ren, Sun 2016)."""

from __future__ import annotations

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

INNER = 1 << 20  # entries of a chain, at most: keys of random numbers are numbered so


@LAYERS.add("residual")
class ResidualSection(LayerSection):
    """`residual: [layers...]`, or `residual: {layers: [...], projection: true}` where the shapes differ: the input then
    goes through a dense layer, or a 1 x 1 convolution whose stride is the ratio of the sizes, before it is added."""

    layers: Annotated[list[LayerEntry], Field(min_length=1)]
    projection: bool = False

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, value: Any) -> Any:
        return {"layers": value} if isinstance(value, list) else value

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """The shape of the chain's output."""
        return self.expand("layers", 0, shape, where)[-1].out_shape

    def expand(self, name: str, key: int, shape: Shape, where: str) -> list[LayerSpec]:
        """The chain, the projection if there is one, and the addition."""
        first = (key + 1) * INNER
        keys = range(first, first + len(self.layers))
        specs = expand(self.layers, shape, f"{name}.layers", keys, f"{where}.layers")
        out, chain = specs[-1].out_shape, len(specs)
        if not self.projection:
            if out != shape:
                raise UserError(
                    f"{where}: its layers make {list(out)} of {list(shape)}, which cannot be added to it; use "
                    "residual: {layers: [...], projection: true}"
                )
            return [*specs, LayerSpec(name, key, Add(), (out, out), out, back=(1, chain + 1))]
        section = _projection(shape, out, where)
        there = section.out_shape(shape, where)
        if there != out:
            raise UserError(
                f"{where}: no projection leads from {list(shape)} to {list(out)}; change a stride or a size"
            )
        specs.append(LayerSpec(f"{name}.projection", first + INNER - 1, section, (shape,), out, back=(chain + 1,)))
        return [*specs, LayerSpec(name, key, Add(), (out, out), out, back=(2, 1))]


def _projection(shape: Shape, out: Shape, where: str) -> LayerSection:
    if len(shape) != len(out):
        raise UserError(f"{where}: its layers make {list(out)} of {list(shape)}; leave flatten out of a residual")
    if len(shape) == 1:
        return DenseSection(units=out[0])
    (h, w), (h_out, w_out) = image_of(shape), image_of(out)
    along = ceil_div(w, w_out)
    return ConvSection(channels=out[0], kernel=(1, 1), stride=(ceil_div(h, h_out) if len(shape) == 3 else along, along))


class Add(LayerSection):
    """The addition at the end of a skip connection: no entry of a net, but made by `residual`."""

    def operation(self, shape: Shape) -> Sum:
        """The operation."""
        return Sum()


@dataclass(frozen=True)
class Sum:
    """The sum of two outputs. Cotangents and tangents are the network's business: they are copied and added."""

    def forward(self, a: Array, b: Array) -> tuple[Array, Array | None]:
        """a + b."""
        return a + b, None
