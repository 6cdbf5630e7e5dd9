"""Newton on D replicas of M ranks: against one replica, and against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from crews import divided
from places import same
from problems import CNN, MLP, OnRanks, Problem, by_paper, flat, lay_out, relative, whole

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config
from dnewton.data.sampling import permutation
from dnewton.errors import UserError
from dnewton.planning import curvature_plan, grid_search
from dnewton.planning.replicas import RankDivision, layout
from dnewton.solvers import registry
from dnewton.solvers.interface import StartPoint
from dnewton.solvers.newton.first_passes import ORDER
from dnewton.solvers.newton.newton import Newton
from dnewton.solvers.newton.replicated import SharedObjective

OPTIONS = {
    "subsample": 1.0,
    "cg_tolerance": 1e-8,
    "max_cg": 15,
    "early_termination": {"mode": "off"},
    "jacobian": "factored",
}


def newton(problem: Problem, comm: Comm, replicas: int, **options: Any) -> tuple[OnRanks, Newton] | None:
    """The solver on D replicas of as many ranks as there are; None on ranks that are left over."""
    model = comm.size // replicas
    _, groups, _ = divided(comm, replicas, model)
    if groups is None:
        return None
    assert groups.model is not None
    on = lay_out(problem, groups.model)
    groups = replace(groups, model=on.comm)
    if replicas > 1:
        old = on.objective
        shared = SharedObjective(
            on.network, on.comm, old.data, old.loss, lambda z, y: 0.0, old.regulariser, old._batch_size, old._memory
        )
        shared.groups = groups
        on.objective = shared
    section = NewtonSection.model_validate(by_paper({**OPTIONS, **options}))
    work = grid_search.Workload(
        problem.samples, section.subsample_size(problem.samples, problem.outputs), problem.outputs, 4, 8
    )
    how = curvature_plan.decide(on.plan, work, section)
    solver = registry.make(section, on.objective, groups, how)
    assert isinstance(solver, Newton)
    return on, solver


def run(found: tuple[OnRanks, Newton], steps: int) -> list[tuple[float, float, float, dict[str, np.ndarray]]]:
    on, solver = found
    out = []
    first = solver.begin(StartPoint(copy(on.theta)))
    out.append((first.loss, first.grad_norm, 0.0, whole(on, solver.theta)))
    for _ in range(steps):
        step = solver.step()
        out.append((step.loss, step.grad_norm, step.damping or 0.0, whole(on, solver.theta)))
    solver.close()
    return out


def close(a: list[Any], b: list[Any], tolerance: float = 1e-6) -> None:
    for x, y in zip(a, b, strict=True):
        assert np.allclose(x[:3], y[:3], rtol=tolerance)
        for key in x[3]:
            assert relative(x[3][key], y[3][key]) < tolerance


@pytest.mark.parametrize("layers", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_full_curvature_does_not_depend_on_the_replicas(comm: Comm, replicas: int, layers: Any) -> None:
    if comm.size < replicas:
        pytest.skip("too few ranks")
    problem = Problem((2, 7, 6) if layers is CNN else (6,), layers, samples=11, solver={"C": 0.7})
    found = newton(problem, comm, replicas, curvature="full", combine="previous")
    if found is None:
        return
    expected = oracle.newton_trajectory(
        problem.params,
        problem.parsed,
        problem.x,
        problem.y,
        problem.loss,
        problem.C,
        3,
        max_cg=15,
        xi=1e-8,
        drop=0.6667,
        combine="previous",
    )
    for here, there in zip(run(found, 3), expected, strict=True):
        assert here[0] == pytest.approx(there["loss"], rel=1e-7)
        assert here[1] == pytest.approx(there["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_weights_are_shared_with_the_samples(comm: Comm, replicas: int) -> None:
    """Replicas whose shares weigh differently, against one that has each sample as often as its weight says."""
    if comm.size < replicas:
        pytest.skip("too few ranks")
    weights = np.array([3, 1, 2, 0, 4, 1, 1, 1, 2, 1, 5], dtype=float)
    problem = Problem((6,), MLP, samples=11, weights=weights, solver={"C": 0.7})
    options = {"curvature": "full", "combine": "previous", "cg_tolerance": 1e-10, "max_cg": 60}
    runs = [newton(problem, comm, replicas, **options), newton(problem.repeated, comm, 1, **options)]
    found = [None if made is None else run(made, 3) for made in runs]
    if found[0] is not None and found[1] is not None:
        close(found[0], found[1])


@pytest.mark.parametrize("unit", ["rank", "layer"])
@pytest.mark.parametrize("combine", ["previous", "none"])
@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_exact_is_one_replica_with_all_of_the_subsample(comm: Comm, replicas: int, combine: str, unit: str) -> None:
    if comm.size < replicas:
        pytest.skip("too few ranks")
    problem = Problem((6,), MLP, "squared", samples=13)
    options = {"replica_solve": "exact", "combine": combine, "diagonal_unit": unit, "subsample": 9.0}
    found = newton(problem, comm, replicas, **options)
    if found is None:
        return
    together = run(found, 3)
    model = divided(comm, replicas, comm.size // replicas)[1].model  # type: ignore[union-attr]
    assert model is not None
    alone = newton(problem, model, 1, subproblem="cg", **options)
    assert alone is not None
    close(together, run(alone, 3))


def test_average_is_the_mean_of_what_each_share_says(comm: Comm) -> None:
    """With M = 1: d = mean of the solutions on the shares, then the combination on all of S."""
    if comm.size < 2:
        pytest.skip("too few ranks")
    problem = Problem((6,), MLP, samples=12)
    found = newton(problem, comm, comm.size, combine="none", subproblem="cg", cg_tolerance=1e-13**0.5, max_cg=200)
    assert found is not None
    on, solver = found
    solver.begin(StartPoint(copy(on.theta)))
    gradient = copy(solver._grad)
    model = solver._curvature()
    direction, _, _ = solver._direction(model, 1.0)
    g = flat(whole(on, gradient))
    d = np.zeros_like(g)
    for r in range(comm.size):
        share = slice(r * 12 // comm.size, (r + 1) * 12 // comm.size)
        matrix = oracle.gauss_newton_matrix(
            problem.params, problem.parsed, problem.x[share], problem.y[share], problem.loss, problem.C, 12
        )
        d -= np.linalg.solve(matrix + np.eye(len(g)), g) / comm.size
    assert relative(flat(whole(on, direction.p)), d) < 1e-5
    solver.close()


def test_all_replicas_hold_the_same_bits(comm: Comm) -> None:
    if comm.size < 2:
        pytest.skip("too few ranks")
    problem = Problem((6,), MLP, samples=13)
    found = newton(problem, comm, comm.size, subsample=0.5)
    assert found is not None
    theta = run(found, 4)[-1][3]["layers.0.weight"]
    assert same(comm.bcast(theta.copy()), theta)


def test_gradient_batches_are_shared(comm: Comm) -> None:
    if comm.size < 2:
        pytest.skip("too few ranks")
    problem = Problem((6,), MLP, samples=13)
    found = newton(problem, comm, comm.size, curvature="full", gradient_batch=7, subsample=0.5)
    own = divided(comm, comm.size, 1)[1].model  # type: ignore[union-attr]
    assert own is not None
    alone = newton(problem, own, 1, curvature="full", gradient_batch=7, subsample=0.5)
    assert found is not None
    assert alone is not None
    close(run(found, 3), run(alone, 3))


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_local_passes_of_adam_are_adams_on_each_share(comm: Comm, replicas: int) -> None:
    """Against Adam written out, alone on the samples of each replica, with a mean after each of three passes."""
    if comm.size < replicas:
        pytest.skip("too few ranks")
    problem = Problem((6,), MLP, samples=13, solver={"C": 0.7})
    found = newton(problem, comm, replicas, start="local_adam", start_passes=3, seed=5)
    if found is None:
        return
    on, solver = found
    solver.begin(StartPoint(copy(on.theta)))
    for _ in range(3):
        solver.step()
    theta = flat(problem.params)
    shapes = {name: tensor.shape for name, tensor in problem.params.items()}
    first, second = np.zeros((replicas, theta.size)), np.zeros((replicas, theta.size))
    for k in range(3):
        order = permutation(5, ORDER, k, 13)
        ends = []
        for r in range(replicas):
            own = order[r * 13 // replicas : (r + 1) * 13 // replicas]
            params = oracle.unflatten(theta, shapes)
            C = 0.7 * 13 / len(own)  # θ/(C l) by the l of all shares
            g = flat(oracle.gradient(params, problem.parsed, problem.x[own], problem.y[own], problem.loss, C))
            first[r] = 0.9 * first[r] + 0.1 * g
            second[r] = 0.999 * second[r] + 0.001 * g**2
            root = np.sqrt(second[r] / (1 - 0.999 ** (k + 1))) + 1e-8
            rate = 0.5 * 3e-3 * (1 + np.cos(np.pi * k / 3))
            ends.append(theta - rate * first[r] / (1 - 0.9 ** (k + 1)) / root)
        theta = np.mean(ends, axis=0)
    assert relative(flat(whole(on, solver.theta)), theta) < 1e-5
    solver.close()


@pytest.mark.parametrize("long", [0.0, 1e9])
def test_replicas_that_would_wait_for_sums_go_apart(comm: Comm, monkeypatch: pytest.MonkeyPatch, long: float) -> None:
    if comm.size < 2:
        pytest.skip("too few ranks")
    monkeypatch.setattr("dnewton.config.newton.MANY_SAMPLES", 1)
    for name, value in (("SPEED", 1e30), ("LONG", long)):
        monkeypatch.setattr(f"dnewton.solvers.newton.first_passes.{name}", value)
    found = newton(Problem((6,), MLP, samples=12), comm, comm.size, damping="auto", start="auto")
    assert found is not None
    assert ("every replica over its own samples" in found[1].describe()[0]) is (long == 0)
    found[1].close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subsample": 1e-9}, "subsample"),
        ({"curvature": "full", "subproblem": "exact"}, "subproblem"),
    ],
)
def test_what_replicas_cannot_do(comm: Comm, options: dict[str, Any], words: str) -> None:
    if comm.size < 2:
        pytest.skip("too few ranks")
    with pytest.raises(UserError, match=words):
        newton(Problem((6,), MLP, samples=13), comm, comm.size, **options)


def test_layouts() -> None:
    base = {"net": {"input": [2], "loss": "squared", "layers": [{"dense": {"units": 1}}]}}

    def of(ranks: int, solver: dict[str, Any], **parallel: Any) -> RankDivision:
        return layout(Config.model_validate({**base, "solver": solver, "parallel": parallel}), ranks, "x.yaml")

    assert of(6, {}) == RankDivision(1, 6)
    assert of(6, {}, replicas=3) == RankDivision(3, 2)
    assert of(6, {"name": "adam"}) == RankDivision(6, 1)
    assert of(6, {"name": "adam"}, grid=[1, 2]) == RankDivision(3, 2)
    assert of(7, {"name": "downpour"}, replicas=2) == RankDivision(2, 3, 1)
    assert of(7, {"name": "easgd"}) == RankDivision(7, 1)
    with pytest.raises(UserError, match="1, 2, 3, 6"):
        of(6, {}, replicas=4)
    with pytest.raises(UserError, match="server_ranks"):
        of(1, {"name": "dc_asgd"})
    assert [RankDivision(2, 3, 1).place(r) for r in (0, 2, 3, 6)] == [(0, 0), (0, 2), (1, 0), None]
