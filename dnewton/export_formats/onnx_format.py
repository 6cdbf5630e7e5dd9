"""ONNX: one graph with scaling, net, link and labels; input `x`, outputs `probabilities` or `scores` and `label`, or
`values`. Operators of opset 17, which onnxruntime 1.12 and everything after it read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dnewton import __version__
from dnewton.errors import UserError, one_line
from dnewton.export_formats.program import Head, Program, Step
from dnewton.export_formats.register import EXPORT_FORMATS, ExportFormat

OPSET = 17
IR_VERSION = 8
LARGEST = 2_000_000_000  # bytes of weights: a protocol buffer ends at 2 GiB


class _Graph:
    """Nodes and constants as they are added; every node has one output."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Another node; returns the name of its output."""
        output = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [output], name=f"make_{output}", **attributes))
        return output

    def constant(self, values: Any, name: str = "") -> str:
        """An array of the file; returns its name."""
        name = name or f"constant_{len(self.constants)}"
        array = np.asarray(values)
        if array.dtype.kind == "U":
            array = array.astype(object)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def cast(self, value: str, to: type) -> str:
        """A value in another type."""
        return self.add("Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to)))


# --- layers -----------------------------------------------------------------------------------------------------------


def _weights(g: _Graph, step: Step) -> tuple[str, str]:
    weight, bias = step.needs_weights()
    return (
        g.constant(weight.astype(np.float32), f"{step.name}.weight"),
        g.constant(bias.astype(np.float32), f"{step.name}.bias"),
    )


def _window(step: Step) -> dict[str, Any]:
    window = step.needs_window()
    return {
        "kernel_shape": list(window.size),
        "strides": list(window.stride),
        "pads": [*window.padding, *window.padding],
    }


def _dense(g: _Graph, step: Step, x: str) -> str:
    return g.add("Gemm", x, *_weights(g, step), transB=1)


def _conv(g: _Graph, step: Step, x: str) -> str:
    return g.add("Conv", x, *_weights(g, step), **_window(step))


def _maxpool(g: _Graph, step: Step, x: str) -> str:
    return g.add("MaxPool", x, **_window(step))


def _avgpool(g: _Graph, step: Step, x: str) -> str:
    return g.add("AveragePool", x, count_include_pad=1, **_window(step))


def _global_avgpool(g: _Graph, step: Step, x: str) -> str:
    return g.add("Flatten", g.add("GlobalAveragePool", x), axis=1)


def _flatten(g: _Graph, step: Step, x: str) -> str:
    return g.add("Flatten", x, axis=1)


def _add(g: _Graph, step: Step, x: str, y: str) -> str:
    return g.add("Add", x, y)


_LAYERS: dict[str, Callable[..., str]] = {
    "dense": _dense,
    "conv": _conv,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "global_avgpool": _global_avgpool,
    "flatten": _flatten,
    "add": _add,
}


def _plain(op: str) -> Callable[[_Graph, str], str]:
    return lambda g, x: g.add(op, x)


def _gelu(g: _Graph, x: str) -> str:
    """x Φ(x); the operator Gelu is newer than this opset."""
    erf = g.add("Erf", g.add("Mul", x, g.constant(np.float32(np.sqrt(0.5)))))
    one, half = g.constant(np.float32(1)), g.constant(np.float32(0.5))
    return g.add("Mul", g.add("Mul", x, half), g.add("Add", erf, one))


_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "linear": lambda g, x: x,
    "relu": _plain("Relu"),
    "tanh": _plain("Tanh"),
    "sigmoid": _plain("Sigmoid"),
    "softplus": _plain("Softplus"),
    "silu": lambda g, x: g.add("Mul", x, g.add("Sigmoid", x)),
    "gelu": _gelu,
    "sin": _plain("Sin"),
    "elu": _plain("Elu"),
}


# --- the whole --------------------------------------------------------------------------------------------------------


