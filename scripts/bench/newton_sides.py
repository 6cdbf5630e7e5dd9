"""Whole Newton iterations on both sides of the comparisons: dnewton's, and the same in PyTorch."""

from __future__ import annotations

import gc
import math
from typing import NamedTuple

import numpy as np
import torch
from sides import Ours, Theirs, inner, torch_cg

from dnewton.arrays import namespace
from dnewton.config.newton import NewtonSection
from dnewton.data.samples import Samples
from dnewton.data.sampling import Cycle, in_batches, run
from dnewton.data.targets import Targets
from dnewton.hardware.device import Device
from dnewton.hardware.rates import Rates
from dnewton.model.objective import Objective
from dnewton.planning import curvature_plan, grid_search
from dnewton.solvers import damping
from dnewton.solvers.newton.newton import MAX_TRIALS, SUBSAMPLE, Newton, State
from dnewton.training.job import DEVICE_SLACK, SHARE


def planned(ours: Ours, options: NewtonSection, rates: Rates) -> curvature_plan.CurvaturePlan:
    """What a run on these samples would decide; on a GPU in half of the memory, as PyTorch is on it, too."""
    count, device = int(ours.y.shape[0]), ours.device
    size = options.subsample_size(count, ours.outputs)
    work = grid_search.Workload(count, size, ours.outputs, options.batch_size)
    if device.is_host:
        return curvature_plan.decide(ours.network.plan, work, options, rates=rates)
    memory = SHARE * device.free_bytes() / 2
    return curvature_plan.decide(
        ours.network.plan, work, options, memory=memory, process=DEVICE_SLACK, rates=rates, on_device=True
    )


def our_newton(ours: Ours, options: NewtonSection, how: curvature_plan.CurvaturePlan) -> Newton:
    """The solver on these samples, ready to start."""
    k = ours.outputs
    classes = None if ours.config.net.loss.targets == "real" else np.arange(k)
    metric = Targets(k, classes, np.zeros(k), np.ones(k)).metric_sum(ours.loss)
    objective = Objective(
        ours.network,
        ours.comm,
        Samples(ours.x, ours.y),
        ours.loss,
        metric,
        ours.regulariser,
        how.batch,
        how.activation_cache_bytes,
    )
    return Newton(objective, options, ours.comm, how)


def first_state(ours: Ours, options: NewtonSection) -> State:
    """θ as it was drawn, and the first λ."""
    return State(namespace.copy(ours.theta), options.first_lambda)


class Taken(NamedTuple):
    """What an iteration in PyTorch did; `value` is f at the point that it reached."""

    cg: int
    trials: int
    value: float


class TheirNewton:
    """Newton iterations in PyTorch by the same rules, without the combination with the step before.

    f over all samples in batches, with the graphs of a trial point kept for its gradient; CG on the Gauss-Newton matrix
    of the same subsample from zero to the same residual; the same backtracking.
    """

    def __init__(self, theirs: Theirs, options: NewtonSection, batch: int, kept: bool) -> None:
        """`theirs` has all samples; `kept`: one linearisation serves all products of an iteration."""
        self.theirs, self.options, self.batch, self.kept = theirs, options, batch, kept
        size = options.subsample_size(theirs.samples, theirs.outputs)
        self.draws = Cycle(theirs.samples, size, options.seed, SUBSAMPLE)

    def start(self, state: State) -> None:
        """Go to where dnewton is."""
        self.params, self.damping = self.theirs.named(state.theta), state.damping
        self.iteration = state.iteration
        loss, leaves = self.evaluate(self.params)
        self.value, self.g = float(loss.detach()), self.gradient(loss, leaves)

    def evaluate(self, params: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """f, and the parameters that its graph leads to."""
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        t = self.theirs
        loss = sum((v**2).sum() for v in leaves.values()) * (t.regulariser / 2)
        for part in in_batches(run(0, t.samples), self.batch):
            here = slice(int(part[0]), int(part[-1]) + 1)
            z = torch.func.functional_call(t.net, leaves, (t.x[here],))
            if t.squared:
                loss = loss + ((z - t.y[here]) ** 2).sum() / t.samples
            else:
                loss = loss + torch.nn.functional.cross_entropy(z, t.y[here], reduction="sum") / t.samples
        return loss, leaves

    def gradient(self, loss: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """∇f by the graph of an evaluation."""
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def step(self) -> Taken:
        """One iteration."""
        options = self.options
        part = self.theirs.part(self.params, self.draws.draw(self.iteration))
        product = part.linearised() if self.kept else part.fresh_product
        d, n = torch_cg(product, self.g, self.damping, options.tolerance_of_cg, options.max_cg)
        slope = inner(self.g, d)
        curvature = -slope - self.damping * inner(d, d)  # dᵀGd: the residual of CG from zero is orthogonal to d
        del product  # and its graphs
        alpha, trials, ratio = 1.0, 0, -1.0
        while slope < 0 and trials < MAX_TRIALS:
            trials += 1
            trial = {k: v + alpha * d[k] for k, v in self.params.items()}
            loss, leaves = self.evaluate(trial)
            value = float(loss.detach())
            if math.isfinite(value) and value <= self.value + options.eta * alpha * slope:
                ratio = (value - self.value) / (alpha * slope + alpha**2 * curvature / 2)
                self.params, self.value, self.g = trial, value, self.gradient(loss, leaves)
                break
            del loss, leaves  # its graphs
            alpha /= 2
        self.damping = damping.update(self.damping, ratio, *options.factors)
        self.iteration += 1
        return Taken(n, trials, self.value)


def release(device: Device) -> None:
    """Give what nobody holds of the GPU's memory back, and begin to measure the peaks anew."""
    gc.collect()
    device.release()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def torch_peak() -> tuple[int, int] | None:
    """The most bytes that PyTorch's tensors had, and that PyTorch took of the GPU; None without one."""
    if not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())
