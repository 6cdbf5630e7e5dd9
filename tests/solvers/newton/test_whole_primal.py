"""Exact solves of the whole system by the matrix of all variables, on every grid, against the dense system."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from problems import MLP, Problem, flat, lay_out, relative, with_outputs

from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import grids
from dnewton.planning.curvature_plan import decide
from dnewton.planning.grid_search import Workload
from dnewton.solvers.newton import whole_primal

pytestmark = pytest.mark.mpi
DAMPING = 0.3


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("samples", [2, 9])
@pytest.mark.parametrize("rows", [1 << 30, 4096])
def test_the_solution(comm: Comm, loss: str, samples: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_primal, "ROWS", rows)
    problem = Problem((5,), with_outputs(MLP, 3), loss, samples=samples)
    p = problem
    g = np.random.default_rng(2).normal(size=flat(p.params).size)
    dense = oracle.gauss_newton_matrix(p.params, p.parsed, p.x, p.y, p.loss, p.C, p.samples)
    expected = np.linalg.solve(dense + DAMPING * np.eye(len(g)), -g)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        (unit,) = local_systems(on.network.blocks, per_layer=False)
        shapes = {k: v.shape for k, v in p.params.items()}
        own = on.from_params(oracle.unflatten(g, shapes))
        for how in ("factored", "dense"):
            system = whole_primal.WholePrimalSystem(on.model(None, how, parts=2), own, unit, on.comm)
            for _ in range(2):  # the second time with the matrix that is there
                found = system.solve(DAMPING)
                assert found is not None
                assert relative(flat(on.whole(found)), expected) < 1e-9


def test_who_takes_it(comm: Comm) -> None:
    """Where there are fewer variables than rows."""
    problem = Problem((5,), MLP, "squared")
    plan = lay_out(problem, comm).plan
    assert plan.variables == flat(problem.params).size
    options = {"curvature": "full", "subproblem": "exact", "subsample": 1.0}
    for solver, samples, expected in ((options, 40, True), (options, 20, False), ({"subsample": 1.0}, 40, False)):
        section = Problem((5,), MLP, "squared", solver={"damping": "auto", **solver}).config.solver
        how = decide(plan, Workload(samples, samples, 3), section)
        assert how.whole_primal == expected
