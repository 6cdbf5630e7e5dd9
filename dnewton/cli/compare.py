"""Command line: `mpirun -np P dnewton compare --net mlp.yaml --solvers newton,adam --budget 60s`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dnewton import __version__
from dnewton.cli import compare_plans, compare_report, compare_state, console, progress
from dnewton.cli.compare_plans import Plan
from dnewton.cli.compare_progress import CompareProgress, shown
from dnewton.cli.compare_state import DONE, RESUME, State
from dnewton.cli.launch import REQUEUE, catch_signals, ignore_signals, limit_time, run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement, Stopped
from dnewton.comm.stop_hooks import StopHooks
from dnewton.config.schema import Config
from dnewton.config.solver_register import SOLVERS
from dnewton.errors import UserError
from dnewton.planning.replicas import layout
from dnewton.reporting.comparison import Target
from dnewton.solvers.interface import STOPPED
from dnewton.solvers.kind import kind_of
from dnewton.storage import tensors
from dnewton.storage.run_directory import RunDirectory
from dnewton.storage.ways import Ways
from dnewton.training import load_config
from dnewton.training.begin import begin
from dnewton.training.job import Job, assemble
from dnewton.training.ownership import owned
from dnewton.training.trainer import Record, Trainer

WAYS = Ways(resume="")  # a run is resumed without being asked for
EXAMPLES = (
    "mpirun -np 4 dnewton compare --net mlp.yaml --solvers newton,adam --budget 60s",
    "mpirun -np 4 dnewton compare --net cnn.yaml --solvers newton,adam,easgd --seeds 5 --target test_accuracy=0.97",
    "mpirun -np 4 dnewton compare --net cnn.yaml --solvers sgd --sweep learning_rate=0.1,0.01 --budget 2m",
)


def check(config: Config, ranks: int, source: str) -> None:
    """Raise UserError when the ranks cannot be divided as a run asks for."""
    kind_of(config.solver).check(config.solver, layout(config, ranks, source), source)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton compare", "Run several solvers on one net from the same start.", rank, EXAMPLES)
    parser.add_argument("--net", metavar="FILE", required=True, help="YAML file, or the name of a shipped net")
    parser.add_argument("--solvers", metavar="A,B,...", required=True, help=f"of {', '.join(SOLVERS.names())}")
    parser.add_argument("--budget", metavar="TIME", help="training time of each run, such as 60s, without evaluations")
    parser.add_argument(
        "--max-seconds",
        metavar="S",
        type=float,
        help=f"before S seconds of all runs are over write a checkpoint and exit with {REQUEUE}",
    )
    parser.add_argument("--seeds", metavar="N|A,B,...", help="run each solver with N seeds (0, 1, ...), or with these")
    parser.add_argument(
        "--target",
        metavar="METRIC=VALUE",
        action="append",
        default=[],
        help="tell what it takes to reach, for example, test_accuracy=0.95 or loss=1e-3",
    )
    parser.add_argument(
        "--sweep", metavar="KEY=V1,V2", action="append", default=[], help="run each solver with every value"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a YAML entry")
    parser.add_argument("--init", metavar="FILE", help="start from the weights of a safetensors file")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the runs, finished ones are kept (default: runs/compare-<net>-<time>)"
    )
    parser.add_argument("--overwrite", action="store_true", help="run again what --out holds of these runs")
    parser.add_argument("--quiet", action="store_true", help="print warnings and the tables only")
    parser.add_argument(
        "--progress", choices=("auto", "on", "off"), default="auto", help="a live line (auto: on a terminal)"
    )
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if args.out == "":
        raise UserError("--out needs the name of a directory, not an empty one")
    if args.max_seconds is not None and not 0 < args.max_seconds < math.inf:
        raise UserError(f"--max-seconds {args.max_seconds:g}: a number of seconds above 0 is needed")
    args.budget = None if args.budget is None else compare_plans.seconds(args.budget)
    args.seeds = (None,) if args.seeds is None else compare_plans.seeds(args.seeds)
    args.targets = list(dict.fromkeys(compare_plans.target(text) for text in args.target))
    args.swept = compare_plans.swept(args.sweep)
    return args


@dataclass
class Comparison:
    """What all runs share."""

    comm: Comm
    args: argparse.Namespace
    folder: str
    state: State | None  # on rank 0
    display: progress.Display
    far: CompareProgress

    def directory(self, plan: Plan) -> RunDirectory:
        """Of one run."""
        return RunDirectory(os.path.join(self.folder, plan.name), WAYS)

    def together(self, action: Callable[[State], Any]) -> None:
        """Something that rank 0 does with the state; its mistake is raised alike on all ranks. Collective."""
        with self.comm.raise_together():
            if self.state is not None:
                action(self.state)


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    text, folder = load_config.read(args.net, comm)
    solvers = args.solvers.split(",")
    endless = args.budget is not None
    todo = compare_plans.plans(text, folder, args.net, solvers, args.swept, args.set, endless, args.seeds)
    for plan in todo:
        check(plan.config, comm.size, args.net)
    _check_targets(args.targets, todo)
    base, _ = load_config.configure(text, folder, args.net, [s for s in args.set if not s.startswith("solver.")])
    stamp = f"runs/compare-{Path(args.net).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    where = comm.text_from_root(args.out or stamp)
    with comm.raise_together():
        if comm.rank == 0 and args.init:
            tensors.read_metadata(args.init)
        if comm.rank == 0 and os.path.isfile(os.path.join(where, "config.yaml")):
            raise UserError(f"--out {where}: is the directory of a run; give a folder for the comparison's runs")
    far = CompareProgress(len(todo), args.budget)
    display = progress.Display(comm, progress=args.progress, quiet=args.quiet, fold=False, bottom=far.now)
    far.live = display.live
    try:
        title = _title(args, base, comm.size)
        display(f"{title}: {len(todo)} run(s)")
        with owned(comm, RunDirectory(where, WAYS), display):
            whole = Comparison(comm, args, where, None, display, far)
            _all(whole, todo, base, title)
    finally:
        display.close()


def _title(args: argparse.Namespace, base: Config, ranks: int) -> str:
    data = base.data.train
    name = data if isinstance(data, str) else data[0] if isinstance(data, list) else data.x
    words = [f"dnewton compare: {Path(args.net).stem} on {os.path.basename(name)}", f"{ranks} rank(s)"]
    words += [] if args.budget is None else [f"{args.budget:g} s for each new run"]
    return ", ".join(words)


def _check_targets(targets: Sequence[Target], todo: Sequence[Plan]) -> None:
    """Raise UserError where no run has the figure that a target is of, as far as the configuration tells."""
    names = list(dict.fromkeys(name for plan in todo for name in compare_plans.figures(plan.config)))
    for target in targets:
        if problem := compare_plans.target_problem(target, names):
            raise UserError(problem)


def _all(whole: Comparison, todo: Sequence[Plan], base: Config, title: str) -> None:
    """All runs, and the tables, in a folder that belongs to this job. Collective over the world."""
    comm, args = whole.comm, whole.args
    with comm.raise_together():
        if comm.rank == 0:
            common = compare_state.common(base, comm.size, args.init)
            whole.state = State(Path(whole.folder), common, args.overwrite)
    found: list[str] = []
    for plan in todo:  # each for a moment, so that what is in the way is reported before the first run
        out = whole.directory(plan)
        with owned(comm, out, whole.display), comm.raise_together():
            if whole.state is not None:
                found.append(whole.state.verdict(plan, out, args.budget))
                before = whole.state.entry(plan.name).run.records if found[-1] == DONE else ()
                if before:
                    _check_metric(args.targets, plan.config, console.metric_name(before[-1]))
    verdicts = json.loads(comm.text_from_root(json.dumps(found)))
    lost = []
    for plan, verdict in zip(todo, verdicts, strict=True):
        try:
            stop = _kept(whole, plan) if verdict == DONE else _begun(whole, plan, verdict == RESUME)
        except TargetMistake:
            raise
        except UserError as error:  # the same on all ranks: the other runs follow
            lost.append(plan.name)
            whole.display(f"warning: {plan.name}: {error}")
            continue
        if stop:
            whole.display(f"{stop}; the same command with --out {whole.folder} goes on (exit code {REQUEUE})", True)
            whole.display.close()
            sys.exit(REQUEUE)
    ignore_signals()
    whole.display.close()
    failed: list[str] = []

    def report(state: State) -> None:
        entries = state.entries()
        failed.extend(entry.run.name for entry in entries if entry.failed)
        for line in compare_report.write(entries, args.targets, Path(whole.folder), title):
            whole.display(line, True)

    whole.together(report)
    lost += [name for name in json.loads(comm.text_from_root(json.dumps(failed))) if name not in lost]
    if lost:
        raise UserError(f"{', '.join(lost)}: failed; the reasons are above and in {whole.folder}/compare.txt")


def _kept(whole: Comparison, plan: Plan) -> str:
    """A run that is finished already."""
    whole.far.begin(plan.name, plan.config.solver.max_iterations)
    if whole.state is not None:
        entry = whole.state.entry(plan.name)
        last = entry.run.records[-1] if entry.run.records else None
        shown(whole.display, whole.far.ended(last, before="failed before" if entry.failed else "finished before"))
    return ""


def _begun(whole: Comparison, plan: Plan, resume: bool) -> str:
    """A run from its start or its last checkpoint; why it was stopped before its end, if it was.

    Raises UserError alike on all ranks. Collective over the world.
    """
    comm, args = whole.comm, whole.args
    shown(whole.display, whole.far.begin(plan.name, plan.config.solver.max_iterations))
    stops = comm.stops = StopAgreement(comm, plan.config.parallel.timeout)  # replicas count the points of a run alike
    catch_signals(comm, stops)
    limit_time(stops, args.max_seconds)
    records: list[Record] = []
    whole.together(lambda state: state.begin(plan, args.budget))
    try:
        with owned(comm, whole.directory(plan)):
            stop = one(plan, whole, records, resume)
    except UserError as error:
        why = str(error)
        begun = comm.text_from_root("yes" if records else "")
        whole.together(lambda state: state.failed(plan, why) if begun else state.forget(plan))
        _over(comm, stops)
        if comm.minmax(float(isinstance(error, TargetMistake)))[1] > 0:  # a server knows it as an end of its workers
            raise TargetMistake(why) from None
        raise
    asked = _over(comm, stops)
    last = records[-1] if records else None
    ended = last.get("stopped", {}).get("reason", "") if last else ""
    shown(whole.display, whole.far.ended(last, before=stop, why=f"end: {ended}" if ended else ""))
    return stop or ("stopped after a run" if asked else "")


def _over(comm: Comm, stops: StopAgreement) -> bool:
    """A run's agreement on stops ends; whether a stop was asked for that came too late for it. Collective."""
    stops.armed = False
    asked = comm.minmax(float(stops.stop_requested()))[1] > 0
    stops.close()
    comm.stops = StopHooks()
    return asked


