#!/usr/bin/env python3
"""Relative L2 error over seconds for nets trained on differential equations, against PyTorch on the same points.

    python scripts/bench/physics.py [--problems poisson2 lorenz ...] [--seconds 20]    --seconds 0: PyTorch alone
    mpirun -np 2 python scripts/bench/physics.py                     dnewton on two ranks
    python scripts/bench/physics.py --torch adam lbfgs gauss-newton  with PyTorch beside it, from the same start
    python scripts/bench/physics.py --derivatives                    PyTorch's ways to differentiate, in milliseconds
    python scripts/bench/physics.py --json all.json                  adds what it measures to the file
    python scripts/bench/physics.py --table all.json                 the file as tables for docs/physics.md

The problems are those of physics_problems.py; float64, tanh, all points in every step, 1,000 other
points for the error. Seconds are those of training, the test points' evaluations left out. `adam`: rates fall by a
cosine over the seconds, from each of `--rates`, of which the table has the best; `lbfgs`: strong Wolfe, 50 pairs;
`gauss-newton`: the Jacobian by torch.func, point by point batched by vmap, Cholesky of the smaller of JᵀJ and JJᵀ,
Levenberg-Marquardt damped by the gain.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from physics_problems import PROBLEMS, Problem

import dnewton as dn
from dnewton.api import ranks

LEVELS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
METHODS = ("adam", "lbfgs", "gauss-newton")
ORDER = (*(f"dnewton {n}" for n in range(1, 65)), *METHODS)
NAMES = {"adam": "PyTorch: Adam", "lbfgs": "PyTorch: L-BFGS", "gauss-newton": "PyTorch: Gauss-Newton"}
Run = dict[str, Any]  # curve: [seconds, least relative L2 error until then]; steps; seconds; parameters


def setting(problem: Problem) -> tuple[Any, dict[str, Any]]:
    """The net, and what dn.fit is given beside it."""
    unknown = [dn.Parameter(name, value) for name, value in problem.unknown.items()]
    first, second = problem.terms

    def residual(x: Any, u: Any, *parameters: Any) -> Any:
        return first.equation(u, first.source(x), *parameters)

    layers = [*(dn.dense(n, "tanh") for n in problem.hidden), dn.dense(problem.outputs)]
    known = dn.Data(second.points, second.source(second.points), second.weight)
    terms = [dn.Residual(residual, first.points, first.weight, unknown), known]
    return dn.net([problem.inputs], layers), {"terms": terms, "parallel": {"dtype": "float64"}}


def by_dnewton(problem: Problem, seconds: float, seed: int) -> tuple[Run, dict[str, Any]]:
    """What it reached, and the weights at the start. Collective over all ranks."""
    net, given = setting(problem)
    start = dn.fit(net, **given, solver={"max_iterations": 0, "seed": seed}).weights()
    if seconds == 0:
        return {}, start
    solver = {"max_iterations": 100_000, "seed": seed}
    model = dn.fit(net, **given, test=problem.test, solver=solver, max_seconds=seconds)
    size = math.sqrt(np.mean(problem.test[1] ** 2))
    spent, errors = model.history["train_seconds"].tolist(), (model.history["test_rmse"] / size).tolist()
    return _run(list(zip(spent, errors, strict=True)), len(spent) - 1, model.parameters), start


def by_torch(problem: Problem, method: str, seconds: float, start: dict[str, Any], rates: list[float]) -> Run:
    """What it reached from the same start; of Adam by the best of some rates."""
    import physics_torch

    way, _ = physics_torch.fastest(problem, start, method == "gauss-newton")
    equations = physics_torch.Equations(problem, start, way)
    tried = [
        _run(*physics_torch.run(equations, method, seconds, rate), {"rate": rate} if rate else {})
        for rate in (rates if method == "adam" else [0.0])
    ]
    return min(tried, key=lambda run: run["curve"][-1][1])


def _run(curve: list[tuple[float, float]], steps: int, parameters: dict[str, float]) -> Run:
    """The points at which the error was the least so far."""
    least, kept = math.inf, []
    for spent, error in curve:
        if error < least:
            least = error
            kept.append((spent, error))
    return {"curve": kept, "steps": steps, "seconds": curve[-1][0], "parameters": parameters}


def reached(run: Run, level: float) -> float | None:
    """Seconds to an error."""
    return next((spent for spent, error in run["curve"] if error <= level), None)


def sooner(run: Run, other: Run) -> str:
    """How many times sooner `run` is at what `other` ends at, or at the smallest level that both reach."""
    for level in (other["curve"][-1][1], *reversed(LEVELS)):
        ours, theirs = reached(run, level), reached(other, level)
        if ours and theirs:
            return f"{theirs / ours:.2g}× ({_error(level)})"
    return "–"


def _error(value: float) -> str:
    return f"{value:.1e}".replace("e-0", "e-")


def row(run: Run) -> list[str]:
    """Seconds to each level, the least error, seconds in all, steps."""
    times = [reached(run, level) for level in LEVELS]
    told = ["–" if t is None else f"{t:.1f}" if t < 10 else f"{t:.0f}" for t in times]
    return [*told, _error(run["curve"][-1][1]), f"{run['seconds']:.0f}", str(run["steps"])]


def table(results: dict[str, dict[str, Run]]) -> str:
    """Markdown: a row for each problem and method."""
    head = [
        "",
        *(f"{level:.0e}".replace("e-0", "e-") for level in LEVELS),
        "least",
        "seconds",
        "steps",
        "sooner",
    ]
    lines = [_markdown(head), _markdown(["---"] * len(head))]
    for name, problem in PROBLEMS.items():
        runs = results.get(name, {})
        words = problem().words
        base = runs.get("dnewton 1")
        for key in sorted(runs, key=ORDER.index):
            run = runs[key]
            ours = key not in METHODS
            ranks = key.removeprefix("dnewton ")
            label = (words if ranks == "1" else f"the same, {ranks} ranks") if ours else NAMES[key]
            lines.append(_markdown([label, *row(run), "" if ours or base is None else sooner(base, run)]))
    return "\n".join(lines)


def _markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def differentiated(problem: Problem, start: dict[str, Any]) -> str:
    """Milliseconds of PyTorch's ways to differentiate: the loss with its gradient, the Jacobian."""
    import physics_torch

    told = []
    for words, jacobian in ("gradient", False), ("Jacobian", True):
        found = physics_torch.fastest(problem, start, jacobian)[1]
        told.append(f"{words}: " + ", ".join(f"{way} {ms:.1f}" for way, ms in found.items()))
    return "; ".join(told) + " ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--torch", nargs="*", default=[], choices=METHODS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--torch-seconds", type=float, help="of each method and rate; as --seconds if left out")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-2, 3e-3], help="of Adam")
    parser.add_argument("--derivatives", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    comm = ranks.opened(None)
    first, count = comm.rank == 0, comm.size
    comm.free()
    for number, name in enumerate(args.problems):
        problem = PROBLEMS[name]()
        run, start = by_dnewton(problem, 0.0 if args.derivatives else args.seconds, args.seed)
        if not first:
            continue
        if args.derivatives:
            print(f"{name:14} {differentiated(problem, start)}", flush=True)
            continue
        runs = {f"dnewton {count}": run} if run else {}
        heads = [*(f"{level:.0e}" for level in LEVELS), "least", "s", "steps"]
        if number == 0:
            print(f"{'':27}", *(f"{head:>7}" for head in heads))
        if run:
            _tell(name, f"dnewton {count}", run)
        for method in args.torch:
            other = runs[method] = by_torch(problem, method, args.torch_seconds or args.seconds, start, args.rates)
            _tell(name, method, other, f"  dnewton {sooner(run, other)} sooner" if run else "")
        if args.json:
            results = json.loads(args.json.read_text()) if args.json.exists() else {}
            results[name] = results.get(name, {}) | runs
            args.json.write_text(json.dumps(results) + "\n")


def _tell(name: str, method: str, run: Run, more: str = "") -> None:
    known = " ".join(f"{key} {value:.6g}" for key, value in run["parameters"].items())
    print(f"{name:14} {method:12}", *(f"{cell:>7}" for cell in row(run)), f" {known}{more}", flush=True)


if __name__ == "__main__":
    main()
