#!/usr/bin/env python3
"""What the block-diagonal matrix costs: iterations to a loss on 1 to 16 ranks, each solving for its own weights alone.

    python scripts/bench/diagonalisation.py [--ranks 1 2 4 8 16] [--nets mlp cnn regression] [--seeds 0 1 2]
        [--settings defaults ...] [--json FILE]

The target of a net and seed is the loss that one rank with the defaults has after --iterations; counted are the
iterations that every number of ranks and every setting (`combine`, `diagonal_unit`) needs to it, which do not depend on
the machine's load. mlp and cnn are the shipped nets on the digits, regression is 10-64-64-1 on 2,000 samples of a
smooth function, in float64 and without a regulariser. Runs give up after four times as many iterations.
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

NETS = Path(__file__).parents[2] / "dnewton" / "config" / "nets"
SETTINGS = {
    "defaults": ["solver.combine=previous", "solver.diagonal_unit=rank"],
    "combine none": ["solver.combine=none", "solver.diagonal_unit=rank"],
    "unit layer": ["solver.combine=previous", "solver.diagonal_unit=layer"],
    "layer, none": ["solver.combine=none", "solver.diagonal_unit=layer"],
}
LIMIT = 4  # times the iterations of the reference


def problems(folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations by name; the regression's samples go into the folder."""
    found = {name: yaml.safe_load((NETS / f"{name}.yaml").read_text()) for name in ("mlp", "cnn")}
    x, y = smooth_10(np.random.default_rng(0), 2000)
    np.savez(folder / "smooth.npz", x=x, y=y)
    tanh = [{"dense": {"units": 64, "activation": "tanh"}} for _ in range(2)] + [{"dense": {"units": 1}}]
    found["regression"] = {
        "net": {"input": [10], "loss": "squared", "layers": tanh},
        "data": {"train": "smooth.npz", "scale_targets": "standardize"},
        "solver": {"C": float("inf")},
        "parallel": {"dtype": "float64"},
    }
    return found


def losses(folder: Path, config: dict[str, Any], ranks: int, seed: int, limit: int, settings: list[str]) -> list[float]:
    """The loss at the start and after every iteration."""
    (folder / "net.yaml").write_text(yaml.safe_dump(config))
    sets = [*settings, f"solver.seed={seed}", f"solver.max_iterations={limit}", "output.checkpoint_every=0"]
    sets += ["solver.curvature=diagonal"]  # one rank has one block: the whole matrix
    command = ["mpirun", "-np", str(ranks), sys.executable, "-m", "dnewton.train", "--net", "net.yaml", "--quiet"]
    command += ["--out", "run", "--overwrite", *(f"--set={s}" for s in sets)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return [json.loads(line)["loss"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def count(run: list[float], target: float) -> int | None:
    """Iterations to the target."""
    return next((k for k, loss in enumerate(run) if loss <= target), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--nets", nargs="+", default=["mlp", "cnn", "regression"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=25, help="of one rank, to the target")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = problems(folder)
        print(f"{'net':11} {'setting':13} {'ranks':>5}  iterations of each seed (of one rank: {args.iterations})")
        for net in args.nets:
            first = SETTINGS["defaults"]
            aims = {seed: min(losses(folder, every[net], 1, seed, args.iterations, first)) for seed in args.seeds}
            for setting in args.settings:
                for ranks in args.ranks:
                    counts = []
                    for seed, aim in aims.items():
                        for limit in (args.iterations * 3 // 2, LIMIT * args.iterations):  # mostly the first will do
                            run = losses(folder, every[net], ranks, seed, limit, SETTINGS[setting])
                            if (found := count(run, aim)) is not None:
                                break
                        counts.append(found)
                    known = [LIMIT * args.iterations + 1 if n is None else n for n in counts]
                    middle = median(known) / args.iterations
                    words = " ".join(f"> {LIMIT * args.iterations}" if n is None else f"{n:5}" for n in counts)
                    print(f"{net:11} {setting:13} {ranks:>5}  {words}   median {middle:.2f} times", flush=True)
                    results.append({"net": net, "setting": setting, "ranks": ranks, "iterations": counts})
                    if args.json:
                        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
