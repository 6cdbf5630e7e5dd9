"""The rates of this machine, measured once and kept in the user's cache directory.

A matrix product and a matrix-vector product that does not fit into the caches, best of several, in a quarter of a
second. The file is `dnewton/rates.json` under $XDG_CACHE_HOME or ~/.cache, with an entry per processor, number of BLAS
threads and dtype; where it cannot be written, or ranks share cores, nothing is measured and the stated rates hold, so
that two runs decide alike. A run's rates are in its `config.yaml`, so that a resumed run decides as before.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from dnewton.comm import Comm
from dnewton.config import Config
from dnewton.curvature.rates import Rates

ROUNDS = 5
SQUARE, WIDE, TALL = 768, 4096, 2048  # a product of 768 x 768; a matrix of 32 MiB in float32


def rates(config: Config, comm: Comm) -> tuple[Rates, str]:
    """The rates that all ranks decide by, rank 0's, and where they come from. Collective over the world."""
    if config.parallel.rates != "auto":
        given = config.parallel.rates
        return Rates(given.flops, given.bandwidth), "given"
    stated = Rates()
    values, note = [stated.flops, stated.bandwidth], ""
    if comm.rank == 0:
        found, note = _of_this_machine(config.parallel.dtype, comm.least_cores >= 1)
        values = [found.flops, found.bandwidth]
    flops, bandwidth = comm.from_root(values)
    return Rates(flops, bandwidth), comm.text_from_root(note)


def cache_file() -> Path:
    """Where measured rates are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "dnewton" / "rates.json"


def _of_this_machine(dtype: str, alone: bool) -> tuple[Rates, str]:
    """The kept rates, or newly measured ones; where ranks share a core, whatever was kept, or the stated ones."""
    path, key = cache_file(), f"{_processor()}, {_threads()} BLAS thread(s), {dtype}"
    known = _read(path)
    if key in known:
        return known[key], f"measured before, kept in {path}"
    if not alone:
        return Rates(), "stated, as ranks share cores: measured by a run that has a core per rank"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        found = measure(dtype)
        entries = {k: {"flops": r.flops, "bandwidth": r.bandwidth} for k, r in {**_read(path), key: found}.items()}
        try:
            scratch.write_text(json.dumps(entries, indent=1) + "\n")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        return Rates(), f"stated, as {path} cannot be written ({error.strerror})"
    return found, f"measured now, kept in {path}"


def _read(path: Path) -> dict[str, Rates]:
    """The file's entries; what is damaged counts as not there and is measured and written anew."""
    try:
        entries = json.loads(path.read_text())
        found = {k: Rates(float(v["flops"]), float(v["bandwidth"])) for k, v in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {k: r for k, r in found.items() if 1e6 < r.flops < 1e18 and 1e6 < r.bandwidth < 1e16}


def measure(dtype: str) -> Rates:
    """Measure this process, with the BLAS threads that it may use; two significant digits."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((SQUARE, SQUARE)).astype(dtype)
    rows, v = np.ones((TALL, WIDE), dtype=dtype), np.ones(WIDE, dtype=dtype)
    flops = 2.0 * SQUARE**3 / _best(lambda: a @ a)
    return Rates(_rounded(flops), _rounded(rows.nbytes / _best(lambda: rows @ v)))


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _rounded(value: float) -> float:
    return float(f"{value:.1e}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _threads() -> int:
    return max([int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"], default=1)
