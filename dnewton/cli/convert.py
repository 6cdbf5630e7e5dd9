"""Command line: `mpirun -np P dnewton convert IN OUT`, or `python -m dnewton.data convert IN OUT`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import NoReturn

from dnewton.cli.get import main_of_get
from dnewton.cli.launch import ASK, run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.config import strict_yaml
from dnewton.config.schema import FilePair
from dnewton.data.convert import Output, check, convert
from dnewton.data.format_register import Opening
from dnewton.data.readers import open_part
from dnewton.errors import UserError

EXAMPLES = (
    "dnewton convert higgs.csv.gz higgs.h5 --target 0",
    "mpirun -np 4 dnewton convert train.svm.xz train.npy --features 780",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton convert", "Write a data set so that ranks can read their columns.", rank, EXAMPLES)
    parser.add_argument("input", metavar="IN", help="any readable file")
    parser.add_argument("output", metavar="OUT", help="a .npy (targets go to NAME.y.npy) or .h5 file")
    parser.add_argument("--labels", metavar="FILE", help="the file of targets that belongs to a .npy or idx file")
    parser.add_argument("--dtype", choices=("float32", "float64", "uint8"), help="of x (default: as in IN)")
    parser.add_argument("--order", choices=("C", "F"), help="of a .npy: F, by columns, is the default for features")
    parser.add_argument("--features", type=int, help="width of LIBSVM text (default: its largest index)")
    parser.add_argument("--target", metavar="COLUMN", help="the column(s) of a table that hold the targets")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if args.features is not None and args.features < 1:
        raise UserError(f"--features {args.features}: at least 1 is needed")
    return args


def _main(comm: Comm, argv: Sequence[str]) -> None:
    started = time.perf_counter()
    args = arguments(argv, comm.rank)
    target = strict_yaml.parse(args.target, "--target") if args.target is not None else None
    target = target if target is None or isinstance(target, list) else [target]
    opening = Opening("IN", args.features, comm, target)
    output = Output(args.output, args.dtype, args.order)
    with comm.raise_together():
        if comm.rank == 0:
            check(output, args.overwrite)
    part = FilePair(x=args.input, y=args.labels) if args.labels else args.input
    source = open_part(part, opening)
    written = convert(source, output, comm)
    if comm.rank == 0:
        shape = " x ".join(map(str, (source.samples, *source.shape)))
        print(f"{shape} to {' and '.join(written)} in {time.perf_counter() - started:.1f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main, argv, needs_mpi=False)


def main_of_data(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `python -m dnewton.data`, whose first word is the verb. Collective over all processes."""
    run(_main_of_data, argv, needs_mpi=False)


def _main_of_data(comm: Comm, argv: Sequence[str]) -> None:
    if argv and argv[0] == "get":
        main_of_get(comm, argv[1:])
        return
    if argv and argv[0] not in ("convert", *ASK):
        raise UserError(f"dnewton.data: {argv[0]!r} is no verb; use convert or get")
    _main(comm, argv[1:] if argv and argv[0] == "convert" else argv)
