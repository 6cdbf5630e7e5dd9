"""One entry of `net.layers`: a kind of layer by its name, its YAML options, and what planning asks of any kind.

A kind is a class in :mod:`dnewton.model.layers`, known here by name alone. Shapes are (C, H, W), (C, L) or (features,).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import SerializeAsAny, ValidationError, model_serializer, model_validator

from dnewton.config.register import Register
from dnewton.config.types import Section
from dnewton.errors import UserError
from dnewton.grid import KindName, Split, SplitAxis

Shape = tuple[int, ...]


class Arrangement(NamedTuple):
    """How a layer without weights may take and give activations: the splits, and the axis that cuts its output."""

    in_split: Split
    out_split: Split
    out_axis: SplitAxis


class LayerSection(Section):
    """The options of one kind of layer, and what holds of the kind. Pure: the operation is made by `operation`."""

    bare: ClassVar[bool] = False  # may stand as a bare word
    word: ClassVar[str] = "layer"  # what a kind that is no entry of a net is called
    parametric: ClassVar[bool] = False  # has weights
    linear: ClassVar[bool] = True  # but for an activation, its output is linear in its input
    copies_patches: ClassVar[bool] = False  # the φ of a sample is a copy, larger than the input
    whole: ClassVar[bool] = False  # without weights: needs its inputs whole on every rank
    takes_data: ClassVar[bool] = False  # without weights: its operation takes the samples' data beside its input
    bias_positions: ClassVar[slice] = slice(None)  # of a sample's positions, those to which the bias is added
    takes_pooled: ClassVar[bool] = False  # its cotangent can be kept at the maxima of a pooling that follows

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """The output's shape. Raises UserError naming `where`, the layer, when the input's does not suit."""
        raise NotImplementedError

    def kernel_shape(self, shape: Shape) -> Shape:
        """The dimensions of the weights after [out, in]."""
        return ()

    def pooled_window(self) -> int:
        """Numbers in a window of which only the maximum's cotangent is not zero; 0 where there is no such thing."""
        return 0

    def arrangements(self, shape: Shape, split: Split, axis: SplitAxis) -> list[Arrangement]:
        """What a layer without weights can do with an input of that shape, cut along `axis` in that split."""
        return [Arrangement(split, split, axis)]

    def operation(self, shape: Shape) -> Any:
        """What computes: see :mod:`dnewton.model.layers`."""
        raise NotImplementedError

    def expand(self, name: str, shape: Shape, where: str) -> list[LayerSpec]:
        """The layers that the entry stands for, in an order in which each comes after those that it takes."""
        return [LayerSpec(name, self, (shape,), self.out_shape(shape, where))]


class LayerSpec(NamedTuple):
    """One layer of the net with its shapes, before any layout. Layers form a graph: `back` says whose output each input
    is, as a distance in the list (1: the layer before)."""

    name: str  # in model files, PyTorch's way
    options: LayerSection
    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    back: tuple[int, ...] = (1,)

    @property
    def kind(self) -> str:
        """conv, dense, maxpool, ..."""
        return LAYERS.name_of(type(self.options)) or self.options.word

    @property
    def key(self) -> int:
        """Of the random numbers that its weights start from: the entry's number, or inside an entry 48 bits of a hash
        of the name."""
        entry = self.name.removeprefix("layers.")
        if entry.isdecimal():
            return int(entry)
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=6).digest(), "little")

    @property
    def in_shape(self) -> Shape:
        """The shape of the (first) input."""
        return self.in_shapes[0]

    @property
    def parametric(self) -> bool:
        """True for layers with weights."""
        return self.options.parametric

    @property
    def activation(self) -> str:
        """The activation's name; layers without weights are linear."""
        return str(getattr(self.options, "activation", "linear"))

    @property
    def drawn_for(self) -> str:
        """The activation that its weights are drawn for: its own, or that of a layer of its own which follows."""
        return str(getattr(self.options, "followed_by", self.activation))

    @property
    def split(self) -> KindName | None:
        """The kind of split that the user fixed, of layers with weights."""
        return getattr(self.options, "split", None)

    @property
    def depends_on_sample(self) -> bool:
        """Whether ∂output/∂input differs from sample to sample."""
        return self.activation != "linear" or not self.options.linear

    @property
    def kernel_size(self) -> int:
        """Numbers of a patch per channel."""
        return math.prod(self.options.kernel_shape(self.in_shape))

    @property
    def weight_shape(self) -> Shape:
        """[out, in] or [out, in, kernel...]."""
        return (self.out_shape[0], self.in_shape[0], *self.options.kernel_shape(self.in_shape))


LAYERS = Register[type[LayerSection]](
    "layer",
    {
        "conv": "dnewton.model.layers.conv",
        "dense": "dnewton.model.layers.dense",
        "maxpool": "dnewton.model.layers.max_pool",
        "avgpool": "dnewton.model.layers.avg_pool",
        "global_avgpool": "dnewton.model.layers.global_pool",
        "flatten": "dnewton.model.layers.flatten",
        "residual": "dnewton.model.layers.residual",
        "fourier": "dnewton.model.layers.fourier",
    },
)


class LayerEntry(Section):
    """One entry of net.layers: exactly one kind with its options, or the bare word of a kind that needs none."""

    kind: str
    options: SerializeAsAny[LayerSection]

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if isinstance(value, LayerEntry):
            return {"kind": value.kind, "options": value.options}
        given = {value: None} if isinstance(value, str) else value
        if not isinstance(given, dict) or len(given) != 1:
            raise ValueError(f"one of {', '.join(LAYERS.names())} with its options is needed per entry")
        ((kind, options),) = given.items()
        if kind not in LAYERS:
            raise _unknown(kind, options)
        section = LAYERS[kind]
        if options is None and (section.bare or isinstance(value, str)):
            options = {}
        try:
            return {"kind": kind, "options": section.model_validate(options)}
        except ValidationError as error:
            raise inside(error, kind) from None

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.kind: {k: v for k, v in self.options.model_dump().items() if v is not None}}


def _unknown(kind: object, options: Any) -> ValidationError:
    where: Any = {"type": "extra_forbidden", "loc": (kind,), "input": options}
    return ValidationError.from_exception_data("layer", [where])


def inside(error: ValidationError, kind: str) -> ValidationError:
    """The same errors, one key deeper."""
    details: list[Any] = []
    for e in error.errors(include_url=False):
        context = e.get("ctx", {})
        details.append({"type": e["type"], "loc": (kind, *e["loc"]), "input": e["input"], "ctx": context})
    return ValidationError.from_exception_data("layer", details)


def expand(entries: Sequence[LayerEntry], shape: Shape, prefix: str, where: str) -> list[LayerSpec]:
    """The layers that entries stand for, one after the other, from the shape of their input.

    `prefix` begins their names, `where` names the list in messages.
    """
    specs: list[LayerSpec] = []
    for index, entry in enumerate(entries):
        there = f"{where}[{index}] ({entry.kind})"
        specs += entry.options.expand(f"{prefix}.{index}", shape, there)
        shape = specs[-1].out_shape
    return specs


def needs_features(shape: Shape, where: str) -> None:
    """Raise UserError unless a shape is (features,)."""
    if len(shape) != 1:
        kind = "the image" if len(shape) == 3 else "the sequence"
        raise UserError(f"{where}: needs [features] but gets {kind} {list(shape)}; put flatten before it")
