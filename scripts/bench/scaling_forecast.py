#!/usr/bin/env python3
"""Strong and weak scaling of newton to 1,024 ranks by the forecast of `dnewton plan`, for three machines.

    python scripts/bench/scaling_forecast.py [--net FILE] [--samples 10000] [--measure 1 2 4 8] [--replicas best]

Machines: a cluster with 100 Gbit/s and 64 cores a node, two hosts behind a cable of 200 Mbit/s with 5 ms, and this one,
whose constants `mpirun -np 2 dnewton plan --calibrate` measures first. Weak scaling has
--samples for every rank. Seconds per iteration, how many times sooner than one rank (weak: samples per second), and
MiB of the largest rank beside what its weights, Jacobian and systems take of that. With `--measure`, runs on this
machine beside the forecast, with the counts of trial steps and CG iterations that `plan` assumes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

RANKS = [4**k for k in range(6)]  # 1 to 1,024
CLUSTER = ["--flops", "5e10", "--memory-bandwidth", "1e10", "--latency", "2e-6", "--bandwidth", "1.2e10"]
CABLE = ["--latency", "5e-3", "--bandwidth", "2.5e7", "--cores-per-node", "1", "--nodes", "2"]
SPLIT = ("vectors", "subsample", "curvature")  # parts of memory that ranks share
SHAPE = (784, (1000, 500), 10)


def run(command: list[str], folder: Path, ranks: int = 1) -> str:
    """The output of `python -m dnewton...`, on some ranks, with one thread each."""
    whole = [sys.executable, "-m", *command]
    if ranks > 1:
        whole = ["mpirun", "-np", str(ranks), *whole]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(whole)}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


def plans(folder: Path, net: str, ranks: list[int], samples: int, options: list[str]) -> list[dict[str, Any]]:
    """The forecasts of `dnewton plan`."""
    listed = ",".join(map(str, ranks))
    words = [
        "dnewton.plan",
        "--net",
        net,
        "--ranks",
        listed,
        "--samples",
        str(samples),
        "--json",
        "plan.json",
        *options,
    ]
    (folder / "plan.json").unlink(missing_ok=True)
    run(words, folder)
    found: list[dict[str, Any]] = json.loads((folder / "plan.json").read_text())["plans"]
    return found


def made(folder: Path, samples: int) -> str:
    """A net 784-1000-500-10 and its samples."""
    inputs, hidden, classes = SHAPE
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(samples, inputs)).astype(np.float32), rng.integers(0, classes, samples)
    np.savez(folder / "data.npz", x=x, y=y)
    layers = [{"dense": {"units": units, "activation": "relu"}} for units in hidden]
    net = {"input": [inputs], "loss": "cross_entropy", "layers": [*layers, {"dense": {"units": classes}}]}
    solver = {"subsample": 0.1, "subproblem": "cg", "preconditioner": "none", "max_cg": 10, "start": "none"}
    solver |= {"cg_tolerance": 1e-6, "max_iterations": 4}
    (folder / "net.yaml").write_text(yaml.safe_dump({"net": net, "data": {"train": "data.npz"}, "solver": solver}))
    return "net.yaml"


def measured(folder: Path, net: str, ranks: int) -> tuple[float, float, float]:
    """Seconds of an iteration with one trial step (the median), peak and planned MiB of the largest rank."""
    run(["dnewton.train", "--net", net, "--out", "run", "--overwrite", "--quiet"], folder, ranks)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    planned = re.search(r"planned memory of the largest rank: ([0-9.]+)", (folder / "run" / "log.txt").read_text())
    pairs = list(zip(lines, lines[1:], strict=False))
    trained = [b["train_seconds"] - a["train_seconds"] for a, b in pairs if b["trials"] == 1]
    trained = trained or [b["train_seconds"] - a["train_seconds"] for a, b in pairs]
    return median(trained), lines[-1]["peak_rss_bytes"] / 2**20, float(planned[1]) if planned else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", help="a shipped net, or a file; default 784-1000-500-10")
    parser.add_argument("--samples", type=int, default=10000)
    parser.add_argument("--measure", type=int, nargs="*", default=[])
    parser.add_argument("--replicas", default="1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = args.net or made(folder, args.samples)
        run(["dnewton.plan", "--calibrate", "-o", "machine.json"], folder, 2)
        here = ["--machine", "machine.json", "--nodes", "1"]
        machines = {"100 Gbit/s": [*CLUSTER, "--cores-per-node", "64"], "two hosts": CABLE, "this": here}
        replicas = ["--set", f"parallel.replicas={args.replicas}"]
        for machine, options in machines.items():
            ranks = RANKS if machine == "100 Gbit/s" else [1, 2] if machine == "two hosts" else [1, 2, 4, 8]
            strong = plans(folder, net, ranks, args.samples, [*options, *replicas])
            print(f"\n{machine}: strong scaling, {args.samples} samples")
            print("  ranks  replicas  grid      s/iteration  faster      MiB  of it shared")
            for plan in strong:
                print(_line(plan, strong[0]["seconds_per_iteration"] / plan["seconds_per_iteration"]))
            print(f"{machine}: weak scaling, {args.samples} samples per rank")
            for count in ranks:
                (plan,) = plans(folder, net, [count], args.samples * count, [*options, *replicas])
                print(_line(plan, count * strong[0]["seconds_per_iteration"] / plan["seconds_per_iteration"]))
        if args.measure:
            print(
                "\nthis machine, measured beside forecast\n  ranks  s/iteration  forecast  ratio  peak MiB  planned MiB"
            )
        for count in args.measure:
            seconds, peak, room = measured(folder, net, count)
            (plan,) = plans(folder, net, [count], args.samples, [*here, *replicas])
            forecast = sum(value for phase, value in plan["seconds"].items() if phase not in ("evaluate", "report"))
            ratio = forecast / seconds
            print(f"  {count:>5}  {seconds:>11.4f}  {forecast:>8.4f}  {ratio:>5.2f}  {peak:>8.0f}  {room:>11.0f}")


def _line(plan: dict[str, Any], faster: float) -> str:
    shared = sum(plan["memory_parts"].get(part, 0.0) for part in SPLIT)
    grid = " x ".join(map(str, plan["grid"]))
    times = f"{plan['seconds_per_iteration']:>11.4f}  {faster:>6.2f}"
    memory = f"{plan['memory_bytes'] / 2**20:>7.0f}  {shared / 2**20:>12.1f}"
    return f"  {plan['ranks']:>5}  {plan['replicas']:>8}  {grid:8}  {times}  {memory}"


if __name__ == "__main__":
    main()
