"""The comparison solvers without servers against a plain reference, on replicas of one or more model ranks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import oracle_solvers as reference
import pytest
from crews import OnCrew, begun, crewed, net, replicas, section
from hypothesis import given, settings
from hypothesis import strategies as st
from places import host, same
from problems import Problem, relative

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.data.sampling import Cycle
from dnewton.grid import cut
from dnewton.solvers import line_search
from dnewton.solvers.baselines import krylov
from dnewton.solvers.baselines.epoch_loop import learning_rate
from dnewton.solvers.baselines.hessian_free import SUBSAMPLE, HessianFree
from dnewton.solvers.baselines.rank_m import RankM, coefficients
from dnewton.solvers.interface import SolverState, StartPoint

pytestmark = pytest.mark.mpi

SMALL = [{"dense": {"units": 3, "activation": "tanh"}}, {"dense": {"units": 2}}]
LINEAR = [{"dense": {"units": 1}}]


def trajectory(problem: Problem, comm: Comm, workers: int, passes: int, **options: Any) -> list[np.ndarray] | None:
    """The evaluated points as whole weights: the first one, and one after every iteration."""
    found = begun(problem, comm, workers, **options)
    return None if found is None else walk(found, passes)


def walk(found: OnCrew, passes: int) -> list[np.ndarray]:
    points = [found.flat()]
    for _ in range(passes):
        found.solver.step()
        points.append(found.flat())
    found.solver.close()
    return points


def check(problem: Problem, comm: Comm, workers: int, passes: int, tolerance: float, **options: Any) -> None:
    """The trajectory is the reference's, and goes somewhere."""
    found = trajectory(problem, comm, workers, passes, **options)
    if found is None:
        return
    expected = reference.run(problem, workers, section(problem, **options).model_dump(), passes)
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < tolerance
    assert relative(expected[-1], expected[0]) > 1e-3


# --- trajectories -----------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "momentum": 0.0},
    "sgd-momentum": {
        "name": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.05,
        "learning_rate": 0.05,
        "schedule": {"name": "step", "milestones": [0.5, 1.2], "factor": 0.3},
    },
    "sgd-nesterov": {
        "name": "sgd",
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.1,
        "max_iterations": 3,
        "schedule": {"name": "cosine", "warmup": 0.7},
    },
    "adam": {
        "name": "adam",
        "weight_decay": 0.2,
        "learning_rate": 0.02,
        "epsilon": 1e-3,
        "schedule": {"name": "inverse", "decay": 0.5, "power": 0.7},
    },
    "adamw": {"name": "adamw", "weight_decay": 0.2, "learning_rate": 0.02, "beta1": 0.7, "beta2": 0.9, "seed": 3},
    "easgd": {"name": "easgd", "tau": 1, "beta": 0.7},
    "easgd-tau": {"name": "easgd", "tau": 3},
    "eamsgd": {"name": "eamsgd", "tau": 2, "learning_rate": 0.05, "beta": 1.1, "seed": 1},
    "averaging-keep": {"name": "averaging", "tau": 2, "buffers": "keep"},
    "averaging-reset": {"name": "averaging", "tau": 2, "buffers": "reset"},
    "averaging-average": {"name": "averaging", "tau": 3, "buffers": "average"},
    "bmuf": {"name": "averaging", "tau": 2, "block_momentum": 0.5, "block_rate": 0.8, "momentum": 0.5},
    "bmuf-nesterov": {"name": "averaging", "tau": 3, "block_momentum": 0.4, "nesterov_block": True, "buffers": "reset"},
    "entropy_sgd": {
        "name": "entropy_sgd",
        "noise": 0.0,
        "inner_steps": 3,
        "gamma": 0.1,
        "gamma_growth": 0.2,
        "learning_rate": 0.7,
    },
    "parle": {"name": "parle", "inner_steps": 2, "gamma": 0.1, "rho": 0.4, "rho_growth": 0.3, "gamma_growth": 0.1},
    "rank_m-II": {"name": "rank_m", "tau": 2, "overlap": 9, "momentum": 0.5},
    "rank_m-I": {"name": "rank_m", "tau": 3, "type": "I", "spread": 0.3, "overlap": 100, "secant_rate": 0.2},
}


