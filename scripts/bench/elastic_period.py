#!/usr/bin/env python3
"""Accuracy and bytes of elastic averaging and DOWNPOUR when workers meet less often (Zhang, Choromanska, LeCun 2015).

    python scripts/bench/elastic_period.py [--ranks 4] [--periods 1 4 16 64] [--seeds 0 1 2] [--passes 40] [--json FILE]

mlp.yaml on the digits, default learning rates. Methods with a server have one rank less for workers, so that
`--ranks 4` are 4 workers for the synchronous form, and 3 workers and a server for `downpour`. Printed: medians over the
seeds of the test accuracy after the passes with the lowest and the highest, and megabytes that a rank sends in a pass.
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

METHODS = {
    "easgd": ["solver.name=easgd", "solver.mode=sync"],
    "eamsgd": ["solver.name=eamsgd", "solver.mode=sync"],
    "downpour": ["solver.name=downpour"],
    "averaging": ["solver.name=averaging"],
}
BESIDE = ("evaluate", "report", "setup", "output")


def run(folder: Path, ranks: int, settings: list[str]) -> list[dict[str, Any]]:
    """The lines of metrics of a run."""
    command = ["mpirun", "-np", str(ranks), sys.executable, "-m", "dnewton.train", "--net", "mlp.yaml", "--quiet"]
    command += ["--out", "run", "--overwrite", *(f"--set={setting}" for setting in settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--periods", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    print("method     period  test accuracy (lowest, highest)  MB per rank and pass")
    with tempfile.TemporaryDirectory() as name:
        for method in args.methods:
            for period in args.periods:
                accuracies, megabytes = [], 0.0
                for seed in args.seeds:
                    settings = [*METHODS[method], f"solver.tau={period}", f"solver.seed={seed}"]
                    lines = run(Path(name), args.ranks, [*settings, f"solver.max_iterations={args.passes}"])
                    accuracies.append(lines[-1]["test_accuracy"])
                    sent = sum(e["bytes"] for r in lines[1:] for phase, e in r["comm"].items() if phase not in BESIDE)
                    megabytes = sent / 1e6 / args.ranks / args.passes
                span = f"{median(accuracies):.4f} ({min(accuracies):.4f}, {max(accuracies):.4f})"
                print(f"{method:10} {period:>6}  {span:31}  {megabytes:.3f}", flush=True)
                results.append({"method": method, "period": period, "accuracies": accuracies, "megabytes": megabytes})
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
