"""Exact systems for several λ, and the Cholesky factor over the ranks, against dense float64 algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from places import host, put
from problems import flat, relative
from systems import NETS, dense_pieces, gram, setting

from dnewton.comm.communicator import Comm
from dnewton.curvature.gram import Panel
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import runs
from dnewton.solvers.newton import distributed_cholesky, exact_systems
from dnewton.solvers.newton.distributed_cholesky import DistributedMatrix
from dnewton.solvers.newton.exact_systems import DualSystem, PrimalSystem

DAMPINGS = (0.2, 5.0, 0.001)


def share(comm: Comm, matrix: np.ndarray, width: int) -> list[Panel]:
    """A rank's part of a matrix that all know: the parts have nothing else in common."""
    parts = np.random.default_rng(5).normal(size=(comm.size, *matrix.shape))
    parts[0] += matrix - parts.sum(axis=0)
    own = parts[comm.rank].astype(matrix.dtype)
    return [Panel(c.start, put(own[c.start :, c].copy())) for c in runs(len(matrix), width)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 2), (12, 12), (29, 3), (40, 16)])
def test_factors_over_the_ranks(comm: Comm, rows: int, width: int, dtype: Any) -> None:
    """More ranks than panels, panels of which the last is narrower, several shifts of one matrix."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(rows, rows))
    matrix = (root @ root.T).astype(dtype)
    right = rng.normal(size=rows).astype(dtype)
    limit = 1e-9 if dtype is np.float64 else 1e-3
    held = DistributedMatrix(share(comm, matrix, width), comm)
    for shift in (2.0, 0.5, 9.0):
        factor = held.factor(shift)
        assert factor is not None
        found = host(factor.solve(put(right)))
        assert relative(found, np.linalg.solve(matrix + shift * np.eye(rows), right)) < limit
        every = comm.gather_to_root(found)
        assert comm.rank or (every == every[0]).all()  # bit for bit
    assert relative(held.eigenvalues(), np.linalg.eigvalsh(matrix)) < limit
    assert held.trace() == pytest.approx(np.trace(matrix), rel=limit)


@pytest.mark.parametrize("bad", [0, 3, 8])
def test_all_ranks_find_a_singular_matrix(comm: Comm, bad: int) -> None:
    """Whichever rank has the pivot; and the same matrix has a factor with a shift."""
    matrix = np.eye(9)
    matrix[bad, bad] = 0.0
    panels = [Panel(c.start, put(matrix[c.start :, c] / comm.size)) for c in runs(9, 2)]
    held = DistributedMatrix(panels, comm)
    assert held.factor(0.0) is None
    assert held.factor(1.0) is not None


@pytest.mark.parametrize("representation", ["factored", "dense"])
@pytest.mark.parametrize("kind", [PrimalSystem, DualSystem])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_one_matrix_for_several_dampings(comm: Comm, net: str, kind: Any, representation: str) -> None:
    problem, on, grad = setting(comm, net, "cross_entropy")
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    system = kind(on.model(representation=representation), grad, unit)
    for damping in DAMPINGS:
        d = system.solve(damping)
        assert d is not None
        assert relative(flat(on.whole(d)), dense_pieces(problem, on, False, damping)) < 1e-8


@pytest.mark.parametrize("width", [3, 6, 1000])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_the_whole_system_for_several_dampings(
    comm: Comm, monkeypatch: pytest.MonkeyPatch, net: str, width: int
) -> None:
    """In panels of some samples, and in one; with the eigenvalues of the whole Gauss-Newton matrix."""
    monkeypatch.setattr(distributed_cholesky, "WIDTH", width)
    monkeypatch.setattr(distributed_cholesky, "ONE_PANEL", 0)
    problem, on, grad = setting(comm, net, "cross_entropy")
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    model = on.model()
    system = DualSystem(model, grad, unit, on.comm)
    whole = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )
    gradient = flat(oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C))
    for damping in DAMPINGS:
        d = system.solve(damping)
        assert d is not None
        wanted = np.linalg.solve(whole + damping * np.eye(len(whole)), -gradient)
        assert relative(flat(on.whole(d)), wanted) < 1e-8
    rows = model.samples * model.outputs
    wanted = np.sort(np.linalg.eigvalsh(whole - model.regulariser * np.eye(len(whole))))
    wanted = np.concatenate([np.zeros(max(0, rows - len(wanted))), wanted])[-rows:]
    assert relative(system.eigenvalues(), wanted) < 1e-10
    assert system.trace() == pytest.approx(wanted.sum())


@pytest.mark.parametrize(("samples", "outputs"), [(1, 3), (4, 1), (1, 1)])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_one_sample_or_one_output(comm: Comm, net: str, samples: int, outputs: int) -> None:
    problem, on, grad = setting(comm, net, "logistic" if outputs == 1 else "cross_entropy", samples=samples)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    for kind in (PrimalSystem, DualSystem):
        d = kind(on.model(), grad, unit).solve(0.3)
        assert d is not None
        assert relative(flat(on.whole(d)), dense_pieces(problem, on, False, 0.3)) < 1e-8


def test_the_map_is_applied_to_every_kind_of_rows(comm: Comm) -> None:
    """Terms by tiles, in parts of few rows and channels, as the rows themselves give them."""
    for net in NETS:
        _, on, _ = setting(comm, net, "cross_entropy")
        (unit,) = local_systems(on.network.blocks, per_layer=False)
        for representation in ("factored", "dense"):
            model = on.model(representation=representation)
            rows = host(model.jacobian.rows(unit, slice(None)))
            cube = put(rows.reshape(model.samples, model.outputs, unit.size))
            mapped = host(model.half_rows(cube, slice(None))).reshape(rows.shape)
            assert relative(gram(model.jacobian, unit, model.half_rows), mapped @ mapped.T) < 1e-12


@pytest.mark.parametrize("kind", [PrimalSystem, DualSystem])
def test_float32_turns_to_float64_where_it_must(comm: Comm, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """Seven digits do not factor a matrix of condition 1e9; the solution is one by its residual."""
    _, on, grad = setting(comm, "mlp", "squared")
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    model = on.model()
    model.regulariser = 1e-9
    formed = []
    form = kind._form
    monkeypatch.setattr(kind, "_form", lambda self, dtype: formed.append(dtype) or form(self, dtype))
    system = kind(model, grad, unit)
    system._dtype = "float32"
    d = system.solve(0.0)
    if unit.size:
        assert d is not None and formed in (["float32"], ["float32", "float64"])  # a small block may do without
        assert comm.size > 1 or len(formed) == 2
        residual = host(model.block_product(d, unit, 0.0)) + host(grad)
        assert np.linalg.norm(residual) <= exact_systems.RESIDUAL * np.linalg.norm(host(grad))
        before = len(formed)
        system.solve(0.1)
        assert len(formed) == before  # it stays
