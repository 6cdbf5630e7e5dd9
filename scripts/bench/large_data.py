#!/usr/bin/env python3
"""Train on a `.npy` that is larger than `data.max_resident`: peak memory of the largest rank, and seconds.

python scripts/bench/large_data.py [--gigabytes 4] [--limit 1GiB] [--ranks 1 4] [--subsample 0.02] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FEATURES = 1000
NET = """net:
  input: [1000]
  loss: cross_entropy
  layers:
    - dense: {units: 16, activation: relu}
    - dense: {units: 3}
data: {train: x.npy, scale: standardize}
solver: {max_iterations: 2}
output: {checkpoint_every: 0}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--subsample", default="0.02")
    parser.add_argument("--folder", help="where the file is made (default: the system's folder for temporary files)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        samples = int(args.gigabytes * 1e9 / 4 / FEATURES)
        file = np.lib.format.open_memmap(folder / "x.npy", "w+", "float32", (samples, FEATURES))
        block = np.random.default_rng(0).normal(size=(8192, FEATURES)).astype("float32")
        for row in range(0, samples, len(block)):
            part = file[row : row + len(block)]
            part[...] = block[: len(part)] + np.float32(row / samples)
        del file
        np.save(folder / "y.npy", np.arange(samples) % 3)
        (folder / "net.yaml").write_text(NET)
        for ranks in args.ranks:
            command = ["mpirun", "-np", str(ranks), sys.executable, "-m", "dnewton.train", "--net", "net.yaml"]
            command += ["--out", f"run{ranks}", f"--set=data.max_resident={args.limit}"]
            command += [f"--set=solver.subsample={args.subsample}"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            lines = [json.loads(t) for t in (folder / f"run{ranks}" / "metrics.jsonl").read_text().splitlines()]
            peak = max(line["peak_rss_bytes"] for line in lines)
            rows.append({"ranks": ranks, "peak_rss_bytes": peak, "seconds": [line["seconds"] for line in lines]})
            print(
                f"{samples} x {FEATURES} float32 on {ranks} rank(s), max_resident {args.limit}: peak of the largest "
                f"rank {peak / 2**20:.0f} MiB, {lines[0]['seconds']:.1f} s to the first gradient, "
                f"{(lines[-1]['seconds'] - lines[0]['seconds']) / 2:.1f} s per iteration",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
