#!/usr/bin/env python3
"""Train a net with several seeds on several numbers of ranks: final and best test score, seconds, as a table and JSON.

python scripts/bench/seeds.py --net cnn.yaml --ranks 1 4 16 --seeds 5 --out seeds.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def train(net: str, ranks: int, seed: int, settings: list[str], launcher: list[str]) -> dict[str, float]:
    """One run; wall seconds are those of the whole job, start of the processes included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, "-np", str(ranks), sys.executable, "-m", "dnewton.train"]
        command += ["--net", net, "--out", f"{folder}/run", f"--set=solver.seed={seed}"]
        command += [f"--set={s}" for s in settings]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - begin
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    key = next(k for k in lines[-1] if k.startswith("test_"))
    best = (max if key.endswith("accuracy") else min)(line[key] for line in lines)
    return {
        "ranks": ranks,
        "seed": seed,
        "final": lines[-1][key],
        "best": best,
        "training_seconds": lines[-1]["seconds"],
        "wall_seconds": wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="cnn.yaml")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--launcher", default="mpirun", help="for example 'mpirun --oversubscribe'")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    rows = []
    print(f"{'ranks':>5} {'seed':>4} {'final':>8} {'best':>8} {'training s':>10} {'wall s':>8}")
    for seed in range(args.seeds):
        for ranks in args.ranks:  # interleaved, so that a busy moment of the machine hits all alike
            row = train(args.net, ranks, seed, args.set, args.launcher.split())
            rows.append(row)
            print(
                f"{ranks:>5} {seed:>4} {row['final']:>8.4f} {row['best']:>8.4f} {row['training_seconds']:>10.2f} "
                f"{row['wall_seconds']:>8.2f}",
                flush=True,
            )
    for ranks in args.ranks:
        here = [r for r in rows if r["ranks"] == ranks]
        middle = sorted(r["wall_seconds"] for r in here)[len(here) // 2]
        print(f"{ranks} rank(s): lowest final {min(r['final'] for r in here):.4f}, median wall {middle:.2f} s")
    if args.out:
        Path(args.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
