"""Workers of the asynchronous methods: pulls from and pushes to the parameter servers (parameter_server.py).

A push does not wait: it is sent from one of two buffers while the worker computes; only the push before last must have
been acknowledged. With `round_robin` the servers take the workers in turn and a run can be repeated bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dnewton.arrays.namespace import Array, dtype_name, namespace, to_device, to_host
from dnewton.comm.communicator import Comm
from dnewton.config.baselines import ServedSection
from dnewton.planning.replicas import ProcessGroups
from dnewton.solvers.baselines.local_sgd import LocalSteps
from dnewton.solvers.baselines.parameter_server import (
    ACK,
    FINAL,
    INIT,
    KNOWN,
    MODEL,
    PULL,
    PUSH,
    SKIP,
    STATE,
    STATS,
    STOP,
    slice_of,
)
from dnewton.solvers.baselines.workers import Workers
from dnewton.solvers.interface import SolverState, StartPoint
from dnewton.solvers.kind import rule_of


def _room(like: Array) -> np.ndarray:
    return np.empty(like.shape, dtype=dtype_name(like))


class Link:
    """A worker's connection with all servers, which are processes without a GPU: messages are host arrays."""

    def __init__(self, groups: ProcessGroups, length: int) -> None:
        """`length` numbers are in this rank's θ."""
        self._comm: Comm = groups.world
        first = groups.layout.replicas * groups.layout.model_ranks
        servers = groups.layout.servers
        self._parts = [(first + s, slice_of(length, servers, s)) for s in range(servers)]
        self._under_way: list[list[Any]] = []  # pushes: their requests and buffers

    def begin(self, centre: Array, second: Array, version: int) -> None:
        """Give the servers their first centre and what their rule keeps beside it (replica 0's workers only)."""
        centre, second = to_host(centre), to_host(second)
        for server, part in self._parts:
            state = np.concatenate([centre[part], second[part], np.array([version], dtype=centre.dtype)])
            self._comm.wait(self._comm.send(state, server, INIT))
            self._comm.receive(centre[:0], server, ACK)

    def known(self, x: Array) -> None:
        """Tell the servers what this worker was given last."""
        x = to_host(x)
        for server, part in self._parts:
            self._comm.wait(self._comm.send(np.ascontiguousarray(x[part]), server, KNOWN))
            self._comm.receive(x[:0], server, ACK)

    def state(self, like: Array) -> tuple[Array, Array, int]:
        """The servers' centre, what their rule keeps beside it, and the number of updates."""
        centre = _room(like)
        second = _room(like)
        version = 0
        for server, part in self._parts:
            held = np.empty(2 * (part.stop - part.start) + 1, dtype=centre.dtype)
            self._comm.wait(self._comm.send(centre[:0], server, STATE))
            self._comm.receive(held, server, MODEL)
            half = (len(held) - 1) // 2
            centre[part] = held[:half]
            second[part] = held[half:-1]
            version = int(held[-1])
        return to_device(centre, like), to_device(second, like), version

    def pull(self, like: Array, tag: int = PULL) -> Array:
        """The centre as the servers have it."""
        out = _room(like)
        asked = [self._comm.send(out[:0], server, tag) for server, _ in self._parts]
        for server, part in self._parts:
            self._comm.receive(out[part], server, MODEL)
        for request in asked:
            self._comm.wait(request)
        return to_device(out, like)

    def push(self, vector: Array, *extra: float) -> None:
        """Begin to send a vector like θ, with `extra` numbers for every server behind it."""
        vector = to_host(vector)
        more = np.array(extra, dtype=vector.dtype)
        self._send([np.concatenate([vector[part], more]) for _, part in self._parts], PUSH)

    def skip(self, like: Array) -> None:
        """Nothing to push this time: pass the turn on."""
        self._send([to_host(like[:0]) for _ in self._parts], SKIP)

    def _send(self, buffers: list[Array], tag: int) -> None:
        if len(self._under_way) == 2:
            self._acknowledged()
        servers = [server for server, _ in self._parts]
        self._under_way.append([(self._comm.send(b, s, tag), b) for b, s in zip(buffers, servers, strict=True)])

    def drain(self) -> None:
        """Wait until all pushes have been taken in."""
        while self._under_way:
            self._acknowledged()

    def _acknowledged(self) -> None:
        for (request, buffer), (server, _) in zip(self._under_way.pop(0), self._parts, strict=True):
            self._comm.wait(request)
            self._comm.receive(buffer[:0], server, ACK)

    def statistics(self) -> Array:
        """The servers' figures, (servers, 6): see :class:`dnewton.solvers.baselines.parameter_server.Server`."""
        rows = np.empty((len(self._parts), 6))
        for row, (server, _) in zip(rows, self._parts, strict=True):
            self._comm.wait(self._comm.send(np.empty(0), server, STATS))
            self._comm.receive(row, server, MODEL)
        return rows

    def stop(self, error: str) -> None:
        """Let the servers go, with the message of the UserError that ended the job if one did."""
        text = np.zeros(256, dtype=np.uint8)
        coded = np.frombuffer(error.encode("utf-8", "replace")[:256], dtype=np.uint8)
        text[: len(coded)] = coded
        for server, _ in self._parts:
            self._comm.wait(self._comm.send(text, server, STOP))


