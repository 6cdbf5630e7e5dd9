"""Weights of samples: weight 2 is the sample twice, weight 0 is no sample, in all that is made of the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
import pytest
from crews import OnCrew, crewed
from places import host, put
from problems import CNN, MLP, Problem, flat, lay_out, own_blocks, relative, whole, with_outputs

from dnewton.arrays.namespace import copy, take
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import LossSection
from dnewton.curvature.hessian import Hessian
from dnewton.curvature.jacobian import local_systems
from dnewton.data.samples import Samples
from dnewton.data.sampling import Cycle
from dnewton.errors import UserError
from dnewton.grid import grids
from dnewton.model.weighted_loss import loss_of
from dnewton.solvers.interface import StartPoint
from dnewton.solvers.newton import distributed_cholesky, evidence, preconditioners
from dnewton.solvers.newton.evidence import EvidenceNewton
from dnewton.solvers.newton.exact_systems import DualSystem, PrimalSystem
from dnewton.solvers.newton.sampled import SampledGaussNewton

pytestmark = pytest.mark.mpi
LOSSES = ("squared", "huber", "poisson", "cross_entropy", "logistic")
WEIGHTS = np.array([2, 1, 0, 3, 1, 1, 2, 1, 4], dtype=float)
DAMPING = 0.3


def problem(loss: str, net: str = "mlp", samples: int = 9, **options: Any) -> Problem:
    layers = MLP if net == "mlp" else CNN
    layers = with_outputs(layers, 1) if loss == "logistic" else layers
    shape = (5,) if net == "mlp" else (2, 7, 6)
    return Problem(shape, layers, loss, samples, weights=np.resize(WEIGHTS, samples), **options)


def direction(p: Problem) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {k: rng.normal(size=v.shape) for k, v in p.params.items()}


def reference(p: Problem) -> tuple[float, np.ndarray, np.ndarray]:
    """f, ∇f and G of the repeated samples by plain loops."""
    r = p.repeated
    at = r.params, r.parsed, r.x, r.y, r.loss, r.C
    gradient = flat(oracle.gradient(*at))
    return oracle.objective(*at), gradient, oracle.gauss_newton_matrix(*at, r.samples)


@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("loss", LOSSES)
def test_function_gradient_and_products(comm: Comm, loss: str, net: str) -> None:
    """On every grid, evaluated in batches, with J in every form."""
    p = problem(loss, net)
    value, gradient, dense = reference(p)
    for grid in grids(comm.size):
        on = lay_out(p, comm, grid)
        at = on.objective.evaluate(on.theta, np.arange(6), np.arange(6, 9))
        assert at.value == pytest.approx(value, rel=1e-11)
        assert relative(flat(on.whole(on.objective.gradient(on.theta, at))), gradient) < 1e-11
        total, _ = on.objective.accumulate(on.theta, np.arange(9), None)
        squares = 0.5 * sum(float((v**2).sum()) for v in p.params.values()) / (p.C * p.repeated.samples)
        assert total / 9 + squares == pytest.approx(value, rel=1e-11)
        (unit,) = local_systems(on.network.blocks, per_layer=False)
        v = on.from_params(direction(p))
        expected = dense @ flat(direction(p)) + DAMPING * flat(direction(p))
        models = [on.model(representation=r, parts=2) for r in ("factored", "dense")]
        for model in [*models, on.by_passes(chunk=4)]:
            assert relative(flat(on.whole(model.full_product(v, unit, DAMPING, on.comm))), expected) < 1e-11
        image = models[0].images([v], unit, on.comm)[0, ...]
        d = flat(direction(p))
        curved = models[0].quadratic(image, image) + on.objective.regulariser * float(d @ d)
        assert curved == pytest.approx(float(d @ dense @ d), rel=1e-10)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
def test_a_ranks_own_systems(comm: Comm, loss: str) -> None:
    """Primal and dual matrices, the sampled preconditioner from all samples, and the diagonal one."""
    p = problem(loss)
    _, _, dense = reference(p)
    on = lay_out(p, comm)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    own = own_blocks(on)[comm.rank]
    place = flat(whole(on, np.arange(float(on.network.size))))[own].astype(int)
    system = dense[np.ix_(own, own)] + DAMPING * np.eye(len(own))
    v = np.random.default_rng(comm.rank).normal(size=on.network.size)
    for representation in ("factored", "dense"):
        model = on.model(representation=representation)
        if not unit.size:
            continue
        expected = np.linalg.solve(system, v[place])
        for kind in (PrimalSystem, DualSystem):
            d = kind(model, put(-v), unit).solve(DAMPING)
            assert d is not None and relative(host(d)[place], expected) < 1e-9
        inverse = SampledGaussNewton(model, unit, 100).preconditioner(DAMPING)
        assert inverse is not None and relative(host(inverse(put(v)))[place], expected) < 1e-9
        diagonal = preconditioners.make("diagonal", model, unit, DAMPING)
        assert diagonal is not None
        assert relative(host(diagonal(put(v)))[place], v[place] / np.diag(system)) < 1e-9


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_the_whole_system(comm: Comm, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    monkeypatch.setattr(distributed_cholesky, "WIDTH", 6)
    monkeypatch.setattr(distributed_cholesky, "ONE_PANEL", 0)
    p = problem(loss)
    _, gradient, dense = reference(p)
    on = lay_out(p, comm)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    at = on.objective.evaluate(on.theta, np.arange(6), np.arange(6, 9))
    d = DualSystem(on.model(), on.objective.gradient(on.theta, at), unit, on.comm).solve(DAMPING)
    expected = -np.linalg.solve(dense + DAMPING * np.eye(len(dense)), gradient)
    assert d is not None and relative(flat(on.whole(d)), expected) < 1e-8


@pytest.mark.serial
def test_the_kronecker_preconditioner_knows_the_weights(comm: Comm) -> None:
    """Of a layer so wide that its factors are made from all samples."""
    p = problem("logistic")  # 9 and 15 samples of one output, 7 units
    found = []
    for q in (p, p.repeated):
        on = lay_out(q, comm)
        unit = local_systems(on.network.blocks, per_layer=True)[0]
        made = preconditioners.make("kronecker", on.model(), unit, DAMPING)
        assert made is not None
        found.append(host(made(put(np.random.default_rng(3).normal(size=unit.size)))))
    assert relative(found[0], found[1]) < 1e-10


@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_hessian_products(comm: Comm, loss: str, net: str) -> None:
    p = problem(loss, net)

    def product(q: Problem) -> np.ndarray:
        on = lay_out(q, comm)
        parts = np.array_split(np.arange(q.samples), 2)
        batches = [(on.objective.forward(on.theta, s, keep=True), take(on.objective.data.y, s)) for s in parts]
        h = Hessian(on.network, on.theta, batches, on.objective.loss, q.samples)
        return flat(on.whole(h.product(on.from_params(direction(q)))))

    assert relative(product(p), product(p.repeated)) < 1e-11


def test_subsampled_curvature_is_unbiased(comm: Comm) -> None:
    """The mean of G over the draws of a pass, which take every sample once, is G of all."""
    p = problem("cross_entropy", samples=12)
    on = lay_out(p, comm)
    _, _, dense = reference(p)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    v = on.from_params(direction(p))
    draws = Cycle(12, 3, 7, 1)
    means = [on.model(draws.draw(k)).full_product(v, unit, 0.0, on.comm) for k in range(4)]
    assert relative(flat(on.whole(sum(means[1:], means[0]) / 4)), dense @ flat(direction(p))) < 1e-11


def test_a_loss_without_terms_is_refused() -> None:
    class Own(LossSection):
        def value(self, z: Any, y: Any) -> float:
            return 0.0

    y = np.ones((2, 2))
    own = Own()
    assert loss_of(own, Samples(y, y)) is own
    with pytest.raises(UserError, match="Own states no terms"):
        loss_of(own, Samples(y, y, total=2.0))


# --- whole runs -------------------------------------------------------------------------------------------------------

Steps = list[tuple[float, float]]


def newton(comm: Comm, p: Problem, iterations: int) -> tuple[Steps, np.ndarray]:
    on = lay_out(p, comm)
    solver: Any = on.newton()
    if p.solver.get("C") == "auto":
        solver = EvidenceNewton(on.objective, p.config.solver, on.comm, solver._strategy)
    reports = [solver.begin(StartPoint(copy(on.theta)))]
    reports += [solver.step() for _ in range(iterations)]
    solver.close()
    found = [(r.loss, r.extra.get("C", r.grad_norm)) for r in reports]
    return found, flat(on.whole(solver.theta))


def agree(p: Problem, runs: list[tuple[Steps, np.ndarray]], tolerance: float) -> None:
    (steps, theta), (expected, there) = runs
    assert np.allclose(steps, expected, rtol=tolerance)
    assert relative(theta, there) < tolerance
    assert expected[-1][0] < 0.9 * expected[0][0]  # it has moved


@pytest.mark.parametrize("curvature", ["full", "diagonal"])
@pytest.mark.parametrize("damping", ["paper", "auto"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
def test_newtons_trajectory(comm: Comm, loss: str, damping: str, curvature: str) -> None:
    solver = {"damping": damping, "curvature": curvature, "subproblem": "exact", "subsample": 1.0}
    p = problem(loss, solver=solver)
    agree(p, [newton(comm, q, 4) for q in (p, p.repeated)], 1e-7)


@pytest.mark.parametrize("jacobian", ["factored", "implicit"])
def test_by_conjugate_gradients(comm: Comm, jacobian: str) -> None:
    solver = {"subsample": 1.0, "cg_tolerance": 1e-10, "max_cg": 400, "jacobian": jacobian, "subproblem": "cg"}
    p = problem("squared", solver=solver)
    agree(p, [newton(comm, q, 3) for q in (p, p.repeated)], 1e-5)


def test_c_by_the_evidence(comm: Comm) -> None:
    """A weight of 2 is two observations: C, γ and the trajectory are those of the repeated set."""
    solver = {"C": "auto", "damping": "auto", "curvature": "full", "subproblem": "exact", "subsample": 1.0}
    p = problem("squared", samples=18, C=1.0, solver=solver)
    p.y = np.sin(p.x[:, :3]) + 0.3 * p.y
    runs = [newton(comm, q, 6) for q in (p, p.repeated)]
    agree(p, runs, 1e-5)
    assert len({c for _, c in runs[0][0]}) > 3


def test_the_spectrum_by_quadrature(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """√w J Jᵀ √w with w of mean 1, whose trace the random signs give without error where J Jᵀ is diagonal."""
    p = problem("squared")
    on = lay_out(p, comm)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    exact = evidence.spectrum(on.model(), unit, on.theta, on.comm, 7)
    monkeypatch.setattr(evidence, "EVIDENCE_ROWS", 0)
    jac = oracle.jacobian(p.params, p.parsed, p.x)
    j = np.concatenate([b.reshape(27, -1) for b in jac.values()], axis=1)
    root = np.repeat(np.sqrt(WEIGHTS / WEIGHTS.mean()), 3)
    matrix = root[:, None] * (j @ j.T) * root
    assert sum(exact.values) == pytest.approx(np.trace(matrix), rel=1e-9)
    for model in (on.model(), on.by_passes()):
        found = evidence.spectrum(model, unit, on.theta, on.comm, 7)
        probes = [evidence.signs(7, evidence.PROBE, k, 27) for k in range(evidence.PROBES)]
        expected = np.mean([v @ matrix @ v for v in probes])
        assert sum(w * s for s, w in zip(*found, strict=True)) == pytest.approx(expected, rel=1e-9)


ALL = 10**6  # every pass is one batch of all samples, so that both sets see the same
WORKERS: dict[str, dict[str, Any]] = {
    "sgd": {"batch": ALL, "learning_rate": 0.1},
    "adam": {"batch": ALL, "learning_rate": 0.01},
    "d_kfac": {"batch": ALL, "learning_rate": 0.1},
    "hessian_free": {"subsample": 1.0, "cg_tolerance": 1e-8},
}
ALONE: dict[str, dict[str, Any]] = {
    "dp_kfac": {"batch": ALL, "learning_rate": 0.1},
    "mpd_kfac": {"batch": ALL, "learning_rate": 0.1},
    "easgd": {"batch": ALL, "learning_rate": 0.1},
    "entropy_sgd": {"batch": ALL, "learning_rate": 0.1, "inner_steps": 3, "noise": 0.0},
    "rank_m": {"batch": ALL, "learning_rate": 0.1, "overlap": ALL},
}


def cases(comm: Comm, net: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    if net == "cnn":
        yield "d_kfac", 1, WORKERS["d_kfac"]
        return
    for name, options in WORKERS.items():
        yield name, comm.size, options
    yield "hessian_free", 1, {**WORKERS["hessian_free"], "method": "bicgstab"}
    for name, options in ALONE.items():
        yield name, 1, options


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_other_methods_trajectories(comm: Comm, net: str) -> None:
    p = problem("cross_entropy", net)
    for name, replicas, options in cases(comm, net):
        runs = []
        for q in (p, p.repeated):
            sized = {k: q.samples if v == ALL else v for k, v in options.items()}
            crew = crewed(q, comm, replicas, name=name, **sized)
            assert isinstance(crew, OnCrew)
            crew.begin()
            losses = [crew.solver.step().loss for _ in range(2)]
            runs.append((losses, crew.flat()))
            crew.solver.close()
        assert np.allclose(runs[0][0], runs[1][0], rtol=1e-6), name
        assert relative(runs[0][1], runs[1][1]) < 1e-6, name
        assert math.isfinite(runs[0][0][-1])
