#!/usr/bin/env python3
"""Seconds that `dnewton plan` forecasts against measured ones, by phase, for the shipped nets; memory and bytes, too.

    python scripts/bench/plan_forecast.py [--nets mlp.yaml cnn.yaml] [--ranks 1 2 4] [--rounds 3] [--json FILE]
    python scripts/bench/plan_forecast.py --solvers adam hessian_free --nets mlp.yaml

Data that are not shipped are drawn at random in the shape of the set (the largest with fewer samples). Every round
measures the machine's constants before each net (`--calibrate` on two ranks) and trains it on each number of ranks.
The work of an iteration is the same in every round: of its phases the least disturbed round counts, of the constants
the best; then medians over the iterations after the first. The forecast has the trial steps, solves and iterations of
CG that the run had ("given"), or what `plan` assumes ("assumed"). Ranks beyond the node's cores share them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dnewton.config import parse, shipped_nets
from dnewton.config.newton import NewtonSection
from dnewton.data.bundled import NAMES, read_bundled
from dnewton.hardware.rates import Rates
from dnewton.planning import costs, traffic_forecast
from dnewton.planning.machine import MachineConstants, Price
from dnewton.planning.net_plan import infer_shapes
from dnewton.planning.newton_times import Assumed, assumed
from dnewton.solvers.newton.adaptive import Operations, SampledRows
from dnewton.training import machine_constants
from dnewton.training.planned import Planned, Problem, iteration_of, largest_product, newton_seconds, plan_run

SIZES = {  # samples for training and testing where the data are not shipped
    "dna": (2000, 1186),
    "letter": (15000, 5000),
    "pendigits": (7494, 3498),
    "satimage": (4435, 2000),
    "usps": (7291, 2007),
    "mnist_mlp": (20000, 4000),
    "mnist_cnn": (5000, 1000),
    "poker": (20000, 5000),
    "higgs": (8787, 2197),
    "cifar10_mlp": (3200, 800),
    "cifar10_cnn": (1600, 400),
}
LEAST_SHARE = 0.05  # of an iteration, from which a phase counts
WITHIN_TOTAL, WITHIN_PHASE = 1.3, 1.5


def drawn(name: str, folder: Path) -> list[str]:
    """Options that give a net random data, which are made once; none where its data are shipped."""
    text, _ = shipped_nets.read_net(name)
    config = parse.load(text, name, [])
    if config.data.train in NAMES:
        return []
    sizes = next(size for key, size in SIZES.items() if name.startswith(key))
    outputs = infer_shapes(config.net)[-1].out_shape[0]
    rng = np.random.default_rng(0)
    centres = 0.5 * rng.normal(size=(outputs, *config.net.input))
    options = ["--set", "data.scale=none"]
    if config.data.split is not None:
        options += ["--set", "data.split=null"]
    for part, count in zip(("train", "test"), sizes, strict=True):
        file = folder / f"{Path(name).stem}.{part}.npz"
        if not file.exists():
            y = rng.integers(0, outputs, count)
            np.savez(file, x=(centres[y] + rng.normal(size=(count, *config.net.input))).astype("float32"), y=y)
        options += ["--set", f"data.{part}={file}"]
    return options


def environment() -> dict[str, str]:
    """One BLAS thread per rank."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def calibrated(folder: Path, launcher: list[str]) -> MachineConstants:
    """The constants as two ranks measure them."""
    file = str(folder / "machine.json")
    command = [*launcher, "-np", "2", sys.executable, "-m", "dnewton.plan", "--calibrate", "--overwrite", "-o", file]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return machine_constants.read(file)


def best_of(found: list[MachineConstants]) -> MachineConstants:
    """The least disturbed of every constant."""
    best = {
        "flops": max(m.flops for m in found),
        "memory": max(m.memory for m in found),
        "network": max(m.network for m in found),
        "latency": min(m.latency for m in found),
        "call": min(m.call for m in found),
    }
    return dataclasses.replace(found[0], **best, nodes=1, threads=1)


