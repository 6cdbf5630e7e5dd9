#!/usr/bin/env python3
"""For how many λ an eigendecomposition is cheaper than a factorisation each.

    OMP_NUM_THREADS=1 python scripts/bench/several_lambda.py

Interleaved, medians of 5, float32: `eigh` of a symmetric positive definite matrix, against one `solve`.
"""

from __future__ import annotations

import statistics
import time

import numpy as np


def seconds(work: object, *args: object) -> float:
    begin = time.perf_counter()
    work(*args)  # type: ignore[operator]
    return time.perf_counter() - begin


def main() -> None:
    print(f"{'rows':>5} {'eigh ms':>9} {'solve ms':>9} {'solves per eigh':>16}")
    for n in (200, 1000, 2000):
        a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
        a, b = a @ a.T + np.eye(n, dtype=np.float32), np.ones(n, dtype=np.float32)
        pairs = [(seconds(np.linalg.eigh, a), seconds(np.linalg.solve, a, b)) for _ in range(6)][1:]
        eigh, solve = (1e3 * statistics.median(p[i] for p in pairs) for i in (0, 1))
        print(f"{n:>5} {eigh:>9.2f} {solve:>9.2f} {eigh / solve:>16.1f}", flush=True)


if __name__ == "__main__":
    main()
