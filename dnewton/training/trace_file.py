"""The ranks' spans as one file in Chrome's trace format, which https://ui.perfetto.dev opens.

A process of the trace is a rank, its time rank 0's clock in microseconds. In every collective the time until the last
rank of it has come is a span of its own, "wait": what is left is transfer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.comm.trace import COLLECTIVE, ITERATION, PHASE, Trace, clock_offset

SPANS = 400_000  # of all ranks together: about 60 MB
TABLE, NAMES, COUNTS = 41, 42, 43  # tags
CATEGORIES = {PHASE: "phase", COLLECTIVE: "collective", ITERATION: "iteration"}


class TraceFile:
    """The trace of one run: begun before it, written after it."""

    def __init__(self, comm: Comm) -> None:
        """Collective over the ranks of `comm`, whose ledger keeps the spans from now on."""
        self._comm = comm
        self._offset = clock_offset(comm)
        self.spans = Trace(max(1000, SPANS // comm.size))
        comm.ledger.trace = self.spans

    def write(self, path: Path, about: Mapping[str, Any]) -> int:
        """Write the file on rank 0, and end the trace; returns the number of spans that were left out.

        Raises OSError on rank 0. Collective over the ranks.
        """
        comm = self._comm
        comm.ledger.trace = None
        offset = 0.5 * (self._offset + clock_offset(comm))
        table = self.spans.table()
        table[:, 2:4] -= offset
        left_out = int(comm.sum_scalars([float(self.spans.left_out)])[0])
        names = "\n".join(self.spans.names)
        if comm.rank:
            coded = np.frombuffer(names.encode(), dtype=np.uint8)
            comm.wait(comm.send(np.array([len(table), len(coded)], dtype=np.int64), 0, COUNTS))
            comm.wait(comm.send(np.ascontiguousarray(coded), 0, NAMES))
            comm.wait(comm.send(np.ascontiguousarray(table), 0, TABLE))
            return left_out
        ranks = [_Rank(table, names.split("\n"))]
        for rank in range(1, comm.size):
            sizes = np.empty(2, dtype=np.int64)
            comm.receive(sizes, rank, COUNTS)
            coded, table = np.empty(int(sizes[1]), dtype=np.uint8), np.empty((int(sizes[0]), 6))
            comm.receive(coded, rank, NAMES)
            comm.receive(table, rank, TABLE)
            ranks.append(_Rank(table, coded.tobytes().decode().split("\n")))
        temporary = f"{path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "otherData": ')
            file.write(json.dumps({**about, "left_out": left_out}))
            file.write(', "traceEvents": [\n')
            for k, event in enumerate(events(ranks)):
                file.write((",\n" if k else "") + json.dumps(event))
            file.write("\n]}\n")
        os.replace(temporary, path)
        return left_out


class _Rank:
    """What a rank has sent."""

    def __init__(self, table: Any, names: list[str]) -> None:
        self.table = table
        self.names = names

    def collectives(self) -> Iterator[tuple[tuple[str, int], Any]]:
        """By communicator and number."""
        for span in self.table[self.table[:, 0] == COLLECTIVE]:
            yield (self.names[int(span[4])], int(span[5])), span


def events(ranks: list[_Rank]) -> Iterator[dict[str, Any]]:
    """Chrome's events of all ranks, in the ranks' order; times begin with the first span."""
    first = min((float(rank.table[:, 2].min()) for rank in ranks if len(rank.table)), default=0.0)
    last_to_come: dict[tuple[str, int], float] = {}
    for rank in ranks:
        for key, span in rank.collectives():
            last_to_come[key] = max(last_to_come.get(key, -np.inf), float(span[2]))
    for number, rank in enumerate(ranks):
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": f"rank {number}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}
        inside_out = np.lexsort((-rank.table[:, 3], rank.table[:, 2]))  # what encloses others comes before them
        for category, name, start, end, where, count in rank.table[inside_out]:
            event = _complete(number, CATEGORIES[int(category)], rank.names[int(name)], start - first, end - start)
            if int(category) == COLLECTIVE:
                group = rank.names[int(where)]
                wait = min(max(0.0, last_to_come[group, int(count)] - start), end - start)
                event["args"] = {"ranks": group, "wait_us": round(1e6 * wait, 3)}
                yield event
                if wait > 0:
                    yield _complete(number, "wait", "wait", start - first, wait)
            else:
                yield event


def _complete(rank: int, category: str, name: str, start: float, seconds: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": rank,
        "tid": 0,
        "cat": category,
        "name": name,
        "ts": round(1e6 * start, 3),
        "dur": round(1e6 * seconds, 3),
    }
