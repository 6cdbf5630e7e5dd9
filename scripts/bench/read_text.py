"""Seconds to read LIBSVM text: scikit-learn's reader against ours on 1 and 2 ranks, one after the other in every round.

    python scripts/bench/read_text.py [--megabytes 220] [--rounds 5] [--density 0.3] [--json FILE]

Each side runs in processes of its own and times from the open file to the matrix, libraries imported: ours until every
rank holds its dense float32 columns, scikit-learn's until it has a sparse matrix.
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

import numpy as np

FEATURES = 200


def generate(path: Path, megabytes: float, density: float) -> None:
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        while file.tell() < megabytes * 1e6:
            lines = []
            for _ in range(500):
                columns = np.flatnonzero(rng.random(FEATURES) < density) + 1
                values = rng.normal(size=len(columns))
                pairs = " ".join(f"{c}:{v:.6g}" for c, v in zip(columns, values, strict=True))
                lines.append(f"{rng.integers(1, 11)} {pairs}\n")
            file.write("".join(lines))


def ours(path: str) -> None:
    import scipy.sparse  # noqa: F401 - on both sides libraries are imported before the clock starts

    from dnewton.comm.communicator import Comm
    from dnewton.data.format_register import Opening
    from dnewton.data.readers import open_part
    from dnewton.data.samples import Window, load
    from dnewton.grid import SplitAxis, cut

    comm = Comm.world()
    comm.barrier()
    start = time.perf_counter()
    source = open_part(path, Opening("IN", FEATURES, comm))
    bounds = cut(FEATURES, comm.size, comm.rank)
    load(source, Window.of((FEATURES,), SplitAxis(FEATURES), bounds), "none", "float32", comm)
    comm.barrier()
    if comm.rank == 0:
        print(json.dumps(time.perf_counter() - start))


def sklearns(path: str) -> None:
    from sklearn.datasets import load_svmlight_file

    start = time.perf_counter()
    load_svmlight_file(path, n_features=FEATURES)
    print(json.dumps(time.perf_counter() - start))


def timed(*command: str) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=220)
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        {"ours": ours, "sklearn": sklearns}[args.side[0]](args.side[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.svm"
        generate(path, args.megabytes, args.density)
        size = path.stat().st_size / 1e6
        me = [sys.executable, __file__, "--side"]
        sides = {
            "scikit-learn": [*me, "sklearn", str(path)],
            "dnewton, 1 rank": ["mpirun", "-np", "1", *me, "ours", str(path)],
            "dnewton, 2 ranks": ["mpirun", "-np", "2", *me, "ours", str(path)],
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, command in sides.items():
                seconds[name].append(timed(*command))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"LIBSVM text of {size:.0f} MB, {FEATURES} features, density {args.density}; medians of {args.rounds}")
    for name, median in medians.items():
        ratio = medians["scikit-learn"] / median
        print(f"{name:18} {median:7.2f} s  {size / median:6.0f} MB/s  {ratio:5.2f} x scikit-learn's speed")
    print(f"2 ranks against 1: {medians['dnewton, 1 rank'] / medians['dnewton, 2 ranks']:.2f} x")
    if args.json:
        args.json.write_text(json.dumps({"megabytes": size, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
