#!/usr/bin/env python3
"""How soon Newton reaches a loss or an accuracy by its defaults: against settings by hand, PyTorch and SciPy.

    pip install torch
    python scripts/bench/time_to_target.py [--quick] [--json FILE]                           (regressions; all methods)
    python scripts/bench/time_to_target.py --classify --data DIR [--quick]
    python scripts/bench/time_to_target.py --classify --data DIR --methods default grid --seeds 0   (5 x 5 settings)
    python scripts/bench/time_to_target.py --methods default --problems 2-64 10-128 --seconds 8 \\
        --also '{"warm_start": true}'

Every problem is solved from several seeds, which give the data (of classes the net's weights and draws alone), by all
methods from the same weights, in turns of a quarter of the seconds each. The main figure is the seconds of the
processor that the process used, which other work on the machine changes less than the wall clock; on a GPU or with
more threads it is the wall clock (`--clock`). `--json` writes both. Not counted: reading, planning, measuring the
machine, loading libraries, and the errors worked out for the record.

Regression (target_problems.py): targets of unit variance, and the mean square error over samples and outputs.
`default` is Newton without a setting but `C: inf` (no regulariser; the others have none), for noisy data also with its
own C; `ours` are the 12 settings of SETTINGS, which end where the last target, 1e-7, is reached. Adam has 5 rates with
a cosine over the seconds, batches of 256; L-BFGS is full batch with strong Wolfe conditions; SciPy's least_squares (lm
or trf) has an analytic Jacobian, where that has at most 3e7 numbers. What another method reaches beyond 1e-7 counts as
1e-7, for SciPy computes in float64; of noisy data it is the error on the held-out part. `sooner` is 0 where the default
never gets there.

Classification: Newton by its defaults but the number of iterations, until the seconds are over; 12 first-order runs
(FIRST_ORDER; batches of 128), the 5 without weight decay being "Adam" for the time to 98 % of the best accuracy.

On an idle core all regressions take about 40 minutes (--quick: 6), all classifications 40 (6), and the grid of one seed
25; the seconds being the processor's, longer where other work shares it.
ranks_to_target.py compares numbers of ranks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import target_tables as tables
import torch
from sides import add_devices, opened, threads
from target_methods import Clock, Method, Point, Task, race, task_of
from target_problems import CLASSIFICATIONS, REGRESSIONS, Problem, classification, regression

from dnewton.comm.communicator import Comm
from dnewton.hardware.device import Device

RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
METHODS = ("default", "hand", "adam", "lbfgs", "scipy", "first", "grid")
QUICK = 0.4  # of the seconds, with one seed

DAMPING = {"paper": {"drop": 0.6667, "boost": 1.5}, "fast": {"drop": 0.1, "boost": 3.0}}
SOLVES: dict[str, dict[str, Any]] = {
    "auto": {"subproblem": "auto"},
    "exact": {"subproblem": "exact"},
    "cg 1e-3": {"subproblem": "cg", "cg_tolerance": 1e-3},
}
SETTINGS: dict[str, dict[str, Any]] = {  # 12 by hand: share of samples, change of lambda, local solver
    f"ours {share:g} {change} {solve}": {
        "C": math.inf,
        "lambda": 1.0,
        "subsample": share,
        **DAMPING[change],
        **SOLVES[solve],
    }
    for share, change, solve in product((0.1, 1.0), DAMPING, SOLVES)
}
GRID_LAMBDA = (0.01, 0.1, 1.0, 10.0, 100.0)
GRID_SUBSAMPLE = (0.05, 0.1, 0.2, 0.5, 1.0)
FIRST_ORDER: dict[str, tuple[Any, float]] = {  # 12: how the optimiser is made, and the rate
    **{f"Adam {rate:g}": (torch.optim.Adam, rate) for rate in RATES},
    **{f"Adam {rate:g} decay 0.01": (partial(torch.optim.AdamW, weight_decay=0.01), rate) for rate in RATES[:3]},
    **{
        f"SGD {rate:g} decay {decay:g}": (partial(torch.optim.SGD, momentum=0.9, weight_decay=decay), rate)
        for rate, decay in product((0.1, 0.03), (1e-4, 1e-3))
    },
}


def built(make: Any, parameters: Any, lr: float) -> Any:
    """An optimiser, its rate by the name that all of PyTorch's have."""
    return make(parameters, lr=lr)


