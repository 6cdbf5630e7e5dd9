"""Forecast bytes are those that the communicator counts."""

from __future__ import annotations

from itertools import product

import pytest
from problems import CNN, MLP, Problem, lay_out

from dnewton.comm.communicator import Comm
from dnewton.grid import grids
from dnewton.planning import traffic_forecast
from dnewton.solvers.newton.newton import State


@pytest.mark.mpi
@pytest.mark.at16
@pytest.mark.parametrize(("curvature", "rule"), [("diagonal", "paper"), ("full", "paper"), ("diagonal", "auto")])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_forecast_equals_the_counted_bytes(comm: Comm, net: str, curvature: str, rule: str) -> None:
    solver = {"curvature": curvature, "damping": rule, "subsample": 0.5, "max_cg": 5}
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN, samples=12, solver=solver)
    for grid, batch in product(grids(comm.size), (4, 100)):
        on = lay_out(problem, comm, grid, batch=batch)
        solver_ = on.newton(options=problem.config.solver)
        solver_.start(State(on.theta, 1.0))
        for iteration in range(2):
            before = {n: t.bytes for n, t in on.comm.ledger.phases.items()}
            step = solver_.step()
            change = {n: t.bytes - before.get(n, 0) for n, t in on.comm.ledger.phases.items()}
            assert step.alpha, "the forecast is for accepted steps"
            did = traffic_forecast.Iteration(
                12,
                {4: 1, 2: 1} if batch == 4 else {6: 1},
                trials=step.trials,
                columns=1 + (iteration > 0),
                itemsize=8,
                full_cg=step.cg if curvature == "full" else 0,
                solves=step.extra.get("solves", 1),
                learns=rule == "auto",
                scales=rule == "auto" and iteration == 0,
            )
            expected = traffic_forecast.iteration_bytes(on.plan, did)
            for phase in ("function", "gradient", "jacobian", "cg", "combine"):
                assert comm.sum_scalars([float(change.get(phase, 0))])[0] == expected[phase], (grid, phase)
        solver_.close()
