"""Command line: `python -m dnewton.export runs/letters -o letters.onnx` writes a model for other programs; no MPI."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dnewton.cli.parser import Parser
from dnewton.errors import UserError, one_line
from dnewton.export_formats import program as programs
from dnewton.export_formats.register import EXPORT_FORMATS, SUFFIXES, format_of
from dnewton.storage.run_directory import model_path


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    parser = Parser("python -m dnewton.export", "Write a trained model for other programs, in one process.", 0)
    parser.add_argument("model", metavar="RUN|FILE", help="run directory, checkpoint or model file")
    parser.add_argument("--to", choices=EXPORT_FORMATS.names(), help="the format (default: by the suffix of -o)")
    parser.add_argument("-o", "--out", metavar="FILE", help="what to write (default: the model's name, here)")
    parser.add_argument(
        "--double", action="store_true", help="onnx, c: inputs and outputs in float64 (the net is in float32)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    args = parser.parse_args(argv)
    if args.to is None and args.out is None:
        raise UserError(f"--to or -o is needed: one of {', '.join(SUFFIXES)}, or a file such as model.onnx")
    if args.out is None:
        args.out = _name_of(args.model) + SUFFIXES[args.to]
    elif args.to is None:
        args.to = format_of(args.out)
    elif not args.out.endswith(SUFFIXES[args.to]):
        raise UserError(f"-o {args.out}: --to {args.to} writes {SUFFIXES[args.to]}")
    return args


def _name_of(model: str) -> str:
    """The run's name, or the model file's."""
    path = Path(os.path.abspath(model))
    return path.name if path.is_dir() else path.stem


def _check_free(paths: Sequence[str], model: str, overwrite: bool) -> None:
    for path in paths:
        if os.path.exists(path) and os.path.samefile(path, model):
            raise UserError(f"-o {path}: is the model itself; name another file")
        if os.path.exists(path) and not overwrite:
            raise UserError(f"{path}: exists; use --overwrite, or another -o")


def _write(path: str, content: bytes) -> None:
    temporary = path + ".tmp"
    try:
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {one_line(error.strerror or error)}") from None


def export(argv: Sequence[str]) -> list[str]:
    """Write the files and return a line about them. Raises UserError."""
    args = arguments(argv)
    form = EXPORT_FORMATS[args.to]
    if args.double and not form.takes_double:
        raise UserError(f"--double: --to {args.to} takes float32 and float64 as they come; leave it out")
    path = model_path(args.model)
    program = programs.read(path)
    files = form.render(program.in_doubles() if args.double else program, args.out)
    _check_free(list(files), path, args.overwrite)
    for name, content in files.items():
        _write(name, content)
    sizes = " and ".join(f"{name} ({len(content):,} bytes)" for name, content in files.items())
    return [f"{args.model}: {len(program.steps)} layers with {program.weights:,} weights to {sizes}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    try:
        for line in export(sys.argv[1:] if argv is None else argv):
            print(line, flush=True)
    except UserError as error:
        print(f"dnewton: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0
