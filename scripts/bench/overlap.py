#!/usr/bin/env python3
"""Whether a non-blocking sum overlaps arithmetic, and whether a long sum is faster in pieces of 4 MB.

    OMP_NUM_THREADS=1 mpirun -np 2 python scripts/bench/overlap.py [--rounds 9]

First sum then multiply, against both begun together: messages of 0.1 to 40 MB and a matrix product that takes about
as long as the sum; interleaved, medians of the slowest rank. "hidden" is the part of the sum's time that the product
covers when both run together. This is what decides whether batches should be pipelined: libraries without progress of
their own move nothing while the processor computes.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from mpi4py import MPI

PIECE = 1 << 20  # numbers of four bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        print(
            f"{'MB':>6} {'sum ms':>8} {'in pieces':>10} {'product ms':>11} {'one after the other':>20} "
            f"{'together':>9} {'hidden':>7}"
        )
    a = np.ones((384, 384), dtype=np.float32)
    for megabytes in (0.1, 1.0, 10.0, 40.0):
        data = np.ones(int(megabytes * 2.5e5), dtype=np.float32)
        out = np.empty_like(data)

        def summed(data: np.ndarray = data, out: np.ndarray = out) -> float:
            begin = time.perf_counter()
            comm.Allreduce(data, out)
            return time.perf_counter() - begin

        for _ in range(3):
            a @ a
            comm.barrier()
            once = comm.allreduce(summed(), MPI.MAX)
        begin = time.perf_counter()
        for _ in range(20):
            a @ a
        each = (time.perf_counter() - begin) / 20
        repeats = comm.bcast(max(1, round(once / each)))
        times: dict[str, list[float]] = {"sum": [], "pieces": [], "product": [], "after": [], "together": []}
        for _ in range(args.rounds):
            for side in times:
                comm.barrier()
                begin = time.perf_counter()
                request = comm.Iallreduce(data, out) if side == "together" else None
                for i in range(0, data.size, PIECE if side == "pieces" else data.size):
                    if side in ("sum", "pieces", "after"):
                        part = slice(i, i + PIECE if side == "pieces" else None)
                        comm.Allreduce(data[part], out[part])
                if side not in ("sum", "pieces"):
                    for _ in range(repeats):
                        a @ a
                if request is not None:
                    request.Wait()
                times[side].append(comm.allreduce(time.perf_counter() - begin, MPI.MAX))
        ms = {side: 1e3 * statistics.median(values) for side, values in times.items()}
        if comm.rank == 0:
            hidden = (ms["after"] - ms["together"]) / ms["sum"]
            print(
                f"{megabytes:>6.1f} {ms['sum']:>8.2f} {ms['pieces']:>10.2f} {ms['product']:>11.2f} "
                f"{ms['after']:>20.2f} {ms['together']:>9.2f} {hidden:>7.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
