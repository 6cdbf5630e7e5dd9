"""The machine under a rank: BLAS threads, memory, peak resident size."""

from __future__ import annotations

import math
import os
import resource
import time
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


FLOPS_PER_THREAD = 5e7  # of a product: with fewer, a thread that waits for a busy core costs more than threads save


def threads_for(share: float, flops: float) -> int:
    """BLAS threads for `share` cores and a largest product of so many operations.

    On 2 cores (scripts/bench/threads.py, docs/performance.md) nets whose products are below 1e8 gain at most 7 % by a
    second thread, and are two to three times slower with it where another process is busy.
    """
    return int(max(1.0, min(share + 1e-6, flops / FLOPS_PER_THREAD)))


def limit_threads(ranks: int, share: float, flops: float = math.inf) -> str:
    """Limit BLAS to this rank's share of the node's cores, or less for small products of `flops` operations, unless the
    user did; returns a line for the log.

    It holds for the libraries that the process has now: it is set again when more have been loaded.
    """
    chosen = [f"{v}={os.environ[v]}" for v in THREAD_VARIABLES if v in os.environ]
    if chosen:
        return f"BLAS threads: as set by {', '.join(chosen)}"
    from threadpoolctl import threadpool_limits  # looks through the process's libraries when it is imported

    threads = threads_for(share, flops)
    threadpool_limits(limits=threads, user_api="blas")
    small = "" if threads == threads_for(share, math.inf) else f", products of at most {flops:.2g} operations"
    return f"BLAS threads: {threads} per rank ({ranks} rank(s) on this node, {share:.3g} core(s) each{small})"


def available_memory() -> int:
    """Bytes that processes of this node can still take, the container's limit included."""
    available = 4 << 30
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = "".join(_lines("/sys/fs/cgroup/memory.max")).strip()
    used = "".join(_lines("/sys/fs/cgroup/memory.current")).strip()
    if limit.isdecimal() and used.isdecimal():
        available = min(available, max(0, int(limit) - int(used)))
    return available


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def resident_bytes() -> int:
    """Resident size of this process now."""
    fields = " ".join(_lines("/proc/self/statm")).split()
    return int(fields[1]) * resource.getpagesize() if len(fields) > 1 else peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def process_age() -> float:
    """Seconds since this process was started, its imports included; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
