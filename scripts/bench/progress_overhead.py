"""What progress costs: runs with the live line, with lines alone and with `--quiet`, in turn; and how soon the first
line is there.

    python scripts/bench/progress_overhead.py [--nets mlp.yaml cnn.yaml] [--ranks 2] [--rounds 5] [--iterations 20]

Seconds of training are `train_seconds` of the last line of metrics.jsonl, those until the first line are from the start
of `mpirun`; medians over the rounds. The live line is drawn into a pipe (`--progress on`), eight times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {"quiet": ["--quiet"], "lines": ["--progress", "off"], "live": ["--progress", "on"]}


def seconds(folder: Path, net: str, ranks: int, iterations: int, options: list[str]) -> tuple[float, float]:
    """Of one run: training, and until its first line."""
    command = ["mpirun", "-np", str(ranks), sys.executable, "-m", "dnewton.train", "--net", net]
    command += [f"--set=solver.max_iterations={iterations}", "--set=output.checkpoint_every=0", *options]
    begun = time.monotonic()
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(
        [*command, "--out", str(folder), "--overwrite"], stdout=subprocess.PIPE, env=environment
    ) as run:
        assert run.stdout is not None
        run.stdout.read(1)
        first = time.monotonic() - begun
        run.stdout.read()
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {run.returncode}")
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["train_seconds"]), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["mlp.yaml", "cnn.yaml"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    args = parser.parse_args()
    print(f"{'net':12} {'ranks':>5} {'quiet':>9} {'lines':>9} {'more':>7} {'live':>9} {'more':>7} {'first line':>11}")
    with tempfile.TemporaryDirectory() as name:
        for net in args.nets:
            taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way, options in WAYS.items():
                    taken[way].append(seconds(Path(name, "run"), net, args.ranks, args.iterations, options))
            quiet, lines, live = (statistics.median(s for s, _ in taken[way]) for way in WAYS)
            first = statistics.median(s for _, s in taken["lines"])
            figures = (
                f"{quiet:>8.3f}s {lines:>8.3f}s {lines / quiet - 1:>+7.1%} {live:>8.3f}s {live / quiet - 1:>+7.1%}"
            )
            print(f"{net:12} {args.ranks:>5} {figures} {first:>10.2f}s", flush=True)


if __name__ == "__main__":
    main()