def share_of(seconds: float, main: str, clock: Clock) -> float:
    """How much of the time is over."""
    return float(getattr(clock, main)) / seconds


def first_order(task: Task, names: list[str], batch: int, seconds: float, main: str) -> dict[str, Method]:
    """Some of FIRST_ORDER."""
    over = partial(share_of, seconds, main)
    return {
        name: task.minibatches(partial(built, FIRST_ORDER[name][0]), FIRST_ORDER[name][1], batch, over)
        for name in names
    }


def regression_methods(
    task: Task, wanted: set[str], also: dict[str, dict[str, Any]], seconds: float, main: str
) -> dict[str, Method]:
    """All that solve a regression, beginning with the default."""
    found: dict[str, Method] = {}
    if "default" in wanted:
        found["default"] = task.newton({"C": math.inf})
        if task.problem.noisy:
            found["default, C"] = task.newton({})
    settings = {
        **(SETTINGS if "hand" in wanted else {}),
        **{f"ours {n}": {"C": math.inf, **o} for n, o in also.items()},
    }
    others: dict[str, Method] = {}
    if "adam" in wanted:
        others |= first_order(task, [f"Adam {rate:g}" for rate in RATES], 256, seconds, main)
    if "lbfgs" in wanted:
        others["L-BFGS"] = task.lbfgs()
    if "scipy" in wanted:
        others["SciPy least_squares"] = task.least_squares(seconds)
    return found | {name: task.newton(options) for name, options in settings.items()} | others


def solved(name: str, point: Point) -> bool:
    """Settings by hand are followed to the last target only."""
    return name.startswith("ours") and point.train <= min(tables.TARGETS)


def never(name: str, point: Point) -> bool:
    """Accuracies are followed to the end."""
    return False


def recorded(curves: dict[str, Any]) -> dict[str, Any]:
    """Curves for the file: seconds of the processor, by the wall clock, training value, held-out value."""
    return {name: tables.thinned(curve) for name, curve in curves.items()}


def solve_regression(task: Task, wanted: set[str], also: dict[str, Any], seconds: float, main: str) -> tables.Row:
    """One problem and seed: run all methods, print the tables."""
    problem = task.problem
    curves, failed = race(regression_methods(task, wanted, also, seconds, main), seconds, main, solved)
    row = tables.regression_row(curves, main, problem.noisy)
    title = (
        f"{problem.name}, seed {problem.seed}: {len(problem.train[0])} samples, {task.weights} weights, {seconds:g} s"
    )
    tables.show_regression(title, row, failed)
    return {"problem": problem.name, "seed": problem.seed, **row, "failed": failed, "curves": recorded(curves)}


