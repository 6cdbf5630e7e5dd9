"""The loop that mini-batch methods share: one iteration is one pass over the training set, evaluated at its end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.baselines import ScheduleSection, WorkersSection
from dnewton.solvers.baselines.workers import Point, Share, Workers
from dnewton.solvers.interface import IterationReport, SolverState, StartPoint, gradient_ending


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
        self.workers = workers
        self.options = options
        self._iteration = 0
        self._first_norm = math.nan
        self._norm = math.inf
        self._position = 0
        self._seen = 0.0

    # --- what a method fills in -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def theta(self) -> Array:
        """The point that is evaluated and saved, alike on all replicas."""

    @abstractmethod
    def prepare(self, start: StartPoint) -> None:
        """Take over the starting point, and what had been saved with it."""

    @abstractmethod
    def update(self, share: Share, rate: float, count: int) -> None:
        """Step number `count` of the run. Collective over the workers unless the method says otherwise."""

    def saved(self) -> SolverState:
        """What a checkpoint holds besides θ and the iteration."""
        return SolverState()

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
    def passes_before(self) -> int:
        """No other method comes first."""
        return 0

    @property
    def iteration(self) -> int:
        """Passes done."""
        return self._iteration

    @property
    def ending(self) -> str:
        """∇f = 0, or its norm is `tolerance` times the first one."""
        return gradient_ending(self._norm, self._first_norm, self.options.tolerance)

    @property
    def position(self) -> int:
        """Batches done of the pass under way; one more when the workers have met, too, and f is evaluated."""
        return self._position

    def begin(self, start: StartPoint) -> IterationReport:
        """Evaluate the starting point. Raises UserError when f is not finite there. Collective over the workers."""
        self._iteration = start.iteration
        self._position = start.position
        with self.workers.all.stops.no_stop():
            self.prepare(start)
        if start.saved is not None and "norm" in start.saved.values:
            values = start.saved.values
            self._first_norm = float(values["first_norm"])
            self._norm = float(values["norm"])
            self._seen = float(values["seen"])
            self._rescale(int(values["stride"]))
            return IterationReport(math.nan, self._norm, math.nan, self.workers.samples)
        at = self._evaluate()
        self.workers.check(at)
        self._first_norm = self._norm = at.norm
        return self._report(at, None)

    def _rescale(self, stride: int) -> None:
        """The position where a batch of all workers had `stride` samples then: no more samples than were done then."""
        if stride != self.workers.stride and self._position:
            done = min(self._position * stride, self.workers.samples)
            self._position = done // self.workers.stride
            self._seen = float(self._position * self.workers.stride)

    def step(self) -> IterationReport:
        """One pass over the training set, or what is left of one. Collective over the workers.

        May be left by Stopped before any batch, and called again.
        """
        steps, stops = self.workers.steps, self.workers.all.stops
        for k, share in enumerate(self.workers.shares(self._iteration)):
            if k >= self._position:
                stops.safe_point()
                with stops.no_stop():
                    self.update(share, self._rate(k / steps), self._iteration * steps + k)
                self._seen += share.total
                self._position = k + 1
        stops.due(None)  # an evaluation that takes longer than the clock allows would never end
        if self._position == steps:
            stops.sync_point()
            with stops.no_stop():
                self.meet()
            self._position = steps + 1
        at = self._evaluate()
        rate = self._rate((steps - 1) / steps)
        self._iteration = self._iteration + 1
        self._position = 0
        self._norm = at.norm
        with stops.no_stop():
            step = self._report(at, rate)
        self._seen = 0.0
        return step

    def _rate(self, part: float) -> float:
        options = self.options
        return learning_rate(options.learning_rate, options.schedule, self._iteration + part, options.max_iterations)

    def _evaluate(self) -> Point:
        with self.workers.all.phase("evaluate"):
            return self.workers.evaluate(self.theta)

    def _report(self, at: Point, rate: float | None) -> IterationReport:
        extra = {"learning_rate": rate, **self.figures()}
        return IterationReport(at.value, at.norm, at.metric, self.workers.samples, seen=self._seen, extra=extra)

    def saved_values(self) -> dict[str, str]:
        """What every method saves."""
        numbers = {"first_norm": self._first_norm, "norm": self._norm, "seen": self._seen}
        return {**{k: repr(v) for k, v in numbers.items()}, "stride": str(self.workers.stride)}


def saved_or_zeros(start: StartPoint, name: str) -> Array:
    """A saved vector like θ, or zeros."""
    if start.saved is not None:
        for held in (start.saved.vectors, start.saved.own):
            if name in held:
                return held[name]
    return namespace(start.theta).zeros_like(start.theta)