@pytest.mark.parametrize("case", CASES)
def test_trajectory(comm: Comm, case: str) -> None:
    """9 samples in batches of 1 or 2: the last batch of a pass leaves workers with fewer samples or none."""
    for workers in replicas(comm):
        check(net("mlp", samples=9), comm, workers, 2, 1e-9, batch=2 if workers < 4 else 1, **CASES[case])


@pytest.mark.parametrize("case", ["sgd-momentum", "eamsgd", "parle"])
def test_trajectory_of_a_convolutional_net(comm: Comm, case: str) -> None:
    for workers in replicas(comm):
        check(net("cnn", samples=9), comm, workers, 1, 1e-8, batch=2 if workers == 1 else 1, **CASES[case])


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_other_losses(comm: Comm, loss: str) -> None:
    layers = [{"dense": {"units": 4, "activation": "tanh"}}, {"dense": {"units": 1}}]
    problem = Problem((3,), layers, loss, samples=13)
    check(problem, comm, comm.size, 2, 1e-9, batch=2, name="eamsgd", tau=2, learning_rate=0.02)


def test_what_is_reported(comm: Comm) -> None:
    """f, |∇f|, the rate and the gradients spent, of all samples whatever the number of workers."""
    problem = net("mlp")
    found = begun(problem, comm, comm.size, batch=2, name="sgd", schedule={"name": "step", "milestones": [1]})
    assert found is not None
    task = reference.Task(problem)
    for k in range(3):
        step = found.solver.step()
        theta = found.flat()
        assert step.loss == pytest.approx(task.value(theta), rel=1e-10)
        assert step.grad_norm == pytest.approx(np.linalg.norm(task.gradient(theta)), rel=1e-8)
        assert step.seen == 13 and step.samples == 13
        assert step.extra["learning_rate"] == pytest.approx(0.1 if k == 0 else 0.01)
        assert found.solver.iteration == k + 1 and not found.solver.ending


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "constant"},
        {"name": "constant", "warmup": 2.0},
        {"name": "step", "milestones": [1.0, 2.5]},
        {"name": "cosine"},
        {"name": "inverse", "decay": 2.0, "power": 0.5},
    ],
)
def test_schedules(schedule: dict[str, Any]) -> None:
    options = section(net("mlp"), name="sgd", schedule=schedule, max_iterations=4)
    rates = [learning_rate(0.3, options.schedule, at, 4) for at in np.linspace(0, 5, 41)]
    expected = [reference.rate_at({**options.model_dump(), "learning_rate": 0.3}, at) for at in np.linspace(0, 5, 41)]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert all(r > 0 for r in rates[:32])


# --- which samples ------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(samples=st.integers(1, 40), batch=st.integers(1, 6), epoch=st.integers(0, 3))
def test_shares_are_a_permutation(comm: Comm, samples: int, batch: int, epoch: int) -> None:
    """Every sample once per pass; each worker's part as stated; batches do not depend on how many share them."""
    problem = Problem((2,), LINEAR, "squared", samples=samples)
    found = crewed(problem, comm, comm.size, name="sgd", batch=batch, seed=2)
    assert isinstance(found, OnCrew)
    workers = found.solver.workers  # type: ignore[attr-defined]
    mine = list(workers.shares(epoch))
    expected = list(reference.batches(samples, comm.size, batch, 2, epoch))
    assert len(mine) == len(expected) == workers.steps
    for share, parts in zip(mine, expected, strict=True):
        assert same(share.indices, parts[comm.rank]) and share.total == sum(map(len, parts))
    seen = np.zeros(samples)
    for share in mine:
        seen[share.indices] += 1
    assert same(comm.allreduce(seen), np.ones(samples))
    assert same(workers.common(5, 3), reference.common(samples, 2, 5, 3))


@pytest.mark.parametrize("name", ["sgd", "adam", "entropy_sgd", "d_kfac"])
def test_many_workers_equal_one_with_their_batch(comm: Comm, name: str) -> None:
    problem = net("mlp")
    many = trajectory(problem, comm, comm.size, 3, name=name, batch=2)
    one = trajectory(problem, comm.split(comm.rank), 1, 3, name=name, batch=2 * comm.size)
    assert many is not None and one is not None
    assert all(relative(a, b) < 1e-9 for a, b in zip(many, one, strict=True))


