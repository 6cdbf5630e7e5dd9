"""NumPy: the arrays in an .npz, and beside it a module of a few readable lines that computes with them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import PurePath

import numpy as np

from dnewton import __version__
from dnewton.export_formats.program import Program, Step, step_title
from dnewton.export_formats.register import EXPORT_FORMATS, ExportFormat

# What a function of the module needs comes before it.
_WINDOWS = '''
def windows(z, size, stride, padding, fill=0.0):
    """(N, C, ...) as (N, C, positions..., window...)."""
    z = np.pad(z, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(z, size, axis=tuple(range(2, z.ndim)))
    return view[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
'''
_CONV = '''
def conv(z, weight, bias, stride, padding):
    """Cross-correlation of (N, C, ...) with weight (O, C, window...)."""
    d = weight.ndim - 2
    view = windows(z, weight.shape[2:], stride, padding)
    s = np.tensordot(view, weight, axes=([1, *range(2 + d, 2 + 2 * d)], range(1, 2 + d)))
    return np.moveaxis(s + bias, -1, 1)
'''
_MAXPOOL = '''
def maxpool(z, size, stride, padding):
    """Maximum over windows of (N, C, ...)."""
    return windows(z, size, stride, padding, -np.inf).max(axis=tuple(range(-len(size), 0)))
'''
_AVGPOOL = '''
def avgpool(z, size, stride, padding):
    """Mean over windows of (N, C, ...), in which padding counts as zeros."""
    return windows(z, size, stride, padding).mean(axis=tuple(range(-len(size), 0)))
'''
_LOADING = """
with np.load(os.path.join(os.path.dirname(os.path.abspath(__file__)), {file!r})) as file:
    P = {{name: file[name] for name in file.files}}
"""


def _window(step: Step) -> str:
    window = step.needs_window()
    return f"{window.size}, {window.stride}, {window.padding}"


def _dense(step: Step, x: str) -> str:
    return f'{x} @ P["{step.name}.weight"].T + P["{step.name}.bias"]'


def _conv(step: Step, x: str) -> str:
    window = step.needs_window()
    return f'conv({x}, P["{step.name}.weight"], P["{step.name}.bias"], {window.stride}, {window.padding})'


_LAYERS: dict[str, Callable[..., str]] = {
    "dense": _dense,
    "conv": _conv,
    "maxpool": lambda step, x: f"maxpool({x}, {_window(step)})",
    "avgpool": lambda step, x: f"avgpool({x}, {_window(step)})",
    "global_avgpool": lambda step, x: f"{x}.mean(axis={tuple(range(2, 2 + step.dimensions))})",
    "flatten": lambda step, x: f"{x}.reshape(len({x}), -1)",
    "add": lambda step, x, y: f"{x} + {y}",
}

_ACTIVATIONS = {
    "linear": "{s}",
    "relu": "np.maximum({s}, 0)",
    "tanh": "np.tanh({s})",
    "sigmoid": "sigmoid({s})",
    "softplus": "np.logaddexp({s}, 0)",
    "silu": "silu({s})",
    "gelu": "gelu({s})",
    "sin": "np.sin({s})",
    "elu": "elu({s})",
}

_SIGMOID = """
def sigmoid(s):
    return 0.5 * (1 + np.tanh(0.5 * s))
"""
_SILU = """
def silu(s):
    return s * sigmoid(s)
"""
_GELU = """
def gelu(s):
    return s * 0.5 * (1 + np.vectorize(math.erf, otypes=[s.dtype])(s * math.sqrt(0.5)))
"""
_ELU = """
def elu(s):
    return np.maximum(s, 0) + np.expm1(np.minimum(s, 0))
