"""Pairs of jobs that start at the same moment in one run directory: how often exactly one of them trains.

    python scripts/bench/simultaneous.py [--pairs 50] [--ranks 2] [--python .venv-openmpi/bin/python]

A pair is right where one job exits 0, the other 2 with one line that names the owner, and metrics.jsonl has every
iteration once. The launcher is the mpirun beside the interpreter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ITERATIONS = 40


def pair(folder: Path, python: str, ranks: int) -> str:
    """What went wrong, or nothing."""
    mpirun = str(Path(python).parent / "mpirun")
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False).stdout
    extra = ["--oversubscribe"] if "Open MPI" in version else []
    words = ["--net", "mlp.yaml", "--out", "run", f"--set=solver.max_iterations={ITERATIONS}", "--quiet"]
    command = [mpirun, *extra, "-np", str(ranks), python, "-m", "dnewton.train", *words]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env = {"OMP_NUM_THREADS": "1", **root, **os.environ}
    both = [
        subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(*job.communicate(timeout=300), job.returncode) for job in both]
    if sorted(code for _, _, code in ends) != [0, 2]:
        return f"exit codes {[code for _, _, code in ends]}"
    said = next(text for _, text, code in ends if code == 2)
    if said.count("dnewton: error:") != 1 or "in use by process" not in said:
        return said.strip()
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return "" if len(lines) == ITERATIONS + 1 else f"{len(lines)} lines of metrics"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    right = 0
    for number in range(args.pairs):
        with tempfile.TemporaryDirectory() as name:
            fault = pair(Path(name), args.python, args.ranks)
        right += not fault
        if fault:
            print(f"pair {number}: {fault}", flush=True)
    print(f"{right} of {args.pairs} pairs with one winner ({args.python}, {args.ranks} ranks each)")


if __name__ == "__main__":
    main()