# --- elastic averaging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["easgd", "eamsgd"])
def test_without_elasticity_workers_are_alone(comm: Comm, name: str) -> None:
    """α = β/p → 0: every worker's point is that of SGD on its own samples, and the centre stands still."""
    problem, options = net("mlp"), {"name": name, "tau": 1, "batch": 2, "learning_rate": 0.05}
    found = begun(problem, comm, comm.size, beta=1e-200, **options)
    assert found is not None
    for _ in range(2):
        found.solver.step()
    task, momentum = reference.Task(problem), 0.9 if name == "eamsgd" else 0.0
    x, v = task.start, np.zeros_like(task.start)
    for epoch in range(2):
        for parts in reference.batches(13, comm.size, 2, 0, epoch):
            if len(parts[comm.rank]):
                v = momentum * v - 0.05 * task.gradient(x + momentum * v, parts[comm.rank])
                x = x + v
    assert relative(found.flat(found.solver.x), x) < 1e-10  # type: ignore[attr-defined]
    assert relative(found.flat(), task.start) < 1e-15


def test_alpha_is_beta_over_the_workers(comm: Comm) -> None:
    found = begun(net("mlp"), comm, comm.size, name="easgd", beta=0.8)
    assert found is not None
    step = found.solver.step()
    assert step.extra["alpha"] == 0.8 / comm.size
    assert f"{0.8 / comm.size:g}" in found.solver.describe()[0]


# --- averaging --------------------------------------------------------------------------------------------------------


def test_averaging_every_step_is_sgd(comm: Comm) -> None:
    """τ = 1, no momentum, shares of equal size."""
    problem = net("mlp", samples=12 if comm.size == 3 else 16)
    for workers in replicas(comm):
        averaged = trajectory(problem, comm, workers, 2, name="averaging", tau=1, momentum=0.0, batch=2)
        plain = trajectory(problem, comm, workers, 2, name="sgd", momentum=0.0, batch=2)
        if averaged is not None and plain is not None:
            assert all(relative(a, b) < 1e-12 for a, b in zip(averaged, plain, strict=True))


def test_block_momentum_near_0_is_averaging(comm: Comm) -> None:
    options = {"name": "averaging", "tau": 2, "batch": 2}
    filtered = trajectory(net("mlp"), comm, comm.size, 2, block_momentum=1e-200, **options)
    plain = trajectory(net("mlp"), comm, comm.size, 2, **options)
    assert filtered is not None and plain is not None
    assert all(relative(a, b) < 1e-12 for a, b in zip(filtered, plain, strict=True))


# --- entropy ----------------------------------------------------------------------------------------------------------


def test_noise_does_not_depend_on_the_layout(comm: Comm) -> None:
    options = {"name": "entropy_sgd", "noise": 0.5, "inner_steps": 2, "batch": 2, "seed": 5}
    for problem in (net("mlp", samples=4), net("cnn", samples=4)):
        split = trajectory(problem, comm, 1, 2, **options)
        alone = trajectory(problem, comm.split(comm.rank), 1, 2, **options)
        quiet = trajectory(problem, comm, 1, 2, **{**options, "noise": 0.0})
        other = trajectory(problem, comm, 1, 2, **{**options, "seed": 6})
        assert split and alone and quiet and other
        assert all(relative(a, b) < 1e-9 for a, b in zip(split, alone, strict=True))
        assert relative(split[-1], quiet[-1]) > 1e-2 and relative(split[-1], other[-1]) > 1e-2


def test_parle_with_one_worker_is_entropy_sgd_uncoupled(comm: Comm) -> None:
    options = {"inner_steps": 2, "batch": 3}
    a = trajectory(net("mlp"), comm, 1, 2, name="parle", rho=0.0, **options)
    b = trajectory(net("mlp"), comm, 1, 2, name="entropy_sgd", noise=0.0, **options)
    assert a and b and all(relative(x, y) < 1e-12 for x, y in zip(a, b, strict=True))


