"""The rates of this machine, measured once and kept in the user's cache directory.

A matrix product and a matrix-vector product that does not fit into the caches, best of several, in a quarter of a
second. The file is `dnewton/rates.json` under $XDG_CACHE_HOME or ~/.cache, with an entry per processor and number of
BLAS threads, or GPU, and dtype; where it cannot be written, or ranks share cores or a GPU, nothing is measured and the
stated rates hold, so that two runs decide alike. A run's rates are in its `config.yaml`, so that a resumed run decides
as before.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from dnewton.arrays.namespace import nbytes, ones, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.hardware.device import HOST, Device
from dnewton.hardware.rates import Rates, stated

ROUNDS = 5
SQUARE = 768
WIDE = 4096
TALL = 2048  # a product of 768 x 768; a matrix of 32 MiB in float32
CUDA_SQUARE = 4096
CUDA_TALL = 65536  # a GPU's: 1 GiB, which its caches do not hold


def rates(config: Config, comm: Comm, device: Device) -> tuple[Rates, str]:
    """The rates that all ranks decide by, rank 0's, and where they come from. Collective over the world."""
    if config.parallel.rates != "auto":
        given = config.parallel.rates
        return Rates(given.flops, given.bandwidth), "given"
    without = stated(config.parallel.device)
    values, note = [without.flops, without.bandwidth], ""
    if comm.rank == 0:
        alone = comm.least_cores >= 1 if device.is_host else device.sharing == 1
        own, note = _of_this_machine(config.parallel.dtype, alone, device, without)
        values = [own.flops, own.bandwidth]
    flops, bandwidth = comm.bcast_scalars(values)
    return Rates(flops, bandwidth), comm.text_from_root(note)


def cache_file() -> Path:
    """Where measured rates are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "dnewton" / "rates.json"


def _of_this_machine(dtype: str, alone: bool, device: Device, without: Rates) -> tuple[Rates, str]:
    """The kept rates, or newly measured ones; where ranks share a core or GPU, what was kept, or the stated ones."""
    what = f"{_processor()}, {_threads()} BLAS thread(s)" if device.is_host else device.name
    cores = "core" if device.is_host else "GPU"
    path = cache_file()
    key = f"{what}, {dtype}"
    known = _read(path)
    if key in known:
        return known[key], f"measured before, kept in {path}"
    if not alone:
        return without, f"stated, as ranks share {cores}s: measured by a run that has a {cores} per rank"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        measured = measure(dtype, device)
        entries = {k: {"flops": r.flops, "bandwidth": r.bandwidth} for k, r in {**_read(path), key: measured}.items()}
        try:
            scratch.write_text(json.dumps(entries, indent=1) + "\n")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        return without, f"stated, as {path} cannot be written ({error.strerror})"
    except MemoryError:
        return without, "stated, as there is too little memory left to measure with"
    return measured, f"measured now, kept in {path}"


def _read(path: Path) -> dict[str, Rates]:
    """The file's entries; what is damaged counts as missing and is measured again."""
    try:
        entries = json.loads(path.read_text())
        kept = {k: Rates(float(v["flops"]), float(v["bandwidth"])) for k, v in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {k: r for k, r in kept.items() if 1e6 < r.flops < 1e18 and 1e6 < r.bandwidth < 1e16}


def measure(dtype: str, device: Device = HOST) -> Rates:
    """Measure this process, with the BLAS threads that it may use, or its GPU; two significant digits."""
    rates = _measured(dtype, device)
    device.release()  # else the GPU's pool keeps a gigabyte, which a run would report as its own peak
    return rates


def _measured(dtype: str, device: Device) -> Rates:
    square, tall = (SQUARE, TALL) if device.is_host else (CUDA_SQUARE, CUDA_TALL)
    a, rows, v = (ones(n, zeros((), device.like, dtype)) for n in ((square, square), (tall, WIDE), (WIDE,)))
    flops = 2.0 * square**3 / _best(lambda: a @ a, device)
    return Rates(_rounded(flops), _rounded(nbytes(rows) / _best(lambda: rows @ v, device)))


def _best(work: Callable[[], object], device: Device) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        device.synchronize()
        start = time.perf_counter()
        work()
        device.synchronize()
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
    from threadpoolctl import threadpool_info

    return max([int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"], default=1)