def solve_classification(task: Task, wanted: set[str], also: dict[str, Any], seconds: float, main: str) -> tables.Row:
    """One set and seed."""
    problem = task.problem
    methods: dict[str, Method] = {"default": task.newton({})} if "default" in wanted else {}
    methods |= {f"also {n}": task.newton(options) for n, options in also.items()}
    if "first" in wanted:
        methods |= first_order(task, list(FIRST_ORDER), 128, seconds, main)
    elif "adam" in wanted:
        methods |= first_order(task, [f"Adam {rate:g}" for rate in RATES], 128, seconds, main)
    points = list(product(GRID_LAMBDA, GRID_SUBSAMPLE)) if "grid" in wanted else []
    curves, failed = race(methods, seconds, main, never)
    for lam in GRID_LAMBDA if points else ():  # not all at once: every job has its own copy of the data
        some = {f"ours {lam:g} {s:g}": task.newton({"lambda": lam, "subsample": s}) for s in GRID_SUBSAMPLE}
        more, broken = race(some, seconds, main, never)
        curves, failed = curves | more, failed | broken
    row = tables.classification_row(curves, main)
    ends = [row["final"].get(f"ours {lam:g} {s:g}", math.nan) for lam, s in points]
    grid = [ends[i : i + len(GRID_SUBSAMPLE)] for i in range(0, len(ends), len(GRID_SUBSAMPLE))]
    title = (
        f"{problem.name}, seed {problem.seed}: {len(problem.train[0])} samples, {task.weights} weights, {seconds:g} s"
    )
    tables.show_classification(title, row, grid)
    figures = {"problem": problem.name, "seed": problem.seed, **row, "grid": grid, "failed": failed}
    return {**figures, "curves": recorded(curves)}


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classify", action="store_true", help="the classifications in place of the regressions")
    parser.add_argument("--data", type=Path, help="folder with the public sets")
    parser.add_argument("--problems", nargs="+", default=[""], help="parts of names")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[m for m in METHODS if m != "grid"])
    parser.add_argument("--also", nargs="+", default=[], help="further settings of Newton, as JSON")
    parser.add_argument("--seeds", nargs="+", type=int, help="default 0 1 2")
    parser.add_argument("--seconds", type=float, help="of each method; by default the problem's own")
    parser.add_argument("--quick", action="store_true", help=f"one seed and {QUICK:g} of the seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["cpu", "wall"], help="which seconds count; cpu for one thread and no GPU")
    add_devices(parser)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    args.seeds = args.seeds or ([0] if args.quick else [0, 1, 2])
    args.clock = args.clock or ("cpu" if args.threads == 1 and args.device == "cpu" else "wall")
    return args


def solve(problem: Problem, own: float, args: argparse.Namespace, comm: Comm, places: tuple[Device, str]) -> tables.Row:
    """One problem by what the command line says; `own` are the problem's seconds."""
    seconds = (args.seconds or own) * (QUICK if args.quick and not args.seconds else 1)
    also = {text: json.loads(text) for text in args.also}
    run = solve_classification if args.classify else solve_regression
    with threads(args.threads), task_of(problem, comm, *places) as task:
        return run(task, set(args.methods), also, seconds, args.clock)


def warm_up(comm: Comm, places: tuple[Device, str], args: argparse.Namespace) -> None:
    """All methods for a moment: no method's time is to hold what libraries load when they are first used."""
    moment, wanted = 0.01, {"default", "hand", "adam", "lbfgs", "scipy"}
    with threads(args.threads), task_of(regression(next(iter(REGRESSIONS)), 0), comm, *places) as task:
        race(regression_methods(task, wanted, {}, moment, args.clock), moment, args.clock, solved)


def main(argv: list[str] | None = None) -> list[tables.Row]:
    """Run what the command line asks for; the rows of all problems and seeds."""
    args = parsed(argv)
    comm = Comm.world()
    places = opened(args, comm)
    print(f"seconds: {'of the processor' if args.clock == 'cpu' else 'by the wall clock'}, {args.threads} thread(s)")
    warm_up(comm, places, args)
    rows = []
    names: Any = CLASSIFICATIONS if args.classify else REGRESSIONS
    for name in (n for n in names if any(part in n for part in args.problems)):
        for seed in args.seeds:
            problem = classification(name, seed, args.data, comm) if args.classify else regression(name, seed)
            if problem is not None:
                rows.append(solve(problem, names[name].seconds, args, comm, places))
                sys.stdout.flush()  # a long run is followed in a file
                if args.json:
                    args.json.write_text(json.dumps({"clock": args.clock, "rows": rows}) + "\n")
    summary = (tables.classification_summary if args.classify else tables.regression_summary)(rows) if rows else {}
    if args.json:
        args.json.write_text(json.dumps({"clock": args.clock, "rows": rows, "summary": summary}) + "\n")
    return rows


if __name__ == "__main__":
    main()