# --- rank m -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("n", [2, 5])
def test_secant_coefficients_solve_a_quadratic(kind: str, n: int) -> None:
    """n + 1 points in general position: x̄ - Sγ is the minimiser."""
    rng = np.random.default_rng(n)
    root = rng.normal(size=(n, n))
    hessian, minimiser = root @ root.T + np.eye(n), rng.normal(size=n)
    x = rng.normal(size=(n + 1, n))
    g = (x - minimiser) @ hessian
    s, y = x - x.mean(axis=0), g - g.mean(axis=0)
    gamma, rank = coefficients(y @ y.T, s @ y.T, y @ g.mean(axis=0), s @ g.mean(axis=0), kind, 1e-13)
    assert rank == n
    assert relative(x.mean(axis=0) - gamma @ s, minimiser) < 1e-7


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("kind", ["I", "II"])
def test_a_secant_step_reaches_the_minimiser(comm: Comm, kind: str) -> None:
    """One linear layer and the squared loss: n + 1 workers at points in general position."""
    workers = min(comm.size, 4)
    problem = Problem((workers - 2,), LINEAR, "squared", samples=11)
    found = begun(
        problem, comm, workers, name="rank_m", type=kind, ridge=1e-13, secant_rate=0.0, overlap=11, spread=0.0
    )
    if found is None:
        return
    solver = found.solver
    assert isinstance(solver, RankM) and found.on.theta.size == workers - 1
    points = np.random.default_rng(3).normal(size=(workers, workers - 1))
    solver.x = found.on.from_params(reference.Task(problem).params(points[solver.workers.index]))
    step = solver.secant(np.arange(11))
    task = reference.Task(problem)
    dense = task.gauss_newton(task.start, np.arange(11))
    minimiser = task.start - np.linalg.solve(dense, task.gradient(task.start))
    assert relative(found.flat(step.mean), points.mean(axis=0)) < 1e-12
    assert relative(found.flat(step.new), minimiser) < 1e-7
    assert step.rank == workers - 1


@pytest.mark.parametrize("kind", ["I", "II"])
def test_a_secant_step_equals_the_dense_one(comm: Comm, kind: str) -> None:
    """On any layout: the slices over workers and model ranks add up."""
    problem = net("mlp")
    for workers in replicas(comm):
        found = begun(problem, comm, workers, name="rank_m", type=kind, secant_rate=0.3, ridge=1e-2)
        if found is None:
            continue
        assert isinstance(found.solver, RankM)
        task, rows = reference.Task(problem), np.arange(0, 13, 2)
        points = task.start + 0.1 * np.random.default_rng(1).normal(size=(workers, len(task.start)))
        found.solver.x = found.on.from_params(task.params(points[found.solver.workers.index]))
        step = found.solver.secant(rows)
        g = np.array([task.gradient(p, rows) for p in points])
        assert relative(found.flat(step.new), reference.secant_step(points, g, kind, 1e-2, 0.3)) < 1e-8
        lo, hi = cut(found.on.network.size, workers, found.solver.workers.index)
        mine = found.on.from_params(task.params(g.mean(axis=0)))[lo:hi]
        assert relative(step.slope, mine) < 1e-9


def scripted(values: list[float]) -> Any:
    """A function that returns one value after another, whatever it is given."""
    rest = iter(values)
    return lambda *_: next(rest)


def test_a_plain_step_where_f_would_rise(comm: Comm) -> None:
    problem = net("mlp")
    for workers in replicas(comm):
        found = begun(problem, comm, workers, name="rank_m", tau=100, overlap=13, secant_rate=0.2, batch=2)
        if found is None:
            continue
        solver = found.solver
        assert isinstance(solver, RankM)
        solver.workers.value = scripted([1.0, float("nan"), 1.0, 1.0, 1.0, 0.5])  # type: ignore[method-assign]
        options = section(problem, name="rank_m", tau=100, batch=2).model_dump()
        _, method = next(reference.history(problem, workers, options, 0))
        task, rows = reference.Task(problem), np.arange(13)
        for k, kept in enumerate([0.0, 0.0, 1.0]):
            assert isinstance(method, reference.RankM)
            for shares in reference.batches(13, workers, 2, 0, k):
                for r, mine in enumerate(shares):
                    method.local(r, mine, 0.1)
            mean = np.mean(method.x, axis=0)
            g = np.array([task.gradient(x, rows) for x in method.x])
            new = mean - 0.2 * g.mean(axis=0)
            if kept:
                new = reference.secant_step(np.array(method.x), g, "II", 1e-3, 0.2)
            method.x = [new] * workers
            step = solver.step()
            assert step.extra["secant_kept"] == kept
            assert relative(found.flat(), new) < 1e-8


