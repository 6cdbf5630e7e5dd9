"""Entropy-SGD (Chaudhari et al. 2017a) and Parle (Chaudhari et al. 2017b): an inner loop that looks at f around the
outer point, and for Parle an elastic coupling of the workers' outer points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dnewton.arrays.namespace import Array, copy, dtype_name, host, namespace, to_device, zeros
from dnewton.config.baselines import WorkersSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, NotNegative, Positive, Rules
from dnewton.model.init_weights import drawn_rows
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines.epoch_loop import Epochs
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel
from dnewton.solvers.interface import SolverState, StartPoint

NOISE = 6  # purpose of this random draw


def _grown(value: float, growth: float, steps: int, most: float) -> float:
    """value (1 + growth)^steps, at most `most`."""
    return min(most, value * math.exp(min(700.0, steps * math.log1p(growth))))


class EntropySection(WorkersSection):
    """Entropy-SGD (Chaudhari et al. 2017), and Parle, the same with elastically coupled workers."""

    needs: ClassVar[Rules] = {
        "noise": ("name", ("entropy_sgd",)),
        "rho": ("name", ("parle",)),
        "rho_growth": ("name", ("parle",)),
    }

    name: Literal["entropy_sgd", "parle"] = "parle"
    inner_steps: Count = 5  # L: gradients of the inner loop per outer step
    inner_rate: Positive = 0.1  # rate of the inner steps
    momentum: Fraction = 0.9  # Nesterov's, in both loops
    gamma: Annotated[float, Field(ge=0, le=1)] = 1e-2  # how strongly the inner loop is held at the outer point
    gamma_growth: NotNegative = 1e-3  # scoping: gamma * (1 + growth)^outer steps, at most 1
    rho: Annotated[float, Field(ge=0, le=10)] = 0.1  # parle: coupling of the workers
    rho_growth: NotNegative = 1e-3  # rho * (1 + growth)^outer steps, at most 10
    noise: NotNegative = 1e-4  # entropy_sgd: of the inner gradients
    average: Annotated[float, Field(gt=0, le=1)] = 0.25  # weight of the newest inner point in their mean
    learning_rate: Positive = 1.0  # rate of the outer steps


class Entropy(Epochs):
    """A step of the schedule is one inner step; after L of them the outer step.

    Inner, from y = z = x (Nesterov, its buffer new every time):  y ← y - η' (∇f(y) + γ (y - x) + noise);
    z ← (1 - a) z + a y.   Outer:  x ← x - η Nesterov( (x - z) + ρ (x - x̄) ), x̄ the mean of the workers' z.
    `entropy_sgd` is one worker of many samples: gradients are summed over the workers and ρ is 0. `parle` sends two
    vectors of θ's size per L steps, x̄ and the mean of x, which is what is evaluated.
    """

    def __init__(self, workers: Workers, options: EntropySection) -> None:
        super().__init__(workers, options)
        self._own: EntropySection = options
        self._coupled = options.name == "parle"

    def prepare(self, start: StartPoint) -> None:
        """All workers begin at the common point, or where they were."""
        xp, saved = namespace(start.theta), start.saved
        own = saved.own if saved is not None else {}
        zeros = xp.zeros_like(start.theta)
        self._centre = copy(start.theta)
        self._x = own.get("x", copy(start.theta))
        self._v = own.get("velocity", zeros)  # Nesterov's buffer of the outer loop
        self._y = own.get("y", copy(self._x))
        self._z = own.get("z", copy(self._x))
        self._inner = own.get("inner", xp.zeros_like(zeros))
        self._outer = int(saved.values["outer"]) if saved is not None and own else 0

    @property
    def theta(self) -> Array:
        """The mean of the workers' outer points."""
        return self._centre

    def update(self, share: Share, rate: float, count: int) -> None:
        """An inner step, and an outer one where it is due. Collective over the workers."""
        options, workers = self._own, self.workers
        gamma = _grown(options.gamma, options.gamma_growth, self._outer, 1.0)
        if self._coupled:
            if len(share.indices):
                with workers.all.phase("gradient"):
                    self._step_inside(workers.gradient(self._y, share.indices), gamma)
        else:
            self._step_inside(workers.mean_gradient(self._y, share), gamma, self._noise(count))
        self._z = (1 - options.average) * self._z + options.average * self._y
        if (count + 1) % options.inner_steps == 0:
            self._step_outside(rate)

    def _step_inside(self, gradient: Array, gamma: float, noise: Array | float = 0.0) -> None:
        options = self._own
        d = gradient + gamma * (self._y - self._x) + noise
        self._inner = options.momentum * self._inner + d
        self._y = self._y - options.inner_rate * (d + options.momentum * self._inner)

    def _step_outside(self, rate: float) -> None:
        options = self._own
        workers = self.workers
        xp = namespace(self._x)
        d = self._x - self._z
        if self._coupled:
            rho = _grown(options.rho, options.rho_growth, self._outer, 10.0)
            with workers.all.phase("exchange"):
                d = d + rho * (self._x - workers.mean(self._z))
        self._v = options.momentum * self._v + d
        self._x = self._x - rate * (d + options.momentum * self._v)
        if self._coupled:
            with workers.all.phase("exchange"):
                self._centre = workers.mean(self._x)
        else:
            self._centre = self._x
        self._y = copy(self._x)
        self._z = copy(self._x)
        self._inner = xp.zeros_like(self._inner)
        self._outer += 1

    def _noise(self, count: int) -> Array | float:
        """Normal numbers keyed by (seed, layer, row, step): the same whatever the layout."""
        options, network = self._own, self.workers.objective.network
        if not options.noise:
            return 0.0
        out = zeros(network.size, host([]), dtype_name(self._x))
        for block in network.blocks:
            rows = drawn_rows(block, [options.seed, NOISE + (block.layer.spec.key << 8)], count, 1.0)
            block.weight(out)[...] = rows
        return options.noise / math.sqrt(0.5 * options.inner_rate) * to_device(out, self._x)

    def meet(self) -> None:
        """Replica 0's bits for all."""
        with self.workers.all.phase("exchange"):
            self._centre = self.workers.peers.bcast(self._centre)

    def figures(self) -> dict[str, Any]:
        """Outer steps done."""
        return {"outer_steps": self._outer}

    def saved(self) -> SolverState:
        """Both loops of every worker."""
        own = {"x": self._x, "velocity": self._v, "y": self._y, "z": self._z, "inner": self._inner}
        return SolverState(own=own, values={**self.saved_values(), "outer": str(self._outer)})


DRAWS = 12.0  # array operations that a vector of normal numbers takes


def _seconds(options: EntropySection, steps: Steps) -> Mapping[str, float]:
    """`parle` sends two sums per outer step, `entropy_sgd` one per inner step and draws noise."""
    often = options.inner_steps
    if options.name == "parle":
        return mini_batches(steps, options.batch, 13.0 + 10 / often, 2 / often)
    return mini_batches(steps, options.batch, 13.0 + 8 / often + (DRAWS if options.noise else 0.0), 1)


SOLVERS.add("entropy_sgd", "parle")(data_parallel(EntropySection, Entropy, vectors=15, seconds=_seconds))
