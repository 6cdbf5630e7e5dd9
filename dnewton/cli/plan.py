"""Command line: `dnewton plan --net cnn.yaml --ranks 1,2,4,...,64` forecasts layout, seconds, memory and bytes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from dnewton.cli import output_file, plan_table
from dnewton.cli.launch import run, say
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.config import parse, schema
from dnewton.config.newton import NewtonSection
from dnewton.config.shipped_nets import read_net
from dnewton.data import file_names
from dnewton.data.parts import open_parts
from dnewton.data.readers import find_part, is_bundled
from dnewton.errors import UserError
from dnewton.hardware.rates import Rates, stated
from dnewton.planning import newton_times, traffic_forecast
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.machine import MachineConstants
from dnewton.planning.net_plan import infer_shapes
from dnewton.planning.scaling import Scaling, paying, rank_list, verdict
from dnewton.training import machine_constants
from dnewton.training.planned import Planned, Problem, alternatives, iteration_of, plan_run

ASSUMED = 10_000  # training samples, where the data are not here
OUTPUT = "-"  # the name of standard output


EXAMPLES = (
    "dnewton plan --net cnn.yaml --ranks 16",
    "dnewton plan --net mine.yaml --ranks 1,2,4,...,1024 --samples 1000000 --cores-per-node 64 --svg scaling.svg",
    "mpirun -np 2 dnewton plan --calibrate -o machine.json",
    "dnewton plan --net mine.yaml --ranks 1,2,4,8 --machine machine.json --set parallel.dtype=float64",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    text = "Forecast how a net trains on ranks: layout, seconds, memory, bytes; needs neither MPI nor the data."
    parser = Parser("dnewton plan", text, rank, EXAMPLES)
    parser.add_argument("--net", metavar="FILE", help="YAML file, or the name of a shipped net")
    parser.add_argument("--ranks", metavar="P[,P...]", help="number of MPI ranks, or several: 1,2,4 or 1,2,4,...,1024")
    parser.add_argument(
        "--samples", metavar="N", type=_whole, help="plan for so many training samples, such as 1e9, without the data"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a YAML entry")
    parser.add_argument("--machine", metavar="FILE", help="constants of the machine, as --calibrate -o FILE wrote them")
    parser.add_argument("--flops", metavar="F", type=float, help="operations per second of a rank's large products")
    parser.add_argument("--memory-bandwidth", metavar="B", type=float, help="bytes per second that a rank reads")
    parser.add_argument("--latency", metavar="S", type=float, help="seconds of a step of a collective")
    parser.add_argument("--bandwidth", metavar="B", type=float, help="bytes per second between ranks, per rank")
    parser.add_argument("--cores-per-node", metavar="N", type=int, help="cores that the ranks of a node share")
    parser.add_argument("--nodes", metavar="N", type=int, help="nodes that there are (default: a core for every rank)")
    parser.add_argument("--json", metavar="FILE", help="write the forecast for programs; -: nothing else, as output")
    parser.add_argument("--svg", metavar="FILE", help="draw layout and scaling")
    parser.add_argument("--calibrate", action="store_true", help="measure the constants with the ranks of this job")
    parser.add_argument("-o", "--out", metavar="FILE", help="with --calibrate: where to keep them")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _whole(text: str) -> int:
    """A whole number, also as 1e9."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text}: a whole number is needed, such as 60000 or 1e6")
    return int(text) if text.isdecimal() else int(value)


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if args.out is not None and not args.calibrate:
        raise UserError("-o is for --calibrate; use --json FILE or --svg FILE")
    if args.calibrate:
        given = [name for name in ("net", "ranks", "samples", "machine", "json", "svg") if getattr(args, name)]
        if given:
            raise UserError(f"--calibrate measures this machine; leave --{given[0]} out")
        return args
    if not args.net or not args.ranks:
        raise UserError("--net FILE and --ranks P are needed; see dnewton plan --help")
    args.numbers = rank_list(args.ranks)
    if args.samples is not None and args.samples < 1:
        raise UserError(f"--samples {args.samples}: at least one is needed")
    for name in (*RATES, *COUNTS):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: a number above 0 is needed")
    return args


RATES = {"flops": "flops", "memory_bandwidth": "memory", "latency": "latency", "bandwidth": "network"}
COUNTS = {"cores_per_node": "cores", "nodes": "nodes"}


