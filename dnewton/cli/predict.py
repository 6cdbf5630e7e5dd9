"""Command line: `dnewton predict --model RUN|FILE --data FILE`, alone or on MPI ranks."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from dnewton.cli import predictions
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.config import strict_yaml
from dnewton.config.schema import DataPart, DataSection, FilePair
from dnewton.data.format_register import Features, Opening
from dnewton.data.readers import check_columns, find_part, is_table, open_part
from dnewton.data.samples import Samples, Window, check_shapes, load
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line
from dnewton.hardware import node
from dnewton.hardware.device import open_device
from dnewton.model.network import Network
from dnewton.storage import tensors
from dnewton.storage.model_header import Described, as_trained, described
from dnewton.storage.posterior import read
from dnewton.storage.run_directory import model_path
from dnewton.training.prediction import outputs, plan_for, probabilities, uncertain, with_deviations
from dnewton.training.scores import score

EXAMPLES = (
    "dnewton predict --model runs/cnn --data digits --out labels.csv",
    "dnewton predict --model model.safetensors --data new.csv --unlabelled --probabilities --out - | head",
    "mpirun -np 4 dnewton predict --model runs/cnn --data large.h5 --out p.npy --scores scores.json",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser(
        "dnewton predict", "Predict with a trained model, in one process or on any number of MPI ranks.", rank, EXAMPLES
    )
    parser.add_argument("--model", metavar="RUN|FILE", required=True, help="run directory or model file")
    parser.add_argument(
        "--data",
        metavar="FILE",
        required=True,
        help="a bundled set, a file, or a YAML list or {x: FILE, y: FILE}, as in the data section",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="predictions.txt",
        help="where the labels or values go, by its ending: .csv, .json (tables), .npy, .npz, .h5 (arrays), .txt "
        "(a line per sample), or - for a table on standard output (default: %(default)s)",
    )
    parser.add_argument("--probabilities", action="store_true", help="also write the probability of each class")
    parser.add_argument(
        "--std",
        nargs="?",
        const="target",
        choices=("target", "mean"),
        help="also write standard deviations, of a new target with its noise (default) or of its mean; of classes, of "
        "the probabilities, which then allow for the uncertainty. The model needs error bars (output.error_bars)",
    )
    parser.add_argument("--scores", metavar="FILE", help="also write accuracy, AUC, confusion matrix or RMSE as JSON")
    parser.add_argument("--unlabelled", action="store_true", help="never look at labels, which may be missing")
    parser.add_argument("--target", metavar="COLUMN", help="data.target: the column(s) of a table that hold the labels")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1024, help="samples at a time (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--memory", metavar="SIZE", default="auto", help="samples beyond it are streamed, such as 4GiB")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1 is needed")
    predictions.check(args.out, args.probabilities, args.std is not None)
    if args.std and args.device != "cpu":
        raise UserError(f"--device {args.device}: error bars are found on the CPU; leave --std or --device out")
    return args


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    part, section = _data_part(args)
    with comm.raise_together():
        path = model_path(args.model, "--model ")
        model = described(path, tensors.read_metadata(path))
        if args.probabilities:
            _probabilities(model, np.zeros((0, model.targets.outputs)))
        if comm.rank == 0:
            for name in (args.out, args.scores):
                if name is not None and name != predictions.STDOUT:
                    _check_writable(name)
    node.limit_threads(comm.ranks_on_node, comm.cores)
    features = math.prod(model.net.input)
    target = section.target
    weights = None
    if (target is None and model.target is not None) or model.weights is not None:
        with comm.raise_together():
            if is_table(part):
                target, weights = target or model.target, model.weights
    known = Features(model.columns) if args.unlabelled else None
    opening = Opening("--data", features, comm, target, model.zero_based, weights, known)
    source = open_part(part, replace(opening, **as_trained(model)))
    check_shapes(source, model.net.input, "--data")
    check_columns(source, model.columns, "the training file")
    labelled = source.targets is not None and not args.unlabelled
    if args.scores and not labelled:
        why = "--unlabelled leaves nothing" if args.unlabelled else f"{source.name} has no labels"
        raise UserError(f"--scores: {why} to compare with")
    network, theta, samples = _prepare(model, path, source, args, section, comm)
    node.limit_threads(comm.ranks_on_node, comm.cores)  # once more: readers bring libraries
    told = None
    if args.std:
        z, told = _deviations(args, model, path, (network, theta, samples), comm)
    else:
        z = outputs(network, theta, samples, args.batch_size)
    with comm.raise_together():
        if comm.rank == 0:
            _write(args, model, z, samples.y if labelled else None, told)


def _deviations(
    args: argparse.Namespace, model: Described, path: str, held: tuple[Network, Values, Samples], comm: Comm
) -> tuple[Values, tuple[Values, Values]]:
    """z, and what is predicted with its standard deviation. Raises UserError. Collective over the world."""
    network, theta, samples = held
    with comm.raise_together():
        bars = read(path, tensors.read_metadata(path), network)
        if bars is None:
            raise UserError(f"--std: {path} has no error bars; train with output.error_bars: true, or leave it out")
    noise, observed = bars.noise, args.std == "target"
    told = lambda found: with_deviations(model.net, model.targets, found, noise, observed)  # noqa: E731
    try:
        z, mean, deviation = uncertain(network, theta.astype(np.float64), samples, bars, told, args.batch_size)
    except UserError as error:
        raise UserError(f"--std: {error}; leave it out") from None
    return z, (mean, deviation)


def _data_part(args: argparse.Namespace) -> tuple[DataPart, DataSection]:
    """--data and --target as a data section would have them."""
    values: dict[str, Any] = {"train": args.data, "max_resident": args.memory}
    if args.data[:1] in "[{":
        values["train"] = strict_yaml.parse(args.data, "--data")
    if args.target is not None:
        values["target"] = strict_yaml.parse(args.target, "--target")
    try:
        section = DataSection.model_validate(values)
    except ValueError as error:
        names = {"train": "--data", "target": "--target", "max_resident": "--memory"}
        first = error.errors()[0] if hasattr(error, "errors") else {"loc": ("train",), "msg": str(error)}
        raise UserError(f"{names.get(str(first['loc'][0]), '--data')}: {one_line(first['msg'])}") from None
    if isinstance(section.train, FilePair) and section.train.w is not None:
        raise UserError("--data: predictions and their scores take no weights; leave w out")
    return find_part(section.train, os.getcwd()), section


def _check_writable(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"{path}: cannot be written; name a file in a folder that exists")


def _prepare(
    model: Described, path: str, source: Source, args: argparse.Namespace, section: DataSection, comm: Comm
) -> tuple[Network, Values, Samples]:
    """The network with its weights on this rank, and the samples. Collective over the world."""
    device, notes = open_device(args.device, "auto", comm, f"--device {args.device}")
    free = device.free_bytes() if not device.is_host else node.available_memory() / comm.ranks_on_node
    memory = comm.minmax(0.5 * free)[0]
    resident = memory if section.max_resident == "auto" else float(section.max_resident)
    plan = plan_for(model.net, comm, source.samples, memory, args.dtype, args.batch_size, path)
    on_grid = comm.on_grid(plan.grid)
    network = Network(plan, on_grid)
    window = Window.of(
        model.net.data_shape, plan.input_units, plan.grid.bounds(plan.input_split, plan.input_units, comm.rank)
    )
    with comm.raise_together():
        theta = tensors.load(path, network, args.dtype)
        y = np.zeros((source.samples, 0))
        if source.targets is not None and not args.unlabelled:
            try:
                raw = source.targets()
                known = model.targets.known(raw, source.origin)
                told = model.targets.encode(raw[known], args.dtype, source.origin)
                y = np.full((len(raw), told.shape[1]), np.nan)
                y[known] = told
                notes += unknown(source, raw, known)
            except UserError as error:
                raise UserError(f"{error} (--unlabelled ignores the labels)") from None
    x, _ = load(
        source,
        window,
        model.scaling.columns(window.lo, window.hi),
        args.dtype,
        comm,
        resident,
        section.max_resident != "auto",
    )
    if comm.rank == 0:
        for note in [*source.notes, *notes]:
            print(note, file=_figures(args))
    return network, device.put(theta), Samples(x, y)


def unknown(source: Source, raw: Values, known: Values) -> list[str]:
    """A line about labels that training did not know, where there are some."""
    rows = np.flatnonzero(~known)
    if not rows.size:
        return []
    first = f"{source.origin.row(int(rows[0]))}: {raw.ravel()[rows[0]]}"
    return [f"warning: {rows.size} label(s) are none of the training data, and left out of the figures; first {first}"]


def _write(
    args: argparse.Namespace,
    model: Described,
    z: Values,
    y: Values | None,
    told: tuple[Values, Values] | None,
) -> None:
    """Predictions to the file, figures to the terminal and to --scores. On rank 0."""
    means = model.net.loss.mean(z)
    found = predictions.Predictions(
        model.targets.decode(means),
        z,
        _written_probabilities(args, model, z, told),
        model.targets.classes,
        predictions.value_names(z.shape[1], model.target),
        None if told is None else told[1],
    )
    predictions.write(args.out, found)
    where = "on standard output" if args.out == predictions.STDOUT else f"in {args.out}"
    lines = [f"{len(z)} samples, predictions {where}"]
    if y is not None:
        known = np.isfinite(y).all(axis=1)  # the other labels are none that training knew
        values = {"unknown_labels": int(np.sum(~known))}
        if known.any():
            figures = score(means[known], y[known].astype(np.float64), model.targets)
            lines += figures.lines()
            values = {**figures.as_json(), **({} if known.all() else values)}
        if args.scores:
            Path(args.scores).write_text(json.dumps(values, indent=1) + "\n")
    print("\n".join(lines), file=_figures(args), flush=True)


def _probabilities(model: Described, z: Values) -> Values:
    try:
        return probabilities(model.net, model.targets, z)
    except UserError as error:
        raise UserError(f"--probabilities: {error}; leave it out") from None


def _written_probabilities(
    args: argparse.Namespace, model: Described, z: Values, told: tuple[Values, Values] | None
) -> Values | None:
    """With error bars those that allow for them."""
    if told is not None and not model.targets.real:
        return told[0]
    return _probabilities(model, z) if args.probabilities else None


def _figures(args: argparse.Namespace) -> IO[str]:
    """Where what is said about the predictions goes: never between them."""
    return sys.stderr if args.out == predictions.STDOUT else sys.stdout


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main, argv, needs_mpi=False)