@pytest.mark.parametrize("kind", ["I", "II"])
def test_identical_workers(comm: Comm, kind: str) -> None:
    """S = 0: no curvature is known, and the step is plain."""
    problem = net("mlp")
    found = begun(problem, comm, comm.size, name="rank_m", type=kind, secant_rate=0.3)
    assert found is not None and isinstance(found.solver, RankM)
    step = found.solver.secant(np.arange(13))
    assert np.isfinite(host(step.new)).all()
    if comm.size in (1, 2, 4):  # the mean has no rounding error
        task = reference.Task(problem)
        assert step.rank == 0
        assert relative(found.flat(step.new), task.start - 0.3 * task.gradient(task.start)) < 1e-12
    assert np.isfinite(walk(found, 1)[-1]).all()


# --- Krylov methods ---------------------------------------------------------------------------------------------------


def plain_dots(*pairs: tuple[np.ndarray, np.ndarray]) -> list[float]:
    return [float(a @ b) for a, b in pairs]


def system(n: int, negative: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with some negative eigenvalues, away from 0, and a right-hand side."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = rng.uniform(0.5, 3.0, n)
    values[:negative] *= -1
    return q * values @ q.T, rng.normal(size=n)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize(
    ("solve", "negative"),
    [
        (krylov.conjugate_gradients, 0),
        (krylov.bicgstab, 0),
        (krylov.bicgstab, 4),
    ],
)
def test_solves_equal_dense_ones(solve: Any, negative: int, scale: float, started: bool) -> None:
    a, b = system(20, negative, 1)
    start = scale * np.random.default_rng(2).normal(size=20) if started else None
    kept = None if start is None else start.copy()
    found = solve(lambda v: a @ v, scale * b, 1e-11, 400, plain_dots, start)
    exact = np.linalg.solve(a, scale * b)
    assert relative(found.d, exact) < 1e-8
    assert np.allclose(found.r, scale * b - a @ found.d, rtol=0, atol=1e-9 * scale)
    assert np.linalg.norm(found.r) <= 1e-11 * np.linalg.norm(scale * b)
    per_iteration = 1 if solve is krylov.conjugate_gradients else 2
    assert found.products == per_iteration * found.iterations + started
    assert start is None or same(start, kept)


@pytest.mark.parametrize("solve", [krylov.conjugate_gradients, krylov.bicgstab])
def test_nothing_to_solve(solve: Any) -> None:
    a, _ = system(5, 0, 1)
    found = solve(lambda v: a @ v, np.zeros(5), 0.1, 10, plain_dots)
    assert found.iterations == found.products == 0 and not found.d.any() and found.q is None


@pytest.mark.parametrize("solve", [krylov.conjugate_gradients, krylov.bicgstab])
def test_the_limit_ends_a_solve(solve: Any) -> None:
    a, b = system(20, 0, 3)
    found = solve(lambda v: a @ v, b, 1e-14, 3, plain_dots)
    assert found.iterations == 3 and np.linalg.norm(found.r) > 1e-14 * np.linalg.norm(b)
    assert np.allclose(found.r, b - a @ found.d, atol=1e-12)


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 1.0], [-1.0, 0.0]],
        [[1.0, 0.0], [0.0, -1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[np.nan, 0.0], [0.0, 1.0]],
    ],
)
def test_breakdowns_end_with_a_finite_iterate(matrix: list[list[float]]) -> None:
    """bᵀAb = 0, A = 0, numbers that are not finite: the last good iterate and its residual come back."""
    a, b = np.array(matrix), np.array([1.0, 1.0])
    for solve in (krylov.conjugate_gradients, krylov.bicgstab):
        found = solve(lambda v: a @ v, b, 1e-10, 50, plain_dots)
        assert np.isfinite(found.d).all() and np.isfinite(found.r).all()
        assert np.linalg.norm(found.r) <= np.linalg.norm(b)


