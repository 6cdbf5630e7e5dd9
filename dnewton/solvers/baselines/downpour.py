"""Downpour SGD (Dean et al. 2012) with its averaged and momentum forms (Zhang et al. 2015, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.baselines import ServedSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, Positive, Rules
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines.async_workers import Served
from dnewton.solvers.baselines.epoch_loop import saved_or_zeros
from dnewton.solvers.baselines.server_rules import Rule, Shard
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel
from dnewton.solvers.interface import SolverState, StartPoint


class DownpourSection(ServedSection):
    """Downpour SGD and its averaged and momentum forms (Dean et al. 2012; Zhang et al. 2015, section 5)."""

    smaller_rates: ClassVar[dict[str, float]] = {"mdownpour": 0.01}
    needs: ClassVar[Rules] = {"momentum": ("name", ("mdownpour",)), "average": ("name", ("mvadownpour",))}

    name: Literal["downpour", "mdownpour", "adownpour", "mvadownpour"] = "downpour"
    # async: the servers answer whoever comes; round_robin: in turn, so that runs can be repeated
    mode: Literal["async", "round_robin"] = "async"
    learning_rate: Positive = 0.1  # the rate of a step
    tau: Count = 1  # steps between two exchanges
    momentum: Fraction = 0.9  # mdownpour only: Nesterov momentum of the centre
    average: Annotated[float, Field(gt=0, le=1)] = 0.01  # mvadownpour only: weight of the newest centre

    @model_validator(mode="after")
    def _momentum_is_the_servers(self) -> DownpourSection:
        if self.name == "mdownpour" and self.tau != 1:
            raise ValueError("mdownpour is defined for tau: 1 only")
        return self


class Downpour(Served):
    """DOWNPOUR and its averaged forms: steps add up for τ steps, are pushed, and x is set to the pulled centre.

    mdownpour (τ = 1): the gradient is taken at the pulled x̃ + δ v, and the servers hold the momentum.
    """

    def __init__(self, workers: Workers, options: DownpourSection) -> None:
        super().__init__(workers, options)
        self.tau = options.tau

    def prepare(self, start: StartPoint) -> None:
        """Nothing has added up, or what had."""
        super().prepare(start)
        self._sum = saved_or_zeros(start, "sum")
        self._moved = bool(namespace(self._sum).any(self._sum != 0))

    def update(self, share: Share, rate: float, count: int) -> None:
        """One local step. Collective over the replica."""
        g = self.local_gradient(self.x, share)
        if g is not None:
            self._sum = self._sum - rate * g
            self.x = self.x - rate * g
            self._moved = True
        if (count + 1) % self.tau:
            return
        with self.workers.all.phase("exchange"):
            if self._moved:
                self._link.push(self._sum)
            else:
                self._link.skip(self.x)
            self.x = self._link.pull(self.x)
        self._sum = namespace(self.x).zeros_like(self.x)
        self._moved = False

    def saved(self) -> SolverState:
        """Also what has added up."""
        saved = super().saved()
        return SolverState(saved.vectors, {**saved.own, "sum": self._sum}, saved.values)


class DownpourRule(Rule):
    """downpour: x̃ += push (the worker has multiplied by -η). mdownpour: v ← δ v + push, x̃ += v. adownpour, mvadownpour:
    also z ← (1 - a) z + a x̃ with a = 1/(t + 1), or constant."""

    def __init__(self, options: DownpourSection) -> None:
        self._options = options
        self.averaged = options.name in ("adownpour", "mvadownpour")

    def given(self, shard: Shard, worker: int) -> Array:
        """The centre; with mdownpour x̃ + δ v, the point that Nesterov looks at."""
        if self._options.name == "mdownpour" and shard.second is not None:
            return shard.centre + self._options.momentum * shard.second
        return shard.centre

    def apply(self, shard: Shard, worker: int, push: Array) -> None:
        """Add the push to the centre, or to the servers' momentum; then to the average where there is one."""
        options = self._options
        if options.name == "mdownpour":
            before = namespace(push).zeros_like(push) if shard.second is None else shard.second
            shard.second = options.momentum * before + push
            shard.centre = shard.centre + shard.second
        else:
            shard.centre = shard.centre + push
        if self.averaged and shard.second is not None:
            a = 1 / (shard.version + 2) if options.name == "adownpour" else options.average
            shard.second = (1 - a) * shard.second + a * shard.centre


def _seconds(options: DownpourSection, steps: Steps) -> Mapping[str, float]:
    """A push and a pull every τ steps."""
    return mini_batches(steps, options.batch, 6.0, 0.0, steps.served(1) / options.tau)


SOLVERS.add("downpour", "mdownpour", "adownpour", "mvadownpour")(
    data_parallel(DownpourSection, Downpour, rule=DownpourRule, seconds=_seconds)
)
