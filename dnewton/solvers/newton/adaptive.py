"""λ and the size of the preconditioner by themselves (docs/method.md, "Without settings").

Pure: figures that are alike on all ranks, no arrays, no messages, no clock, so that the same run walks the same path;
all of it is in checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from dnewton.planning.costs import BlockShape
from dnewton.solvers.damping import LARGEST

START = 1e-3  # λ over the curvature along the first gradient
FLOOR = 0.01  # the least λ over that curvature times the rounding of the weights' precision
FASTEST = 0.1  # the most that one step lowers λ by
FIRST_ROWS, LEAST_ROWS = 256, 64  # of the sampled preconditioner
ROUGHLY = 0.25  # a gain ratio
WIDE = 2.0  # how much dearer an operation in float64 is


@dataclass
class Damping:
    """Nielsen's rule (1999): λ falls by the cubic of the gain ratio, and rises ever faster while steps are rejected."""

    scale: float = 0.0  # of G: its curvature along the first gradient; 0: not known yet
    growth: float = 2.0
    smallest: float = 0.0

    def begin(self, scale: float, epsilon: float, wanted: float | None) -> float:
        """λ of the first iteration: `wanted`, or by the scale of G."""
        self.scale = scale
        self.smallest = FLOOR * epsilon * scale
        return min(START * scale if wanted is None else wanted, LARGEST)

    def accepted(self, damping: float, ratio: float, accelerated: bool = False, first: bool = True) -> float:
        """λ after a step whose actual over predicted reduction is `ratio`; with geodesic acceleration it falls by half
        while the model is roughly right, as longer steps follow the bends of the way, and the first λ is taken:
        otherwise the next iteration would begin with what this one has found too small."""
        self.growth = 2.0
        if accelerated:
            damping *= 0.5 if ratio > ROUGHLY and first else 1.0
        else:
            damping *= max(FASTEST, 1.0 - (2.0 * min(ratio, 1.0) - 1.0) ** 3)
        return min(max(damping, self.smallest), LARGEST)

    def rejected(self, damping: float) -> float:
        """λ for another solve with the same J."""
        damping *= self.growth
        self.growth = min(2.0 * self.growth, 64.0)
        return min(damping, LARGEST)


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a local solve on the largest rank."""

    blocks: tuple[BlockShape, ...]
    samples: int
    outputs: int

    def setup(self, rows: int) -> float:
        """To make a preconditioner from so many rows of J."""
        small = sum(rows**2 * (b.o * b.i if b.q > 1 else b.o + b.i / self.outputs**2) for b in self.blocks)
        return WIDE * (small + rows**3 / 3)

    def iteration(self, rows: int) -> float:
        """One iteration of CG: a product with G, and an application of the preconditioner."""
        product = sum(4.0 * self.samples * b.q * b.o * b.i for b in self.blocks)
        width = sum(b.o * b.i if b.q > 1 else b.o * b.i / self.outputs + b.o for b in self.blocks)
        return product + WIDE * (4.0 * rows * width + 2.0 * rows**2)


@dataclass
class SampledRows:
    """From how many rows of J the sampled preconditioner is made: doubled while the iterations of CG cost far more than
    the preconditioner, halved while it is the other way round."""

    rows: int = FIRST_ROWS

    def solved(self, iterations: float, work: Operations, most: int) -> None:
        """Take in a solve of so many CG iterations (a mean over the ranks)."""
        setup = work.setup(self.rows)
        iterating = iterations * work.iteration(self.rows)
        if 2.0 * setup < iterating and iterations > 3:
            self.rows *= 2
        elif iterations and setup > 2.0 * iterating:
            self.rows = max(LEAST_ROWS, self.rows // 2)
        self.rows = min(self.rows, most)


@dataclass
class Controller:
    """All that Newton decides by itself from one iteration to the next."""

    damping: Damping
    sampled: SampledRows

    @classmethod
    def restored(cls, text: str) -> Controller:
        """From what a checkpoint holds; anew where it holds nothing. Raises ValueError, KeyError or TypeError."""
        values = json.loads(text or "{}")
        return cls(Damping(**values.get("damping", {})), SampledRows(**values.get("sampled", {})))

    def saved(self) -> str:
        """For a checkpoint."""
        return json.dumps(asdict(self))