def test_a_shadow_that_has_become_orthogonal_is_replaced() -> None:
    """r̂ᵀr = 0 after the first iteration would be the end; from r anew the system is solved."""
    a = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, -2.0]])
    b = np.array([1.0, 0.0, 0.0])
    one = krylov.bicgstab(lambda v: a @ v, b, 1e-12, 1, plain_dots)
    assert abs(b @ one.r) < 1e-15 and np.linalg.norm(one.r) > 0.1
    found = krylov.bicgstab(lambda v: a @ v, b, 1e-12, 60, plain_dots)
    assert relative(a @ found.d, b) < 1e-10


def test_negative_curvature_is_seen() -> None:
    a, b = system(20, 5, 4)
    found = krylov.bicgstab(lambda v: a @ v, b, 1e-10, 200, plain_dots)
    assert found.q is not None and found.lowest < 0
    assert found.q @ a @ found.q / (found.q @ found.q) == pytest.approx(found.lowest, rel=1e-9)
    assert found.lowest >= np.linalg.eigvalsh(a)[0] - 1e-12


def steep(q: np.ndarray | None, g: np.ndarray) -> bool:
    """Whether a direction goes along the gradient at all."""
    return q is not None and abs(g @ q) > 1e-5 * float(np.linalg.norm(g) * np.linalg.norm(q))


@given(
    n=st.integers(1, 8),
    negative=st.integers(0, 8),
    seed=st.integers(0, 10**6),
    limit=st.integers(0, 30),
    damping=st.sampled_from([1e-8, 0.3, 1.0, 10.0]),
    warm=st.booleans(),
)
def test_directions_go_downhill(n: int, negative: int, seed: int, limit: int, damping: float, warm: bool) -> None:
    """Whatever the matrix, the solver and where it stopped; slope, curvature and length are those of d."""
    h, g = system(n, min(n, negative), seed)
    a = h + damping * np.eye(n)
    start = np.random.default_rng(seed + 1).normal(size=n) if warm else None
    here = SimpleNamespace(
        _at=SimpleNamespace(gradient=g, norm=float(np.linalg.norm(g))),
        workers=SimpleNamespace(dots=plain_dots),
        _lambda=damping,
    )
    for solve in (krylov.conjugate_gradients, krylov.bicgstab):
        found = solve(lambda v: a @ v, -g, 1e-8, limit, plain_dots, start)
        chosen = HessianFree._choose(here, found)  # type: ignore[arg-type]
        assert g @ chosen.d < 0
        assert chosen.slope == pytest.approx(g @ chosen.d, rel=1e-9)
        assert chosen.squares == pytest.approx(chosen.d @ chosen.d, rel=1e-9)
        if np.isfinite(chosen.curvature):
            assert chosen.curvature == pytest.approx(chosen.d @ a @ chosen.d, rel=1e-6, abs=1e-9 * (chosen.squares))
        if chosen.negative:
            assert chosen.d @ h @ chosen.d < 0
            assert g @ chosen.d < -1e-6 * np.linalg.norm(g) * np.linalg.norm(chosen.d)
        elif steep(found.q, g) and found.lowest < damping and np.any(found.d):
            q = -np.sign(g @ found.q) * found.q * np.linalg.norm(chosen.d) / np.linalg.norm(found.q)
            model = [g @ d + 0.5 * d @ a @ d for d in (chosen.d, q)]
            assert model[0] <= model[1] + 1e-9 * abs(model[1])


def choose(h: np.ndarray, g: np.ndarray, damping: float, d: np.ndarray, q: np.ndarray) -> Any:
    """The direction taken when a solver of (H + λI) d = -g has come to d and seen q."""
    here = SimpleNamespace(
        _at=SimpleNamespace(gradient=g, norm=float(np.linalg.norm(g))),
        workers=SimpleNamespace(dots=plain_dots),
        _lambda=damping,
    )
    a = h + damping * np.eye(len(g))
    found = krylov.Approximation(d, -g - a @ d, 1, 2, float(q @ a @ q / (q @ q)), q)
    return HessianFree._choose(here, found)  # type: ignore[arg-type]


