"""What a rank does and when: spans of its phases, collectives and iterations, kept in memory up to a limit."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PHASE, COLLECTIVE, ITERATION = range(3)  # categories
ROUNDS = 10  # messages there and back by which two clocks are compared
PING = 31  # tag


@dataclass
class Trace:
    """Spans by time.perf_counter(), in the order in which they ended."""

    limit: int  # of spans; what comes later is counted only
    names: dict[str, int] = field(default_factory=dict)
    spans: list[tuple[int, int, float, float, int, int]] = field(default_factory=list)
    left_out: int = 0
    _counts: dict[int, int] = field(default_factory=dict)  # collectives so far, by communicator
    _labels: dict[int, int] = field(default_factory=dict)  # a communicator's name, by its object

    def add(self, category: int, name: str, start: float, end: float, where: int = -1, number: int = 0) -> None:
        """A span; of a collective `where` is its communicator and `number` how many came before it there."""
        if len(self.spans) >= self.limit:
            self.left_out += 1
            return
        self.spans.append((category, self.name(name), start, end, where, number))

    def name(self, text: str) -> int:
        """The number of a name."""
        return self.names.setdefault(text, len(self.names))

    @contextmanager
    def collective(self, mpi: Any, name: str) -> Iterator[None]:
        """A span of a collective on a communicator of mpi4py."""
        where = self._labels.get(id(mpi))
        if where is None:
            where = self._labels[id(mpi)] = self.name(mpi.Get_name())
        number = self._counts[where] = self._counts.get(where, -1) + 1
        start = time.perf_counter()
        yield
        self.add(COLLECTIVE, name, start, time.perf_counter(), where, number)

    def table(self) -> np.ndarray[Any, Any]:
        """The spans as numbers (spans, 6): category, name, start, end, communicator, number."""
        return np.array(self.spans, dtype=np.float64).reshape(len(self.spans), 6)


def clock_offset(comm: Any) -> float:
    """Seconds by which this rank's perf_counter is ahead of rank 0's; nothing for ranks of rank 0's node, which read
    the same clock. Of each node one rank compares (Cristian 1989: the exchange that took least time counts).

    Collective over the ranks of `comm`, a Comm.
    """
    host = np.frombuffer(_host().ljust(64)[:64].encode(), dtype=np.uint8)[None]
    hosts = [row.tobytes() for row in comm.concatenate(host)]
    leaders = {name: hosts.index(name) for name in dict.fromkeys(hosts)}
    offsets = np.zeros((1, 1))
    word = np.zeros(1)
    for leader in (rank for rank in leaders.values() if rank):
        if comm.rank == 0:
            for _ in range(ROUNDS):
                comm.receive(word, leader, PING)
                comm.wait(comm.send(np.array([time.perf_counter()]), leader, PING))
        elif comm.rank == leader:
            tries = []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                comm.wait(comm.send(word, 0, PING))
                comm.receive(word, 0, PING)
                ended = time.perf_counter()
                tries.append((ended - begun, (begun + ended) / 2 - float(word[0])))
            offsets[0, 0] = min(tries)[1]
    every = comm.concatenate(offsets)[:, 0]
    return float(every[leaders[hosts[comm.rank]]])


def _host() -> str:
    """Which machine this is, and since when it runs: its clock begins then."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot.read_text().strip() if os.path.exists(boot) else ''} {socket.gethostname()}"
