"""Command line: `mpirun -np P python -m dnewton.compare --net mlp.yaml --solvers newton,adam --budget 60s`."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dnewton.cli import compare_report, console
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.config.solver_register import SOLVERS, keys
from dnewton.errors import UserError
from dnewton.planning.replicas import layout
from dnewton.solvers.kind import kind_of
from dnewton.storage import tensors
from dnewton.storage.run_directory import RunDirectory, Ways
from dnewton.training import load_config
from dnewton.training.checkpoint_reader import initial_state
from dnewton.training.job import Job, assemble
from dnewton.training.ownership import owned
from dnewton.training.trainer import Record, Trainer

FOREVER = 2**31 - 1
WAYS = Ways(resume="")  # a comparison begins all its runs
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Plan:
    """One run of the comparison."""

    name: str
    config: Config
    notes: list[str]


def seconds(text: str) -> float:
    """`90`, `60s`, `2m` or `1h` in seconds. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(s|m|min|h|)\s*", text)
    if not match or not 0 < float(match[1]) < math.inf:
        raise UserError(f"--budget {text}: a time such as 60s, 2m or 1h is needed")
    return float(match[1]) * UNITS[match[2]]


def swept(items: Sequence[str]) -> dict[str, list[str]]:
    """`key=v1,v2` as values by key; a key without a section is the solver's. Raises UserError."""
    values_by_key: dict[str, list[str]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        if not equals or not key.strip() or not values.strip(", "):
            raise UserError(f"--sweep {item}: write key=v1,v2,... for example learning_rate=0.1,0.01")
        key = key.strip() if "." in key else f"solver.{key.strip()}"
        if key == "solver.name":
            raise UserError("--sweep solver.name: name the solvers to compare with --solvers")
        if key in values_by_key:
            raise UserError(f"--sweep {item}: {key} is swept already; write all its values in one list")
        values_by_key[key] = list(dict.fromkeys(v.strip() for v in values.split(",")))
    return values_by_key


def plans(
    text: str,
    folder: str,
    source: str,
    solvers: Sequence[str],
    sweep: dict[str, list[str]],
    overrides: Sequence[str],
    endless: bool,
) -> list[Plan]:
    """Every run, checked before the first one begins. A solver that lacks a swept key runs once. Raises UserError."""
    wanted = [name.strip() for name in solvers if name.strip()]
    unknown = [name for name in wanted if name not in SOLVERS]
    if unknown or not wanted:
        raise UserError(f"--solvers {','.join(solvers)}: choose from {', '.join(SOLVERS.names())}")
    runs, used = [], set()
    for name in dict.fromkeys(wanted):
        fitting = {k: v for k, v in sweep.items() if not k.startswith("solver.") or _knows(name, k)}
        used |= set(fitting)
        for values in itertools.product(*fitting.values()):
            chosen = [f"{k}={v}" for k, v in zip(fitting, values, strict=True)]
            words = [f"{k.split('.')[-1]}={v}" for k, v in zip(fitting, values, strict=True)]
            sets = [f"solver.name={name}", *overrides, *chosen]
            if endless and not any(s.startswith("solver.max_iterations=") for s in sets):
                sets.append(f"solver.max_iterations={FOREVER}")
            config, notes = load_config.configure(text, folder, source, sets)
            runs.append(Plan("-".join([name, *words]).replace(os.sep, "_"), config, notes))
    if unused := set(sweep) - used:
        raise UserError(f"--sweep {sorted(unused)[0]}: none of the solvers {', '.join(wanted)} has this key")
    return runs


def _knows(solver: str, key: str) -> bool:
    return key.split(".")[1] in keys(SOLVERS[solver].section)


def check(config: Config, ranks: int, source: str) -> None:
    """Raise UserError when the ranks cannot be divided as a run asks for."""
    kind_of(config.solver).check(config.solver, layout(config, ranks, source), source)


EXAMPLES = (
    "mpirun -np 4 dnewton compare --net mlp.yaml --solvers newton,adam --budget 60s",
    "mpirun -np 4 dnewton compare --net cnn.yaml --solvers sgd --sweep learning_rate=0.1,0.01 --budget 2m",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton compare", "Run several solvers on one net from the same start.", rank, EXAMPLES)
    parser.add_argument("--net", metavar="FILE", required=True, help="YAML file, or the name of a shipped net")
    parser.add_argument("--solvers", metavar="A,B,...", required=True, help=f"of {', '.join(SOLVERS.names())}")
    parser.add_argument("--budget", metavar="TIME", help="training time of each run, such as 60s, without evaluations")
    parser.add_argument(
        "--sweep", metavar="KEY=V1,V2", action="append", default=[], help="run each solver with every value"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a YAML entry")
    parser.add_argument("--init", metavar="FILE", help="start from the weights of a safetensors file")
    parser.add_argument("--out", metavar="DIR", help="folder for the runs (default: runs/compare-<net>-<time>)")
    parser.add_argument("--overwrite", action="store_true", help="replace the runs that --out holds")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    return make_parser(rank).parse_args(argv)


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    budget = None if args.budget is None else seconds(args.budget)
    text, folder = load_config.read(args.net, comm)
    todo = plans(text, folder, args.net, args.solvers.split(","), swept(args.sweep), args.set, budget is not None)
    for plan in todo:
        check(plan.config, comm.size, args.net)
    if args.out == "":
        raise UserError("--out needs the name of a directory, not an empty one")
    stamp = f"runs/compare-{Path(args.net).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder = comm.text_from_root(args.out or stamp)
    with comm.raise_together():
        if comm.rank == 0 and args.init:
            tensors.read_metadata(args.init)
    with owned(comm, RunDirectory(folder, WAYS), lambda text: say(comm, text)):
        _runs(todo, comm, folder, args, budget)


def _runs(todo: Sequence[Plan], comm: Comm, folder: str, args: argparse.Namespace, budget: float | None) -> None:
    """All runs, and the table, in a folder that belongs to this job. Collective over the world."""
    for plan in todo:  # each for a moment, so that what is in the way is reported before the first run
        out = RunDirectory(os.path.join(folder, plan.name), WAYS)
        with owned(comm, out, lambda text: say(comm, text)), comm.raise_together():
            if comm.rank == 0:
                out.check(args.overwrite)
    results: list[compare_report.Result] = []
    for plan in todo:
        say(comm, f"--- {plan.name}")
        records: list[Record] = []
        failed = ""
        out = RunDirectory(os.path.join(folder, plan.name), WAYS)
        try:
            with owned(comm, out):
                one(plan, comm, out, args, budget, records)
        except UserError as error:  # the same on all ranks: the other runs follow
            failed = str(error)
            say(comm, f"{plan.name}: {failed}")
        results.append(compare_report.Result(plan.name, records, failed))
    with comm.raise_together():
        if comm.rank == 0:
            os.makedirs(folder, exist_ok=True)
            for line in compare_report.write(results, Path(folder)):
                print(line)
    lost = [r.name for r in results if r.failed]
    if lost:
        raise UserError(f"{', '.join(lost)}: failed; the reasons are above and in {folder}/compare.txt")


def one(
    plan: Plan, comm: Comm, out: RunDirectory, args: argparse.Namespace, budget: float | None, records: list[Record]
) -> None:
    """One run into its directory, which belongs to this job; its lines of metrics are added to `records` on rank 0.

    Raises UserError alike on all ranks. Collective over the world.
    """
    started = time.perf_counter()
    job = assemble(plan.config, comm, args.net)
    if not isinstance(job, Job):  # a rank that serves
        job.serve()
        return
    error = ""
    try:
        start = initial_state(job, args.init)
        with job.comm.raise_together():
            if job.comm.rank == 0:
                out.check(args.overwrite)
                out.create(job.config.dump())
                for note in [*job.notes, *plan.notes]:
                    out.log(note)

        def show(record: Record) -> None:
            records.append(record)
            out.log(console.line(record))

        trainer = Trainer(job, out, started, show, budget=math.inf if budget is None else budget)
        trainer.run(start)
        if trainer.ended is not None and job.comm.rank == 0:
            out.log(trainer.ended.text)
    except UserError as mistake:
        error = str(mistake)
        raise
    finally:
        if error or sys.exc_info()[0] is None:  # an internal failure ends the job: no rank would take part
            job.solver.close(error)
    if records:
        say(comm, f"{console.HEADER}\n{console.line(records[-1])}")


def say(comm: Comm, text: str) -> None:
    """A line of rank 0."""
    if comm.rank == 0:
        print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main, argv)
