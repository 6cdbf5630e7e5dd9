"""The formats that a model can be exported to: names and suffixes, known without importing what writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dnewton.config.register import Register
from dnewton.errors import UserError
from dnewton.export_formats.program import Program

SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors", "numpy": ".npz", "c": ".c"}


@dataclass(frozen=True)
class ExportFormat:
    """One format. `render` takes a program and the path of its (first) file, whose stem names what is in it."""

    render: Callable[[Program, str], dict[str, bytes]]  # contents of the files by path
    takes_double: bool = False  # knows `Program.double`; else both widths are taken as they come


_HERE = "dnewton.export_formats"
EXPORT_FORMATS: Register[ExportFormat] = Register(
    "export format",
    {
        "onnx": f"{_HERE}.onnx_format",
        "torch": f"{_HERE}.torch_format",
        "numpy": f"{_HERE}.numpy_format",
        "c": f"{_HERE}.c_format",
    },
)


def format_of(path: str) -> str:
    """The format that a path's suffix stands for. Raises UserError when it stands for none."""
    for name, suffix in SUFFIXES.items():
        if path.endswith(suffix):
            return name
    known = ", ".join(f"{suffix} ({name})" for name, suffix in SUFFIXES.items())
    raise UserError(f"-o {path}: the suffix says no format; use one of {known}")
