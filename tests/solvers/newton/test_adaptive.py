"""λ, |S| and the size of the preconditioner by themselves."""

from __future__ import annotations

import functools
import math
import weakref
from dataclasses import replace

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import host, same
from problems import CNN, MLP, Problem, lay_out, with_outputs
from share import from_first

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import TIME_LIMIT, Stopped
from dnewton.config.newton import NewtonSection
from dnewton.planning.costs import BlockShape, blocks_of
from dnewton.solvers.damping import LARGEST
from dnewton.solvers.interface import NO_PROGRESS, SolverState, StartPoint
from dnewton.solvers.newton.adaptive import FIRST_ROWS, LEAST_ROWS, Controller, Damping, Operations, SampledRows
from dnewton.solvers.newton.first_passes import NONE, TOGETHER, FirstPasses
from dnewton.solvers.newton.newton import Newton

AUTO = {"damping": "auto", "C": math.inf}


def test_nielsens_rule() -> None:
    """λ₀ and the floor by the scale of G; down by the cubic, at most tenfold; up by 2, 4, 8, …"""
    rule = Damping()
    assert rule.begin(50.0, 1e-7, None) == pytest.approx(0.05)
    assert rule.begin(50.0, 1e-7, 3.0) == 3.0
    assert rule.accepted(1.0, 1.0) == pytest.approx(0.1) == rule.accepted(1.0, 7.0)
    assert rule.accepted(1.0, 0.75) == pytest.approx(1 - 0.5**3)
    assert rule.accepted(1.0, 0.5) == 1.0
    assert rule.accepted(1.0, 0.0) == 2.0
    assert rule.accepted(1e-12, 1.0) == pytest.approx(0.01 * 1e-7 * 50.0)
    assert [rule.rejected(1.0) for _ in range(3)] == [2.0, 4.0, 8.0]
    rule.accepted(1.0, 0.9)
    assert rule.rejected(1.0) == 2.0
    assert rule.rejected(LARGEST) == LARGEST


@given(st.lists(st.floats(0, 300), min_size=1, max_size=40), st.integers(1, 5000), st.integers(1, 10**6))
def test_the_rows_stay_within_bounds(iterations: list[float], most: int, samples: int) -> None:
    block = BlockShape("a", 7, 9, 1, 1, "sample", True, 1, False, 9, 7, 0)
    rows, work = SampledRows(), Operations((block,), samples, 3)
    for count in iterations:
        rows.solved(count, work, most)
        assert min(most, LEAST_ROWS) <= rows.rows <= max(most, 1)


def test_the_rows_follow_the_balance(comm: Comm) -> None:
    """More of them while the iterations are dear, fewer while the preconditioner is."""
    blocks = tuple(blocks_of(lay_out(Problem((5,), MLP), comm).plan))
    rows = SampledRows()
    rows.solved(200, Operations(blocks, 10**6, 3), 4096)
    assert rows.rows == 2 * FIRST_ROWS
    rows.solved(1, Operations(blocks, 1, 3), 4096)
    assert rows.rows == FIRST_ROWS


def test_what_is_kept_is_read_back() -> None:
    controller = Controller.restored("")
    controller.damping.begin(3.0, 1e-7, None)
    controller.damping.rejected(1.0)
    controller.sampled.rows = 77
    assert Controller.restored(controller.saved()) == controller


def test_the_size_of_the_subsample() -> None:
    """As many rows of J as samples, but not fewer than a few; numbers and the paper's share mean what they did."""

    def size(samples: int, outputs: int, **options: object) -> int:
        return NewtonSection.model_validate(options).subsample_size(samples, outputs)

    assert size(5000, 1) == 5000
    assert size(50000, 10) == 5000
    assert size(300, 10) == 200
    assert size(100, 10) == 100
    assert size(5000, 5000) == 64
    assert size(5000, 1, damping="paper") == 500 == size(5000, 1, drop=0.5) == size(5000, 10, subsample=0.1)
    assert size(5000, 10, subsample=7) == 7


