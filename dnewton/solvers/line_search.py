"""Line searches: backtracking (Armijo 1966), and by a parabola."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar


@dataclass(frozen=True)
class Value:
    """f alone, where nothing else is kept of a point."""

    value: float


class HasValue(Protocol):
    """A point that f was evaluated at."""

    @property
    def value(self) -> float:
        """f."""
        ...


P = TypeVar("P", bound=HasValue)


def backtracking(
    evaluate: Callable[[float], P], before: float, slope: float, *, eta: float, factor: float, trials: int
) -> tuple[float, P | None, int]:
    """The first α = 1, factor, factor², … with f(α) ≤ before + η·α·slope, the point there, and the trials made.

    A value that is NaN or infinite counts as no decrease. Without a descent (slope < 0) nothing is tried. α is 0 and
    the point None where no trial was accepted. Collective over what `evaluate` is collective over.
    """
    if not slope < 0:
        return 0.0, None, 0
    alpha = 1.0
    for trial in range(1, trials + 1):
        at = evaluate(alpha)
        if math.isfinite(at.value) and at.value <= before + eta * alpha * slope:
            return alpha, at, trial
        del at  # what it keeps: the next trial keeps as much
        alpha *= factor
    return 0.0, None, trials


def by_parabola(
    evaluate: Callable[[float], P], before: float, slope: float, curvature: float, *, eta: float, trials: int
) -> tuple[float, P | None, int]:
    """α = 1, or where f does not fall by η of what the model with `slope` and `curvature` says, a shorter step by the
    parabola through f, its slope and f(α): the α, the point there (None if there is none), and the trials made.

    Collective over what `evaluate` is collective over.
    """
    alpha = 1.0
    for trial in range(1, trials + 1):
        at = evaluate(alpha)
        rise = at.value - before
        if math.isfinite(rise) and rise <= eta * alpha * (slope + 0.5 * alpha * curvature):
            return alpha, at, trial
        del at
        best = -0.5 * slope * alpha**2 / (rise - slope * alpha) if math.isfinite(rise) else 0.0
        alpha = min(max(best, 0.1 * alpha), 0.5 * alpha)
    return alpha, None, trials
