"""A model as a list of steps in plain terms, which every format writes out; one process, no grid.

Shapes are as users see them: (features,), (C, L) or (C, H, W), without the axis of samples. Step i makes value i + 1;
value 0 is the scaled input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from dnewton.config.layer_entry import LayerSpec, Shape
from dnewton.config.loss_entry import LOSSES
from dnewton.config.schema import NetSection
from dnewton.data.scaling import Scaling
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.planning.net_plan import infer_shapes
from dnewton.storage.model_header import described
from dnewton.storage.tensor_file import read_metadata, read_weights

T = TypeVar("T")
Values = np.ndarray


@dataclass(frozen=True)
class Window:
    """A kernel or pooling window along each axis of an image (height, width) or a sequence (length)."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def as_2d(self) -> Window:
        """The same over a sequence that is an image of height 1; of an image itself."""
        if len(self.size) == 2:
            return self
        return Window((1, *self.size), (1, *self.stride), (0, *self.padding))


@dataclass(frozen=True)
class Step:
    """One layer: σ(operation(inputs)). Weights are [out, in] or [out, in, kernel...], as PyTorch has them."""

    name: str  # in model files
    kind: str  # dense, conv, maxpool, avgpool, global_avgpool, flatten, add
    inputs: tuple[int, ...]  # numbers of values
    in_shape: Shape
    out_shape: Shape
    activation: str
    window: Window | None = None
    weight: Values | None = None
    bias: Values | None = None

    @property
    def dimensions(self) -> int:
        """Axes of its input's positions: 0 of features, 1 of a sequence, 2 of an image."""
        return len(self.in_shape) - 1

    def needs_window(self) -> Window:
        """The window of a layer that has one."""
        assert self.window is not None
        return self.window

    def needs_weights(self) -> tuple[Values, Values]:
        """Weight and bias of a layer that has them."""
        assert self.weight is not None and self.bias is not None
        return self.weight, self.bias


@dataclass(frozen=True)
class Head:
    """What is made of the net's outputs z.

    `probabilities`: a link over those outputs that stand for labels, and the likeliest label; `scores`: these outputs
    as they are, and the label of the largest; `values`: link(z) * spread + shift, in the targets' units.
    """

    output: Literal["probabilities", "scores", "values"]
    link: Literal["softmax", "sigmoid", "exp", "identity"]
    outputs: int
    labels: Values | None  # int64 or strings
    shift: Values
    spread: Values

    @property
    def columns(self) -> int:
        """Numbers per sample of what is made."""
        if self.output == "values":
            return self.outputs
        return 2 if self.link == "sigmoid" else min(self.outputs, len(self.known()))

    @property
    def scales(self) -> bool:
        """Whether values are more than link(z)."""
        return bool(self.shift.any() or (self.spread != 1).any())

    def known(self) -> Values:
        """The labels of a classifier."""
        assert self.labels is not None
        return self.labels


@dataclass(frozen=True)
class Program:
    """A whole model. Its inputs are what the training data held: x ↦ (x - shift) * factor comes first, in float64,
    and before it `fill` for features without a value (NaN)."""

    source: str
    input: Shape
    shift: Values | None  # of the shape of the input; None where nothing is scaled or filled
    factor: Values | None
    steps: tuple[Step, ...]
    head: Head
    columns: tuple[str, ...] | None  # names of the features, where the training data had some
    double: bool = False  # inputs and outputs in float64; the net itself computes in float32
    fill: Values | None = None  # of the shape of the input; None where every feature must have a value

    def scaling(self) -> dict[str, Values]:
        """The arrays of what is done to the input, by their names in files."""
        arrays = {"scaling_shift": self.shift, "scaling_factor": self.factor, "scaling_fill": self.fill}
        return {name: values for name, values in arrays.items() if values is not None}

    @property
    def weights(self) -> int:
        """The number of weights and biases."""
        return sum(w.size + b.size for w, b in (s.needs_weights() for s in self.steps if s.weight is not None))

    def in_doubles(self) -> Program:
        """The same with inputs and outputs in float64."""
        return replace(self, double=True)

    def cure(self, what: str, step: Step | None, known: Mapping[str, Any]) -> UserError:
        """The error where a format has no word for something."""
        where = f" ({step.name})" if step is not None else ""
        return UserError(f"{self.source}: {what}{where} cannot be exported to this format; it has {', '.join(known)}")

    def choose(self, table: Mapping[str, T], step: Step) -> T:
        """A format's entry for a kind of layer. Raises UserError when it has none."""
        if step.kind not in table:
            raise self.cure(f"layer {step.kind}", step, table)
        return table[step.kind]

    def choose_activation(self, table: Mapping[str, T], step: Step) -> T:
        """A format's entry for a step's activation. Raises UserError when it has none."""
        if step.activation not in table:
            raise self.cure(f"activation {step.activation}", step, table)
        return table[step.activation]


