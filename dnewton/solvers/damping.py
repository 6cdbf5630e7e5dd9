"""Levenberg-Marquardt damping (Wang et al. 2018, section 2.3)."""

from __future__ import annotations

SMALLEST, LARGEST = 1e-10, 1e10


def update(damping: float, ratio: float, drop: float, boost: float) -> float:
    """λ after a step whose actual over predicted reduction is `ratio`; a rejected step has ratio -1."""
    if ratio < 0.25:
        damping *= boost
    elif ratio >= 0.75:
        damping *= drop
    return min(max(damping, SMALLEST), LARGEST)
