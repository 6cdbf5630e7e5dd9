#!/usr/bin/env python3
"""Collectives of a training run, per rank: by phase, kind, size and caller, for one iteration and for what is outside.

    mpirun -np 4 python scripts/bench/collectives.py [--net cnn.yaml] [--iterations 10] [--brief] [--set KEY=VALUE ...]

Counted is every collective of the communicator, those too that `metrics.jsonl` does not count (agreements on errors,
lengths of what follows), on rank 0; a sum of more than 4 MiB is several. `--net mlp784` is a net 784-300-100-10 with
10,000 random samples. Numbers are means over the iterations; with --brief only their sums by phase are printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dnewton.cli import train
from dnewton.comm.communicator import Comm
from dnewton.solvers.newton.newton import Newton
from dnewton.training.trainer import Trainer

MLP = """
net:
  input: [784]
  loss: cross_entropy
  layers:
    - dense: {{units: 300, activation: tanh}}
    - dense: {{units: 100, activation: tanh}}
    - dense: {{units: 10}}
data: {{train: {folder}/train.npz, test: {folder}/test.npz}}
solver: {{name: newton}}
"""
OWN = ("dnewton/comm/", "newton/replicated.py")  # files whose functions are not the caller
Key = tuple[str, str, int, str]  # phase, kind, bytes, caller


def size_of(args: tuple[Any, ...]) -> int:
    """Bytes of a collective's first buffer."""
    for arg in args:
        array = arg[0] if isinstance(arg, (list, tuple)) else arg
        if isinstance(array, np.ndarray):
            return int(array.nbytes)
    return 0


def caller() -> str:
    """The function outside the communicator that asked for the collective that is counted now."""
    frame = sys._getframe(2)
    while frame.f_back is not None and (
        any(name in frame.f_code.co_filename for name in OWN) or frame.f_code.co_filename.endswith("contextlib.py")
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"


class Counts:
    """What was called: before the first iteration, in iterations, and after the last one."""

    def __init__(self) -> None:
        self.parts: dict[str, Counter[Key]] = defaultdict(Counter)
        self.part = "before the first iteration"
        self.steps = 0
        self.accepted = 0

    def install(self) -> None:
        """Count from now on."""
        plain, step, ends = Comm._collective, Newton.step, Trainer._run

        def collective(comm: Comm, mpi: Any, name: str, *args: Any, **options: Any) -> None:
            self.parts[self.part][comm.ledger.phase, name, size_of(args), caller()] += 1
            plain(comm, mpi, name, *args, **options)

        def counted(solver: Newton) -> Any:
            self.part = "an iteration"
            report = step(solver)
            self.steps += 1
            self.accepted += bool(report.alpha)
            return report

        def run(trainer: Trainer, start: Any) -> Any:
            stop = ends(trainer, start)
            self.part = "after the last iteration"
            return stop

        Comm._collective, Newton.step, Trainer._run = collective, counted, run  # type: ignore[method-assign]

    def show(self, title: str, brief: bool) -> None:
        """Print the tables."""
        print(f"{title}: {self.steps} iterations, {self.accepted} accepted")
        for part, counts in self.parts.items():
            per = self.steps if part == "an iteration" else 1
            print(f"{part}: {sum(counts.values()) / per:.1f} collectives")
            phases: Counter[str] = Counter()
            for key, number in counts.items():
                phases[key[0]] += number
            print("    " + ", ".join(f"{phase} {number / per:.1f}" for phase, number in phases.items()))
            if not brief:
                for (phase, kind, size, who), number in sorted(
                    counts.items(), key=lambda item: list(phases).index(item[0][0])
                ):
                    print(f"    {phase:<18} {kind:<11} {size:>9} B {number / per:>7.2f}  {who}")


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="cnn.yaml")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    comm = Comm.world()
    counts = Counts()
    with tempfile.TemporaryDirectory() as own:
        folder = comm.text_from_root(own)
        net = args.net
        if net == "mlp784":
            net = f"{folder}/mlp784.yaml"
            if comm.rank == 0:
                rng = np.random.default_rng(0)
                means = rng.normal(size=(10, 784))
                for name, number in (("train", 10_000), ("test", 1_000)):
                    y = rng.integers(0, 10, number)
                    x = (means[y] + 3 * rng.normal(size=(number, 784))).astype(np.float32)
                    np.savez(f"{folder}/{name}.npz", x=x, y=y)
                Path(net).write_text(MLP.format(folder=folder))
        comm.barrier()
        counts.install()
        wanted = [
            f"solver.max_iterations={args.iterations}",
            "solver.start=none",
            "parallel.rates={flops: 5e10, bandwidth: 1e10}",
            *args.set,
        ]
        settings = [word for item in wanted for word in ("--set", item)]
        try:
            train.main(["--net", net, "--out", f"{folder}/run", "--quiet", *settings])
        except SystemExit as end:
            if end.code:
                raise
        Comm.world().barrier()
    if comm.rank == 0:
        counts.show(f"{args.net} on {comm.size} ranks", args.brief)


if __name__ == "__main__":
    main()