def trained(
    name: str, solver: str, ranks: int, iterations: int, data: list[str], folder: Path, launcher: list[str]
) -> dict[str, Any]:
    """A short run: its lines of metrics, its configuration and its planned memory."""
    out = folder / f"{Path(name).stem}.{solver}.{ranks}"
    command = [sys.executable, "-m", "dnewton.train", "--net", name, *data, "--out", str(out), "--overwrite", "--quiet"]
    command += ["--set", f"solver.max_iterations={iterations}", "--set", "output.checkpoint_every=0"]
    command += ["--set", "solver.start=none"] if solver == "newton" else ["--set", f"solver.name={solver}"]
    if ranks > 1:
        command = [*launcher, "-np", str(ranks), *command]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=600)
    log = (out / "log.txt").read_text()
    planned = re.search(r"planned memory of the largest rank: ([0-9.]+)", log)
    return {
        "rows": [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()],
        "config": (out / "config.yaml").read_text(),
        "planned": float(planned[1]) if planned else None,
    }


def samples_of(config: Any) -> tuple[int, int]:
    """Training and test samples."""
    counts = []
    for part in ("train", "test"):
        name = getattr(config.data, part)
        counts.append(len(read_bundled(name, part)[1]) if name in NAMES else len(np.load(name)["y"]))
    return counts[0], counts[1]


def least(rounds: list[list[dict[str, Any]]]) -> list[dict[str, float]]:
    """Seconds by phase of every iteration, each of the round that was quickest there; "other" is in no phase."""
    found = []
    for k in range(1, len(rounds[0])):
        phases: dict[str, float] = {}
        for rows in rounds:
            seconds = {name: value for name, value in rows[k]["phase_seconds"].items() if name != "output"}
            trained = rows[k]["train_seconds"] - rows[k - 1]["train_seconds"]
            beside = sum(v for n, v in seconds.items() if n not in ("evaluate", "report", "setup"))
            seconds["other"] = max(0.0, trained - beside)
            for name, value in seconds.items():
                phases[name] = min(phases.get(name, value), value)
        found.append(phases)
    return found


def given(problem: Problem, planned: Planned, rows: list[dict[str, Any]], ranks: int) -> list[dict[str, float]]:
    """The forecast of every iteration with the counts that it had."""
    options, work, how = problem.config.solver, planned.work, planned.how
    if not isinstance(options, NewtonSection):
        return [dict(planned.seconds)] * (len(rows) - 1)
    price = Price.on(problem.machine, ranks, work.itemsize, largest_product(planned.plan, work, problem.config))
    size, operations = SampledRows(), Operations(tuple(costs.blocks_of(planned.plan)), work.subsample, work.outputs)
    found = []
    for row in rows[1:]:
        cg, solves = row["cg_iterations"], row.get("solves", 1)
        did = Assumed(row["trials"], solves, cg["max"], size.rows)
        found.append(newton_seconds(options, how, planned.plan, work, price, 1, problem.tested, did))
        size.solved(cg["mean"] / solves, operations, how.rows)
    return found


def wrong_bytes(problem: Problem, planned: Planned, rows: list[dict[str, Any]]) -> int:
    """Accepted iterations whose counted bytes are not the forecast ones."""
    options = problem.config.solver
    if not isinstance(options, NewtonSection):
        return 0
    wrong = 0
    moved = False
    for k, row in enumerate(rows[1:]):
        did = dataclasses.replace(
            iteration_of(options, planned.how, planned.work, problem.tested),
            trials=row["trials"],
            columns=2 if moved and options.combine != "none" else 1,
            solves=row.get("solves", 1),
            scales="solves" in row and k == 0,
        )
        moved |= bool(row["step"])
        if row["step"]:
            expected = traffic_forecast.iteration_bytes(planned.plan, did)
            wrong += any(row["comm"].get(name, {"bytes": 0})["bytes"] != value for name, value in expected.items())
    return wrong


