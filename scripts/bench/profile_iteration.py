#!/usr/bin/env python3
"""Where the time of Newton iterations goes: seconds per phase, and the share spent inside matrix products.

    python scripts/bench/profile_iteration.py [--iterations 10] [--threads 1] [--out profile.json]

One rank, float32, on the shipped CNN and on an MLP 784-1000-500-10 with 1,000 samples. Needs py-spy
(pip install py-spy): samples whose native stack is inside the BLAS library count as matrix products.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

MLP = """
net:
  input: [784]
  loss: cross_entropy
  layers:
    - dense: {units: 1000, activation: relu}
    - dense: {units: 500, activation: relu}
    - dense: {units: 10}
data: {train: data.npz}
solver: {subsample: 1.0}
"""
MAKE_DATA = """
import numpy as np
rng = np.random.default_rng(0)
y = rng.integers(0, 10, 1000)
means = rng.normal(size=(10, 784))
np.savez("data.npz", x=np.maximum(0, means[y] + rng.normal(size=(1000, 784))).astype("f"), y=y)
"""
PHASES = ("function", "gradient", "jacobian", "cg", "combine", "evaluate")


def where(stack: str) -> str:
    """A sampled stack's class: BLAS, one of our own functions, or the rest."""
    frames = stack.split(";")
    if any("openblas" in f or "gemm" in f.lower() or "gemv" in f.lower() for f in frames):
        return "matrix products (BLAS)"
    own = [f for f in frames if "dnewton/" in f]
    return own[-1].split(":")[0] if own else "other"


def profile(net: str, folder: Path, iterations: int, threads: int) -> dict[str, object]:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [
        sys.executable,
        "-m",
        "dnewton.train",
        "--net",
        net,
        "--out",
        "run",
        "--overwrite",
        "--set",
        f"solver.max_iterations={iterations}",
        "--set",
        "output.checkpoint_every=0",
    ]
    subprocess.run(command, check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    spy = ["py-spy", "record", "--native", "--rate", "250", "--format", "raw", "--output", "stacks", "--"]
    subprocess.run(
        [*spy, *command], check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    seen: Counter[str] = Counter()
    for line in (folder / "stacks").read_text().splitlines():
        stack, count = line.rsplit(" ", 1)
        if "step (dnewton" in stack:  # inside an iteration
            seen[where(stack)] += int(count)
    total = sum(seen.values())
    seconds = {p: sum(line["phase_seconds"][p] for line in lines) / len(lines) for p in PHASES}
    return {
        "iterations": len(lines),
        "cg_iterations": sum(line["cg_iterations"]["mean"] for line in lines) / len(lines),
        "seconds_per_iteration": sum(seconds.values()),
        "phase_seconds": seconds,
        "share": {k: v / total for k, v in seen.most_common(8)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mlp784.yaml").write_text(MLP)
        subprocess.run([sys.executable, "-c", MAKE_DATA], check=True, cwd=folder)
        for label, net in (("cnn.yaml", "cnn.yaml"), ("MLP 784-1000-500-10, l = |S| = 1000", "mlp784.yaml")):
            found = results[label] = profile(net, folder, args.iterations, args.threads)
            print(
                f"{label}: {found['seconds_per_iteration']:.4f} s per iteration, "
                f"{found['cg_iterations']:.1f} CG iterations each, {args.threads} thread(s)"
            )
            for title in ("phase_seconds", "share"):
                for key, value in found[title].items():  # type: ignore[attr-defined]
                    print(
                        f"    {key:<45} {value * (1e3 if title == 'phase_seconds' else 100):>8.2f} "
                        f"{'ms' if title == 'phase_seconds' else '% of samples'}"
                    )
    if args.out:
        Path(args.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