def solver_for(
    comm: Comm, loss: str = "squared", net: str = "mlp", **options: object
) -> tuple[Problem, Newton, object]:
    layers = with_outputs(MLP if net == "mlp" else CNN, 1 if loss == "logistic" else 3)
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), layers, loss, samples=12, solver={**AUTO, **options})
    on = lay_out(problem, comm)
    return problem, on.newton(), on


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"curvature": "full"}, {"subproblem": "exact"}, {"jacobian": "implicit"}])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_f_falls_and_every_rank_decides_alike(comm: Comm, net: str, loss: str, options: dict[str, object]) -> None:
    """f and ρ are the oracle's at the points that are reached; λ is the same on all ranks."""
    problem, solver, on = solver_for(comm, loss, net, **options)
    before = solver.begin(StartPoint(on.theta)).loss  # type: ignore[attr-defined]
    for _ in range(5):
        step = solver.step()
        params = on.whole(solver.theta)  # type: ignore[attr-defined]
        known = problem.parsed, problem.x, problem.y, loss, problem.C
        value = from_first(functools.partial(oracle.objective, params, *known))
        assert step.loss == pytest.approx(value, rel=1e-10)
        assert step.loss <= before
        assert comm.minmax(step.damping or 0.0)[0] == comm.minmax(step.damping or 0.0)[1]
        before = step.loss
    solver.close()


@pytest.mark.mpi
def test_a_step_back_is_bounded_and_raises_lambda(comm: Comm) -> None:
    """An objective that no step lowers: every iteration tries a bounded number of points, and the run ends."""
    _, solver, on = solver_for(comm)
    first = solver.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    evaluate = solver._evaluate
    calls = 0

    def worse(theta: object, trial: bool = False) -> object:
        nonlocal calls
        calls += trial
        at = evaluate(theta, trial)
        at.value = math.nan if calls % 2 else first.loss + 1.0
        return at

    solver._evaluate = worse  # type: ignore[method-assign, assignment]
    lambdas = []
    for _ in range(12):
        step = solver.step()
        lambdas.append(step.damping)
        assert step.loss == first.loss and step.alpha == 0.0 and step.trials <= 18
        if solver.ending:
            break
    assert lambdas == sorted(lambdas)
    assert solver.ending == NO_PROGRESS
    solver.close()


@pytest.mark.mpi
def test_a_point_without_a_finite_gradient_raises_lambda(comm: Comm) -> None:
    """f falls there, so that no solve was in vain; with the same λ the same J would lead there for ever."""
    _, solver, on = solver_for(comm)
    solver.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    gradient = solver._objective.gradient
    solver._objective.gradient = lambda *args: math.nan * gradient(*args)  # type: ignore[method-assign]
    steps = [solver.step() for _ in range(3)]
    assert all(step.alpha == 0.0 for step in steps)
    lambdas = [step.damping or 0.0 for step in steps]
    assert lambdas[0] < lambdas[1] < lambdas[2]
    solver.close()


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"subproblem": "exact"}])
def test_nothing_of_the_jacobian_stays_where_memory_does_not_hold_it(comm: Comm, options: dict[str, object]) -> None:
    """Neither J nor what was formed from it is there while a trial point is evaluated."""
    _, solver, on = solver_for(comm, **options)
    solver._strategy = replace(solver._strategy, keeps_jacobian=False)
    solver.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    models: list[weakref.ref[object]] = []
    curvature, evaluate = solver._curvature, solver._evaluate

    def built() -> object:
        model = curvature()
        models.append(weakref.ref(model))
        return model

    def evaluated(theta: object, trial: bool = False) -> object:
        assert not trial or models[-1]() is None
        return evaluate(theta, trial)

    solver._curvature = built  # type: ignore[method-assign, assignment]
    solver._evaluate = evaluated  # type: ignore[method-assign, assignment]
    for _ in range(2):
        solver.step()
    assert len(models) == 2
    solver.close()


def test_lambda_is_not_known_before_the_first_jacobian(comm: Comm) -> None:
    for options, known in (({}, None), ({"lambda": 0.5}, 0.5), ({"damping": "paper"}, 1.0)):
        _, solver, on = solver_for(comm, **options)
        assert solver.begin(StartPoint(on.theta)).damping == known  # type: ignore[attr-defined]
        solver.close()