def test_noise_does_not_choose_the_direction() -> None:
    """Bi-CG-STAB's first s is orthogonal to ∇f but for rounding: layouts must not go opposite ways along it."""
    h, g, d = np.diag([1.0, -2.0]), np.array([1.0, 0.0]), np.array([-1e-3, 0.0])
    chosen = [choose(h, g, 0.1, d, np.array([noise, 1.0])).d for noise in (1e-17, -1e-17)]
    assert relative(*chosen) < 1e-9


def test_negative_curvature_is_the_hessians() -> None:
    """A direction that λ alone makes convex competes; the one with the lower damped model is taken, downhill."""
    h, g, q = np.diag([1.0, -0.5]), np.array([1.0, 0.5]), np.array([0.0, 2.0])
    poor = choose(h, g, 1.0, np.array([-0.1, 0.19]), q)
    assert poor.negative and relative(poor.d, [0.0, -np.hypot(0.1, 0.19)]) < 1e-12
    good = choose(h, g, 1.0, np.array([-0.5, -1.0]), q)
    assert not good.negative and same(good.d, [-0.5, -1.0])
    convex = choose(np.eye(2), g, 1.0, np.array([-0.1, 0.19]), q)
    assert not convex.negative
    uphill = choose(h, g, 1.0, np.array([0.5, 1.0]), -q)
    assert same(uphill.d, [-0.5, -1.0])


# --- line search ------------------------------------------------------------------------------------------------------


def search(values: dict[float, float], slope: float = -1.0, trials: int = 4) -> tuple[float, float | None, int]:
    """From f = 1, with the values of f by α."""
    alpha, at, made = line_search.backtracking(
        lambda alpha: line_search.Value(values[alpha]), 1.0, slope, eta=0.25, factor=0.5, trials=trials
    )
    return alpha, None if at is None else at.value, made


def test_line_search() -> None:
    """Armijo's rule with its bound included; NaN and infinity are no decrease; nothing is tried uphill."""
    assert search({1.0: 0.75}) == (1.0, 0.75, 1)
    assert search({1.0: 0.76, 0.5: 0.8}) == (0.5, 0.8, 2)
    assert search({1.0: math.nan, 0.5: math.inf, 0.25: -math.inf, 0.125: 0.9}) == (0.125, 0.9, 4)
    assert search({1.0: 1.0, 0.5: 1.0}, trials=2) == (0.0, None, 2)
    for slope in (0.0, 1.0, math.nan):
        assert search({}, slope) == (0.0, None, 0)


# --- Hessian-free -----------------------------------------------------------------------------------------------------


def subsets(size: int, samples: int) -> list[np.ndarray]:
    cycle = Cycle(samples, size, 0, SUBSAMPLE)
    return [cycle.draw(k) for k in range(6)]


@pytest.mark.parametrize("subsample", [1.0, 6.0])
@pytest.mark.parametrize("method", ["gn_cg", "bicgstab"])
def test_hessian_free_trajectory(comm: Comm, method: str, subsample: float) -> None:
    """θ, λ after every iteration. The reference's Hessian is one of differences: a looser bound."""
    problem = Problem((3,), SMALL, samples=9, C=5.0, seed=3)
    options = {"name": "hessian_free", "method": method, "subsample": subsample, "max_cg": 3, "damping": 0.05}
    o = section(problem, **options).model_dump()
    expected = reference.hessian_free(problem, o, 3, subsets(9 if subsample == 1 else 6, 9))
    for workers in replicas(comm):
        found = begun(problem, comm, workers, **options)
        if found is None:
            continue
        for theta, damping in expected[1:]:
            step = found.solver.step()
            assert relative(found.flat(), theta) < (1e-8 if method == "gn_cg" else 1e-6)
            assert step.damping == pytest.approx(damping, rel=1e-12)
            assert step.loss == pytest.approx(reference.Task(problem).value(found.flat()), rel=1e-10)
            assert step.alpha is not None and step.alpha > 0


