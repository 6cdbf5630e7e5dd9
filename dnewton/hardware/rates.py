"""The two figures of a machine by which representations and ways to solve are chosen. Pure data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Operations of matrix products, and bytes of memory traffic, per second of one rank."""

    flops: float = 5e10
    bandwidth: float = 1e10


CUDA = Rates(2e13, 1.5e12)  # of a data-centre GPU


def stated(device: str) -> Rates:
    """What holds where nothing was measured, by `parallel.device`."""
    return CUDA if device == "cuda" else Rates()
