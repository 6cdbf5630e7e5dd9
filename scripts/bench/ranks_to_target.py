#!/usr/bin/env python3
"""Iterations and seconds to the same losses on several numbers of ranks, one thread each, by Newton's defaults.

    python scripts/bench/ranks_to_target.py [--ranks 1 2] [--problems 10-128 6-216] [--iterations 60]
    python scripts/bench/ranks_to_target.py --ranks 1 16 --problems 10-128 Friedman --iterations 100     (iterations)
    python scripts/bench/ranks_to_target.py --classify --data DIR --problems MNIST usps

The problems of time_to_target.py, run as users run them: `python -m dnewton.train` under mpirun, from the same weights
whatever the ranks; seconds are `train_seconds` of metrics.jsonl, by the wall clock. Every rank solves a system of its
own weights only, so that the path depends on the ranks: losses are compared, LEVELS of them, evenly spaced on a
logarithmic scale from the start to the lowest loss that both numbers of ranks reach. With more ranks than cores only
the iterations say something.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from target_problems import CLASSIFICATIONS, REGRESSIONS, Problem, classification, regression

from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config

LEVELS = 6


class Line(NamedTuple):
    """An iteration of a run."""

    seconds: float
    iteration: int
    loss: float


def trained(problem: Problem, ranks: int, solver: dict[str, Any], launcher: list[str]) -> list[Line]:
    """A run of the command line, and its record. Raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        settings = {
            "net": problem.net,
            "data": problem.save(place),
            "solver": {"seed": problem.seed, **solver},
            "output": {"checkpoint_every": 0},
        }
        (place / "run.yaml").write_text(Config.model_validate(settings).dump())
        command = [*launcher, "-np", str(ranks), sys.executable, "-m", "dnewton.train"]
        command += ["--net", str(place / "run.yaml"), "--out", str(place / "out")]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "PMIX", "HYDRA", "MPI"))}
        environment = {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{problem.name} on {ranks} ranks: {done.stderr.strip()[-2000:]}")
        records = [json.loads(line) for line in (place / "out" / "metrics.jsonl").read_text().splitlines()]
    return [Line(r["train_seconds"], r["iteration"], r["loss"]) for r in records if "iteration" in r]


def levels(first: list[Line], second: list[Line]) -> list[float]:
    """Losses between the start and the lowest that both runs reach."""
    start, end = first[0].loss, max(min(line.loss for line in run) for run in (first, second))
    return [start * (end / start) ** (i / LEVELS) for i in range(1, LEVELS)] + [end]


def reached(run: list[Line], loss: float) -> Line:
    """The first line whose loss is at most this."""
    return next(line for line in run if line.loss <= loss)


def compared(runs: dict[int, list[Line]]) -> list[dict[str, Any]]:
    """Every number of ranks beside the first, level by level."""
    base, *others = runs
    rows = []
    for ranks in others:
        for loss in levels(runs[base], runs[ranks]):
            a, b = reached(runs[base], loss), reached(runs[ranks], loss)
            row = {"ranks": ranks, "loss": loss, "iterations": (a.iteration, b.iteration)}
            more = b.iteration / max(1, a.iteration)
            rows.append({**row, "seconds": (a.seconds, b.seconds), "more": more, "faster": a.seconds / b.seconds})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="the first is what others are compared to")
    parser.add_argument("--problems", nargs="+", default=["10-128", "6-216", "3-64"], help="parts of names")
    parser.add_argument("--classify", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with the public sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--solver", default="{}", help="settings of Newton, as JSON")
    parser.add_argument("--launcher", default="mpirun")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comm = Comm.world()
    names: Any = CLASSIFICATIONS if args.classify else REGRESSIONS
    found = []
    for name in (n for n in names if any(part in n for part in args.problems)):
        for seed in args.seeds:
            problem = classification(name, seed, args.data, comm) if args.classify else regression(name, seed)
            if problem is None:
                continue
            free = {} if args.classify else {"C": math.inf}  # as in time_to_target.py
            solver = {"max_iterations": args.iterations, **free, **json.loads(args.solver)}
            runs = {ranks: trained(problem, ranks, solver, args.launcher.split()) for ranks in args.ranks}
            rows = compared(runs)
            found.append({"problem": name, "seed": seed, "rows": rows, "runs": runs})
            print(f"\n{name}, seed {seed}: {args.ranks[0]} rank(s) and more")
            print(f"  {'ranks':>5} {'loss':>10} {'iterations':>14} {'quotient':>9} {'seconds':>18} {'faster':>7}")
            for r in rows:
                iterations, seconds = "{} -> {}".format(*r["iterations"]), "{:.2f} -> {:.2f}".format(*r["seconds"])
                print(
                    f"  {r['ranks']:>5} {r['loss']:>10.3e} {iterations:>14} {r['more']:>9.2f} {seconds:>18} "
                    f"{r['faster']:>6.2f}x",
                    flush=True,
                )
    for ranks in args.ranks[1:]:
        rows = [r for f in found for r in f["rows"] if r["ranks"] == ranks]
        if rows:
            more, faster = (statistics.median(r[key] for r in rows) for key in ("more", "faster"))
            print(f"\n{ranks} ranks, medians: {more:.2f} times the iterations, {1 / faster:.2f} times the seconds")
    if args.json:
        args.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
