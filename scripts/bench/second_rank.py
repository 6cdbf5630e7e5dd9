#!/usr/bin/env python3
"""What the second rank brings: Newton iterations of like work on one rank and on two, of one thread each, by phase.

    python scripts/bench/second_rank.py [--nets mlp cnn] [--rounds 3] [--sides 1 1x2 best] [--code before=DIR after=.]

Every side trains the same net on the same samples with the same |S| and the same number of CG iterations per solve
(`max_cg`, with a tolerance that is never met). Sides, interleaved over the rounds: `1`, one rank; `1x2`, two ranks that
share the weights; `2of1`, two replicas that share the samples; `best`, what the forecast takes; `twice`, two jobs of
one rank each at the same time, which share nothing but the machine: 2 x the time of `1` over theirs is the most that
a second rank can bring on it. With `--code` each is run from several checkouts. Milliseconds of an iteration with one
trial step and one solve, medians over the iterations after the second and over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PHASES = ("function", "gradient", "jacobian", "cg", "combine", "report")
PER = {"function": "trials", "cg": "solves", "combine": "solves"}
CG = 10
SIDES: dict[str, tuple[int, list[str]]] = {
    "1": (1, []),
    "1x2": (2, ["parallel.replicas=1"]),
    "2of1": (2, ["parallel.replicas=2"]),
    "best": (2, ["parallel.replicas=best"]),
    "twice": (1, []),
}
LARGE = """{
  net: {input: [784], loss: cross_entropy, layers: [
    {dense: {units: 1000, activation: relu}}, {dense: {units: 500, activation: relu}}, {dense: {units: 10}}]},
  data: {train: x}}"""
NETS: dict[str, tuple[str, int, tuple[int, ...]]] = {  # a shipped net or YAML, samples, their shape
    "mlp": ("mnist_mlp.yaml", 10_000, (1, 28, 28)),
    "large mlp": (LARGE, 4_000, (784,)),
    "cnn": ("mnist_cnn.yaml", 2_000, (1, 28, 28)),
    "digits cnn": ("cnn.yaml", 0, ()),
}


def write_samples(file: Path, count: int, shape: tuple[int, ...]) -> None:
    """Ten classes of noisy samples, in float32."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, count)
    means = rng.normal(size=(10, *shape)).astype(np.float32)
    np.savez(file, x=means[y] + 2 * rng.normal(size=(count, *shape)).astype(np.float32), y=y)


def command(net: str, side: str, folder: Path, iterations: int, copy: int) -> list[str]:
    """The training of a side, which writes its metrics into a directory of its own."""
    name, count, shape = NETS[net]
    if name.startswith("{"):
        (folder / "net.yaml").write_text(name)
        name = str(folder / "net.yaml")
    settings = [
        f"solver.max_iterations={iterations}",
        "solver.start=none",
        f"solver.max_cg={CG}",
        "solver.cg_tolerance=1e-12",
        "output.checkpoint_every=0",
        *SIDES[side][1],
    ]
    if count:
        file = folder / f"{net}.npz"
        if not file.exists():
            write_samples(file, count, shape)
        settings += [f"data.train={file}", "data.test=null", "data.scale=none"]
    else:
        settings += ["data.test=null"]
    ranks = SIDES[side][0]
    start = [] if ranks == 1 else ["mpirun", "-np", str(ranks)]
    out = ["--out", str(folder / f"run{copy}"), "--overwrite"]
    return [
        *start,
        *[sys.executable, "-m", "dnewton.train", "--net", name, *out],
        *(word for setting in settings for word in ("--set", setting)),
    ]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The iterations' lines of metrics, without the start and the first two."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][3:]


def seconds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians by phase, per trial step and per solve, and their sum."""
    found = {p: statistics.median(r["phase_seconds"][p] / r.get(PER.get(p, ""), 1) for r in rows) for p in PHASES}
    return {**found, "all": sum(found.values())}


def measure(net: str, side: str, code: str, folder: Path, iterations: int) -> dict[str, float]:
    """One run of a side from a checkout."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(code).resolve())}
    copies = 2 if side == "twice" else 1
    jobs = [
        subprocess.Popen(command(net, side, folder, iterations, copy), env=env, cwd=folder, stdout=subprocess.DEVNULL)
        for copy in range(copies)
    ]
    for job in jobs:
        if job.wait():
            raise SystemExit(f"{' '.join(map(str, job.args))} failed")  # type: ignore[arg-type]
    all_rows = [rows_of(folder / f"run{copy}") for copy in range(copies)]
    assert all(r["cg_iterations"]["max"] == CG * r["solves"] for rows in all_rows for r in rows), "unlike work"
    each = [seconds(rows) for rows in all_rows]
    return {key: statistics.mean(e[key] for e in each) for key in each[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["mlp", "cnn"], choices=list(NETS))
    parser.add_argument("--sides", nargs="+", default=["1", "1x2", "2of1"], choices=list(SIDES))
    parser.add_argument("--code", nargs="+", default=["now=."], metavar="NAME=DIR", help="checkouts to run from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    codes = dict(entry.split("=", 1) for entry in args.code)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for net in args.nets:
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        with tempfile.TemporaryDirectory() as name:
            for _ in range(args.rounds):
                for side in args.sides:
                    for label, code in codes.items():
                        row = measure(net, side, code, Path(name), args.iterations)
                        found.setdefault((label, side), []).append(row)
        middle = {key: {p: statistics.median(r[p] for r in rows) for p in rows[0]} for key, rows in found.items()}
        results[net] = {f"{label} {side}": row for (label, side), row in middle.items()}
        print(f"\n{net}: ms per iteration, {args.rounds} rounds; in brackets, how many times quicker than 1 rank")
        print(f"{'':16}" + "".join(f"{p:>17}" for p in ("all", *PHASES)))
        for (label, side), row in middle.items():
            base = middle.get((label, args.sides[0]), row)
            times = 2 if side == "twice" else 1
            cells = (f"{1e3 * row[p]:.1f} ({times * base[p] / max(row[p], 1e-9):.2f}x)" for p in ("all", *PHASES))
            print(f"{label:8}{side:8}" + "".join(f"{cell:>17}" for cell in cells), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
