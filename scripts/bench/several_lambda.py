#!/usr/bin/env python3
"""For how many λ an eigendecomposition is cheaper than a factorisation each.

    OMP_NUM_THREADS=1 python scripts/bench/several_lambda.py [--device cuda] [--rows 200 1000 2000]

Interleaved, medians of 5, float32: `eigh` of a symmetric positive definite matrix, against one `solve` (on a GPU by
Cholesky).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from dnewton.arrays.namespace import eigh, symmetric_solve
from dnewton.comm.communicator import Comm
from dnewton.hardware.device import Device, open_device


def seconds(device: Device, work: object, *args: object) -> float:
    device.synchronize()
    begin = time.perf_counter()
    work(*args)  # type: ignore[operator]
    device.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000, 2000])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    device, _ = open_device(args.device, "auto", Comm.world(), f"--device {args.device}")
    print(f"{'rows':>5} {'eigh ms':>9} {'solve ms':>9} {'solves per eigh':>16}")
    for n in args.rows:
        a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
        a, b = a @ a.T + np.eye(n, dtype=np.float32), np.ones(n, dtype=np.float32)
        a, b = device.put(a), device.put(b)
        pairs = [(seconds(device, eigh, a), seconds(device, symmetric_solve, a, b)) for _ in range(6)][1:]
        parts, solve = (1e3 * statistics.median(p[i] for p in pairs) for i in (0, 1))
        print(f"{n:>5} {parts:>9.2f} {solve:>9.2f} {parts / solve:>16.1f}", flush=True)


if __name__ == "__main__":
    main()
