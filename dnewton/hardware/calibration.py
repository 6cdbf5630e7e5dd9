"""The rates of this machine, measured and kept for a month in the user's cache directory.

A matrix product and a matrix-vector product that does not fit into the caches, best of several, in a quarter of a
second. The file is `dnewton/rates.json` under $XDG_CACHE_HOME or ~/.cache, with an entry per processor and number of
BLAS threads, or GPU, and dtype; where it cannot be written, or ranks share cores or a GPU, nothing is measured and the
stated rates hold, so that two runs decide alike. A run's rates are in its `config.yaml`, so that a resumed run decides
as before.

What was measured while something else kept the machine busy is too low, by any factor: rates below a fifth of the
stated ones are measured again, a few times, and the highest kept. A machine that is as slow as that is then believed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dnewton.arrays.namespace import nbytes, ones, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.errors import UserError
from dnewton.hardware.device import HOST, Device
from dnewton.hardware.rates import Rates, stated

MAX_DAYS = 30
PLAUSIBLE = 0.2  # of the stated rates
ATTEMPTS = 4  # at what is implausible
ROUNDS = 5
SQUARE = 768
WIDE = 4096
TALL = 2048  # a product of 768 x 768; a matrix of 32 MiB in float32
CUDA_SQUARE = 4096
CUDA_TALL = 65536  # a GPU's: 1 GiB, which its caches do not hold


@dataclass(frozen=True)
class Entry:
    """What is kept of a machine: its rates, the day, and how often they were measured."""

    rates: Rates
    day: str  # as 2026-11-27; empty where an earlier version wrote it
    times: int = 1

    def old(self, today: date) -> bool:
        """Whether the day is long past, or not yet there, or not known."""
        try:
            return not 0 <= (today - date.fromisoformat(self.day)).days <= MAX_DAYS
        except ValueError:
            return True

    def implausible(self, without: Rates) -> bool:
        """Whether something else seems to have kept the machine busy, and that has not been looked at often enough."""
        flops, bandwidth = self.rates.flops / without.flops, self.rates.bandwidth / without.bandwidth
        return min(flops, bandwidth) < PLAUSIBLE and self.times < ATTEMPTS


def rates(config: Config, comm: Comm, device: Device, again: bool = False) -> tuple[Rates, str]:
    """The rates that all ranks decide by, rank 0's, and where they come from; with `again` newly measured ones.

    Raises UserError where `again` is impossible. Collective over the world.
    """
    if config.parallel.rates != "auto":
        if again:
            raise UserError("--calibrate: parallel.rates gives the rates; --set parallel.rates=auto has them measured")
        given = config.parallel.rates
        return Rates(given.flops, given.bandwidth), "given"
    without = stated(config.parallel.device)
    values, note = [without.flops, without.bandwidth], ""
    with comm.raise_together():
        if comm.rank == 0:
            alone = comm.least_cores >= 1 if device.is_host else device.sharing == 1
            own, note = _of_this_machine(config.parallel.dtype, alone, device, without, again)
            values = [own.flops, own.bandwidth]
    flops, bandwidth = comm.bcast_scalars(values)
    return Rates(flops, bandwidth), comm.text_from_root(note)


def cache_file() -> Path:
    """Where measured rates are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "dnewton" / "rates.json"


def kept(dtype: str) -> dict[int, Rates]:
    """The rates of this processor that are kept, by the number of BLAS threads they were measured with."""
    found = {}
    for key, entry in _read(cache_file()).items():
        match = re.fullmatch(rf"{re.escape(_processor())}, (\d+) BLAS thread\(s\), {dtype}", key)
        if match:
            found[int(match[1])] = entry.rates
    return found


def _of_this_machine(dtype: str, alone: bool, device: Device, without: Rates, again: bool = False) -> tuple[Rates, str]:
    """The kept rates, or newly measured ones; where ranks share a core or GPU, what was kept, or the stated ones."""
    what = f"{_processor()}, {_threads()} BLAS thread(s)" if device.is_host else device.name
    cores = "core" if device.is_host else "GPU"
    path = cache_file()
    key = f"{what}, {dtype}"
    today = date.today()
    known = _read(path).get(key)
    if again and not alone:
        raise UserError(f"--calibrate: ranks share {cores}s; start at most as many ranks as there are {cores}s")
    if known and not again and not (alone and (known.old(today) or known.implausible(without))):
        return known.rates, f"measured {f'on {known.day}' if known.day else 'before'}, kept in {path}"
    if not alone:
        return without, f"stated, as ranks share {cores}s: measured by a run that has a {cores} per rank"
    instead = (known.rates, "measured before") if known else (without, "stated")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        entry = Entry(measure(dtype, device), today.isoformat())
        if known and not again and not known.old(today):  # only implausible: what is busy makes it lower, never higher
            entry = Entry(_higher(entry.rates, known.rates), entry.day, known.times + 1)
        try:
            scratch.write_text(json.dumps(_rendered({**_read(path), key: entry}), indent=1) + "\n")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        if again:
            raise UserError(f"--calibrate: {path}: cannot be written: {error.strerror}") from None
        return instead[0], f"{instead[1]}, as {path} cannot be written ({error.strerror})"
    except MemoryError:
        return instead[0], f"{instead[1]}, as there is too little memory left to measure with"
    return entry.rates, f"measured now, kept in {path}"


def _higher(a: Rates, b: Rates) -> Rates:
    return Rates(max(a.flops, b.flops), max(a.bandwidth, b.bandwidth))


def _rendered(entries: dict[str, Entry]) -> dict[str, dict[str, Any]]:
    return {
        k: {"flops": e.rates.flops, "bandwidth": e.rates.bandwidth, "date": e.day, "times": e.times}
        for k, e in entries.items()
    }


def _read(path: Path) -> dict[str, Entry]:
    """The file's entries; what is damaged counts as missing and is measured again."""
    try:
        values = json.loads(path.read_text())
        kept = {
            k: Entry(Rates(float(v["flops"]), float(v["bandwidth"])), str(v.get("date", "")), int(v.get("times", 1)))
            for k, v in values.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {k: e for k, e in kept.items() if 1e6 < e.rates.flops < 1e18 and 1e6 < e.rates.bandwidth < 1e16}


Clock = Callable[[], float]


def measure(dtype: str, device: Device = HOST, clock: Clock = time.perf_counter) -> Rates:
    """Measure this process, with the BLAS threads that it may use, or its GPU, by a clock; two significant digits."""
    rates = _measured(dtype, device, clock)
    device.release()  # else the GPU's pool keeps a gigabyte, which a run would report as its own peak
    return rates


def _measured(dtype: str, device: Device, clock: Clock) -> Rates:
    square, tall = (SQUARE, TALL) if device.is_host else (CUDA_SQUARE, CUDA_TALL)
    a, rows, v = (ones(n, zeros((), device.like, dtype)) for n in ((square, square), (tall, WIDE), (WIDE,)))
    flops = 2.0 * square**3 / _best(lambda: a @ a, device, clock)
    return Rates(_rounded(flops), _rounded(nbytes(rows) / _best(lambda: rows @ v, device, clock)))


def _best(work: Callable[[], object], device: Device, clock: Clock) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        device.synchronize()
        start = clock()
        work()
        device.synchronize()
        times.append(clock() - start)
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
