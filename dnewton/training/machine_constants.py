"""The constants of this machine that seconds are forecast from: measured by the ranks of a job, kept in a file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

from dnewton.arrays.namespace import host, ones, zeros
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.hardware import calibration
from dnewton.hardware.node import THREAD_VARIABLES
from dnewton.hardware.rates import Rates
from dnewton.planning.machine import WIDE_RATE, MachineConstants

ROUNDS = 5
SMALL, LARGE = 200, 20  # sums of one number, and of many
MANY = 1 << 20  # numbers of a large sum: 4 MiB
PER_CALL = 8.0  # how much longer an operation takes than one on few numbers alone, with Python's part around it


def measure(comm: Comm) -> tuple[MachineConstants, str]:
    """The constants as the slowest rank finds them, all ranks being at work, with one BLAS thread each; and what was
    measured. What one rank alone cannot measure stays as stated. Collective over the world."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")
    stated = MachineConstants()
    flops = memory = 0.0
    for _ in range(ROUNDS):
        comm.barrier()
        rates = calibration.measure("float32", clock=time.thread_time)  # without what other processes take
        flops, memory = max(flops, rates.flops), max(memory, rates.bandwidth)
    found = dataclasses.replace(
        stated,
        flops=comm.minmax(flops)[0],
        memory=comm.minmax(memory)[0],
        cores=max(1, round(comm.cores * comm.ranks_on_node)),
        call=PER_CALL * comm.minmax(_call())[1],
    )
    if comm.size == 1:
        return found, "one process: latency and bandwidth between ranks are stated, not measured; start two or more"
    small, large = zeros(1, host([]), "float32"), zeros(MANY, host([]), "float32")
    waited = _sum(comm, small, SMALL)
    steps = math.ceil(math.log2(comm.size))
    through = 2.0 * (comm.size - 1) / comm.size * MANY * 4
    latency = max(1e-7, waited / steps)
    network = through / max(1e-9, _sum(comm, large, LARGE) - waited)
    where = "on one node" if comm.ranks_on_node == comm.size else f"{comm.ranks_on_node} on a node"
    note = f"{comm.size} ranks {where}, {'a core each' if comm.least_cores >= 1 else 'which share cores'}"
    return dataclasses.replace(found, latency=_rounded(latency), network=_rounded(network)), note


def _call() -> float:
    few = ones((8,), zeros((), host([]), "float32"))

    def many() -> None:
        for _ in range(100):
            few + few

    return _rounded(_best(many, 20, time.thread_time) / 100)


def _sum(comm: Comm, array: Any, times: int) -> float:
    comm.barrier()
    return comm.minmax(_best(lambda: comm.allreduce(array), times))[1]


def _best(work: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    found = []
    for _ in range(times):
        start = clock()
        work()
        found.append(clock() - start)
    return min(found)


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def write(path: str, found: MachineConstants, note: str) -> None:
    """Keep constants in a file. Raises UserError."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**dataclasses.asdict(found), "note": note}, file, indent=1)
            file.write("\n")
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written: {error.strerror}") from None


def read(path: str) -> MachineConstants:
    """What :func:`write` kept; keys may be left out. Raises UserError naming the key."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"--machine {path}: cannot be read: {reason}") from None
    except ValueError as error:
        raise UserError(f"--machine {path}: is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--machine {path}: a JSON object is needed, as dnewton plan --calibrate -o FILE writes it")
    values.pop("note", None)
    fields = {field.name: type(field.default) for field in dataclasses.fields(MachineConstants)}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"--machine {path}: {key}: is no constant of a machine; use {', '.join(fields)}")
        whole = fields[key] is int
        right = isinstance(value, int) if whole else isinstance(value, (int, float)) and math.isfinite(value)
        if isinstance(value, bool) or not right or value < 0 or (not whole and value == 0):
            raise UserError(f"--machine {path}: {key}: a {'whole ' if whole else ''}number above 0 is needed")
    return MachineConstants(**values)


def threads_by_user() -> int:
    """BLAS threads by the environment's variables; 0 where none is set."""
    chosen = [os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name, "").isdecimal()]
    return max(1, int(chosen[0])) if chosen else 0


def in_float32(rates: Rates, dtype: str) -> Rates:
    """What rates measured in a precision are in float32, in which the constants are."""
    return Rates(rates.flops / WIDE_RATE, rates.bandwidth) if dtype == "float64" else rates


def kept(dtype: str) -> dict[int, Rates]:
    """The rates that earlier runs on this machine have measured, by the number of BLAS threads."""
    return calibration.kept(dtype)
