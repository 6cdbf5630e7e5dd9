"""Parameter servers: ranks that hold slices of the centre, answer pulls and take in pushes, and train nothing.

Worker w of W talks to every server; server s holds slice s of the centre of every model rank. Requests of one worker
are answered in the order in which they were sent. What a push does is the method's rule; the rest is alike for all.
"""

from __future__ import annotations

import math
import time

import numpy as np

from dnewton.arrays.namespace import Array
from dnewton.config.baselines import ServedSection
from dnewton.errors import UserError
from dnewton.grid import cut
from dnewton.hardware import node
from dnewton.model.block import blocks_of
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.replicas import ProcessGroups
from dnewton.solvers.baselines.server_rules import Shard
from dnewton.solvers.interface import STOPPED
from dnewton.solvers.kind import rule_of

INIT, PULL, PUSH, SKIP, FINAL, STATE, KNOWN, STATS, STOP = range(1, 10)  # requests
MODEL, ACK = 11, 12  # answers
IDLE = 2e-4  # seconds between two looks for a message, once there has been none for a while
PATIENCE = 10_000  # looks before that, where the server has a core to itself


def slice_of(numbers: int, servers: int, server: int) -> slice:
    """The part of a vector that a server holds."""
    return slice(*cut(numbers, servers, server))


class Server:
    """A server rank: :meth:`serve` until the workers say stop."""

    def __init__(self, groups: ProcessGroups, plan: NetPlan, options: ServedSection, dtype: str) -> None:
        self._comm = groups.world
        self._layout = groups.layout
        self._in_turn = options.mode == "round_robin"
        self._rule = rule_of(options)
        self._dtype = dtype
        self.workers = groups.layout.replicas * groups.layout.model_ranks
        self.index = groups.world.rank - self.workers
        self._sizes = [sum(b.size for b in blocks_of(plan, m)) for m in range(groups.layout.model_ranks)]
        self.shards: dict[int, Shard] = {}
        self._turn = [0] * groups.layout.model_ranks  # round_robin: the replica whose exchange is next
        self._half = [False] * groups.layout.model_ranks  # it has made one of its two requests
        self._stale: list[int] = []
        self.stopped = False  # before the end: the job is to be resumed

    def serve(self) -> None:
        """Answer until told to stop; raises the UserError that ended the workers, if one did."""
        idle = 0
        since = math.inf  # until the first request workers read their samples
        while True:
            self._comm.stops.serve(since)
            request = self._next()
            if request is None:
                idle += 1
                if self._comm.yield_when_idle or idle > PATIENCE:
                    time.sleep(IDLE)
                continue
            (source, tag) = request
            idle = 0
            since = time.monotonic()
            if tag == STOP:
                text = np.empty(256, dtype=np.uint8)
                self._comm.receive(text, source, STOP)
                message = text.tobytes().rstrip(b"\0").decode("utf-8", "replace")
                self.stopped = message == STOPPED
                if message and not self.stopped:
                    raise UserError(message)
                return
            self._answer(source, tag)

    def _next(self) -> tuple[int, int] | None:
        """The next request to answer. In turn, only the worker whose turn it is may exchange."""
        comm = self._comm
        if not self._in_turn:
            return comm.arrived()
        for tag in (STOP, INIT, FINAL, STATE, KNOWN, STATS):  # after STOP may come the INIT of another run
            if (request := comm.arrived(tag=tag)) is not None:
                return request
        for m, turn in enumerate(self._turn):
            source = turn * self._layout.model_ranks + m
            request = comm.arrived(source)  # the oldest of its messages, so of any tag
            if request is not None:
                if request[1] in (PULL, PUSH, SKIP):
                    self._pass_on(m)
                return request
        return None

    def _pass_on(self, m: int) -> None:
        """An exchange is two requests, a pull and a push, in the method's order."""
        self._half[m] = not self._half[m]
        if not self._half[m]:
            self._turn[m] = (self._turn[m] + 1) % self._layout.replicas

    def _answer(self, source: int, tag: int) -> None:
        comm = self._comm
        (worker, m) = divmod(source, self._layout.model_ranks)
        here = slice_of(self._sizes[m], self._layout.servers, self.index)
        length = here.stop - here.start
        nothing = np.empty(0, dtype=self._dtype)
        if tag == INIT:
            state = np.empty(2 * length + 1, dtype=self._dtype)
            comm.receive(state, source, INIT)
            self.shards[m] = Shard(state[:length], int(state[-1]), state[length:-1].copy())
            comm.wait(comm.send(nothing, source, ACK))
        elif tag == KNOWN:
            known = np.empty(length, dtype=self._dtype)
            comm.receive(known, source, KNOWN)
            self.shards[m].backup[worker] = known
            self.shards[m].pulled[worker] = self.shards[m].version
            comm.wait(comm.send(nothing, source, ACK))
        elif tag in (PULL, FINAL, STATE):
            comm.receive(nothing, source, tag)
            shard = self.shards[m]
            second = shard.centre if shard.second is None else shard.second
            if tag == PULL:
                given = self._rule.hand_out(shard, worker)
            elif tag == FINAL:
                given = second if self._rule.averaged else shard.centre
            else:
                given = np.concatenate([shard.centre, second, np.array([shard.version], dtype=self._dtype)])
            comm.wait(comm.send(np.ascontiguousarray(given), source, MODEL))
        elif tag == PUSH:
            push = np.empty(length + self._rule.extra, dtype=self._dtype)
            comm.receive(push, source, PUSH)
            self._stale.append(self._rule.take_in(self.shards[m], worker, push))
            comm.wait(comm.send(nothing, source, ACK))
        elif tag == SKIP:
            comm.receive(nothing, source, SKIP)
            comm.wait(comm.send(nothing, source, ACK))
        else:
            comm.receive(nothing, source, STATS)
            comm.wait(comm.send(self._statistics(), source, MODEL))

    def _statistics(self) -> Array:
        """Pushes, their summed and largest staleness, messages and bytes sent so far, peak memory; float64."""
        traffic = [t.values() for t in self._comm.ledger.phases.values()]
        stale = self._stale
        self._stale = []
        return np.array(
            [
                len(stale),
                math.fsum(stale),
                max(stale, default=0),
                sum(t[0] for t in traffic),
                sum(t[1] for t in traffic),
                node.peak_rss_bytes(),
            ],
            dtype=np.float64,
        )
