"""Synchronous elastic averaging, EASGD and EAMSGD (Zhang, Choromanska, LeCun 2015, equations 5 and 6, Jacobi form)."""

from __future__ import annotations

from typing import Any

from dnewton.arrays.namespace import dot
from dnewton.config.baselines import ElasticSection
from dnewton.solvers.baselines.local_sgd import LocalSteps
from dnewton.solvers.baselines.workers import Share, Workers


class Elastic(LocalSteps):
    """If τ | t: e = α (x - x̃) with both from time t;  x takes its step (its gradient before the pull);  x -= e;
    x̃ += Σ e over the workers. α = β / p. One sum of θ's size per τ steps; every worker keeps a copy of x̃."""

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
        mine = dot(away, away)
        squares = self.workers.all.sum_scalars([mine])[0]
        return {"alpha": self.alpha, "spread": (max(0.0, squares) / self.workers.count) ** 0.5}
