"""The loop that mini-batch methods share: one iteration is one pass over the training set, evaluated at its end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from dnewton.arrays import Array, namespace
from dnewton.config_solvers import ScheduleSection, WorkersSection
from dnewton.solvers.solver import Saved, Start, Step
from dnewton.solvers.workers import Point, Share, Workers


def learning_rate(base: float, schedule: ScheduleSection, at: float, length: int) -> float:
    """The rate after `at` of `length` iterations (passes over the training set; fractions count)."""
    rate = base
    if schedule.name == "step":
        rate *= schedule.factor ** sum(at >= m for m in schedule.milestones)
    elif schedule.name == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, at / max(1, length))))
    elif schedule.name == "inverse":
        rate /= (1 + schedule.decay * at) ** schedule.power
    if schedule.warmup and at < schedule.warmup:
        rate *= (at + 1e-3) / schedule.warmup  # the very first step is not nothing
    return rate


class Epochs(ABC):
    """A mini-batch method. Subclasses say what a step does, what is evaluated and what is saved."""

    def __init__(self, workers: Workers, options: WorkersSection) -> None:
        self.workers, self.options = workers, options
        self._iteration, self._first_norm = 0, math.nan
        self._at: Point
        self._seen = 0.0

    # --- what a method fills in -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def theta(self) -> Array:
        """The point that is evaluated and saved, alike on all replicas."""

    @abstractmethod
    def prepare(self, start: Start) -> None:
        """Take over the starting point, and what had been saved with it."""

    @abstractmethod
    def update(self, share: Share, rate: float, count: int) -> None:
        """Step number `count` of the run. Collective over the workers unless the method says otherwise."""

    def saved(self) -> Saved:
        """What a checkpoint holds besides θ and the iteration."""
        return Saved()

    def meet(self) -> None:  # noqa: B027
        """What is done at the end of a pass, before the evaluation. Collective over the workers."""

    def figures(self) -> dict[str, Any]:
        """Figures of this method for metrics.jsonl. Collective over the workers."""
        return {}

    def close(self, error: str = "") -> None:  # noqa: B027
        """Nothing to give back."""

    def describe(self) -> list[str]:
        """Lines for the log."""
        return []

    # --- the loop ---------------------------------------------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """Passes done."""
        return self._iteration

    @property
    def converged(self) -> bool:
        """∇f = 0, or its norm is `tolerance` times the first one."""
        return self._at.norm <= self.options.tolerance * self._first_norm

    def begin(self, start: Start) -> Step:
        """Evaluate the starting point. Raises UserError when f is not finite there. Collective over the workers."""
        self._iteration = start.iteration
        self.prepare(start)
        self._evaluate()
        self.workers.check(self._at)
        values = start.saved.values if start.saved is not None else {}
        self._first_norm = float(values.get("first_norm", self._at.norm))
        return self._report(None)

    def step(self) -> Step:
        """One pass over the training set. Collective over the workers."""
        rate, steps = 0.0, self.workers.steps
        self._seen = 0.0
        for k, share in enumerate(self.workers.shares(self._iteration)):
            at = self._iteration + k / steps
            rate = learning_rate(self.options.learning_rate, self.options.schedule, at, self.options.max_iterations)
            self.update(share, rate, self._iteration * steps + k)
            self._seen += share.total
        self._iteration += 1
        self.meet()
        self._evaluate()
        return self._report(rate)

    def _evaluate(self) -> None:
        with self.workers.all.phase("evaluate"):
            self._at = self.workers.evaluate(self.theta)

    def _report(self, rate: float | None) -> Step:
        extra = {"learning_rate": rate, **self.figures()}
        at = self._at
        return Step(at.value, at.norm, at.metric, self.workers.samples, seen=self._seen, extra=extra)

    def saved_values(self) -> dict[str, str]:
        """What every method saves."""
        return {"first_norm": repr(self._first_norm)}


def taken(start: Start, name: str) -> Array:
    """A saved vector like θ, or zeros."""
    if start.saved is not None:
        for held in (start.saved.vectors, start.saved.own):
            if name in held:
                return held[name]
    return namespace(start.theta).zeros_like(start.theta)
