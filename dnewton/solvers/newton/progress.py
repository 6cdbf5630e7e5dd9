"""Whether Newton's iterations still lead anywhere. Pure: figures that are alike on all ranks, no arrays, no messages.

Three signs of an end; each needs several iterations, and none is given while f falls, however slowly, by more than
rounding of the weights' precision:

- steps are rejected while λ dominates the direction. With dᵀGd at most a hundredth of -∇fᵀd = dᵀ(G + λI)d, d is
  nearly -∇f/λ, and a line search that halves α twelve times has tried gradient steps down to 1/(2048 λ): where none of
  them lowers f, what ∇f promises is below f's rounding, and a larger λ promises less;
- steps are rejected with λ at its largest value;
- steps are taken, but f stays within rounding, the model promises next to nothing, and λ does not fall.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from dnewton.config.newton import NewtonSection
from dnewton.solvers.damping import LARGEST
from dnewton.solvers.interface import IterationReport

REJECTED = 5  # iterations in a row
STILL = 10  # iterations in which f does not move
TAKEN = 5  # of them with an accepted step
DOMINATED = 0.01  # dᵀGd over -∇fᵀd, where λ dominates


def settings(options: NewtonSection) -> str:
    """Stands for all options but those that only say when a run ends."""
    text = options.model_dump_json(exclude={"max_iterations", "patience", "tolerance"})
    return f"{zlib.crc32(text.encode()):08x}"


class Figures(NamedTuple):
    """What is kept of an iteration."""

    loss: float
    damping: float
    taken: bool
    promised: float  # -∇fᵀd: no smaller than what the model says that f falls by
    dominated: bool


class Progress:
    """The last iterations, and what they say."""

    def __init__(self, epsilon: float, settings: str = "") -> None:
        """`epsilon` is the relative rounding of the weights' precision. `settings` stands for what the user has chosen:
        a run that is resumed with other settings has another chance.
        """
        self._epsilon = epsilon
        self._settings = f"{settings} {epsilon:.1e}"
        self._last: deque[Figures] = deque(maxlen=STILL)

    def seen(self, report: IterationReport, slope: float, curvature: float) -> None:
        """Take in an iteration, with ∇fᵀd and dᵀGd of its direction."""
        assert report.damping is not None
        dominated = 0 <= curvature <= -DOMINATED * slope
        self._last.append(Figures(report.loss, report.damping, bool(report.alpha), -slope, dominated))

    @property
    def ended(self) -> bool:
        """Whether no further iteration can be expected to lower f."""
        return self._rejected() or self._still()

    def _rejected(self) -> bool:
        last = list(self._last)[-REJECTED:]
        if len(last) < REJECTED or any(f.taken for f in last):
            return False
        return all(f.dominated for f in last) or all(f.damping >= LARGEST for f in last)

    def _still(self) -> bool:
        last = self._last
        if len(last) < STILL or sum(f.taken for f in last) < TAKEN or last[-1].damping < last[0].damping:
            return False
        losses = [f.loss for f in last]
        size = max(map(abs, losses))
        small = math.sqrt(self._epsilon) * size
        return max(losses) - min(losses) <= 2 * self._epsilon * size and all(f.promised <= small for f in last)

    def saved(self) -> str:
        """For a checkpoint."""
        return json.dumps({"settings": self._settings, "last": [list(f) for f in self._last]})

    def restore(self, text: str) -> None:
        """Continue from what a checkpoint holds; it holds nothing where an earlier version wrote it.

        Raises ValueError, KeyError or TypeError for anything that :meth:`saved` has not written.
        """
        values = json.loads(text or "{}")
        if values and values["settings"] == self._settings:
            self._last.extend(_figures(values["last"]))


def _figures(rows: Iterable[tuple[float, float, bool, float, bool]]) -> list[Figures]:
    return [Figures(float(f), float(lam), bool(t), float(p), bool(d)) for f, lam, t, p, d in rows]
