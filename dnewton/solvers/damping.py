"""Levenberg-Marquardt damping (Wang et al. 2018, section 2.3)."""

from __future__ import annotations

import math

from dnewton.errors import UserError

SMALLEST, LARGEST = 1e-10, 1e10
MAX_BROKEN = 5  # directions with NaN, one after another


def update(damping: float, ratio: float, drop: float, boost: float) -> float:
    """λ after a step whose actual over predicted reduction is `ratio`; a rejected step has ratio -1."""
    if ratio < 0.25:
        damping *= boost
    elif ratio >= 0.75:
        damping *= drop
    return min(max(damping, SMALLEST), LARGEST)


class Broken:
    """Directions with NaN or infinity: none of them is taken and λ rises, for a limited number of iterations."""

    def __init__(self) -> None:
        self._running = 0

    def seen(self, figure: float, iteration: int) -> bool:
        """Whether a figure of the direction is not finite. Raises UserError when none was for a while."""
        self._running = 0 if math.isfinite(figure) else self._running + 1
        if self._running > MAX_BROKEN:
            raise UserError(
                f"the direction has not been finite in iterations {iteration - MAX_BROKEN} to {iteration}, whatever "
                "lambda; parallel.dtype: float64 or scaled data may help"
            )
        return self._running > 0