@pytest.mark.mpi
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_it_goes_on_bit_for_bit_from_what_is_saved(comm: Comm, net: str) -> None:
    _, solver, on = solver_for(comm, net=net)
    solver.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    for _ in range(3):
        solver.step()
    saved = solver.saved()
    kept = SolverState({k: v + 0.0 for k, v in saved.vectors.items()}, values=dict(saved.values))
    theta = solver.theta + 0.0
    expected = [solver.step() for _ in range(3)]
    solver.close()
    _, other, _ = solver_for(comm, net=net)
    other.begin(StartPoint(theta, 3, kept))
    found = [other.step() for _ in range(3)]
    other.close()
    assert [(s.loss, s.damping, s.cg) for s in found] == [(s.loss, s.damping, s.cg) for s in expected]
    assert np.array_equal(host(other.theta), host(solver.theta))


@pytest.mark.mpi
def test_passes_of_adam_are_adams(comm: Comm) -> None:
    """A pass over fewer samples than a batch is a step with the whole gradient, regularised, of size about the rate;
    then Newton goes on from there."""
    problem, solver, on = solver_for(comm, "cross_entropy", start="adam", start_passes=1)
    at = on.objective.evaluate(on.theta, np.arange(0), np.arange(problem.samples))  # type: ignore[attr-defined]
    gradient = host(on.objective.gradient(on.theta, at))  # type: ignore[attr-defined]
    there = host(on.theta) - 3e-3 * gradient / (np.abs(gradient) + 1e-8)  # type: ignore[attr-defined]
    for asked in (False, True):  # asked for
        first = solver.begin(StartPoint(on.theta, given=asked))  # type: ignore[attr-defined]
        assert first.loss == at.value and same(solver.theta, on.theta)  # type: ignore[attr-defined]
        step = solver.step()
        assert np.allclose(host(solver.theta), there, atol=1e-9)
        assert step.extra == {"adam_pass": 1} and step.loss < first.loss and solver.iteration == 1
        solver._passes = FirstPasses(on.objective, solver._options, comm, TOGETHER)  # type: ignore[attr-defined]
    _, newton, on = solver_for(comm, "cross_entropy")
    known = newton.begin(StartPoint(solver.theta))
    assert known.loss == pytest.approx(step.loss, rel=1e-13) and known.grad_norm == pytest.approx(step.grad_norm)
    for one in (newton, solver):
        one.close()


@pytest.mark.mpi
@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_a_run_goes_on_after_any_pass(comm: Comm, done: int) -> None:
    """Bit by bit; f is that of the point, ‖∇f‖ is known from the last pass on, and no pass counts as an iteration."""
    problem, whole, on = solver_for(comm, "cross_entropy", start="adam", start_passes=3)
    first = whole.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    saved, steps = StartPoint(on.theta), [first]  # type: ignore[attr-defined]
    for k in range(1, 6):
        steps.append(whole.step())
        params = on.whole(whole.theta)  # type: ignore[attr-defined]
        value = oracle.objective(params, problem.parsed, problem.x, problem.y, "cross_entropy", problem.C)
        assert steps[-1].loss == pytest.approx(value, rel=1e-10) and (steps[-1].grad_norm is None) == (k < 3)
        if k == done:
            held = whole.saved()
            vectors = {name: copy(vector) for name, vector in held.vectors.items()}
            saved = StartPoint(copy(whole.theta), k, replace(held, vectors=vectors))
    assert whole.passes_before == 3 and whole.iteration == 5
    _, again, _ = solver_for(comm, "cross_entropy", start="adam", start_passes=3)
    again.begin(saved)
    for wanted in steps[done + 1 :]:
        step = again.step()
        assert (step.loss, step.grad_norm, step.damping) == (wanted.loss, wanted.grad_norm, wanted.damping)
    assert same(again.theta, whole.theta) and again.passes_before == 3
    for one in (whole, again):
        one.close()


