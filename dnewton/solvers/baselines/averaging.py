"""Periodic averaging of the workers' weights (Su and Chen 2015), and BMUF (Chen and Huo 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from dnewton.arrays.namespace import copy, namespace
from dnewton.config.baselines import WorkersSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, Positive
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines.epoch_loop import saved_or_zeros
from dnewton.solvers.baselines.local_sgd import LocalSteps
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel
from dnewton.solvers.interface import SolverState, StartPoint


class AveragingSection(WorkersSection):
    """Periodic averaging of the workers' weights (Su and Chen 2015); with block momentum BMUF (Chen and Huo 2016)."""

    name: Literal["averaging"] = "averaging"
    tau: Count = 4  # steps between two averagings
    momentum: Fraction = 0.9  # weight of the old velocity
    buffers: Literal["keep", "reset", "average"] = "keep"  # the momentum buffers at an averaging
    block_momentum: Fraction = 0.0  # above 0: BMUF
    block_rate: Positive = 1.0  # BMUF: weight of the newest displacement
    nesterov_block: bool = False  # BMUF: workers start ahead, at W + block_momentum * D

    @model_validator(mode="after")
    def _block_options(self) -> AveragingSection:
        if self.block_momentum == 0 and (self.nesterov_block or self.block_rate != 1.0):
            raise ValueError("block_rate and nesterov_block need a block_momentum above 0")
        return self


class Averaging(LocalSteps):
    """Every τ steps x ← mean of the workers' x: one sum of θ's size.

    With block momentum the mean's displacement is a gradient: D ← η_b D + ζ (mean - W);  W ← W + D;  workers continue
    from W, or with `nesterov_block` from W + η_b D.
    """

    def __init__(self, workers: Workers, options: AveragingSection) -> None:
        super().__init__(workers, options, options.momentum)
        self._own: AveragingSection = options

    def prepare(self, start: StartPoint) -> None:
        """All workers begin at the common point."""
        super().prepare(start)
        self._block = saved_or_zeros(start, "block")

    def update(self, share: Share, rate: float, count: int) -> None:
        """One local step; the meeting after every τ of them. Collective over the workers."""
        self.sgd_step(share, rate)
        if (count + 1) % self._own.tau == 0:
            self._average()

    def meet(self) -> None:
        """A pass ends with a meeting too, so that what is evaluated is the average."""
        if ((self.iteration + 1) * self.workers.steps) % self._own.tau:
            self._average()
        super().meet()

    def _average(self) -> None:
        options, workers = self._own, self.workers
        with workers.all.phase("exchange"):
            mean = workers.mean(self.x)
            if options.buffers == "average" and self.momentum:
                self.velocity = workers.mean(self.velocity)
        if options.buffers == "reset":
            self.velocity = namespace(self.x).zeros_like(self.velocity)
        if options.block_momentum:
            self._block = options.block_momentum * self._block + options.block_rate * (mean - self.centre)
            self.centre = self.centre + self._block
            ahead = options.block_momentum if options.nesterov_block else 0.0
            self.x = self.centre + ahead * self._block
        else:
            self.centre = mean
            self.x = copy(mean)

    def saved(self) -> SolverState:
        """The workers' points and momenta, and the block momentum."""
        saved = super().saved()
        vectors = {"block": self._block} if self._own.block_momentum else {}
        return SolverState(vectors, saved.own, saved.values)


def _seconds(options: AveragingSection, steps: Steps) -> Mapping[str, float]:
    """A sum over the workers every τ steps, of the momenta too where they are averaged."""
    vectors = 2 if options.buffers == "average" and options.momentum else 1
    updates = (6.0 if options.momentum else 3.0) + 4 / options.tau
    return mini_batches(steps, options.batch, updates, vectors / options.tau)


SOLVERS.add("averaging")(data_parallel(AveragingSection, Averaging, seconds=_seconds))
