"""What is counted of messages, by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dnewton.comm.trace import PHASE, Trace

# All phases, in the order of reports. A new one is added here; the name of any other is an error.
PHASES = (
    "setup",
    "function",
    "gradient",
    "jacobian",
    "cg",
    "early_termination",
    "combine",
    "factors",
    "precondition",
    "exchange",
    "evaluate",
    "report",
    "output",
)


@dataclass
class Traffic:
    """What one phase has communicated on this rank, and how long the phase took in all."""

    calls: int = 0
    bytes: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0

    def values(self) -> tuple[float, float, float, float]:
        """Calls, bytes, seconds in MPI, seconds of the phase."""
        return float(self.calls), float(self.bytes), self.seconds, self.elapsed


@dataclass
class Ledger:
    """Traffic per phase, in the order in which phases first occur."""

    phases: dict[str, Traffic] = field(default_factory=dict)
    phase: str = "setup"  # what is counted now, for all communicators that share the ledger
    solving: Sequence[Any] = ()  # the linear systems that this rank works on now, for who shows how far they are
    solved: tuple[int, int] | None = None  # ranks whose solves have ended, as last heard, of those that solve
    trace: Trace | None = None  # where spans are kept, if they are

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count and time everything inside under `name`; phases may nest, the innermost counts."""
        entry = self[name]
        outer = self.phase
        self.phase = name
        start, inner = time.perf_counter(), self._total_elapsed()
        try:
            yield
        finally:
            nested = self._total_elapsed() - inner
            end = time.perf_counter()
            entry.elapsed += end - start - nested
            self.phase = outer
            if self.trace is not None:
                self.trace.add(PHASE, name, start, end)

    def _total_elapsed(self) -> float:
        return sum(t.elapsed for t in self.phases.values())

    def __getitem__(self, name: str) -> Traffic:
        """A phase's traffic. Raises LookupError for a name that is not in PHASES: nothing would report it."""
        if name not in PHASES:
            raise LookupError(f"{name!r} is no phase; add it to PHASES in dnewton/comm/traffic.py")
        return self.phases.setdefault(name, Traffic())
