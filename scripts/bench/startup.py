"""What starting a job costs before it does anything, of two source trees in turn: processor seconds of an import, and
of a whole `mpirun` without an iteration.

    python scripts/bench/startup.py OLD_TREE NEW_TREE [--ranks 16] [--runs 9]

Both trees run in this interpreter's environment, with byte code in a folder of its own that a first run fills. Medians;
`libraries` is what NumPy, mpi4py and pydantic take alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = "import numpy, mpi4py.MPI\nfrom pydantic import BaseModel, Field"


def processor_seconds(command: list[str], tree: str, folder: str) -> float:
    """User and system time of a command and all its processes, with `tree` as the source of the package."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": tree, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def job(ranks: int, folder: str) -> list[str]:
    """A run that reads its data, evaluates the starting point and ends."""
    settings = ["--set", "solver.max_iterations=0", "--set", "parallel.rates={flops: 1e9, bandwidth: 1e9}"]
    train = [sys.executable, "-m", "dnewton.train", "--net", "mlp.yaml", *settings, "--out", f"{folder}/run"]
    return ["mpirun", "-np", str(ranks), *train, "--overwrite"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", maxsplit=1)[0])
    parser.add_argument("trees", nargs="+", help="source trees, such as two checkouts")
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    trees = [str(Path(tree).resolve()) for tree in args.trees]
    kinds = {
        "libraries": ([sys.executable, "-c", LIBRARIES], trees[:1]),
        "import dnewton.train": ([sys.executable, "-c", "import dnewton.train"], trees),
        f"mpirun -np {args.ranks}": (job(args.ranks, folder), trees),
    }
    try:
        for what, (command, of) in kinds.items():
            seconds: dict[str, list[float]] = {tree: [] for tree in of}
            for _ in range(args.runs + 1):  # the first fills the caches
                for tree in of:
                    seconds[tree].append(processor_seconds(command, tree, folder))
            for tree in of:
                print(f"{what:<22} {statistics.median(seconds[tree][1:]):8.3f} s of processor time  {tree}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
