"""C: one C99 file without dependencies but math.h; weights and labels are constants, nothing is allocated.

Buffers are numbered slots of one array on the stack, so that the function may run in any number of threads. A slot is
used again once no later step reads it; `flatten` needs none, since images are channel-major inside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import PurePath

import numpy as np

from dnewton import __version__
from dnewton.export_formats import c_functions
from dnewton.export_formats.program import Program, Step, Window, step_title
from dnewton.export_formats.register import EXPORT_FORMATS, ExportFormat

WIDTH = 110  # of lines with numbers


def _float(value: float) -> str:
    """The shortest text that is the same float32."""
    text = f"{value:.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


def _double(value: float) -> str:
    text = repr(float(value))
    return text if re.search(r"[.e]", text) else f"{text}.0"


def _string(text: str) -> str:
    """A literal with the UTF-8 bytes of a text; three octal digits end before whatever follows."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return '"' + "".join(plain) + '"'


def _array(declaration: str, words: Iterable[str]) -> str:
    """A constant array, in lines."""
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > WIDTH:
            lines.append("")
        lines[-1] += f"{word}, " if lines[-1] else f"  {word}, "
    body = "\n".join(line.rstrip() for line in lines).rstrip(",")
    return f"{declaration} = {{\n{body}\n}};\n"


# --- where values lie -------------------------------------------------------------------------------------------------


class _Slots:
    """Buffers for the values of a program, each with a size in floats; value 0 is the scaled input."""

    def __init__(self, program: Program) -> None:
        last: dict[int, int] = {}
        for at, step in enumerate(program.steps):
            last |= dict.fromkeys(step.inputs, at)
        self.sizes: list[int] = []
        self.of_value: list[int] = []
        free: list[int] = []
        ends: dict[int, int] = {}  # by slot, the last step that reads a value in it
        self._place(math.prod(program.input), free)
        ends[0] = last[0]
        for at, step in enumerate(program.steps):
            if step.kind == "flatten":  # the same numbers
                slot = self.of_value[step.inputs[0]]
                self.of_value.append(slot)
            else:
                slot = self._place(math.prod(step.out_shape), free)
            ends[slot] = max(ends.get(slot, -1), last.get(at + 1, len(program.steps)))
            free += [s for s, end in ends.items() if end <= at and s not in free]
            ends = {s: end for s, end in ends.items() if end > at}

    def _place(self, size: int, free: list[int]) -> int:
        """A free slot, of the nearest size if there are several, or a new one."""
        if free:
            slot = min(free, key=lambda s: (max(0, size - self.sizes[s]), self.sizes[s]))
            free.remove(slot)
            self.sizes[slot] = max(self.sizes[slot], size)
        else:
            slot = len(self.sizes)
            self.sizes.append(size)
        self.of_value.append(slot)
        return slot

    def where(self, value: int) -> str:
        """The pointer to a value."""
        start = sum(self.sizes[: self.of_value[value]])
        return f"w + {start}" if start else "w"


# --- layers -----------------------------------------------------------------------------------------------------------


def _symbol(step: Step) -> str:
    return re.sub(r"\W", "_", step.name)


def _geometry(step: Step, window: Window) -> str:
    """A constant struct window: the sizes of input and output, and how a window moves."""
    channels, *image = step.in_shape
    out_channels, *out_image = step.out_shape
    if step.dimensions == 1:
        image, out_image = [1, *image], [1, *out_image]
    w = window.as_2d()
    numbers = [channels, *image, out_channels, *out_image, *w.size, *w.stride, *w.padding]
    return f"static const struct window {_symbol(step)}_window = {{{', '.join(map(str, numbers))}}};\n"


def _dense(step: Step, y: str, x: str) -> list[str]:
    name = _symbol(step)
    return [f"dense({x}, {name}_weight, {name}_bias, {step.in_shape[0]}, {step.out_shape[0]}, {y});"]


def _conv(step: Step, y: str, x: str) -> list[str]:
    name = _symbol(step)
    return [f"conv({x}, {name}_weight, {name}_bias, &{name}_window, {y});"]


def _pool(kind: str) -> Callable[..., list[str]]:
    return lambda step, y, x: [f"{kind}({x}, &{_symbol(step)}_window, {y});"]


def _global_avgpool(step: Step, y: str, x: str) -> list[str]:
    return [f"global_avgpool({x}, {step.in_shape[0]}, {math.prod(step.in_shape[1:])}, {y});"]


_LAYERS: dict[str, Callable[..., list[str]]] = {
    "dense": _dense,
    "conv": _conv,
    "maxpool": _pool("maxpool"),
    "avgpool": _pool("avgpool"),
    "global_avgpool": _global_avgpool,
    "flatten": lambda step, y, x: [],
    "add": lambda step, y, a, b: [f"add({a}, {b}, {math.prod(step.out_shape)}, {y});"],
}


def _constants(program: Program) -> list[str]:
    """Weights, windows, scaling and labels."""
    found = []
    for step in program.steps:
        if step.weight is not None:
            for kind, tensor in zip(("weight", "bias"), step.needs_weights(), strict=True):
                numbers = tensor.astype(np.float32).ravel()
                name = f"static const float {_symbol(step)}_{kind}[{numbers.size}]"
                found.append(_array(name, map(_float, numbers.tolist())))
        if step.window is not None:
            found.append(_geometry(step, step.window))
    for name, values in _doubles(program).items():
        found.append(_array(f"static const double {name}[{values.size}]", map(_double, values.ravel().tolist())))
    return found


