"""Every way to solve a diagonal system against dense linear algebra, and the two-level and exact whole solves."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import oracle
import pytest
from places import host, put
from problems import MLP, Problem, flat, lay_out, local_cg, loss_targets, relative
from systems import LAMBDA, dense_pieces, run, setting

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import LOSSES, loss_of
from dnewton.curvature.jacobian import local_systems
from dnewton.solvers.newton import cg, early_termination, local_solver, preconditioners
from dnewton.solvers.newton.cg import LocalSolver, PlainCG
from dnewton.solvers.newton.exact_systems import DualSystem
from dnewton.solvers.newton.gram_cg import GramCG


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("representation", ["factored", "dense"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared", "logistic"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("way", ["plain", "gram", "primal", "dual"])
def test_every_way_equals_a_dense_solve(
    comm: Comm, way: str, net: str, loss: str, representation: str, per_layer: bool
) -> None:
    problem, on, grad = setting(comm, net, loss)
    model = on.model(representation=representation)

    def system(unit: object) -> LocalSolver:
        if way == "plain":
            return PlainCG(lambda v, u: model.block_product(v, u, LAMBDA), grad, unit, 1e-12)  # type: ignore[arg-type]
        if way == "gram":
            model.jacobian.make_input_grams(unit)  # type: ignore[arg-type]
            return GramCG(model, grad, unit, LAMBDA, 1e-6)  # type: ignore[arg-type]
        return local_solver.make(way, model, grad, unit, LAMBDA, 1e-9)  # type: ignore[arg-type]

    before = comm.ledger["cg"].bytes
    with on.comm.phase("cg"):
        mine = local_systems(on.network.blocks, per_layer)
        found = cg.solve([system(u) for u in mine], grad, 1000, early_termination.NeverTerminate())
    assert on.comm.ledger["cg"].bytes == before  # no message
    limit = 1e-4 if way == "gram" else 1e-8
    assert relative(flat(on.whole(found.d)), dense_pieces(problem, on, per_layer)) < limit
    if way in ("primal", "dual"):
        assert found.iterations <= 1


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_gram_coordinates_take_the_same_steps(comm: Comm, net: str, parts: int) -> None:
    """Also where S is held in pieces."""
    _, on, grad = setting(comm, net, "cross_entropy")
    model = on.model(parts=parts)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    model.jacobian.make_input_grams(unit)
    for steps in (1, 2, 5):
        plain = PlainCG(lambda v, u: model.block_product(v, u, LAMBDA), grad, unit, 1e-14)
        gram = GramCG(model, grad, unit, LAMBDA, 1e-14)
        a = cg.solve([plain], grad, steps, early_termination.NeverTerminate())
        b = cg.solve([gram], grad, steps, early_termination.NeverTerminate())
        if a.d.size:
            assert relative(b.d, a.d) < 1e-9


@pytest.mark.parametrize("way", ["plain", "gram", "kronecker", "diagonal", "primal", "dual"])
def test_nothing_keeps_the_jacobian_alive(comm: Comm, way: str) -> None:
    """It is by far the largest thing in memory; waiting for the cycle collector would double the peak."""
    _, on, grad = setting(comm, "mlp", "cross_entropy")
    model = on.model()
    alive = weakref.ref(model.jacobian)
    gc.disable()
    try:
        systems = [
            local_solver.make(way, model, grad, u, LAMBDA, 1e-3) for u in local_systems(on.network.blocks, False)
        ]
        cg.solve(systems, grad, 9, early_termination.NeverTerminate())
        del systems, model
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("loss", ["cross_entropy", "squared", "logistic"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_the_whole_system_exactly(comm: Comm, net: str, loss: str) -> None:
    """`curvature: full` with `subproblem: exact`: the undiagonalised direction from one sum of a Gram matrix."""
    problem, on, grad = setting(comm, net, loss)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    d = DualSystem(on.model(), grad, unit, on.comm).solve(LAMBDA)
    assert d is not None
    g = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )
    gradient = flat(oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C))
    expected = np.linalg.solve(g + LAMBDA * np.eye(len(g)), -gradient)
    assert relative(flat(on.whole(d)), expected) < 1e-8
    in_parts = DualSystem(on.model(parts=3), grad, unit, on.comm).solve(LAMBDA)
    assert relative(in_parts, d) < 1e-8


@pytest.mark.parametrize("way", ["auto", "cg", "exact"])
@pytest.mark.parametrize("curvature", ["diagonal", "full"])
def test_training_by_every_subproblem(comm: Comm, way: str, curvature: str) -> None:
    """They take different steps and reach the same neighbourhood."""
    solver = {"subproblem": way, "curvature": curvature, "cg_tolerance": 1e-6, "early_termination": {"mode": "off"}}
    found = run(lay_out(Problem((5,), MLP, "squared", solver=solver), comm, batch=100), 15)
    assert found[-1][0].loss < 0.6 * found[0][0].loss


def test_a_start_is_improved(comm: Comm) -> None:
    """Conjugate gradients from a given point: its residual counts, and a solution needs no iteration."""
    _, on, grad = setting(comm, "mlp", "squared")
    model = on.model()
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    product = lambda v, u: model.block_product(v, u, LAMBDA)  # noqa: E731
    solution = local_cg(product, grad, [unit], 1e-12, 500, early_termination.NeverTerminate()).d
    assert not PlainCG(product, grad, unit, 1e-6, solution).working
    rough = PlainCG(product, grad, unit, 1e-6, solution * 0.9)
    assert rough.working == bool(unit.size)
    found = cg.solve([rough], grad, 500, early_termination.NeverTerminate())
    if unit.size:
        assert relative(found.d, solution) < 1e-4


def test_a_rank_that_begins_at_its_solution_counts(comm: Comm) -> None:
    """Else all ranks would count without end where `fraction` asks for every one of them."""
    _, on, grad = setting(comm, "mlp", "squared")
    model = on.model()
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    product = lambda v, u: model.block_product(v, u, LAMBDA)  # noqa: E731
    solution = local_cg(product, grad, [unit], 1e-12, 500, early_termination.NeverTerminate()).d
    rule = early_termination.LockstepTermination(on.comm, 1.0, 2)
    rule.begin(1, int(on.comm.sum_scalars([float(grad.size > 0)])[0]))
    system = PlainCG(product, grad, unit, 1e-6, solution if comm.rank % 2 == 0 else None)
    found = cg.solve([system], grad, 500, rule)
    assert rule.over and not found.cut
    if unit.size:
        assert relative(found.d, solution) < 1e-4 and (found.iterations == 0) == (comm.rank % 2 == 0)


@pytest.mark.parametrize("name", ["diagonal", "kronecker"])
@pytest.mark.parametrize("representation", ["factored", "dense"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_preconditioners_do_not_change_the_solution(comm: Comm, net: str, representation: str, name: str) -> None:
    problem, on, grad = setting(comm, net, "cross_entropy")
    model = on.model(representation=representation)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    product = lambda v, u: model.block_product(v, u, LAMBDA)  # noqa: E731
    preconditioner = preconditioners.make(name, model, unit, LAMBDA)  # type: ignore[arg-type]
    system = PlainCG(product, grad, unit, 1e-12, preconditioner=preconditioner)
    found = cg.solve([system], grad, 2000, early_termination.NeverTerminate())
    assert relative(flat(on.whole(found.d)), dense_pieces(problem, on, False)) < 1e-8
    if name == "diagonal" and representation == "dense" and unit.size:
        rows = model.jacobian.rows(unit, slice(None))
        assert rows is not None
        turned = put(host(rows).T.reshape(unit.size, problem.samples, problem.outputs))
        exact_diagonal = put((host(model.half_transposed(turned)) ** 2).sum(axis=(1, 2))) + model.regulariser + LAMBDA
        assert preconditioner is not None and relative(preconditioner(exact_diagonal), np.ones(unit.size)) < 1e-10


@pytest.mark.parametrize("loss", LOSSES.names())
def test_halves_of_the_hessian(loss: str) -> None:
    rng = np.random.default_rng(0)
    k = 1 if loss == "logistic" else 4
    z, u, w = rng.normal(size=(6, k)), rng.normal(size=(2, 6, k)), rng.normal(size=(2, 6, k))
    found = loss_of(loss)
    state = found.state(z, loss_targets(loss, z))
    back = found.half(state, found.half_transposed(state, u))
    assert relative(back, found.hessian_product(state, u)) < 1e-13
    assert np.isclose(np.sum(found.half(state, u) * w), np.sum(u * found.half_transposed(state, w)))
