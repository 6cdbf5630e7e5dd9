"""The two figures of a machine by which representations and ways to solve are chosen. Pure data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Operations of matrix products, and bytes of memory traffic, per second of one rank."""

    flops: float = 5e10
    bandwidth: float = 1e10
