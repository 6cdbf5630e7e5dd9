"""What has to hold of any net, on every grid of the ranks, against the plain loops of the oracle."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
import oracle
import pytest
from places import put
from problems import OnRanks, Problem, flat, lay_out, relative
from share import from_first

from dnewton.comm.communicator import Comm
from dnewton.curvature.hessian import Hessian
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import grids
from dnewton.planning import traffic_forecast
from dnewton.solvers.newton.newton import State


def everywhere(comm: Comm, problem: Problem, kinks: bool = False) -> None:
    """f, ∇f, J in every representation, G, the Hessian, and the bytes of Newton iterations; `kinks`: the net has ReLUs
    or maxima, over which differences must not step."""
    curved = reference(problem).hessian(1e-6 if kinks else 1e-4)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        function_and_gradient(problem, on)
        for representation in ("factored", "dense"):
            products(problem, on, representation)
        matrix_free(problem, on)
        hessian(problem, on, curved, 1e-4 if kinks else 1e-8)
        traffic(comm, problem, on)


class Reference:
    """What the oracle says of a problem, worked out on rank 0 when first asked for. Collective over the session."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.direction = direction(problem)

    @cached_property
    def gradient(self) -> tuple[float, np.ndarray]:
        """f and ∇f."""
        p = self._problem
        return from_first(
            lambda: (p.objective_value(), flat(oracle.gradient(p.params, p.parsed, p.x, p.y, p.loss, p.C)))
        )

    @cached_property
    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """J v and (G + 0.3 I) v on every second sample."""
        s, p, v = np.arange(0, self._problem.samples, 2), self._problem, flat(self.direction)

        def compute() -> tuple[np.ndarray, np.ndarray]:
            jac = oracle.jacobian(p.params, p.parsed, p.x[s])
            dense = np.concatenate([jac[k].reshape(len(s), p.outputs, -1) for k in jac], axis=2)
            g = oracle.gauss_newton_matrix(p.params, p.parsed, p.x[s], p.y[s], p.loss, p.C, p.samples)
            return dense @ v, g @ v + 0.3 * v

        return from_first(compute)

    @cached_property
    def whole_product(self) -> np.ndarray:
        """(G + 0.3 I) v on all samples."""
        p, v = self._problem, flat(self.direction)

        def compute() -> np.ndarray:
            g = oracle.gauss_newton_matrix(p.params, p.parsed, p.x, p.y, p.loss, p.C, p.samples)
            return np.asarray(g @ v + 0.3 * v)

        return from_first(compute)

    def hessian(self, step: float) -> np.ndarray:
        """H v by differences, of order 4, of the gradient."""
        p = self._problem

        def gradient(t: float) -> Any:
            moved = {k: w + t * step * self.direction[k] for k, w in p.params.items()}
            return flat(oracle.gradient(moved, p.parsed, p.x, p.y, p.loss, np.inf))

        return from_first(lambda: (8 * (gradient(1) - gradient(-1)) - (gradient(2) - gradient(-2))) / (12 * step))


def reference(problem: Problem) -> Reference:
    """The problem's, made once."""
    found = problem.__dict__.get("reference")
    if found is None:
        found = problem.__dict__["reference"] = Reference(problem)
    return found


def direction(problem: Problem) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {k: rng.normal(size=v.shape) for k, v in problem.params.items()}


def function_and_gradient(problem: Problem, on: OnRanks, tolerance: float = 1e-11) -> None:
    value, gradient = reference(problem).gradient
    rest, last = np.arange(problem.samples - 3), np.arange(problem.samples - 3, problem.samples)
    at = on.objective.evaluate(on.theta, rest, last)
    assert at.value == pytest.approx(value, rel=tolerance)
    grad = on.whole(on.objective.gradient(on.theta, at))
    assert relative(flat(grad), gradient) < tolerance


def products(problem: Problem, on: OnRanks, representation: str, tolerance: float = 1e-11) -> None:
    """J v and (G + λI) v with a random v against the dense matrices."""
    expected = reference(problem)
    v = on.from_params(expected.direction)
    model = on.model(np.arange(0, problem.samples, 2), representation, parts=2)
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    image, product = expected.products
    assert relative(on.comm.allreduce(model.jacobian.times(v, unit)), image) < tolerance
    assert relative(flat(on.whole(model.full_product(v, unit, 0.3, on.comm))), product) < tolerance


def matrix_free(problem: Problem, on: OnRanks) -> None:
    """(G + λI) v by a tangent and a cotangent sweep."""
    expected = reference(problem)
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    product = on.by_passes(chunk=4).full_product(on.from_params(expected.direction), unit, 0.3, on.comm)
    assert relative(flat(on.whole(product)), expected.whole_product) < 1e-11


def hessian(problem: Problem, on: OnRanks, expected: np.ndarray, tolerance: float) -> None:
    """H v against differences of the oracle's gradient."""
    (x,) = on.objective.data.batches([np.arange(problem.samples)])
    batches = [(on.network.forward(on.theta, x), put(problem.y))]
    model = Hessian(on.network, on.theta, batches, on.objective.loss, problem.samples)
    product = model.product(on.from_params(reference(problem).direction))
    assert relative(flat(on.whole(product)), expected) < tolerance


def traffic(comm: Comm, problem: Problem, on: OnRanks) -> None:
    """The bytes of two accepted Newton iterations are those of the forecast."""
    options = problem.config.solver.model_copy(update={"subsample": 0.5})
    solver = on.newton(options=options)
    solver.start(State(on.theta, 1.0))
    size = solver._subsamples.size
    joined = problem.samples <= on.objective._batch_size
    sizes = Counter([size] if joined else [min(4, size - i) for i in range(0, size, 4)])
    for iteration in range(2):
        before = {n: t.bytes for n, t in on.comm.ledger.phases.items()}
        report = solver.step()
        change = {n: t.bytes - before.get(n, 0) for n, t in on.comm.ledger.phases.items()}
        if not report.alpha:
            break  # the forecast is for accepted steps
        did = traffic_forecast.Iteration(
            problem.samples, sizes, trials=report.trials, columns=1 + (iteration > 0), itemsize=8
        )
        expected = traffic_forecast.iteration_bytes(on.plan, did)
        for phase in ("function", "gradient", "jacobian", "combine"):
            assert comm.sum_scalars([float(change.get(phase, 0))])[0] == expected[phase], (on.plan.grid, phase)
    solver.close()
