"""Command line: `mpirun -np P python -m dnewton.train --net cnn.yaml`."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dnewton import __version__
from dnewton.cli import console, progress
from dnewton.cli import interrupt as interrupt
from dnewton.cli.launch import REQUEUE, catch_signals, ignore_signals, limit_time, run, say
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import TIME_LIMIT, StopAgreement, Stopped
from dnewton.config.schema import Config
from dnewton.errors import UserError
from dnewton.solvers.interface import STOPPED
from dnewton.storage.run_directory import STOPPED as ENDED
from dnewton.storage.run_directory import RunDirectory
from dnewton.training import load_config
from dnewton.training.begin import begin
from dnewton.training.closing import closing_lines
from dnewton.training.ending import no_better
from dnewton.training.job import Job, assemble
from dnewton.training.ownership import owned
from dnewton.training.trainer import Record, Trainer

TIMEOUT = 600.0  # seconds, until the configuration is known


EXAMPLES = (
    "mpirun -np 4 dnewton train --net cnn.yaml --out runs/cnn",
    "mpirun -np 4 dnewton train --net mine.yaml --set solver.C=10 --set parallel.grid=[2,2]",
    "mpirun -np 8 dnewton train --resume runs/cnn",
    "srun dnewton train --net mine.yaml --out runs/mine --resume auto --max-seconds 3600",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton train", "Train a neural network on MPI ranks.", rank, EXAMPLES)
    parser.add_argument("--net", metavar="FILE", help="YAML file, or the name of a shipped net such as cnn.yaml")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a YAML entry")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/<net>-<time>)")
    parser.add_argument("--init", metavar="FILE", help="start from the weights of a safetensors file")
    parser.add_argument("--init-only", action="store_true", help="write the initial point and stop")
    parser.add_argument(
        "--resume",
        metavar="DIR|auto",
        help="resume from the newest checkpoint of a run directory; auto: of --out, or start if it has none",
    )
    parser.add_argument("--changed-data", action="store_true", help="resume although the features have changed")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    parser.add_argument(
        "--max-seconds",
        metavar="S",
        type=float,
        help=f"before S seconds are over write a checkpoint and exit with {REQUEUE}",
    )
    parser.add_argument("--quiet", action="store_true", help="print warnings and the end only")
    parser.add_argument("--verbose", action="store_true", help="print a wide line with all figures for each iteration")
    parser.add_argument(
        "--progress", choices=("auto", "on", "off"), default="auto", help="a live line (auto: on a terminal)"
    )
    parser.add_argument("--calibrate", action="store_true", help="measure the machine's rates again, and keep them")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    args.auto = args.resume == "auto"
    if args.auto:
        if not args.out or not args.net:
            raise UserError("--resume auto needs --net FILE, to start, and --out DIR, where it looks for checkpoints")
        if args.overwrite or args.init_only:
            raise UserError("--resume auto keeps the run of --out; leave --overwrite and --init-only out")
        args.resume = None
    if args.resume and (args.out or args.init or args.init_only or args.overwrite):
        raise UserError("--resume continues in its own directory; leave --out, --init, --init-only and --overwrite out")
    if args.out == "" or args.resume == "":
        raise UserError("--out and --resume need the name of a directory, not an empty one")
    if args.init == "":
        raise UserError("--init needs the name of a safetensors file, not an empty one")
    if not args.net and not args.resume:
        raise UserError("--net FILE or --resume DIR is needed; see dnewton train --help")
    if args.max_seconds is not None and not 0 < args.max_seconds < math.inf:
        raise UserError(f"--max-seconds {args.max_seconds:g}: a number of seconds above 0 is needed")
    return args


def _configuration(args: argparse.Namespace, comm: Comm) -> tuple[Config, str, list[str]]:
    """The configuration, the name it has in messages, and notes for the log. Collective over the world."""
    source = args.net or os.path.join(args.resume, "config.yaml")
    with comm.raise_together():
        if comm.rank == 0 and args.resume and not os.path.isfile(os.path.join(args.resume, "config.yaml")):
            raise UserError(f"--resume {args.resume}: holds no run (there is no config.yaml)")
    text, folder = load_config.read(source, comm)
    if not args.net:
        folder = comm.text_from_root(os.getcwd())
    loaded, notes = load_config.configure(text, folder, source, args.set)
    if args.init_only:
        loaded = loaded.model_copy(update={"solver": loaded.solver.model_copy(update={"max_iterations": 0})})
    return loaded, source, notes


def _main(comm: Comm, argv: Sequence[str]) -> None:
    started = time.perf_counter()
    stops = comm.stops = StopAgreement(comm, TIMEOUT)
    catch_signals(comm, stops)
    args = arguments(argv, comm.rank)
    config, source, notes = _configuration(args, comm)
    stops.timeout = config.parallel.timeout
    limit_time(stops, args.max_seconds)
    stamp = f"runs/{Path(source).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    out = RunDirectory(comm.text_from_root(args.resume or args.out or stamp))
    display = progress.Display(comm, progress=args.progress, quiet=args.quiet, fold=not args.verbose)
    data = config.data.train
    what = data if isinstance(data, str) else data[0] if isinstance(data, list) else data.x
    try:
        display(f"dnewton {__version__}: reading {what}, planning {source} for {comm.size} rank(s)")
        with owned(comm, out, say):  # before the data are read, so that a directory in use is reported at once
            stop = _owned(comm, args, config, out, started, source, notes, display)
    finally:
        display.close()
    if stop:
        sys.exit(REQUEUE)


def _owned(
    comm: Comm,
    args: argparse.Namespace,
    config: Config,
    out: RunDirectory,
    started: float,
    source: str,
    notes: list[str],
    display: progress.Display,
) -> bool:
    """The job in its own run directory; whether it was stopped before its end. Collective over the world."""
    with comm.phase("setup"):
        if not args.resume:
            with comm.raise_together():
                if comm.rank == 0:
                    out.check(args.overwrite, resume=args.auto)
        job = assemble(config, comm, source, args.calibrate)
    if not isinstance(job, Job):  # a rank that serves
        comm.stops.armed = True
        job.serve()
        return job.stopped
    job.notes.extend(notes)
    try:
        stop = _train(job, args, out, started, source, display)
    except UserError as error:  # raised alike on all ranks
        job.solver.close(str(error))
        raise
    job.solver.close(STOPPED if stop is not None else "")
    ignore_signals()
    return stop is not None


def _train(
    job: Job, args: argparse.Namespace, out: RunDirectory, started: float, source: str, display: progress.Display
) -> Stopped | None:
    comm = job.comm
    pace = progress.Pace(job.config.solver.max_iterations)
    title = f"dnewton {__version__}: {source} on {job.groups.world.size} rank(s), run directory {out.path}"
    mode = "auto" if args.auto else "yes" if args.resume else "no"
    beginning = begin(job, out, [title], args.init, mode, args.changed_data)
    start, resumed, notes = beginning.start, beginning.resumed, beginning.notes
    started -= beginning.before

    def show(text: str, always: bool = False) -> None:
        if comm.rank == 0:
            out.log(text)
        display(text, always)

    def passed(record: Record) -> None:
        pace.total = job.config.solver.max_iterations + job.solver.passes_before
        pace.passed(record["iteration"])
        out.log(console.line(record))
        display(console.line(record) if args.verbose else progress.line(record, pace, display.columns))
        if ENDED in record:
            display.now_ending()
        else:
            display.now_in(record["iteration"] + 1)

    for text in notes:
        show(text)
    if comm.rank == 0:
        out.log(console.HEADER)
    if args.verbose:
        display(console.HEADER)
    display.now_in(start.iteration)
    trainer = Trainer(job, out, started, passed, resumed, tell=show)
    stop = trainer.run(start)
    if stop is not None:
        few = trainer.iteration == start.iteration if trainer.begun else not start.iteration
        short = "" if stop.reason != TIME_LIMIT or not few else _too_short(args.max_seconds, trainer.begun)
        at = f"after iteration {trainer.iteration}" if trainer.begun else "before anything was done"
        remedy = f"continue with --resume {out.path}"
        if trainer.begun and not trainer.saved:
            at += ", for which there is no checkpoint"
        if resumed is None and not trainer.saved:
            remedy = "start again, or use --resume auto"
        show(f"stopped by {stop.why} {at}; {remedy}{short} (exit code {REQUEUE})", always=True)
        return stop
    if trainer.records:
        record = trainer.records[-1]
        where = "" if job.device.is_host else " (of the GPU)"
        peak = record["peak_device_bytes" if where else "peak_rss_bytes"] / 2**20
        show(f"peak memory of the largest rank{where}: {peak:.1f} MiB, planned {job.strategy.peak / 2**20:.1f} MiB")
    for text in console.summary(trainer.records, trainer.totals, comm.size):
        show(text)
    if not args.init_only:
        with comm.phase("evaluate"):
            scores = closing_lines(job, trainer.final_theta)
        for text in scores:
            show(text, always=True)
    display.close()
    if trainer.ended is not None and not args.init_only:
        show(f"the model is in {out.model}")
        show(f"new samples: dnewton predict --model {out.path} --data FILE")
        show(trainer.ended.text, always=True)
        if trainer.records and trainer.iteration and (text := _doubts(trainer, job)):
            show(text)
    with comm.raise_together():
        if comm.rank == 0 and (lines := out.unwritten()):
            raise UserError(f"{out.path}: {lines} line(s) of metrics.jsonl and log.txt could not be written; make room")
    return None


def _too_short(seconds: float, begun: bool) -> str:
    """Where a job that is started again and again would never get on."""
    what = "one iteration" if begun else "what comes before the first iteration, which begins anew each time"
    return f"; --max-seconds {seconds:g} is too short for {what}: give more"


def _doubts(trainer: Trainer, job: Job) -> str:
    """A warning where the weights in model.safetensors are of no use."""
    at = trainer.final_iteration
    record = next((r for r in trainer.records if r["iteration"] == at), trainer.records[-1])
    name = job.targets.metric_name
    return no_better(name, record[f"train_{name}"], job.baseline, job.config.data)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main, argv, trains=True)
