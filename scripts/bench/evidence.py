#!/usr/bin/env python3
"""`C: auto` against C by hand: the test error of several values of C and of `auto`, medians over seeds, as a table.

python scripts/bench/evidence.py --seeds 3

The diabetes set; surfaces sin(3a) cos(2b) + exp(-4 (a² + b²)) with noise on the training targets and 4000 samples free
of noise as the test set; and the same surface without any noise. Everything is on one rank.
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
from smooth_functions import smooth_2

BY_HAND = [1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3]
WIDE = [32, 32]
ITERATIONS = 100


def surface(folder: Path, seed: int, samples: int, noise: float, dtype: str) -> dict[str, Any]:
    """A configuration and its data files."""
    rng = np.random.default_rng(seed)
    for part, count, spread in (("train", samples, noise), ("test", 4000, 0.0)):
        x, y = smooth_2(rng, count)
        np.save(folder / f"{part}_x.npy", x)
        np.save(folder / f"{part}_y.npy", (y + spread * rng.normal(size=count))[:, None])
    layers = [*({"dense": {"units": n, "activation": "tanh"}} for n in WIDE), {"dense": {"units": 1}}]
    data = {part: {"x": f"{folder}/{part}_x.npy", "y": f"{folder}/{part}_y.npy"} for part in ("train", "test")}
    return {
        "net": {"input": [2], "loss": "squared", "layers": layers},
        "data": {**data, "scale_targets": "standardize"},
        "parallel": {"dtype": dtype},
        "solver": {"max_iterations": ITERATIONS},
    }


def train(task: str, seed: int, c: str) -> tuple[float, float, float, float]:
    """Test error, C, γ and f at the end of a run."""
    with tempfile.TemporaryDirectory() as name:
        folder, net, settings = Path(name), "mlp_regression.yaml", [f"solver.max_iterations={ITERATIONS}"]
        if task != "diabetes":
            samples, noise, dtype = TASKS[task]
            net = f"{folder}/net.yaml"
            Path(net).write_text(json.dumps(surface(folder, seed, samples, noise, dtype)))
        settings += [f"solver.seed={seed}", f"solver.C={c}", "output.checkpoint_every=0"]
        command = [sys.executable, "-m", "dnewton.train", "--net", net, "--out", f"{folder}/run"]
        subprocess.run([*command, *(f"--set={s}" for s in settings)], check=True, stdout=subprocess.DEVNULL)
        last = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    key = next(k for k in last if k.startswith("test_"))
    return last[key], last.get("C", float(c) if c != "auto" else 0.0), last.get("gamma", float("nan")), last["loss"]


TASKS = {
    "diabetes": (0, 0.0, ""),
    "noise 0.1, 400": (400, 0.1, "float32"),
    "noise 0.2, 300": (300, 0.2, "float32"),
    "noise 0.3, 200": (200, 0.3, "float32"),
    "noise 0.3, 2000": (2000, 0.3, "float32"),  # more rows of J than eigenvalues are found of
    "no noise, 400": (400, 0.0, "float64"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--only-auto", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    values = [] if args.only_auto else [repr(c) for c in BY_HAND]
    for task in args.tasks:
        print(task)
        for c in [*values, "auto"]:
            rows = [train(task, seed, c) for seed in range(args.seeds)]
            error, at, gamma, f = (statistics.median(column) for column in zip(*rows, strict=True))
            each = " ".join(f"{row[0]:.4g}" for row in rows)
            print(f"  C {c:>7}: test error {error:.4g} ({each}), C {at:.3g}, gamma {gamma:.3g}, f {f:.3g}", flush=True)


if __name__ == "__main__":
    main()
