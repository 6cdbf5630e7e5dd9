"""What tracing costs: runs with and without `output.trace`, in turn.

    python scripts/bench/trace_overhead.py [--nets mlp.yaml cnn.yaml] [--ranks 2] [--rounds 5] [--iterations 20]

Seconds are `train_seconds` of the last line of metrics.jsonl, medians over the rounds; spans and bytes of the traces.
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


def seconds(folder: Path, net: str, ranks: int, iterations: int, traced: bool) -> float:
    """Of one run."""
    settings = [f"--set=solver.max_iterations={iterations}", f"--set=output.trace={str(traced).lower()}"]
    command = ["mpirun", "-np", str(ranks), sys.executable, "-m", "dnewton.train", "--net", net, *settings]
    command += ["--set=output.checkpoint_every=0", "--set=data.test=null", "--out", str(folder / "run"), "--overwrite"]
    subprocess.run(command, check=True, capture_output=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    return float(json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])["train_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["mlp.yaml", "cnn.yaml"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    args = parser.parse_args()
    print(f"{'net':12} {'ranks':>5} {'without':>9} {'with':>9} {'more':>7} {'spans':>8} {'MB':>6}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for net in args.nets:
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(args.rounds):
                for traced, runs in taken.items():
                    runs.append(seconds(folder, net, args.ranks, args.iterations, traced))
            file = folder / "run" / "trace.json"
            spans = sum(event["ph"] == "X" for event in json.loads(file.read_text())["traceEvents"])
            without, traced_seconds = (statistics.median(taken[key]) for key in (False, True))
            figures = f"{without:>8.3f}s {traced_seconds:>8.3f}s {traced_seconds / without - 1:>+7.1%}"
            print(f"{net:12} {args.ranks:>5} {figures} {spans:>8} {file.stat().st_size / 1e6:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