"""
_SOFTMAX = """
def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
"""
_HELPERS = {
    "windows": _WINDOWS,
    "conv": _CONV,
    "maxpool": _MAXPOOL,
    "avgpool": _AVGPOOL,
    "sigmoid": _SIGMOID,
    "silu": _SILU,
    "gelu": _GELU,
    "elu": _ELU,
    "softmax": _SOFTMAX,
}
_NEEDS = {"conv": "windows", "maxpool": "windows", "avgpool": "windows", "silu": "sigmoid"}


def _net(program: Program) -> str:
    """The function from inputs to the net's outputs."""
    dtype = _dtype(program)
    shape = ", ".join(("N", *map(str, program.input)))
    lines = [
        "def outputs(x):",
        f'    """The net\'s own outputs of samples ({shape}), unscaled as the training data were: (N, outputs)."""',
        f"    x = np.asarray(x).reshape(-1, {', '.join(map(str, program.input))})",
    ]
    if program.fill is not None:
        lines.append('    x = np.where(np.isnan(x), P["scaling_fill"], x)')
    if program.shift is None:
        lines.append(f"    z0 = x.astype(np.{dtype})")
    else:
        lines.append(f'    z0 = ((x.astype(np.float64) - P["scaling_shift"]) * P["scaling_factor"]).astype(np.{dtype})')
    for at, step in enumerate(program.steps):
        layer = program.choose(_LAYERS, step)(step, *(f"z{i}" for i in step.inputs))
        activated = program.choose_activation(_ACTIVATIONS, step).format(s=layer)
        lines += [f"    # {step_title(step)}", f"    z{at + 1} = {activated}"]
    lines.append(f"    return z{len(program.steps)}")
    return "\n".join(lines) + "\n"


def _dtype(program: Program) -> str:
    return str(next(step.needs_weights()[0] for step in program.steps if step.weight is not None).dtype)


def _answers(program: Program) -> str:
    """The functions that a user calls."""
    head = program.head
    if head.output == "values":
        z = "np.exp(outputs(x))" if head.link == "exp" else "outputs(x)"
        scaled = f'{z} * P["target_spread"] + P["target_shift"]' if head.scales else z
        return (
            f'def predict(x):\n    """The values (N, {head.columns}) in the targets\' units."""\n    return {scaled}\n'
        )
    count = len(head.known())
    known = "outputs(x)" if count >= head.outputs else f"outputs(x)[:, :{count}]"
    place = "(outputs(x)[:, 0] > 0).astype(int)" if head.outputs == 1 else f"np.argmax({known}, axis=1)"
    text = f'def predict(x):\n    """The likeliest label of every sample (N,)."""\n    return P["labels"][{place}]\n'
    if head.output == "scores":
        return text
    lines = [f"    return softmax({known})"]
    if head.link == "sigmoid":
        lines = ["    z = outputs(x)", "    return np.concatenate([sigmoid(-z), sigmoid(z)], axis=1)"]
    title = f'    """The probability of every label of P["labels"] (N, {head.columns})."""'
    return "\n".join(["def probabilities(x):", title, *lines]) + "\n\n\n" + text


def _arrays(program: Program) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for step in program.steps:
        if step.weight is not None:
            arrays[f"{step.name}.weight"], arrays[f"{step.name}.bias"] = step.needs_weights()
    arrays |= program.scaling()
    if program.head.output == "values":
        return arrays | {"target_shift": program.head.shift, "target_spread": program.head.spread}
    return arrays | {"labels": program.head.known()}


def render(program: Program, path: str) -> dict[str, bytes]:
    """The .npz, and the module beside it."""
    body = [_net(program), _answers(program)]
    used = {name for name in _HELPERS if any(re.search(rf"\b{name}\(", text) for text in body)}
    used |= {_NEEDS[name] for name in used if name in _NEEDS}
    helpers = [text for name, text in _HELPERS.items() if name in used]
    title = f'"""A model that dnewton {__version__} trained, with NumPy alone: predict(x)."""\n'
    imports = ["import math\n"] * ("gelu" in used) + ["import os\n\nimport numpy as np\n"]
    head = title + "\n" + "".join(imports) + _LOADING.format(file=PurePath(path).name)
    text = "\n\n".join([head, *(h.lstrip("\n") for h in helpers), *body])
    buffer = io.BytesIO()
    np.savez(buffer, **_arrays(program))  # type: ignore[arg-type]
    return {path: buffer.getvalue(), str(PurePath(path).with_suffix(".py")): text.encode()}


EXPORT_FORMATS.add("numpy")(ExportFormat(render))