def _check_files(args: argparse.Namespace) -> None:
    """Raise UserError, before anything is computed, where what is asked for cannot be written."""
    if args.svg == OUTPUT:
        raise UserError("--svg -: name a file; only --json can be the output")
    named = {"--json": args.json, "--svg": args.svg, "-o": args.out}
    files = {
        option: path for option, path in named.items() if path is not None and (option, path) != ("--json", OUTPUT)
    }
    for option, path in files.items():
        output_file.check(option, path, args.overwrite)
    if len({os.path.realpath(path) for path in files.values()}) < len(files):
        raise UserError(f"--json {args.json} and --svg {args.svg} are the same file; name two")


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
    with comm.raise_together():
        if comm.rank == 0:
            _check_files(args)
    if args.calibrate:
        _calibrate(comm, args.out)
        return
    text, folder = read_net(args.net)
    settings = parse.load(text, args.net, args.set)
    shapes = infer_shapes(settings.net, args.net)
    named = {k: v for k in ("train", "test", "validation") if (v := getattr(settings.data, k)) is not None}
    data = settings.data.model_copy(update={k: find_part(v, folder) for k, v in named.items()})
    samples, tested = args.samples or ASSUMED, 0
    missing = [name for name in files_of(data) if not os.path.exists(name)]
    if args.samples is None and not missing:
        parts = open_parts(data, settings.net.input, settings.solver.seed, comm)
        samples = parts.train.samples
        tested = sum(part.samples for part in (parts.test, parts.validation) if part is not None)
    with comm.raise_together():
        if comm.rank == 0:
            tell = say if args.json == OUTPUT else print
            if args.samples is None and missing:
                tell(f"{missing[0]} is not here: planned for {ASSUMED:,} training samples (--samples N)")
            machine, rates, kept, origin = machine_of(args, settings)
            problem = Problem(settings, shapes, samples, tested, machine, rates, args.net, kept=kept)
            found = _planned(problem, args.numbers, tell)
            _show(problem, found, origin, args)


def _planned(problem: Problem, numbers: Sequence[int], tell: Callable[[str], None]) -> list[Planned]:
    """The plans for these numbers of ranks; of several, those on which the run is possible. Raises UserError."""
    found, fault = [], None
    for ranks in numbers:
        try:
            found.append(plan_run(problem, ranks))
        except UserError as error:
            tell(f"{ranks} rank(s): not possible: {error}")
            fault = error
    if not found and fault is not None:
        raise fault
    return found


def _calibrate(comm: Comm, out: str | None) -> None:
    """Measure and print, or keep. Collective over the world."""
    found, note = machine_constants.measure(comm)
    with comm.raise_together():
        if comm.rank == 0:
            for line in plan_table.about_machine(found, f"measured: {note}"):
                print(line)
            if out is None:
                print(json.dumps(dataclasses.asdict(found)))
            else:
                machine_constants.write(out, found, note)
                print(f"kept in {out}: dnewton plan --machine {out} --net FILE --ranks P")


def machine_of(
    args: argparse.Namespace, settings: schema.Config
) -> tuple[MachineConstants, Rates, dict[int, Rates], str]:
    """The machine's constants, the rates by which the curvature's form is chosen, kept ones by the number of threads,
    and where they come from."""
    parallel = settings.parallel
    kept: dict[int, Rates] = {}
    rates = stated(parallel.device)
    machine = MachineConstants(threads=machine_constants.threads_by_user())
    origin = "stated; --machine FILE has measured ones"
    if args.machine:
        read = machine_constants.read(args.machine)
        machine = dataclasses.replace(read, threads=read.threads or machine.threads)
        rates = Rates(machine.flops, machine.memory)
        origin = args.machine
    elif parallel.rates == "auto" and parallel.device == "cpu":
        kept = machine_constants.kept(parallel.dtype)
        if kept:
            alone = kept.get(1, next(iter(kept.values())))
            wide = machine_constants.in_float32(alone, parallel.dtype)
            machine = dataclasses.replace(machine, flops=wide.flops, memory=wide.bandwidth)
            origin = "rates: measured by earlier runs; the rest stated"
    else:
        machine = dataclasses.replace(machine, flops=rates.flops, memory=rates.bandwidth)
    if parallel.rates != "auto":
        rates = Rates(parallel.rates.flops, parallel.rates.bandwidth)
        if not args.machine:
            machine = dataclasses.replace(machine, flops=rates.flops, memory=rates.bandwidth)
            origin = "rates: as parallel.rates says; the rest stated"
    given = {to: getattr(args, name) for name, to in {**RATES, **COUNTS}.items() if getattr(args, name) is not None}
    if given:
        machine = dataclasses.replace(machine, **given)
        origin += (
            "; " + ", ".join(f"--{n.replace('_', '-')}" for n in {**RATES, **COUNTS} if getattr(args, n)) + " given"
        )
    if parallel.rates == "auto" and ("flops" in given or "memory" in given):
        rates, kept = Rates(machine.flops, machine.memory), {}
    return machine, rates, kept, origin