def _doubles(program: Program) -> dict[str, np.ndarray]:
    values = program.scaling()
    if program.head.output == "values" and program.head.scales:
        values |= {"target_shift": program.head.shift, "target_spread": program.head.spread}
    return values


# --- the function -----------------------------------------------------------------------------------------------------


def _predict(program: Program, name: str) -> str:
    """The function from one sample to outputs and the number of the label."""
    slots, real = _Slots(program), _real(program)
    inputs = math.prod(program.input)
    given = "x[i]" if program.fill is None else "(x[i] != x[i] ? scaling_fill[i] : x[i])"  # NaN is not itself
    scaled = given if program.shift is None else f"({given} - scaling_shift[i]) * scaling_factor[i]"
    lines = [
        f"int {name}_predict(const {real} *x, {real} *out) {{",
        "#ifdef DNEWTON_STATIC /* off the stack; one call at a time then */",
        f"  static float w[{sum(slots.sizes)}];",
        "#else",
        f"  float w[{sum(slots.sizes)}];",
        "#endif",
        "  int i;",
        f"  for (i = 0; i < {inputs}; i++) w[i] = (float)({scaled});",
    ]
    for at, step in enumerate(program.steps):
        places = [slots.where(i) for i in step.inputs]
        calls = program.choose(_LAYERS, step)(step, slots.where(at + 1), *places)
        if step.activation != "linear":
            table = dict.fromkeys(["linear", *c_functions.ACTIVATIONS])
            program.choose_activation(table, step)
            calls.append(f"apply(act_{step.activation}, {slots.where(at + 1)}, {math.prod(step.out_shape)});")
        lines += [f"  /* {step_title(step)} */", *(f"  {call}" for call in calls)]
    return "\n".join([*lines, *_answer(program, slots.where(len(program.steps))), "}"]) + "\n"


def _answer(program: Program, z: str) -> list[str]:
    """From the net's outputs z to `out` and what is returned."""
    head, real = program.head, _real(program)
    lines = [f"  {{ const float *z = {z};"]
    if head.output == "values":
        value = "expf(z[i])" if head.link == "exp" else "z[i]"
        scaled = f"{value} * target_spread[i] + target_shift[i]" if head.scales else value
        lines.append(f"    for (i = 0; i < {head.columns}; i++) out[i] = ({real})({scaled});")
        return [*lines, "    return 0; }"]
    count = len(head.known())
    if head.link == "sigmoid":
        lines += [f"    out[0] = ({real})act_sigmoid(-z[0]);", f"    out[1] = ({real})act_sigmoid(z[0]);"]
    elif head.link == "softmax":
        lines += [
            "    float sum = 0;",
            f"    int best = largest(z, {count});",
            f"    for (i = 0; i < {count}; i++) sum += expf(z[i] - z[best]);",
            f"    for (i = 0; i < {count}; i++) out[i] = ({real})(expf(z[i] - z[best]) / sum);",
        ]
    else:
        lines.append(f"    for (i = 0; i < {head.columns}; i++) out[i] = ({real})z[i];")
    if head.outputs == 1:
        return [*lines, "    return z[0] > 0; }"]
    return [*lines, f"    return {'best' if head.link == 'softmax' else f'largest(z, {count})'}; }}"]


def _real(program: Program) -> str:
    return "double" if program.double else "float"


def _main(program: Program, name: str) -> str:
    """Numbers from standard input, a line per sample to standard output."""
    labelled = program.head.output != "values"
    return c_functions.MAIN.format(
        name=name,
        real=_real(program),
        scan="%lf" if program.double else "%f",
        print="%.17g" if program.double else "%.9g",
        label=f'printf("%s", {name}_labels[label]);' if labelled else "(void)label;",
        first='" "' if labelled else 'i ? " " : ""',
    )


def identifier(path: str) -> str:
    """The stem of a path as the beginning of C identifiers."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", PurePath(path).stem)
    return name if re.match(r"[A-Za-z]", name) else f"model_{name}"


def render(program: Program, path: str) -> dict[str, bytes]:
    """The file."""
    name, head, real = identifier(path), program.head, _real(program)
    body = _predict(program, name)
    meaning = {
        "probabilities": "the probability of every label",
        "scores": "the net's output for every label",
        "values": "the values in the targets' units",
    }[head.output]
    returned = "0" if head.output == "values" else f"the place of the likeliest label in {name}_labels"
    top = c_functions.TOP.format(
        version=__version__,
        name=name,
        real=real,
        shape=" x ".join(map(str, program.input)),
        inputs=math.prod(program.input),
        outputs=head.columns,
        meaning=meaning,
        returned=returned,
        work=4 * sum(_Slots(program).sizes),
    )
    windows = [c_functions.WINDOW] if any(step.window for step in program.steps) else []
    parts = [top, *windows, *_constants(program)]
    if head.output != "values":
        labels = [str(label) for label in head.known().tolist()]
        parts.append(_array(f"const char *const {name}_labels[{len(labels)}]", map(_string, labels)))
    parts += [*c_functions.used_by(body), body, _main(program, name)]
    return {path: "\n".join(parts).encode()}


EXPORT_FORMATS.add("c")(ExportFormat(render, takes_double=True))
