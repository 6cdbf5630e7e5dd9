#!/usr/bin/env python3
"""From which size on BLAS threads are worth having, alone and beside processes that keep the cores busy.

    python scripts/bench/threads.py [--threads 2] [--neighbours 0 1 2] [--seconds 0.5] [--runs]

Products of n x n matrices and factorisations of n rows in float32, with one thread and with several: seconds of a call,
the mean over `--seconds`, because a thread that waits for a core of its own makes some calls very long. With `--runs`
also whole trainings of nets of growing width, in processes of their own. `FLOPS_PER_THREAD` of dnewton/hardware/node.py
was read off these tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

BUSY = "while True:\n    sum(range(10**6))"
SIZES = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
NETS = ((500, 32), (2000, 64), (2000, 128), (4000, 256), (4000, 512))  # samples, width


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that take all the time that they get."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def mean_seconds(work: Callable[[], Any], seconds: float) -> float:
    """Of a call, over a while."""
    work()
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        work()
        count += 1
    return spent / count


def calls(n: int) -> dict[str, tuple[float, Callable[[], Any]]]:
    """A product and a factorisation of n rows: operations, and what to call."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n)).astype(np.float32)
    positive = a @ a.T + n * np.eye(n, dtype=np.float32)
    return {"product": (2.0 * n**3, lambda: a @ a), "cholesky": (n**3 / 3, lambda: np.linalg.cholesky(positive))}


def kernels(threads: int, seconds: float, neighbours: int) -> None:
    print(f"\n{neighbours} busy process(es): ms of a call with 1 and with {threads} threads, and how much sooner")
    for n in SIZES:
        row = f"  {n:>5}"
        for name, (operations, work) in calls(n).items():
            with threadpool_limits(limits=1):
                one = mean_seconds(work, seconds)
            with threadpool_limits(limits=threads):
                several = mean_seconds(work, seconds)
            row += f"   {name} {operations:8.1e} {1e3 * one:9.3f} {1e3 * several:9.3f} {one / several:6.2f}x"
        print(row, flush=True)


def trained(samples: int, width: int, threads: int) -> float:
    """Seconds of 20 iterations with the whole set in the subsample."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (samples, 10))
    hidden = {"dense": {"units": width, "activation": "tanh"}}
    net = {"input": [10], "loss": "squared", "layers": [hidden, hidden, {"dense": {"units": 1}}]}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "d.npz", x=x, y=np.sin(x.sum(axis=1)))
        values = {"net": net, "data": {"train": "d.npz"}, "solver": {"max_iterations": 20}, "output": NO_OUTPUT}
        Path(folder, "net.yaml").write_text(json.dumps(values))
        command = [sys.executable, "-m", "dnewton.train", "--net", "net.yaml", "--out", "run"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(Path(folder, "run/metrics.jsonl").read_text().splitlines()[-1])["train_seconds"])


NO_OUTPUT = {"checkpoint_every": 0}


def runs(threads: int, neighbours: int) -> None:
    print(f"\n{neighbours} busy process(es): seconds of 20 iterations with 1 and with {threads} threads (best of 3)")
    for samples, width in NETS:
        one, several = (min(trained(samples, width, n) for _ in range(3)) for n in (1, threads))
        print(
            f"  {samples:>5} samples, 10-{width}-{width}-1 {one:8.3f} {several:8.3f} {one / several:6.2f}x", flush=True
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--runs", action="store_true")
    args = parser.parse_args(argv)
    for count in args.neighbours:
        with busy(count):
            if args.runs:
                runs(args.threads, count)
            else:
                kernels(args.threads, args.seconds, count)


if __name__ == "__main__":
    main()