@pytest.mark.parametrize("method", ["gn_cg", "bicgstab"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_hessian_free_on_many_workers_is_that_on_one(comm: Comm, method: str, name: str) -> None:
    problem, options = net(name), {"name": "hessian_free", "method": method, "subsample": 1.0, "max_cg": 6}
    many = trajectory(problem, comm, comm.size, 3, **options)
    one = trajectory(problem, comm.split(comm.rank), 1, 3, **options)
    assert many and one and all(relative(a, b) < 1e-7 for a, b in zip(many, one, strict=True))
    assert relative(one[-1], one[0]) > 1e-2


def test_gauss_newton_direction_equals_a_dense_solve(comm: Comm) -> None:
    """The first step of a tight solve lies along -(G + λI)⁻¹ ∇f."""
    problem = net("mlp", C=3.0)
    task = reference.Task(problem)
    dense = task.gauss_newton(task.start, np.arange(13)) + 0.2 * np.eye(len(task.start))
    d = np.linalg.solve(dense, -task.gradient(task.start))
    for workers in replicas(comm):
        found = begun(
            problem, comm, workers, name="hessian_free", subsample=1.0, cg_tolerance=1e-12, max_cg=1000, damping=0.2
        )
        if found is None:
            continue
        step = found.solver.step()
        assert step.alpha is not None and relative(found.flat(), task.start + step.alpha * d) < 1e-9


def test_a_failing_line_search_stays(comm: Comm) -> None:
    found = begun(net("mlp"), comm, comm.size, name="hessian_free", max_trials=5, damping=1.0)
    assert found is not None and isinstance(found.solver, HessianFree)
    found.solver.workers.value = lambda *_: float("nan")  # type: ignore[method-assign]
    before = found.flat()
    step = found.solver.step()
    assert (step.alpha, step.ratio, step.damping, step.trials) == (0.0, -1.0, 1.5, 5)
    assert same(found.flat(), before)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_replicas_hold_the_same_bits(comm: Comm, case: str) -> None:
    """The evaluated point and f are alike on all replicas after every pass, and twice the same in two runs."""
    runs = []
    for _ in range(2):
        found = begun(net("mlp"), comm, comm.size, batch=2, **CASES[case])
        assert found is not None
        reported = [found.solver.step()]
        mine = np.array([*host(found.solver.theta), *(s.loss for s in reported), *(s.grad_norm for s in reported)])
        first = comm.bcast(mine.copy())
        assert same(mine, first)
        runs.append(mine)
    assert same(*runs)


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_from_what_was_saved(comm: Comm, case: str) -> None:
    """The second pass from the saved state of the first is that of the run itself."""
    found = begun(net("mlp"), comm, comm.size, batch=2, **CASES[case])
    again = crewed(net("mlp"), comm, comm.size, batch=2, **CASES[case])
    assert found is not None and isinstance(again, OnCrew)
    found.solver.step()
    saved = found.solver.saved()
    copies = [{k: copy(v) for k, v in part.items()} for part in (saved.vectors, saved.own)]
    start = StartPoint(copy(found.solver.theta), 1, SolverState(*copies, dict(saved.values)))
    again.solver.begin(start)
    a, b = found.solver.step(), again.solver.step()
    assert relative(again.solver.theta, found.solver.theta) < 1e-12
    assert b.loss == pytest.approx(a.loss, rel=1e-12) and again.solver.iteration == 2


def test_a_worker_without_samples(comm: Comm) -> None:
    """Fewer samples than workers in every batch but one."""
    problem = net("mlp", samples=5)
    for case in ("easgd", "averaging-keep", "parle", "rank_m-II"):
        check(problem, comm, comm.size, 2, 1e-9, batch=1, **CASES[case])


def test_the_reference_gradient_is_a_derivative() -> None:
    problem = Problem((3,), SMALL, samples=7)
    task, rows = reference.Task(problem), np.array([1, 4, 5])
    g = task.gradient(task.start, rows)
    numeric = [
        (task.value(task.start + 1e-6 * e, rows) - task.value(task.start - 1e-6 * e, rows)) / 2e-6
        for e in np.eye(len(g))
    ]
    assert relative(numeric, g) < 1e-7
    assert task.value(task.start) == pytest.approx(
        oracle.objective(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C)
    )