def _input(g: _Graph, program: Program) -> str:
    """The scaled input, float32; differences are taken in float64, so that those of large numbers survive."""
    if program.shift is None or program.factor is None:
        return g.cast("x", np.float32) if program.double else "x"
    x = "x" if program.double else g.cast("x", np.float64)
    if program.fill is not None:
        x = g.add("Where", g.add("IsNaN", x), g.constant(program.fill[None], "scaling_fill"), x)
    x = g.add("Sub", x, g.constant(program.shift[None], "scaling_shift"))
    return g.cast(g.add("Mul", x, g.constant(program.factor[None], "scaling_factor")), np.float32)


def _outputs(g: _Graph, head: Head, z: str, double: bool) -> list[Any]:
    """Adds what follows the net's outputs; returns what the graph gives."""
    real = np.float64 if double else np.float32
    if head.output == "values":
        z = g.add("Exp", z) if head.link == "exp" else z
        if head.scales:
            z = g.cast(z, np.float64)
            z = g.add("Mul", z, g.constant(head.spread[None], "target_spread"))
            z = g.add("Add", z, g.constant(head.shift[None], "target_shift"))
        g.add("Cast", z, name="values", to=g.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(real)))
        return [_info(g, "values", real, ["N", head.columns])]
    labels = head.known()
    if head.outputs == 1:
        place = g.add("Cast", g.add("Greater", z, g.constant(np.float32(0))), to=g.onnx.TensorProto.INT64)
        place = g.add("Squeeze", place, g.constant(np.array([1], np.int64)))
    else:
        if len(labels) < head.outputs:  # outputs beyond the known labels do not count
            ends = [g.constant(np.array([n], np.int64)) for n in (0, len(labels), 1)]
            z = g.add("Slice", z, *ends)
        place = g.add("ArgMax", z, axis=1, keepdims=0)
    if head.link == "softmax":
        z = g.add("Softmax", z, axis=1)
    elif head.link == "sigmoid":
        z = g.add("Concat", g.add("Sigmoid", g.add("Neg", z)), g.add("Sigmoid", z), axis=1)
    g.add("Cast", z, name=head.output, to=g.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(real)))
    g.add("Gather", g.constant(labels, "labels"), place, name="label", axis=0)
    kind = str if labels.dtype.kind == "U" else np.int64
    return [_info(g, head.output, real, ["N", head.columns]), _info(g, "label", kind, ["N"])]


def _info(g: _Graph, name: str, dtype: type, shape: Sequence[int | str]) -> Any:
    tensor = g.onnx.TensorProto
    types = {str: tensor.STRING, np.int64: tensor.INT64, np.float32: tensor.FLOAT, np.float64: tensor.DOUBLE}
    return g.onnx.helper.make_tensor_value_info(name, types[dtype], list(shape))


def render(program: Program, path: str) -> dict[str, bytes]:
    """The file, checked by the library. Raises UserError where the library is missing or the net does not fit."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise UserError(f"--to onnx: {one_line(error)}; install it: pip install 'dnewton[onnx]'") from None
    if 4 * program.weights > LARGEST:
        raise UserError(f"--to onnx: {program.weights} weights do not fit into one file of 2 GB; use --to torch")
    g = _Graph(onnx)
    values = [_input(g, program)]
    for step in program.steps:
        layer, activation = program.choose(_LAYERS, step), program.choose_activation(_ACTIVATIONS, step)
        values.append(activation(g, layer(g, step, *(values[i] for i in step.inputs))))
    outputs = _outputs(g, program.head, values[-1], program.double)
    given = _info(g, "x", np.float64 if program.double else np.float32, ["N", *program.input])
    graph = onnx.helper.make_graph(g.nodes, "dnewton", [given], outputs, g.constants)
    model = onnx.helper.make_model(
        graph,
        producer_name="dnewton",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    if program.columns:
        onnx.helper.set_model_props(model, {"columns": json.dumps(program.columns)})
    onnx.checker.check_model(model, full_check=True)
    return {path: model.SerializeToString()}


EXPORT_FORMATS.add("onnx")(ExportFormat(render, takes_double=True))