def compared(
    name: str, ranks: int, solver: str, rounds: list[dict[str, Any]], machine: MachineConstants
) -> dict[str, Any]:
    """A net on some ranks: forecast and measured seconds by phase."""
    config = parse.load(rounds[0]["config"], name)
    samples, tested = samples_of(config)
    rates = Rates(config.parallel.rates.flops, config.parallel.rates.bandwidth) if solver == "newton" else Rates()
    problem = Problem(config, infer_shapes(config.net), samples, tested, machine, rates, name)
    planned = plan_run(problem, ranks)
    rows = rounds[0]["rows"]
    measured = least([r["rows"] for r in rounds])[1:]
    forecast = given(problem, planned, rows, ranks)[1:]
    names = list(dict.fromkeys(n for phases in (*forecast, *measured) for n in phases))
    middle = {
        n: (
            statistics.median(f.get(n, 0.0) for f in forecast),
            statistics.median(m.get(n, 0.0) for m in measured),
        )
        for n in names
    }
    totals = [
        statistics.median(sum(p.values()) for p in forecast),
        statistics.median(sum(p.values()) for p in measured),
    ]
    counts = assumed(config.solver) if isinstance(config.solver, NewtonSection) else None
    peak = planned.how.peak / 2**20
    return {
        "net": name,
        "solver": solver,
        "ranks": ranks,
        "forecast": totals[0],
        "measured": totals[1],
        "assumed": planned.total if counts else totals[0],
        "phases": {n: {"forecast": a, "measured": b} for n, (a, b) in middle.items()},
        "cg": [row["cg_iterations"]["max"] if row["cg_iterations"] else 0 for row in rows[2:]],
        "wrong_bytes": wrong_bytes(problem, planned, rows),
        "planned_mib": [round(peak, 1), rounds[0]["planned"]],
    }


def missed(report: dict[str, Any]) -> list[str]:
    """The phases of weight that are outside the goal."""
    found = []
    for name, pair in report["phases"].items():
        if pair["measured"] >= LEAST_SHARE * report["measured"]:
            ratio = pair["forecast"] / pair["measured"]
            if not 1 / WITHIN_PHASE <= ratio <= WITHIN_PHASE:
                found.append(f"{name} {ratio:.2f}")
    return found


def line(report: dict[str, Any]) -> str:
    """One row of the table."""
    ratio = report["forecast"] / report["measured"]
    ok = 1 / WITHIN_TOTAL <= ratio <= WITHIN_TOTAL
    of = {n: p for n, p in report["phases"].items() if p["measured"] >= LEAST_SHARE * report["measured"]}
    phases = " ".join(f"{n} {p['forecast'] / p['measured']:.2f}" for n, p in of.items())
    mib = report["planned_mib"]
    same = "same" if mib[0] == mib[1] else f"{mib[0]}/{mib[1]}"
    title = report["net"].removesuffix(".yaml") + ("" if report["solver"] == "newton" else f" {report['solver']}")
    return (
        f"{title:22} {report['ranks']:>2} {1e3 * report['measured']:>9.1f} {1e3 * report['forecast']:>9.1f} "
        f"{ratio:>5.2f}{' ' if ok else '!'} {report['assumed'] / report['measured']:>5.2f} {same:>11} "
        f"{report['wrong_bytes']:>2}  {phases}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=sorted(shipped_nets.shipped_nets()))
    parser.add_argument("--solvers", nargs="+", default=["newton"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--launcher", default="mpirun")
    parser.add_argument("--folder", type=Path, help="where data and runs are kept, and used again")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    launcher, found, machines = args.launcher.split(), {}, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        data = {name: drawn(name, folder) for name in args.nets}
        jobs = [(n, s, r) for n in args.nets for s in args.solvers for r in args.ranks]
        for _ in range(args.rounds):
            for net, solver, ranks in jobs:
                if ranks == args.ranks[0]:
                    machines.append(calibrated(folder, launcher))
                run = trained(net, solver, ranks, args.iterations, data[net], folder, launcher)
                found.setdefault((net, solver, ranks), []).append(run)
        machine = best_of(machines)
        reports = [compared(n, r, s, found[n, s, r], machine) for n, s, r in jobs]
    print(f"machine: {json.dumps(dataclasses.asdict(machine))}")
    print(
        f"{'net':22} {'P':>2} {'measured':>9} {'forecast':>9} {'ratio':>6} {'plan':>5} {'memory':>11} {'B!':>2}  phases"
    )
    for report in reports:
        print(line(report))
    inside = sum(1 / WITHIN_TOTAL <= r["forecast"] / r["measured"] <= WITHIN_TOTAL for r in reports)
    print(f"within {WITHIN_TOTAL - 1:.0%}: {inside} of {len(reports)}; phases outside a factor of {WITHIN_PHASE}:")
    for report in reports:
        if outside := missed(report):
            print(f"  {report['net']} {report['solver']} on {report['ranks']}: {', '.join(outside)}")
    if args.json:
        args.json.write_text(json.dumps({"machine": dataclasses.asdict(machine), "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
