"""Elastic averaging, EASGD and EAMSGD (Zhang, Choromanska, LeCun 2015): in step, or by parameter servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dnewton.arrays.namespace import dot
from dnewton.config.baselines import ServedSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, Positive, Rules
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines.async_workers import Served
from dnewton.solvers.baselines.local_sgd import LocalSteps
from dnewton.solvers.baselines.server_rules import Rule
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel


class ElasticSection(ServedSection):
    """Elastic averaging (Zhang, Choromanska, LeCun 2015): workers are pulled to a centre and pull it."""

    smaller_rates: ClassVar[dict[str, float]] = {"eamsgd": 0.05}
    needs: ClassVar[Rules] = {"momentum": ("name", ("eamsgd",)), "server_ranks": ("mode", ("async", "round_robin"))}

    name: Literal["easgd", "eamsgd"] = "easgd"
    # sync: all workers in step; the others have parameter servers
    mode: Literal["sync", "async", "round_robin"] = "sync"
    learning_rate: Positive = 0.2  # the rate of a step
    tau: Count = 4  # steps between two exchanges
    beta: Annotated[float, Field(gt=0, lt=2)] = 0.9  # of all workers together; each moves by alpha = beta / workers
    momentum: Fraction = 0.9  # eamsgd only (delta)


class Elastic(LocalSteps):
    """In step (equations 5 and 6, Jacobi form): one sum of θ's size per τ steps; every worker keeps a copy of x̃.

    If τ | t: e = α (x - x̃) with both from time t;  x takes its step (its gradient before the pull);  x -= e;
    x̃ += Σ e over the workers. α = β / p.
    """

    def __init__(self, workers: Workers, options: ElasticSection) -> None:
        super().__init__(workers, options, options.momentum if options.name == "eamsgd" else 0.0)
        self.tau = options.tau
        self.alpha = options.beta / workers.count

    def update(self, share: Share, rate: float, count: int) -> None:
        """One local step, and the exchange where it is due. Collective over the workers."""
        if count % self.tau:
            self.sgd_step(share, rate)
            return
        pull = self.alpha * (self.x - self.centre)
        self.sgd_step(share, rate)
        self.x = self.x - pull
        with self.workers.all.phase("exchange"):
            self.centre = self.centre + self.workers.peers.allreduce(pull)

    def describe(self) -> list[str]:
        """The α that follows from β."""
        return [f"elastic: alpha = beta / workers = {self.alpha:g}, an exchange every {self.tau} step(s)"]

    def figures(self) -> dict[str, Any]:
        """α, and how far the workers are from the centre (root mean square over the workers)."""
        away = self.x - self.centre
        square = dot(away, away)
        squares = self.workers.all.sum_scalars([square])[0]
        return {"alpha": self.alpha, "spread": (max(0.0, squares) / self.workers.count) ** 0.5}


class AsyncElastic(Served):
    """Asynchronous EASGD and EAMSGD (Zhang et al. 2015, algorithms 1 and 2), in the order of the authors' code:
    if τ | t pull x̃ and push e = α (x - x̃); take the step while e travels; then x -= e."""

    def __init__(self, workers: Workers, options: ElasticSection) -> None:
        super().__init__(workers, options, options.momentum if options.name == "eamsgd" else 0.0)
        self.tau = options.tau
        self.alpha = options.beta / workers.count

    def update(self, share: Share, rate: float, count: int) -> None:
        """One local step. Collective over the replica."""
        if count % self.tau:
            self.sgd_step(share, rate)
            return
        with self.workers.all.phase("exchange"):
            e = self.alpha * (self.x - self._link.pull(self.x))
            self._link.push(e)
        self.sgd_step(share, rate)
        self.x = self.x - e

    def describe(self) -> list[str]:
        """The α that follows from β."""
        return [f"elastic: alpha = beta / workers = {self.alpha:g}, an exchange every {self.tau} step(s)"]


def _solver(workers: Workers, options: ElasticSection) -> Elastic | AsyncElastic:
    return Elastic(workers, options) if options.mode == "sync" else AsyncElastic(workers, options)


def _seconds(options: ElasticSection, steps: Steps) -> Mapping[str, float]:
    """A sum over the workers, or a pull and a push, every τ steps."""
    updates = 6.0 if options.name == "eamsgd" else 3.0
    served = 0.0 if options.mode == "sync" else steps.served(1) / options.tau
    sums = 1 / options.tau if options.mode == "sync" else 0.0
    return mini_batches(steps, options.batch, updates + 2 / options.tau, sums, served)


SOLVERS.add("easgd", "eamsgd")(data_parallel(ElasticSection, _solver, rule=lambda _: Rule(), seconds=_seconds))
