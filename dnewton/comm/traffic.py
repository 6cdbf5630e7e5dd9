"""What is counted of messages."""

from __future__ import annotations

from dataclasses import dataclass, field


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

    def __getitem__(self, name: str) -> Traffic:
        return self.phases.setdefault(name, Traffic())