class TargetMistake(UserError):
    """A target that no run of this net can have."""


def _check_metric(targets: Sequence[Target], config: Config, metric: str) -> None:
    """Raise TargetMistake where the data turn out to give another metric than a target is of."""
    names = compare_plans.figures(config, metric)
    for target in targets:
        if target.metric in compare_plans.figures(config) and (problem := compare_plans.target_problem(target, names)):
            raise TargetMistake(problem)


def one(plan: Plan, whole: Comparison, records: list[Record], resume: bool) -> str:
    """One run into its directory, which belongs to this job; its lines of metrics are added to `records` on rank 0.

    Returns why it was stopped, if it was. Raises UserError alike on all ranks. Collective over the world.
    """
    comm, args, out = whole.comm, whole.args, whole.directory(plan)
    started = time.perf_counter()
    job = assemble(plan.config, comm, args.net)
    if not isinstance(job, Job):  # a rank that serves
        comm.stops.armed = True
        job.serve()
        return "stopped" if job.stopped else ""
    try:
        stop = _trained(plan, whole, job, out, started, records, resume)
    except UserError as error:
        job.solver.close(str(error))
        raise
    job.solver.close(STOPPED if stop is not None else "")
    return "" if stop is None else f"stopped by {stop.why}"


def _trained(
    plan: Plan,
    whole: Comparison,
    job: Job,
    out: RunDirectory,
    started: float,
    records: list[Record],
    resume: bool,
) -> Stopped | None:
    args = whole.args
    _check_metric(args.targets, plan.config, job.targets.metric_name)
    title = f"dnewton {__version__}: {args.net} on {job.groups.world.size} rank(s), run directory {out.path}"
    beginning = begin(job, out, [title], args.init, "auto" if resume else "no")

    def tell(text: str) -> None:
        if job.comm.rank == 0:
            out.log(text)
        if text.startswith("warning"):
            whole.display(f"{text} ({plan.name})")

    def show(record: Record) -> None:
        records.append(record)
        out.log(console.line(record))
        shown(whole.display, whole.far.passed(record, job.solver.passes_before))

    if job.comm.rank == 0:
        for note in [*beginning.notes, *plan.notes, console.HEADER]:
            out.log(note)
    budget = math.inf if args.budget is None else args.budget
    trainer = Trainer(job, out, started - beginning.before, show, beginning.resumed, budget, tell)
    stop = trainer.run(beginning.start)
    if trainer.ended is not None and job.comm.rank == 0:
        out.log(trainer.ended.text)
    return stop


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main, argv)
