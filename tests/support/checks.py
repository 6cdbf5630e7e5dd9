"""What has to hold of any net, on every grid of the ranks, against the plain loops of the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from places import put
from problems import OnRanks, Problem, flat, lay_out, relative

from dnewton.comm.communicator import Comm
from dnewton.curvature.hessian import Hessian
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import grids
from dnewton.planning import traffic_forecast
from dnewton.solvers.newton.newton import State


def everywhere(comm: Comm, problem: Problem, kinks: bool = False) -> None:
    """f, ∇f, J in every representation, G, the Hessian, and the bytes of Newton iterations; `kinks`: the net has ReLUs
    or maxima, over which differences must not step."""
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        function_and_gradient(problem, on)
        for representation in ("factored", "dense"):
            products(problem, on, representation)
        matrix_free(problem, on)
        hessian(problem, on, 1e-6 if kinks else 1e-4, 1e-4 if kinks else 1e-8)
        traffic(comm, problem, on)


def function_and_gradient(problem: Problem, on: OnRanks, tolerance: float = 1e-11) -> None:
    rest, last = np.arange(problem.samples - 3), np.arange(problem.samples - 3, problem.samples)
    at = on.objective.evaluate(on.theta, rest, last)
    assert at.value == pytest.approx(problem.objective_value(), rel=tolerance)
    grad = on.whole(on.objective.gradient(on.theta, at))
    expected = oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C)
    assert relative(flat(grad), flat(expected)) < tolerance


def direction(problem: Problem) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {k: rng.normal(size=v.shape) for k, v in problem.params.items()}


def products(problem: Problem, on: OnRanks, representation: str, tolerance: float = 1e-11) -> None:
    """J v and (G + λI) v with a random v against the dense matrices."""
    s = np.arange(0, problem.samples, 2)
    params = direction(problem)
    v = on.from_params(params)
    model = on.model(s, representation, parts=2)
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    jac = oracle.jacobian(problem.params, problem.parsed, problem.x[s])
    dense = np.concatenate([jac[k].reshape(len(s), problem.outputs, -1) for k in jac], axis=2)
    assert relative(on.comm.allreduce(model.jacobian.times(v, unit)), dense @ flat(params)) < tolerance
    g = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x[s], problem.y[s], problem.loss, problem.C, problem.samples
    )
    whole_product = on.whole(model.full_product(v, unit, 0.3, on.comm))
    assert relative(flat(whole_product), g @ flat(params) + 0.3 * flat(params)) < tolerance


def matrix_free(problem: Problem, on: OnRanks) -> None:
    """(G + λI) v by a tangent and a cotangent sweep."""
    params = direction(problem)
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    g = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )
    product = on.by_passes(chunk=4).full_product(on.from_params(params), unit, 0.3, on.comm)
    assert relative(flat(on.whole(product)), g @ flat(params) + 0.3 * flat(params)) < 1e-11


def hessian(problem: Problem, on: OnRanks, step: float, tolerance: float) -> None:
    """H v against differences, of order 4, of the oracle's gradient."""
    v = direction(problem)
    batches = [
        (on.network.forward(on.theta, next(on.objective.data.batches([np.arange(problem.samples)]))), put(problem.y))
    ]
    product = Hessian(on.network, on.theta, batches, on.objective.loss, problem.samples).product(on.from_params(v))

    def gradient(t: float) -> Any:
        moved = {k: p + t * step * v[k] for k, p in problem.params.items()}
        return flat(oracle.gradient(moved, problem.parsed, problem.x, problem.y, problem.loss, np.inf))

    expected = (8 * (gradient(1) - gradient(-1)) - (gradient(2) - gradient(-2))) / (12 * step)
    assert relative(flat(on.whole(product)), expected) < tolerance


def traffic(comm: Comm, problem: Problem, on: OnRanks) -> None:
    """The bytes of two accepted Newton iterations are those of the forecast."""
    options = problem.config.solver.model_copy(update={"subsample": 0.5})
    solver = on.newton(options=options)
    solver.start(State(on.theta, 1.0))
    size = solver._subsamples.size
    joined = problem.samples <= on.objective._batch_size
    sizes = (size,) if joined else tuple(min(4, size - i) for i in range(0, size, 4))
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
