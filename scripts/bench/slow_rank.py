#!/usr/bin/env python3
"""What early termination costs and gives where one rank is slow: two ranks, the second sharing its core.

    python scripts/bench/slow_rank.py [--iterations 15] [--rounds 3] [--json FILE]

Rank r is pinned to core r, and a busy process shares core 1, so that rank 1 has half of it. `off`, `lockstep` and
`async` take turns. Printed: seconds of training without evaluations, f at the end, CG iterations of the slowest rank,
and whether all rounds ended with the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from smooth_functions import smooth_10

MODES = ("off", "lockstep", "async")
RANK = 'exec taskset -c $((${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}} % 2)) "$@"'


def train(folder: Path, mode: str, iterations: int, extra: list[str]) -> dict[str, Any]:
    """One run on two ranks."""
    command = ["mpirun", "-np", "2", "bash", "-c", RANK, "rank", sys.executable, "-m", "dnewton.train"]
    command += ["--net", "net.yaml", "--out", "run", "--overwrite", "--set", f"solver.early_termination={mode}"]
    command += ["--set", f"solver.max_iterations={iterations}", *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=600)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": lines[-1]["train_seconds"],
        "loss": lines[-1]["loss"],
        "cg": sum(line["cg_iterations"]["max"] for line in lines[1:]),
        "waited": sum(line["wait_seconds"] for line in lines[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="further settings, KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    layers = [{"dense": {"units": n, "activation": "tanh"}} for n in (128, 128, 128)] + [{"dense": {"units": 1}}]
    net = {
        "net": {"input": [10], "loss": "squared", "layers": layers},
        "data": {"train": "d.npz", "scale_targets": "standardize"},
        "solver": {"C": float("inf")},
    }
    extra = [part for text in args.set for part in ("--set", text)]
    found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, y = smooth_10(np.random.default_rng(0), 4000)
        np.savez(folder / "d.npz", x=x, y=y)
        (folder / "net.yaml").write_text(yaml.safe_dump(net))
        busy = subprocess.Popen(["taskset", "-c", "1", sys.executable, "-c", "while True: pass"])
        try:
            for _ in range(args.rounds):
                for mode in MODES:
                    found[mode].append(train(folder, mode, args.iterations, extra))
        finally:
            busy.kill()
            busy.wait()
    print(f"{'mode':9} {'seconds':>8} {'waited':>8} {'CG':>6} {'f at the end':>24} {'same bits':>10}")
    for mode, runs in found.items():
        losses = [run["loss"] for run in runs]
        middle = {key: median(run[key] for run in runs) for key in ("seconds", "waited", "cg")}
        print(
            f"{mode:9} {middle['seconds']:>8.2f} {middle['waited']:>8.2f} {middle['cg']:>6.0f} "
            f"{min(losses):>11.3e} {max(losses):>11.3e}  {'yes' if len(set(losses)) == 1 else 'no':>9}"
        )
    if args.json:
        args.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