class Served(LocalSteps):
    """What all methods with servers share: the first centre, the end of a pass, the figures."""

    def __init__(self, workers: Workers, options: ServedSection, momentum: float = 0.0) -> None:
        super().__init__(workers, options, momentum)
        self._rule = rule_of(options)
        self._link = Link(workers.groups, workers.objective.network.size)
        self._passed = [0.0, 0.0]

    def prepare(self, start: StartPoint) -> None:
        """Replica 0 gives the servers the starting point. Collective over the workers."""
        super().prepare(start)
        saved = start.saved or SolverState()
        centre = saved.vectors.get("servers_centre", self.centre)
        fresh = self.centre if self._rule.averaged else namespace(self.x).zeros_like(self.x)
        second = saved.vectors.get("servers_second", fresh)
        version = int(saved.values.get("updates", "0"))
        with self.workers.all.phase("exchange"):
            if self.workers.index == 0:
                self._link.begin(centre, second, version)
            self.workers.all.barrier()
        self.figures()  # what the servers sent before this run is not its own

    def meet(self) -> None:
        """All pushes are taken in; every worker gets the centre (the averaged one where there is one)."""
        with self.workers.all.phase("exchange"):
            self._link.drain()
            self.workers.all.barrier()
            self.centre = self._link.pull(self.x, FINAL)

    def figures(self) -> dict[str, Any]:
        """Staleness of the pushes since the last line, and what the servers sent."""
        if self.workers.all.rank != 0:
            return {}
        rows = self._link.statistics()
        count = rows[:, 0].sum()
        total = rows[:, 1].sum()
        largest = rows[:, 2].max()
        sent = [float(rows[:, 3].sum()), float(rows[:, 4].sum())]
        calls, moved = (a - b for a, b in zip(sent, self._passed, strict=True))
        self._passed = sent
        return {
            "staleness": {"mean": total / count if count else 0.0, "max": int(largest), "pushes": int(count)},
            "servers": {"calls": int(calls), "bytes": int(moved), "peak_rss_bytes": int(rows[:, 5].max())},
        }

    def saved(self) -> SolverState:
        """The workers' points, and what the servers hold."""
        saved = super().saved()
        with self.workers.all.phase("output"):
            self._link.drain()
            self.workers.all.barrier()
            centre, second, version = self._link.state(self.x)
        vectors = {"servers_centre": centre, "servers_second": second}
        return SolverState(vectors, saved.own, {**saved.values, "updates": str(version)})

    def close(self, error: str = "") -> None:
        """Let the servers go. Collective over the workers."""
        if self.workers.all.rank == 0:
            self._link.stop(error)
