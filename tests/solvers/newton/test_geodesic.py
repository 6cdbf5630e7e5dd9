"""Geodesic acceleration: against dense systems and second differences, its messages, and what it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from equations import Equations
from places import ARRAYS
from problems import flat, relative

import dnewton as dn
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import grids
from dnewton.planning import traffic_forecast
from dnewton.solvers.newton import geodesic
from dnewton.solvers.newton.combine import Direction
from dnewton.solvers.newton.exact_systems import DualSystem
from dnewton.solvers.newton.newton import State

pytestmark = pytest.mark.skipif(ARRAYS != "numpy", reason="residuals are functions of NumPy arrays")
DAMPING = 0.05


def residual(x: Any, u: Any) -> Any:
    return u.laplacian() + u.value**2 - x[:, :1]


def problem() -> Equations:
    layers = [{"dense": {"units": 5, "activation": "tanh"}}, {"dense": {"units": 1}}]
    return Equations(2, layers, [(residual, 9, 1.0)])


@pytest.mark.mpi
def test_the_second_order_of_a_step(comm: Comm) -> None:
    """a of (G + λI) a = -(2/N) Jᵀ r″, r″ by second differences along p in extended precision."""
    given = problem()
    params, jac = given.inner.params, given.jacobian()[:, 0, :]
    n, size = jac.shape
    rng = np.random.default_rng(1)
    p = {k: 0.02 * rng.normal(size=v.shape) for k, v in params.items()}

    def along(t: float) -> np.ndarray:
        return np.asarray(given.residuals({k: v + np.longdouble(t) * p[k] for k, v in params.items()})[:, 0])

    exact = (along(1e-4) - 2 * along(0) + along(-1e-4)) / np.longdouble(1e-8)
    system = 2 * jac.T @ jac / n + (DAMPING + 1 / (given.C * n)) * np.eye(size)
    expected = np.linalg.solve(system, -2 / n * jac.T @ exact.astype(np.float64))
    for grid in grids(comm.size):
        on = given.lay_out(comm, grid)
        (unit,) = local_systems(on.network.blocks, per_layer=False)
        model = on.model(np.arange(n), "factored", parts=2)
        matrix = DualSystem(model, on.theta, unit, on.comm if comm.size > 1 else None)

        def ahead(step: np.ndarray, on: Any = on) -> np.ndarray:
            return np.asarray(on.network.forward(on.theta + step, on.objective.data.x, keep=False).z)

        def solve(g: np.ndarray, matrix: Any = matrix) -> np.ndarray:
            return np.asarray(matrix.solve(DAMPING, g))

        direction = Direction(on.from_params(p), -1.0, 1.0)
        found = geodesic.bent(model, unit, direction, ahead, solve, on.comm)
        assert found.bend is not None
        assert relative(2 * flat(on.whole(found.bend)), expected) < 0.02  # r″ with a step of 0.1
        assert relative(found.step(0.5), 0.5 * direction.p + 0.25 * found.bend) < 1e-12
        wild = geodesic.bent(model, unit, direction, ahead, lambda g: g + np.nan, on.comm)
        assert wild.bend is None
        large = geodesic.bent(model, unit, direction, ahead, lambda g, p=direction.p: 0.8 * p, on.comm)
        assert large.bend is None


@pytest.mark.mpi
@pytest.mark.parametrize("curvature", ["diagonal", "full"])
def test_the_bytes_of_the_forecast(comm: Comm, curvature: str) -> None:
    given = problem()
    for grid in grids(comm.size):
        on = given.lay_out(comm, grid, batch=20)
        options = NewtonSection.model_validate(
            {"curvature": curvature, "subproblem": "exact", "acceleration": "geodesic", "lambda": 1.0, "subsample": 1.0}
        )
        solver = on.newton(options=options)
        solver.start(State(on.theta, 1.0))
        solver.step()
        before = {name: t.bytes for name, t in on.comm.ledger.phases.items()}
        report = solver.step()
        change = {name: t.bytes - before.get(name, 0) for name, t in on.comm.ledger.phases.items()}
        did = traffic_forecast.Iteration(given.samples, {given.samples: 1}, report.trials, itemsize=8)
        solves = report.extra["solves"]
        expected = traffic_forecast.iteration_bytes(on.plan, replace(did, solves=solves, accelerated=solves))
        for phase in ("function", "gradient", "jacobian", "combine"):
            assert comm.sum_scalars([float(change.get(phase, 0))])[0] == expected[phase], (grid, phase)
        solver.close()


@pytest.mark.mpi
def test_fewer_iterations(comm: Comm) -> None:
    """Rosenbrock's valley in a net's outputs: the way along it is bent."""
    x = np.random.default_rng(0).uniform(-1, 1, size=(80, 2))
    y = np.sin(3 * x[:, 0]) * x[:, 1]
    net = dn.net([2], [dn.dense(10, "tanh"), dn.dense(1)])
    solver = {"C": np.inf, "max_iterations": 40, "curvature": "full", "subproblem": "exact"}
    losses = {
        kind: dn.fit(net, x, y, solver={**solver, "acceleration": kind}, parallel={"dtype": "float64"}).history["loss"]
        for kind in ("none", "geodesic")
    }
    assert losses["geodesic"][-1] < 0.5 * losses["none"][-1]


@pytest.mark.mpi
def test_a_bent_step_is_not_shortened(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not lower f is solved again for a larger λ, from which the next iteration begins."""
    monkeypatch.setattr(geodesic, "LARGEST", 1e9)
    x = np.random.default_rng(0).uniform(-1, 1, size=(80, 2))
    net = dn.net([2], [dn.dense(10, "tanh"), dn.dense(1)])
    solver = {"C": np.inf, "max_iterations": 30, "curvature": "full", "subproblem": "exact", "lambda": 1e-6}
    solver |= {"acceleration": "geodesic"}
    history = dn.fit(net, x, np.sin(3 * x[:, 0]) * x[:, 1], solver=solver, parallel={"dtype": "float64"}).history
    taken, solves, ratio, lam = (history[k] for k in ("step", "solves", "ratio", "lambda"))
    assert set(taken[1:]) <= {0.0, 1.0} and (history["trials"][1:] == solves[1:]).all()
    assert 1 < solves[1:].max() < 7 and (solves[1:] == 1).any()
    for k in range(2, len(lam)):
        if taken[k] and taken[k - 1]:  # 2, 4, 8, ... times λ
            factor = 0.5 if solves[k] == 1 and ratio[k] > 0.25 else 2 ** (solves[k] * (solves[k] - 1) / 2)
            assert lam[k] == factor * lam[k - 1]


@pytest.mark.parametrize(
    ("solver", "loss", "message"),
    [
        ({"acceleration": "geodesic"}, "squared", "acceleration needs subproblem: exact"),
        ({"acceleration": "geodesic", "subproblem": "exact", "drop": 0.5}, "squared", "needs damping: auto"),
        (
            {"acceleration": "geodesic", "subproblem": "exact"},
            "huber",
            "acceleration: geodesic needs net.loss: squared",
        ),
        ({"acceleration": "fast"}, "squared", "acceleration"),
    ],
)
def test_mistakes(solver: dict[str, Any], loss: str, message: str) -> None:
    net = dn.net([2], [dn.dense(3, "tanh"), dn.dense(1)], loss=loss)
    with pytest.raises(dn.UserError, match=message):
        dn.fit(net, np.eye(2), np.ones(2), solver=solver)
