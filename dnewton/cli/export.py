"""Command line: `dnewton export runs/letters -o letters.onnx` writes a model for other programs; no MPI."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dnewton.cli import output_file
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.export_formats import program as programs
from dnewton.export_formats.register import EXPORT_FORMATS, SUFFIXES, format_of
from dnewton.storage.run_directory import model_path

EXAMPLES = (
    "dnewton export runs/letters -o letters.onnx",
    "dnewton export runs/letters --to c --double --overwrite",
    "dnewton export model.safetensors --to torch",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton export", "Write a trained model for other programs, in one process.", rank, EXAMPLES)
    parser.add_argument("model", metavar="RUN|FILE", help="run directory, checkpoint or model file")
    parser.add_argument("--to", choices=EXPORT_FORMATS.names(), help="the format (default: by the suffix of -o)")
    parser.add_argument("-o", "--out", metavar="FILE", help="what to write (default: the model's name, here)")
    parser.add_argument(
        "--double", action="store_true", help="onnx, c: inputs and outputs in float64 (the net is in float32)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
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


def export(args: argparse.Namespace) -> str:
    """Write the files of a parsed command line and return a line about them. Raises UserError."""
    form = EXPORT_FORMATS[args.to]
    if args.double and not form.takes_double:
        raise UserError(f"--double: --to {args.to} takes float32 and float64 as they come; leave it out")
    path = model_path(args.model)
    program = programs.read(path)
    files = form.render(program.in_doubles() if args.double else program, args.out)
    _check_free(list(files), path, args.overwrite)
    for name, content in files.items():
        output_file.write(name, content)
    sizes = " and ".join(f"{name} ({len(content):,} bytes)" for name, content in files.items())
    return f"{args.model}: {len(program.steps)} layers with {program.weights:,} weights to {sizes}"


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    with comm.raise_together():
        if comm.rank == 0:
            print(export(args), flush=True)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point, for one process: no launcher is needed."""
    run(_main, argv, needs_mpi=False)
