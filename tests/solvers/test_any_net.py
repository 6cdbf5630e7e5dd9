"""Every method on a net with a skip connection, a sequence, a global mean and the newer activations, for the newer
losses: what it reports is the objective at its point, on replicas and on model ranks."""

from __future__ import annotations

from typing import Any

import pytest
from crews import OnCrew, crewed, replicas
from oracle_solvers import Task
from problems import Problem

from dnewton.comm.communicator import Comm
from dnewton.config.solver_register import SOLVERS

pytestmark = pytest.mark.mpi

LAYERS: list[Any] = [
    {"conv": {"channels": 3, "kernel": 3, "padding": 1, "activation": "silu"}},
    {"residual": [{"conv": {"channels": 3, "kernel": 1, "activation": "gelu"}}]},
    "global_avgpool",
    {"residual": {"layers": [{"dense": {"units": 4, "activation": "elu"}}], "projection": True}},
    {"dense": {"units": 2, "activation": "sin"}},
    {"dense": {"units": 2}},
]
SERVED = {"dc_asgd", "downpour", "mdownpour", "adownpour", "mvadownpour"}  # not all of their ranks are workers
SETTINGS: dict[str, dict[str, Any]] = {
    "hessian_free": {"max_cg": 3},
}
NAMES = [name for name in SOLVERS.names() if name != "newton" and name not in SERVED]


@pytest.mark.parametrize("loss", ["huber", "poisson"])
@pytest.mark.parametrize("name", NAMES)
def test_reports_the_objective(comm: Comm, name: str, loss: str) -> None:
    problem = Problem((2, 5), LAYERS, loss, samples=8)
    for workers in (replicas(comm)[0], replicas(comm)[-1]):
        found = crewed(problem, comm, workers, name=name, **SETTINGS.get(name, {}))
        if not isinstance(found, OnCrew):
            continue
        found.begin()
        for _ in range(2):
            report = found.solver.step()
            assert report.loss == pytest.approx(Task(problem).value(found.flat()), rel=1e-9)
        found.solver.close()