def files_of(data: schema.DataSection) -> list[str]:
    """The files that a data section names; bundled sets are none."""
    found: list[str] = []
    for part in (data.train, data.test, data.validation):
        names = part if isinstance(part, list) else [part.x, part.y] if isinstance(part, schema.FilePair) else [part]
        found += [file_names.split(name)[0] for name in names if name is not None and not is_bundled(name)]
    return found


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Plan a net for numbers of ranks, in one process: no launcher is needed, but to calibrate."""
    run(_main, argv, needs_mpi=False)


def _show(problem: Problem, found: Sequence[Planned], origin: str, args: argparse.Namespace) -> None:
    """Print the plans, and write the files that are asked for."""
    scaling = Scaling.of(found)
    best = paying(scaling).planned
    others = {best.ranks: alternatives(problem, best.ranks)}
    if args.json != OUTPUT:
        _print(problem, found, scaling, others[best.ranks], origin)
    if args.json:
        about = {"net": problem.source, "solver": problem.config.solver.name, "samples": problem.samples}
        about |= {"machine": dataclasses.asdict(problem.machine), "origin": origin}
        text = json.dumps({**about, **plan_table.as_json(scaling, others)}, indent=1)
        if args.json == OUTPUT:
            print(text)
        else:
            output_file.write(args.json, (text + "\n").encode())
            print(f"written: {args.json}")
    if args.svg:
        from dnewton.cli.plan_picture import svg  # the pictures' modules are not needed else

        output_file.write(args.svg, svg(scaling, problem.source).encode("utf-8", "replace"))
        if args.json != OUTPUT:
            print(f"written: {args.svg}")


def _print(
    problem: Problem, found: Sequence[Planned], scaling: Scaling[Planned], others: Sequence[Planned], origin: str
) -> None:
    """The plans as tables."""
    best = paying(scaling).planned
    if len(found) == 1:
        show_one(problem, best)
        for line in plan_table.one(best, _assumed(problem)):
            print(line)
    else:
        options, outputs = problem.config.solver, problem.shapes[-1].out_shape[0]
        what = (
            f", |S| = {options.subsample_size(problem.samples, outputs)}" if isinstance(options, NewtonSection) else ""
        )
        print(f"{problem.source}: {options.name}, l = {problem.samples}{what}{_assumed(problem)}")
        for line in plan_table.table(scaling):
            print(line)
        print(verdict(scaling))
    for line in plan_table.runners_up(others, best):
        print(line)
    for planned in found:
        if planned.idle:
            print(f"{planned.idle} of {planned.ranks} ranks own no weights: no layer has units enough for them")
            break
    for line in plan_table.about_machine(problem.machine, origin):
        print(line)


def _assumed(problem: Problem) -> str:
    """What an iteration is taken to be."""
    options = problem.config.solver
    if not isinstance(options, NewtonSection):
        return ""
    done = newton_times.assumed(options)
    return f"; assumed: {done.trials:g} trial step, {done.cg:g} CG iterations"


def show_one(problem: Problem, planned: Planned) -> None:
    """Print the layout, the largest rank's memory, and the bytes."""
    groups, plan, how, work, source = planned.division, planned.plan, planned.how, planned.work, problem.source
    if groups.replicas > 1 or groups.servers:
        print(f"{source}: {groups.describe()}; what follows is one replica's, sums between replicas come on top")
    options = problem.config.solver
    subsample = f", |S| = {work.subsample}" if isinstance(options, NewtonSection) else ""
    shape = f"grid {plan.grid.rows} x {plan.grid.cols}"
    print(f"{source} on {groups.model_ranks} rank(s): {shape}, l = {work.samples}{subsample}")
    for line in (*plan.describe(), *how.describe()):
        print(line)
    if not isinstance(how, CurvaturePlan) or not isinstance(options, NewtonSection):
        return
    did = iteration_of(options, how, work, problem.tested)
    cg = did.full_cg or did.joint_cg
    print(f"one iteration with one trial step{f' and {cg} CG iterations' if cg else ''}:")
    for line in traffic_forecast.table(plan, did):
        print(line)
