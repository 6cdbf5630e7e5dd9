"""PyTorch: the weights in safetensors, and beside them a module that loads them with `strict=True`.

The module's names are those of model files, so the file is one that `--init` reads, too. PyTorch itself is not needed
here: the module is text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from dnewton import __version__
from dnewton.export_formats.program import Program, Step, step_title
from dnewton.export_formats.register import EXPORT_FORMATS, ExportFormat

_TOP = '''"""A model that dnewton {version} trained, for PyTorch: load() is an nn.Module."""

import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), {file!r})
'''

_LOAD = '''
def load(path=FILE):
    """The trained net; every tensor of the file has its place in it."""
    net = Net()
    net.load_state_dict(load_file(path), strict=True)
    return net
'''


def _access(name: str) -> str:
    """The module of a name such as layers.3.layers.0."""
    first, *keys = name.split(".")
    return f"self.{first}" + "".join(f'["{key}"]' for key in keys)


def _window(step: Step) -> str:
    window = step.needs_window()
    return f"{_one(window.size)}, stride={_one(window.stride)}, padding={_one(window.padding)}"


def _one(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else str(numbers)


def _pool(kind: str) -> Callable[..., str]:
    return lambda step, x: f"F.{kind}_pool{step.dimensions}d({x}, {_window(step)})"


_LAYERS: dict[str, Callable[..., str]] = {
    "dense": lambda step, x: f"{_access(step.name)}({x})",
    "conv": lambda step, x: f"{_access(step.name)}({x})",
    "maxpool": _pool("max"),
    "avgpool": _pool("avg"),
    "global_avgpool": lambda step, x: f"{x}.mean(dim={tuple(range(2, 2 + step.dimensions))})",
    "flatten": lambda step, x: f"{x}.flatten(1)",
    "add": lambda step, x, y: f"{x} + {y}",
}

_ACTIVATIONS = {
    "linear": "{s}",
    "relu": "torch.relu({s})",
    "tanh": "torch.tanh({s})",
    "sigmoid": "torch.sigmoid({s})",
    "softplus": "F.softplus({s}, threshold=40)",
    "silu": "F.silu({s})",
    "gelu": "F.gelu({s})",
    "sin": "torch.sin({s})",
    "elu": "F.elu({s})",
}


def _module(step: Step) -> str:
    """What makes the module of a layer with weights."""
    weight, _ = step.needs_weights()
    dtype = f"dtype=torch.{weight.dtype}"
    if step.kind == "dense":
        return f"nn.Linear({weight.shape[1]}, {weight.shape[0]}, {dtype})"
    return f"nn.Conv{step.dimensions}d({weight.shape[1]}, {weight.shape[0]}, {_window(step)}, {dtype})"


def _tree(program: Program) -> dict[str, Any]:
    """The modules by the parts of their names."""
    tree: dict[str, Any] = {}
    for step in program.steps:
        if step.weight is not None:
            *folders, last = step.name.split(".")
            here = tree
            for folder in folders:
                here = here.setdefault(folder, {})
            here[last] = _module(step)
    return tree


def _written(tree: Mapping[str, Any] | str, indent: str) -> str:
    if isinstance(tree, str):
        return tree
    inner = indent + "    "
    rows = "".join(f'{inner}"{key}": {_written(value, inner)},\n' for key, value in tree.items())
    return f"nn.ModuleDict({{\n{rows}{indent}}})"


def _class(program: Program) -> str:
    lines = [
        "class Net(nn.Module):",
        '    """The net with its scaling: samples as the training data had them, to the outputs before the loss."""',
        "",
        "    def __init__(self):",
        "        super().__init__()",
    ]
    lines += [f"        self.{name} = {_written(tree, ' ' * 8)}" for name, tree in _tree(program).items()]
    for name, value in _buffers(program).items():
        shape = f"{tuple(value.shape)}, dtype=torch.float64"
        lines.append(f'        self.register_buffer("{name}", torch.zeros({shape}))')
    dtype = "next(self.parameters()).dtype"
    shape = ", ".join(("N", *map(str, program.input)))
    lines += ["", "    def forward(self, x):", f'        """({shape}) to (N, {program.head.outputs})."""']
    if program.shift is None:
        lines.append(f"        z0 = x.to({dtype})")
    else:
        given = "x.to(self.scaling_shift.dtype)"
        if program.fill is not None:
            lines.append(f"        x = torch.where(torch.isnan(x), self.scaling_fill, {given})")
            given = "x"
        difference = f"({given} - self.scaling_shift) * self.scaling_factor"
        lines.append(f"        z0 = ({difference}).to({dtype})")
    for at, step in enumerate(program.steps):
        layer = program.choose(_LAYERS, step)(step, *(f"z{i}" for i in step.inputs))
        activated = program.choose_activation(_ACTIVATIONS, step).format(s=layer)
        lines += [f"        # {step_title(step)}", f"        z{at + 1} = {activated}"]
    return "\n".join([*lines, f"        return z{len(program.steps)}", "", *_answers(program)]) + "\n"


def _answers(program: Program) -> list[str]:
    """The methods that a user calls."""
    head = program.head
    if head.output == "values":
        z = "torch.exp(self(x))" if head.link == "exp" else "self(x)"
        return [
            "    def predict(self, x):",
            f'        """The values (N, {head.columns}) in the targets\' units."""',
            f"        return {z} * self.target_spread + self.target_shift" if head.scales else f"        return {z}",
        ]
    labels = head.known()
    known = "self(x)" if len(labels) >= head.outputs else f"self(x)[:, :{len(labels)}]"
    places = "(self(x)[:, 0] > 0).long()" if head.outputs == 1 else f"{known}.argmax(dim=1)"
    lines = [
        "    def predict(self, x):",
        '        """The likeliest label of every sample, a list."""',
        f"        return [LABELS[i] for i in {places}.tolist()]",
    ]
    if head.output == "probabilities":
        lines += ["", "    def probabilities(self, x):"]
        lines += [f'        """The probability of every label of LABELS, (N, {head.columns})."""']
        lines += (
            [
                "        z = self(x)",
                "        return torch.sigmoid(torch.cat([-z, z], dim=1))",
            ]
            if head.link == "sigmoid"
            else [f"        return torch.softmax({known}, dim=1)"]
        )
    return lines


def _buffers(program: Program) -> dict[str, np.ndarray]:
    """What the module holds besides its weights, float64."""
    buffers = program.scaling()
    if program.head.output == "values" and program.head.scales:
        buffers |= {"target_shift": program.head.shift, "target_spread": program.head.spread}
    return buffers


def render(program: Program, path: str) -> dict[str, bytes]:
    """The safetensors file, and the module beside it."""
    from safetensors.numpy import save

    tensors = dict(_buffers(program))
    for step in program.steps:
        if step.weight is not None:
            tensors[f"{step.name}.weight"], tensors[f"{step.name}.bias"] = step.needs_weights()
    top = _TOP.format(version=__version__, file=PurePath(path).name)
    if program.head.output != "values":
        top += f"LABELS = {program.head.known().tolist()!r}\n"
    text = "\n\n".join([top, _class(program), _LOAD.lstrip("\n")])
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data = save(whole, metadata={"format": "pt"})
    return {path: data, str(PurePath(path).with_suffix(".py")): text.encode()}


EXPORT_FORMATS.add("torch")(ExportFormat(render))