@pytest.mark.mpi
@pytest.mark.parametrize(("options", "planned"), [({"start": "none"}, 1), ({"start_passes": 2}, 2), ({}, 3)])
def test_a_resumed_run_makes_the_passes_that_it_is_asked_for_now(
    comm: Comm, options: dict[str, object], planned: int
) -> None:
    asked = {"start": "adam", "start_passes": 3}
    _, first, on = solver_for(comm, "cross_entropy", **asked)
    first.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    first.step()
    held = first.saved()
    _, again, _ = solver_for(comm, "cross_entropy", **{**asked, **options})
    again.begin(StartPoint(first.theta, 1, held))
    while again.step().extra.get("adam_pass"):
        assert again._at.subsample[0].tape is None or not again._passes.left
    assert again.passes_before == planned and again.iteration == planned + 1
    assert again._passes._moments is None and "first_moment" not in again.saved().vectors
    for one in (first, again):
        one.close()


@pytest.mark.mpi
def test_a_pass_to_where_f_is_not_finite_is_the_last_and_not_taken(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    _, solver, on = solver_for(comm, "cross_entropy", start="adam", start_passes=3)
    first = solver.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    theta, value, calls = solver.theta, on.objective.value, []  # type: ignore[attr-defined]

    def infinite(there: object) -> tuple[float, float]:
        calls.append(there)
        return (math.inf, 0.0) if len(calls) == 1 else value(there)

    monkeypatch.setattr(on.objective, "value", infinite)  # type: ignore[attr-defined]
    step = solver.step()
    assert step.loss == pytest.approx(first.loss, rel=1e-12) and step.grad_norm is not None
    assert solver.theta is theta and solver.passes_before == solver.iteration == 1
    assert solver.step().solved
    solver.close()


@pytest.mark.mpi
def test_a_stop_within_a_pass_leaves_what_was_before(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    _, solver, on = solver_for(comm, start="adam")
    solver.begin(StartPoint(on.theta))  # type: ignore[attr-defined]
    solver.step()
    before, held, theta = copy(solver.theta), solver.saved(), solver.theta
    moments = {name: copy(vector) for name, vector in held.vectors.items()}

    def stopped(*_: object) -> None:
        raise Stopped(TIME_LIMIT, 0)

    monkeypatch.setattr(on.objective, "value", stopped)  # type: ignore[attr-defined]
    with pytest.raises(Stopped):
        solver.step()
    assert solver.iteration == 1 and solver.theta is theta and same(theta, before)
    assert solver.saved().values == held.values
    assert all(same(solver.saved().vectors[name], vector) for name, vector in moments.items())
    solver.close()


@pytest.mark.mpi
def test_a_given_start_is_not_left_unless_asked(comm: Comm) -> None:
    """`start: auto` with many samples of classes."""
    _, solver, on = solver_for(comm, "cross_entropy", start_passes=1)
    solver._start_kind = TOGETHER
    for known in (True, False):
        solver.begin(StartPoint(on.theta, given=known))  # type: ignore[attr-defined]
        assert solver.passes_before == (0 if known else 1)
    solver.close()


@pytest.mark.mpi
@pytest.mark.parametrize("speed", [1e-9, 1e30])
def test_passes_that_would_wait_longer_than_compute_are_left_out(
    comm: Comm, monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    """Unless they are asked for; one rank has nobody to wait for."""
    monkeypatch.setattr("dnewton.config.newton.MANY_SAMPLES", 1)
    monkeypatch.setattr("dnewton.solvers.newton.first_passes.SPEED", speed)
    monkeypatch.setattr("dnewton.solvers.newton.first_passes.LONG", 0.0)
    _, solver, _ = solver_for(comm, "cross_entropy", start_passes=1, damping="auto", start="auto")
    waits = speed > 1 and comm.size > 1
    assert (solver._start_kind == NONE) is waits
    assert ("messages would take" in solver.describe()[0]) is waits
    solver.close()
    _, solver, _ = solver_for(comm, "cross_entropy", start_passes=1, damping="auto", start="adam")
    assert solver._start_kind == TOGETHER
    solver.close()