def read(path: str) -> Program:
    """The model of a model file or of a checkpoint's tensors. Raises UserError."""
    model = described(path, read_metadata(path))
    specs = infer_shapes(model.net, path)
    return build(path, model.net, model.scaling, model.targets, read_weights(path, specs), model.columns)


def build(
    source: str,
    net: NetSection,
    scaling: Scaling,
    targets: Targets,
    weights: Mapping[str, Values],
    columns: tuple[str, ...] | None = None,
) -> Program:
    """A program from its parts; `weights` by their names in model files. Raises UserError naming `source`."""
    specs = infer_shapes(net, source)
    steps = tuple(_step(source, at, spec, weights) for at, spec in enumerate(specs))
    fill = None if scaling.fill is None else scaling.fill.reshape(net.input)
    scaled = bool(scaling.shift.any() or (scaling.factor != 1).any() or fill is not None)
    shift, factor = (a.reshape(net.input) if scaled else None for a in (scaling.shift, scaling.factor))
    return Program(source, tuple(net.input), shift, factor, steps, _head(source, net, targets), columns, fill=fill)


def _step(source: str, at: int, spec: LayerSpec, weights: Mapping[str, Values]) -> Step:
    if spec.kind not in _WINDOWS:
        raise UserError(f"{source}: layer {spec.kind} ({spec.name}) cannot be exported; known: {', '.join(_WINDOWS)}")
    window = _WINDOWS[spec.kind](spec)
    weight = bias = None
    if spec.parametric:
        weight, bias = weights[f"{spec.name}.weight"], weights[f"{spec.name}.bias"]
    inputs = tuple(at - back + 1 for back in spec.back)
    return Step(spec.name, spec.kind, inputs, spec.in_shape, spec.out_shape, spec.activation, window, weight, bias)


def _no_window(spec: LayerSpec) -> Window | None:
    return None


def _kernel(spec: LayerSpec) -> Window:
    op = spec.options.operation(spec.in_shape)
    return _window(spec, op.kernel, op.stride, op.padding)


def _pooled(spec: LayerSpec) -> Window:
    op = spec.options.operation(spec.in_shape)
    return _window(spec, op.size, op.stride, op.padding)


def _window(spec: LayerSpec, *pairs: Sequence[int]) -> Window:
    """Of (height, width) as operations have them; of a sequence the last number."""
    return Window(*(tuple(pair)[-(len(spec.in_shape) - 1) :] for pair in pairs))


_WINDOWS: dict[str, Callable[[LayerSpec], Window | None]] = {
    "dense": _no_window,
    "conv": _kernel,
    "maxpool": _pooled,
    "avgpool": _pooled,
    "global_avgpool": _no_window,
    "flatten": _no_window,
    "add": _no_window,
}

_LINKS: dict[str, Literal["softmax", "sigmoid", "exp", "identity"]] = {
    "squared": "identity",
    "huber": "identity",
    "poisson": "exp",
    "cross_entropy": "softmax",
    "logistic": "sigmoid",
}


def _head(source: str, net: NetSection, targets: Targets) -> Head:
    loss = LOSSES.name_of(type(net.loss))
    if loss not in _LINKS:
        raise UserError(
            f"{source}: loss {loss or type(net.loss).__name__} cannot be exported; known: {', '.join(_LINKS)}"
        )
    link = _LINKS[loss]
    if targets.sets:
        raise UserError(f"{source}: labels in sets (logistic with several outputs) cannot be exported yet")
    likely = link in ("softmax", "sigmoid")
    output: Literal["probabilities", "scores", "values"] = (
        "values" if targets.classes is None else "probabilities" if likely else "scores"
    )
    if output == "scores":
        link = "identity"
    if output == "values" and likely:
        raise UserError(f"{source}: has no labels, which loss {loss} needs; its header is damaged")
    return Head(output, link, targets.outputs, targets.classes, targets.shift, targets.spread)


def step_title(step: Step) -> str:
    """A step in words, for comments."""
    shapes = f"{list(step.in_shape)} to {list(step.out_shape)}"
    return f"{step.name}: {step.kind}, {shapes}" + ("" if step.activation == "linear" else f", {step.activation}")
