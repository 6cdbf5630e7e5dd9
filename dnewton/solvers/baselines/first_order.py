"""Synchronous first-order methods: SGD with momentum, Adam and AdamW. All replicas hold the same point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from dnewton.arrays.namespace import Array, copy
from dnewton.config.baselines import WorkersSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Fraction, NotNegative, Positive
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.adam_moments import Moments
from dnewton.solvers.baselines.epoch_loop import Epochs, saved_or_zeros
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel
from dnewton.solvers.interface import SolverState, StartPoint


class SGDSection(WorkersSection):
    """Synchronous stochastic gradient descent: one sum of the gradient per step."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9  # weight of the old velocity
    nesterov: bool = False  # whether the momentum is Nesterov's
    weight_decay: NotNegative = 0.0  # added to the gradient, times theta

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGDSection:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class AdamSection(WorkersSection):
    """Adam (Kingma and Ba 2015), and AdamW with decoupled weight decay (Loshchilov and Hutter 2019)."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 0.003  # the rate of a step
    beta1: Fraction = 0.9  # weight of the old mean of gradients
    beta2: Fraction = 0.999  # weight of the old mean of their squares
    epsilon: Positive = 1e-8  # added to the root of the mean square
    weight_decay: NotNegative = 0.0  # adam: added to the gradient; adamw (default 0.01): theta *= 1 - rate * it

    @model_validator(mode="before")
    @classmethod
    def _adamw_decays(cls, value: Any) -> Any:
        return {"weight_decay": 0.01, **value} if isinstance(value, dict) and value.get("name") == "adamw" else value


class FirstOrder(Epochs):
    """θ and the mean gradient over all workers' samples: one sum of θ's size per step."""

    def prepare(self, start: StartPoint) -> None:
        """Take over θ."""
        self._theta = copy(start.theta)

    @property
    def theta(self) -> Array:
        """The point, alike on all replicas."""
        return self._theta

    def meet(self) -> None:
        """Replica 0's bits for all: MPI does not promise that a sum gives the same bits everywhere."""
        with self.workers.all.phase("exchange"):
            self._theta = self.workers.peers.bcast(self._theta)


class SGD(FirstOrder):
    """v ← μ v + g;  θ ← θ - η v, or θ - η (g + μ v) with Nesterov's momentum (as in PyTorch's SGD)."""

    def __init__(self, workers: Workers, options: SGDSection) -> None:
        super().__init__(workers, options)
        self._own: SGDSection = options

    def prepare(self, start: StartPoint) -> None:
        """Take over θ and the momentum."""
        super().prepare(start)
        self._velocity = saved_or_zeros(start, "velocity")

    def update(self, share: Share, rate: float, count: int) -> None:
        """One step. Collective over the workers."""
        options = self._own
        g = self.workers.mean_gradient(self._theta, share)
        if options.weight_decay:
            g += options.weight_decay * self._theta
        if options.momentum:
            self._velocity *= options.momentum
            self._velocity += g
            g = g + options.momentum * self._velocity if options.nesterov else self._velocity
        self._theta -= rate * g

    def saved(self) -> SolverState:
        """The momentum."""
        return SolverState({"velocity": self._velocity}, values=self.saved_values())


class Adam(FirstOrder):
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1); AdamW decays the weights beside it."""

    def __init__(self, workers: Workers, options: AdamSection) -> None:
        super().__init__(workers, options)
        self._own: AdamSection = options

    def prepare(self, start: StartPoint) -> None:
        """Take over θ and the moments."""
        super().prepare(start)
        options = self._own
        self._moments = Moments(
            saved_or_zeros(start, "first"),
            saved_or_zeros(start, "second"),
            int(start.saved.values.get("count", "0")) if start.saved is not None else 0,
            options.beta1,
            options.beta2,
            options.epsilon,
        )

    def update(self, share: Share, rate: float, count: int) -> None:
        """One step. Collective over the workers."""
        options = self._own
        g = self.workers.mean_gradient(self._theta, share)
        if options.weight_decay and options.name == "adam":
            g += options.weight_decay * self._theta
        step = self._moments.step(g, rate)
        if options.weight_decay and options.name == "adamw":
            self._theta *= 1 - rate * options.weight_decay
        self._theta -= step

    def saved(self) -> SolverState:
        """Both moments and the number of steps."""
        values: dict[str, Any] = {**self.saved_values(), "count": str(self._moments.count)}
        return SolverState({"first": self._moments.first, "second": self._moments.second}, values=values)


def _sgd_seconds(options: SGDSection, steps: Steps) -> Mapping[str, float]:
    """A sum over the workers per step."""
    return mini_batches(steps, options.batch, updates=7, sums=1)


def _adam_seconds(options: AdamSection, steps: Steps) -> Mapping[str, float]:
    """A sum over the workers per step."""
    return mini_batches(steps, options.batch, updates=15, sums=1)


SOLVERS.add("sgd")(data_parallel(SGDSection, SGD, vectors=7, seconds=_sgd_seconds))
SOLVERS.add("adam", "adamw")(data_parallel(AdamSection, Adam, vectors=9, seconds=_adam_seconds))
