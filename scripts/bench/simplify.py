#!/usr/bin/env python3
"""Does an option, or a piece of code, pay for its lines? Whole runs of two or more sides, one after the other in turn.

    python scripts/bench/simplify.py --nets 2-64 10-128 --sides with,code=DIR without
    python scripts/bench/simplify.py --nets cnn mlp mlp_regression --ranks 16 --seeds 0 1 \
        --sides previous none,solver.combine=none

A side is its name, `code=` a checkout whose package runs (this one unless given), and settings as for `--set`. Printed
for every net and side: iterations, seconds to the net's target loss and seconds per iteration, medians over the
repetitions and seeds with the smallest and the largest, and the largest resident size of a rank.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from smooth_functions import smooth_2, smooth_10

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR_TIME = """
import runpy, time
time.perf_counter = time.process_time
runpy.run_module("dnewton.train", run_name="__main__", alter_sys=True)
"""
PRECISE = {"subsample": 1.0, "drop": 0.1, "boost": 3.0, "C": math.inf}


def dense(*widths: int, activation: str = "tanh") -> list[Any]:
    hidden = [{"dense": {"units": w, "activation": activation}} for w in widths[:-1]]
    return [*hidden, {"dense": {"units": widths[-1]}}]


def noise(inputs: tuple[int, ...], classes: int, samples: int) -> Callable[[Any], tuple[Any, Any]]:
    """Random inputs and labels, where only the seconds count."""
    return lambda rng: (rng.normal(size=(samples, *inputs)), rng.integers(0, classes, samples))


CONVOLUTIONS = [
    part
    for channels, kernel in ((32, 5), (64, 3), (64, 3))
    for part in (
        {"conv": {"channels": channels, "kernel": kernel, "padding": kernel // 2, "activation": "relu"}},
        {"maxpool": {"size": 2}},
    )
]
MADE: dict[str, tuple[Callable[[Any], tuple[Any, Any]], list[Any], dict[str, Any], float, int]] = {
    # samples, layers, solver, target, iterations at most
    "2-64": (lambda rng: smooth_2(rng, 2000), dense(64, 64, 1), {"C": math.inf}, 1e-7, 200),
    "10-128": (lambda rng: smooth_10(rng, 4000), dense(128, 128, 128, 1), PRECISE, 1e-5, 20),
    "2-64 precise": (lambda rng: smooth_2(rng, 2000), dense(64, 64, 1), PRECISE, 1e-5, 120),
    "small system": (lambda rng: smooth_10(rng, 20000), dense(16, 16, 1), {"subsample": 0.5}, 0.02, 40),
    "10 outputs": (noise((8,), 10, 10000), dense(20, 20, 10), {"subsample": 0.5}, 0, 8),
    "large MLP": (noise((784,), 10, 4000), dense(1000, 500, 10, activation="relu"), {"subsample": 0.25}, 0, 8),
    "small MLP": (noise((16,), 26, 4000), dense(300, 300, 300, 26, activation="relu"), {"subsample": 0.25}, 0, 8),
    "CNN": (noise((1, 28, 28), 10, 400), [*CONVOLUTIONS, "flatten", *dense(10)], {"subsample": 0.25}, 0, 8),
}
SHIPPED = {  # target, iterations at most
    "cnn": (0.1, 60),
    "mlp": (0.09, 60),
    "mlp_regression": (0.479, 60),
    "letter_mlp": (0.6, 30),  # needs --data
}


def prepare(name: str, folder: Path) -> tuple[str, float, int]:
    """What `--net` takes, the target loss and the iterations at most; data that are made go into the folder."""
    if name in SHIPPED:
        return f"{name}.yaml", *SHIPPED[name]
    samples, layers, solver, target, limit = MADE[name]
    x, y = samples(np.random.default_rng(0))
    stem = name.replace(" ", "_")
    np.savez(folder / f"{stem}.npz", x=x.astype(np.float32), y=y)
    net = {
        "input": list(x.shape[1:]),
        "loss": "cross_entropy" if y.dtype.kind == "i" else "squared",
        "layers": layers,
    }
    section = {"name": "newton", **{k: "inf" if v == math.inf else v for k, v in solver.items()}}
    section = {k: float(v) if k == "C" else v for k, v in section.items()}
    text = yaml.safe_dump({"net": net, "data": {"train": f"{stem}.npz"}, "solver": section})
    (folder / f"{stem}.yaml").write_text(text)
    return f"{stem}.yaml", target, limit


def run(folder: Path, net: str, limit: int, side: str, seed: int, ranks: int, processor: bool) -> list[dict[str, Any]]:
    """The rows of one run's metrics.jsonl."""
    _, *settings = side.split(",")
    code = next((Path(s[5:]).resolve() for s in settings if s.startswith("code=")), ROOT)
    sets = [f"solver.max_iterations={limit}", f"solver.seed={seed}", "output.checkpoint_every=1000000"]
    sets += [s for s in settings if not s.startswith("code=")]
    start = ["-c", PROCESSOR_TIME] if processor else ["-m", "dnewton.train"]
    command = [sys.executable, *start, "--net", net, "--out", str(folder / "out"), "--overwrite"]
    command += [part for s in sets for part in ("--set", s)]
    if ranks > 1:
        command = ["mpirun", "-np", str(ranks), *command]
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


def figures(rows: list[dict[str, Any]], target: float) -> dict[str, float]:
    """Iterations and seconds to the target, seconds per iteration, MiB."""
    start = rows[0]["seconds"]
    there = next((row for row in rows if row["loss"] <= target), None)
    steps = [b["seconds"] - a["seconds"] for a, b in zip(rows[1:], rows[2:], strict=False)]
    return {
        "iterations": there["iteration"] if there else math.inf,
        "s to target": there["seconds"] - start if there else math.inf,
        "s/iteration": statistics.median(steps),
        "CG": statistics.median(row["cg_iterations"]["mean"] for row in rows[1:] if row["cg_iterations"]),
        "MiB": max(row["peak_rss_bytes"] for row in rows) / 2**20,
        "lowest": min(row["loss"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["2-64"], choices=[*MADE, *SHIPPED])
    parser.add_argument("--sides", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--target", type=float)
    parser.add_argument("--curves", action="store_true", help="print the losses of the last run of every side and seed")
    parser.add_argument("--processor", action="store_true", help="processor time: for a machine that others use, too")
    parser.add_argument("--data", type=Path, help="folder with the public sets")
    args = parser.parse_args()
    for name in args.nets:
        with tempfile.TemporaryDirectory() as place:
            net, target, limit = prepare(name, Path(place))
            for file in args.data.iterdir() if args.data else ():
                (Path(place) / file.name).symlink_to(file.resolve())
            target = target if args.target is None else args.target
            found: dict[str, list[dict[str, float]]] = {side: [] for side in args.sides}
            for _ in range(args.repeats):
                for seed in args.seeds:
                    for side in args.sides:
                        rows = run(Path(place), net, limit, side, seed, args.ranks, args.processor)
                        found[side].append(figures(rows, target))
                        if args.curves:
                            print(f"{name} {side} {seed}", *(f"{row['loss']:.5g}" for row in rows), flush=True)
        print(f"\n{name}, {args.ranks} rank(s), target {target:g}, {args.repeats} x {len(args.seeds)} runs")
        for side, runs in found.items():
            texts = []
            for key in runs[0]:
                values = [r[key] for r in runs]
                texts.append(f"{key} {statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})")
            print(f"  {side.split(',')[0]:12} {'; '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
