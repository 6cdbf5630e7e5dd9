"""Command line: `python -m dnewton.plan --net cnn.yaml --ranks 16` prints the layout and the bytes it will move."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from typing import NoReturn

from dnewton.arrays.namespace import DEVICE_SLACK
from dnewton.cli.launch import run
from dnewton.cli.parser import Parser
from dnewton.comm.communicator import Comm
from dnewton.config import parse, schema
from dnewton.config.layer_entry import LayerSpec
from dnewton.config.newton import NewtonSection
from dnewton.config.shipped_nets import read_net
from dnewton.data import file_names
from dnewton.data.parts import open_parts
from dnewton.data.readers import find_part, is_bundled
from dnewton.errors import UserError
from dnewton.hardware.rates import Rates, stated
from dnewton.planning import curvature_plan, grid_search, traffic_forecast
from dnewton.planning.net_plan import infer_shapes
from dnewton.planning.replicas import layout
from dnewton.solvers import registry
from dnewton.training.job import workload

ASSUMED = 10_000  # training samples, where the data are not here
PROCESS = 100 << 20  # bytes that the interpreter and its libraries take


EXAMPLES = (
    "dnewton plan --net cnn.yaml --ranks 16",
    "dnewton plan --net mine.yaml --ranks 64 --set parallel.dtype=float64",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton plan", "Show how a net is laid out on ranks; needs no MPI.", rank, EXAMPLES)
    parser.add_argument("--net", required=True, metavar="FILE", help="YAML file, or the name of a shipped net")
    parser.add_argument("--ranks", required=True, type=int, help="number of MPI ranks")
    parser.add_argument("--samples", metavar="N", type=int, help="plan for so many training samples, without the data")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a YAML entry")
    return parser


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    args = make_parser(rank).parse_args(argv)
    if args.ranks < 1:
        raise UserError(f"--ranks {args.ranks}: at least one is needed")
    if args.samples is not None and args.samples < 1:
        raise UserError(f"--samples {args.samples}: at least one is needed")
    return args


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = arguments(argv, comm.rank)
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
            if args.samples is None and missing:
                print(f"{missing[0]} is not here: planned for {ASSUMED:,} training samples (--samples N)")
            show(settings, shapes, args.ranks, samples, tested, args.net)


def files_of(data: schema.DataSection) -> list[str]:
    """The files that a data section names; bundled sets are none."""
    found: list[str] = []
    for part in (data.train, data.test, data.validation):
        names = part if isinstance(part, list) else [part.x, part.y] if isinstance(part, schema.FilePair) else [part]
        found += [file_names.split(name)[0] for name in names if name is not None and not is_bundled(name)]
    return found


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Plan a net for a number of ranks, in one process: no launcher is needed."""
    run(_main, argv, needs_mpi=False)


def show(
    settings: schema.Config, shapes: tuple[LayerSpec, ...], ranks: int, samples: int, test: int, source: str
) -> None:
    """Print the plan, the largest rank's memory and the forecast."""
    s, groups = settings.solver, layout(settings, ranks, source)
    item = 8 if settings.parallel.dtype == "float64" else 4
    work = workload(settings, samples, test, shapes[-1].out_shape[0], groups.replicas)
    grid = None if settings.parallel.grid == "auto" else settings.parallel.grid
    plan = grid_search.choose(shapes, groups.model_ranks, work, grid=grid, source=source)
    if groups.replicas > 1 or groups.servers:
        print(f"{source}: {groups.describe()}; what follows is one replica's, sums between replicas come on top")
    subsample = f", |S| = {work.subsample}" if isinstance(s, NewtonSection) else ""
    shape = f"grid {plan.grid.rows} x {plan.grid.cols}"
    print(f"{source} on {groups.model_ranks} rank(s): {shape}, l = {work.samples}{subsample}")
    for line in plan.describe():
        print(line)
    process = PROCESS if settings.parallel.device == "cpu" else DEVICE_SLACK
    limit = math.inf if settings.parallel.memory == "auto" else settings.parallel.memory
    if not isinstance(s, NewtonSection):
        for line in registry.budget_for(s, plan, work, groups, limit, process, source).describe():
            print(line)
        return
    given = settings.parallel.rates
    rates = stated(settings.parallel.device) if given == "auto" else Rates(given.flops, given.bandwidth)
    how = curvature_plan.decide(plan, work, s, memory=limit, process=process, rates=rates, source=source)
    for line in how.describe():
        print(line)
    full = s.curvature == "full"
    joint = s.curvature == "diagonal" and how.how == "implicit"
    did = traffic_forecast.Iteration(
        work.samples,
        how.chunks(work.samples, work.subsample),
        columns=1 if s.combine == "none" else 2,
        combined=s.combine != "none",
        full_cg=grid_search.Workload.cg if full else 0,
        how=how.how,
        joint_cg=grid_search.Workload.cg if joint else 0,
        units=max(1, len(how.ways)),
        learns=how.learns,
        test_samples=test,
        itemsize=item,
    )
    assumed = f" and {grid_search.Workload.cg} CG iterations" if full or joint else ""
    print(f"one iteration with one trial step{assumed}:")
    for line in traffic_forecast.table(plan, did):
        print(line)
