#!/usr/bin/env python3
"""One sum over all ranks after a little arithmetic: spinning waits against waits that give the core away.

    mpirun -np 16 python scripts/bench/oversubscription.py [--numbers 25000] [--repeats 10]

Run it with more ranks than cores. The two kinds of wait alternate in one run; rank 0 prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.hardware import node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, default=25_000)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    comm = Comm.world()
    node.limit_threads(comm.ranks_on_node, comm.cores)
    data, work = np.zeros(args.numbers, dtype=np.float32), np.ones((120, 120), dtype=np.float32)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(args.repeats):
        for yield_when_idle in (True, False):
            comm.yield_when_idle = True
            comm.barrier()
            comm.yield_when_idle = yield_when_idle
            begin = time.perf_counter()
            for _ in range(8):
                work @ work
            comm.allreduce(data)
            times[yield_when_idle].append(time.perf_counter() - begin)
    if comm.rank == 0:
        print(f"{comm.size} ranks, {data.nbytes} bytes per rank")
        for name, yield_when_idle in (("spinning", False), ("polite", True)):
            here = [1e3 * t for t in times[yield_when_idle]]
            print(f"{name:<9} waits: median {statistics.median(here):9.2f} ms, worst {max(here):9.2f} ms")


if __name__ == "__main__":
    main()
