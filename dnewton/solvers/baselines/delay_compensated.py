"""Delay-compensated asynchronous SGD, DC-ASGD (Zheng et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from dnewton.arrays.namespace import Array, copy, namespace
from dnewton.config.baselines import ServedSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Fraction, NotNegative, Positive, Rules
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines.async_workers import Served
from dnewton.solvers.baselines.server_rules import Rule, Shard
from dnewton.solvers.baselines.workers import Share, data_parallel
from dnewton.solvers.interface import StartPoint

EPSILON = 1e-7  # beside the mean square


class DelayCompensatedSection(ServedSection):
    """Delay-compensated asynchronous SGD (Zheng et al. 2017)."""

    needs: ClassVar[Rules] = {"mean_square": ("variant", ("adaptive",))}

    name: Literal["dc_asgd"] = "dc_asgd"
    # async: the servers answer whoever comes; round_robin: in turn, so that runs can be repeated
    mode: Literal["async", "round_robin"] = "async"
    learning_rate: Positive = 0.1  # the rate of a step
    # of the compensation: with a constant factor, or divided by the root of the mean square
    variant: Literal["constant", "adaptive"] = "constant"
    compensation: NotNegative = 0.04  # the papers' lambda_0; adaptive: about 2
    mean_square: Fraction = 0.95  # adaptive: weight of the old mean square


class DelayCompensated(Served):
    """DC-ASGD (Zheng et al. 2017): push g, pull the corrected model; the correction is the servers'."""

    def prepare(self, start: StartPoint) -> None:
        """The servers must know what each worker was given."""
        super().prepare(start)
        with self.workers.all.phase("exchange"):
            self._link.known(self.x)

    def update(self, share: Share, rate: float, count: int) -> None:
        """One step. Collective over the replica."""
        g = self.local_gradient(self.x, share)
        with self.workers.all.phase("exchange"):
            if g is None:
                self._link.skip(self.x)
            else:
                self._link.push(g, rate)
            self.x = self._link.pull(self.x)


class DelayRule(Rule):
    """A push is g and η:  x̃ ← x̃ - η (g + λ g² (x̃ - backup)), with λ / √(mean square + ε) if adaptive (one mean square
    for all workers)."""

    extra = 1
    copies_per_worker = 1

    def __init__(self, options: DelayCompensatedSection) -> None:
        self._options = options

    def given(self, shard: Shard, worker: int) -> Array:
        """The centre, which is kept as what the worker has."""
        shard.backup[worker] = copy(shard.centre)
        return shard.centre

    def apply(self, shard: Shard, worker: int, push: Array) -> None:
        """A step along the gradient corrected for what the centre has moved since the worker's pull."""
        options = self._options
        g, rate = push[:-1], push[-1]
        strength: Array | float = options.compensation
        if options.variant == "adaptive":
            before = shard.second if shard.version and shard.second is not None else g * g
            shard.second = options.mean_square * before + (1 - options.mean_square) * g * g
            strength = options.compensation / namespace(g).sqrt(shard.second + EPSILON)
        shard.centre = shard.centre - rate * (g + strength * g * g * (shard.centre - shard.backup[worker]))


def _seconds(options: DelayCompensatedSection, steps: Steps) -> Mapping[str, float]:
    """A push and a pull per step."""
    return mini_batches(steps, options.batch, 2.0, 0.0, steps.served(1))


SOLVERS.add("dc_asgd")(data_parallel(DelayCompensatedSection, DelayCompensated, rule=DelayRule, seconds=_seconds))
