"""`C: auto`: the estimate against the evidence of a linear model; the spectrum and runs on every number of ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from inside import start as start_job
from problems import MLP, OnRanks, Problem, flat, lay_out
from runs import fails, metrics, train, write_problem
from scipy.optimize import minimize

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import local_systems
from dnewton.data.sampling import signs
from dnewton.solvers.interface import StartPoint
from dnewton.solvers.newton import evidence
from dnewton.solvers.newton.evidence import LARGEST, EvidenceNewton, Limit, Spectrum, estimate

EXACT = {"C": "auto", "damping": "auto", "curvature": "full", "subproblem": "exact", "cg_tolerance": 1e-8}


def linear() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 8)) * np.geomspace(3, 0.05, 8)
    return x, x @ rng.normal(size=8) + 0.3 * rng.normal(size=40)


def test_the_fixed_point_is_the_largest_evidence_of_a_linear_model() -> None:
    """Marginal likelihood of y ~ N(0, XXᵀ/(2α) + I/(2β)), by a general optimiser."""
    x, y = linear()

    def likelihood(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        k = x @ x.T / (2 * alpha) + np.eye(len(y)) / (2 * beta)
        return float(y @ np.linalg.solve(k, y) / 2 + np.linalg.slogdet(k)[1] / 2)

    def profile(ratio: float) -> float:
        return float(minimize(lambda b: likelihood(np.array([b[0] + math.log(ratio), b[0]])), [0.0]).fun)

    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000}
    best = minimize(likelihood, np.zeros(2), method="Nelder-Mead", options=options)
    values = [float(v) for v in np.linalg.eigvalsh(x @ x.T)]
    ratio, heights = 1.0, []
    for _ in range(300):
        w = np.linalg.solve(x.T @ x + ratio * np.eye(8), x.T @ y)
        found = estimate(Spectrum(values, [1.0] * 40), ratio, float(((x @ w - y) ** 2).sum()), float(w @ w), 40)
        assert found is not None
        heights.append((ratio, found.evidence))
        ratio = 1 / (2 * found.C)
    assert ratio == pytest.approx(math.exp(best.x[0] - best.x[1]), rel=1e-5)
    assert 0 < found.gamma < 8
    # the reported evidence is the likelihood with the best β, up to a constant
    for at, height in (heights[0], heights[3]):
        assert height - found.evidence == pytest.approx(best.fun - profile(at), abs=1e-5)


@pytest.mark.parametrize(("e_d", "e_w", "values"), [(1.0, 0.0, [1.0]), (1.0, 1.0, [0.0]), (math.nan, 1.0, [1.0])])
def test_where_nothing_can_be_said(e_d: float, e_w: float, values: list[float]) -> None:
    assert estimate(Spectrum(values, [1.0]), 0.5, e_d, e_w, 4) is None


def test_bounds() -> None:
    many = Spectrum([1e9] * 4, [1.0] * 4)
    exact = estimate(many, 0.5, 0.0, 1.0, 4)
    assert exact is not None and exact.C == LARGEST and math.isfinite(exact.evidence)
    full = estimate(many, 0.5, 1e-3, 1.0, 4)  # as many parameters as residuals
    assert full is not None and full.gamma < 4 and 0 < full.C < LARGEST


def test_the_limit_follows_the_evidence() -> None:
    limit = Limit()
    for height in (1.0, 5.0, 4.5):
        limit = limit.after(10.0, height, 100)
        assert limit.most == math.inf
    limit = limit.after(10.0, 3.0, 100)  # fallen by 2
    assert limit.most == pytest.approx(10 / 1.5)
    limit = limit.after(limit.most, 2.0, 100)  # the first with another C: nothing to compare with
    assert limit.most == pytest.approx(10 / 1.5)
    assert limit.after(limit.most, 0.5, 100, error=5.0).most == limit.most
    assert limit.after(limit.most, 0.5, 100).most == pytest.approx(10 / 1.5**2)
    assert limit.after(limit.most, 40.0, 100).most == math.inf


def jacobian(on: OnRanks) -> np.ndarray:
    """Dense J of all samples, (samples times outputs, variables)."""
    blocks = oracle.jacobian(on.problem.params, on.problem.parsed, on.problem.x)
    rows = on.problem.samples * on.problem.outputs
    return np.concatenate([b.reshape(rows, -1) for b in blocks.values()], axis=1)


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["held", "passes", "eigenvalues"])
def test_spectrum_on_every_number_of_ranks(comm: Comm, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on = lay_out(Problem((5,), MLP, "squared"), comm)
    if how == "held":
        monkeypatch.setattr(evidence, "EVIDENCE_ROWS", 0)
    model = on.by_passes() if how == "passes" else on.model()
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    found = evidence.spectrum(model, unit, on.theta, on.comm, 7)
    j = jacobian(on)
    values, vectors = np.linalg.eigh(j @ j.T)
    for ratio in (1e-3, 0.5, 20.0):
        share = values / (values + ratio)
        expected = share.sum()
        if how != "eigenvalues":  # as many iterations as rows: exact for the random vectors
            probes = [signs(7, evidence.PROBE, k, len(j)) for k in range(evidence.PROBES)]
            expected = np.mean([share @ (vectors.T @ v) ** 2 for v in probes])
            assert expected == pytest.approx(share.sum(), rel=0.3)
        got = sum(w * s / (s + ratio) for s, w in zip(*found, strict=True))
        assert got == pytest.approx(expected, rel=1e-6)


def auto(comm: Comm, samples: int = 24, **options: Any) -> tuple[OnRanks, EvidenceNewton]:
    """The solver on a smooth function with noise."""
    problem = Problem((5,), MLP, "squared", samples, C=1.0, solver={**EXACT, "subsample": 1.0, **options})
    problem.y = np.sin(problem.x[:, :3]) + 0.3 * problem.y
    on = lay_out(problem, comm)
    made = on.newton()
    return on, EvidenceNewton(on.objective, problem.config.solver, on.comm, made._strategy)


def trajectory(comm: Comm, iterations: int, **options: Any) -> tuple[list[tuple[float, float, float]], np.ndarray]:
    on, solver = auto(comm, **options)
    reports = [solver.begin(StartPoint(copy(on.theta)))]
    reports += [solver.step() for _ in range(iterations)]
    theta = flat(on.whole(solver.theta))
    solver.close()
    return [(r.extra["C"], r.extra["gamma"] or 0.0, r.loss) for r in reports], theta


@pytest.mark.mpi
def test_the_same_regulariser_on_any_number_of_ranks(comm: Comm) -> None:
    alone = comm.split(comm.rank)
    assert alone is not None
    expected, there = trajectory(alone, 12)
    found, here = trajectory(comm, 12)
    assert np.allclose(found, expected, rtol=1e-5)
    assert np.allclose(here, there, rtol=1e-4, atol=1e-5)
    assert len({c for c, _, _ in found}) > 4  # it has moved


@pytest.mark.mpi
def test_f_and_its_gradient_follow_the_regulariser(comm: Comm) -> None:
    on, solver = auto(comm, curvature="diagonal")
    solver.begin(StartPoint(copy(on.theta)))
    moved = 0
    for _ in range(5):
        report = solver.step()
        solver._curvature()  # what the next iteration begins with
        moved += report.extra["C"] != solver._C
        params, c = on.whole(solver.theta), solver._C
        p = on.problem
        assert solver._at.value == pytest.approx(oracle.objective(params, p.parsed, p.x, p.y, p.loss, c), rel=1e-10)
        expected = flat(oracle.gradient(params, p.parsed, p.x, p.y, p.loss, c))
        assert np.allclose(flat(on.whole(solver._grad)), expected, atol=1e-12)
        assert solver._norm == pytest.approx(float(np.linalg.norm(expected)))
        solver._keep_point()  # the subsample's passes went with the curvature
    assert moved >= 3
    solver.close()


@pytest.mark.mpi
@pytest.mark.parametrize("rejects", [False, True])
def test_what_is_saved_goes_on_bit_by_bit(comm: Comm, rejects: bool) -> None:
    on, one = auto(comm)
    one.begin(StartPoint(copy(on.theta)))
    for _ in range(3):
        one.step()
    if rejects:  # f and its gradient have been moved to another C, and stay where they are
        real, one._take = one._take, lambda *args: False  # type: ignore[method-assign]
        assert one.step().alpha == 0.0
        one._take = real  # type: ignore[method-assign]
    _, two = auto(comm)
    resumed = two.begin(StartPoint(copy(one.theta), one.iteration, one.saved()))
    assert (resumed.loss, resumed.grad_norm) == (one._at.value, one._norm)
    for _ in range(3):
        a, b = one.step(), two.step()
        assert (a.loss, a.grad_norm, a.extra, a.damping) == (b.loss, b.grad_norm, b.extra, b.damping)
    assert two.saved().values == one.saved().values
    one.close()
    two.close()


@pytest.mark.jobs(2)
def test_runs(tmp_path: Path) -> None:
    """What metrics.jsonl holds, a run in two parts, and what is refused."""
    problem = Problem((5,), MLP, "squared", samples=20)
    values = write_problem(problem, tmp_path)
    values["solver"] = {"C": "auto", "max_iterations": 6}
    assert train(2, tmp_path, values, "whole").returncode == 0
    assert train(2, tmp_path, values, "parts", settings=["solver.max_iterations=3"]).returncode == 0
    result = start_job(2, "--resume", "parts", "--set", "solver.max_iterations=6", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    a, b = metrics(tmp_path, "whole"), metrics(tmp_path, "parts")
    for key in ("loss", "grad_norm", "C", "gamma"):
        assert [r[key] for r in a] == [r[key] for r in b], key
    assert a[0]["gamma"] is None and a[-1]["gamma"] > 0
    result = start_job(2, "--resume", "parts", "--set", "solver.C=2", "--set", "solver.max_iterations=7", cwd=tmp_path)
    assert result.returncode == 0 and "C" not in metrics(tmp_path, "parts")[-1]
    for settings, word in (
        (["parallel.replicas=2"], "solver.C: auto needs parallel.replicas: 1"),
        (["net.loss=huber"], "solver.C: auto needs net.loss: squared"),
        (["solver.gradient_batch=5"], "C: auto needs gradient_batch: all"),
        (["solver={name: adam, C: auto}"], "solver.C"),
    ):
        fails(train(2, tmp_path, values, "refused", settings=settings), word)


@pytest.mark.mpi
def test_c_is_limited_where_the_fit_follows_the_noise(comm: Comm) -> None:
    """As many variables as there can be, and little to be learnt from: the evidence falls sooner or later."""
    on, solver = auto(comm)
    solver.begin(StartPoint(copy(on.theta)))
    found = []
    for _ in range(8):
        c = solver.step().extra["C"]
        found.append((c, Limit(*solver._standing.limit).most))
    solver.close()
    assert all(c <= most * 1.02 for c, most in found)
    assert found[-1][1] < 1e3
