"""The Newton iteration: directions, combination, damping, early termination, decisions alike on all ranks."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from places import ARRAYS, host, put, same
from problems import CNN, MLP, Problem, flat, lay_out, local_cg, own_blocks, relative, with_outputs
from share import from_first
from systems import run

from dnewton.arrays.namespace import copy, dot
from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import local_systems
from dnewton.data.sampling import Cycle, Stratified, allotted, subsample_size
from dnewton.errors import UserError
from dnewton.grid import Grid, grids
from dnewton.solvers import damping
from dnewton.solvers.newton import cg, combine, early_termination
from dnewton.solvers.newton.newton import SUBSAMPLE, IterationReport, State

pytestmark = pytest.mark.mpi

FULL = {"curvature": "full", "combine": "none", "subsample": 1.0, "max_cg": 20, "early_termination": {"mode": "off"}}


def sub(comm: Comm, ranks: int) -> Comm | None:
    """The first `ranks` ranks; None on the others. Collective."""
    part = comm.split(0 if comm.rank < ranks else 1)
    return part if comm.rank < ranks else None


def check_trajectory(
    found: list[tuple[IterationReport, np.ndarray]], expected: list[dict[str, Any]], tolerance: float
) -> None:
    assert len(found) == len(expected)
    for (step, theta), reference in zip(found, expected, strict=True):
        assert step.loss == pytest.approx(reference["loss"], rel=tolerance)
        assert step.grad_norm == pytest.approx(reference["grad_norm"], rel=tolerance)
        assert step.damping == pytest.approx(reference["lambda"], rel=1e-12)
        assert relative(theta, reference["theta"]) < tolerance
        if step.alpha is not None:
            assert step.alpha == reference["step"]
            assert step.ratio == pytest.approx(reference["ratio"], rel=max(tolerance, 1e-8) * 100)


@pytest.mark.parametrize(
    "loss",
    [
        "squared",
        pytest.param("cross_entropy", marks=pytest.mark.at16),
        "logistic",
    ],
)
@pytest.mark.mpi(min_size=3 if ARRAYS == "numpy" else 1)  # 3 ranks do what 1 and 2 can
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_full_curvature_trajectory_on_every_number_of_ranks(comm: Comm, net: str, loss: str) -> None:
    """10 Newton iterations of at most 20 CG iterations on P = 1, 2, 3, 4 ranks, 4 on 6, 8, 16: on every grid."""
    layers = with_outputs(MLP if net == "mlp" else CNN, 1 if loss == "logistic" else 3)
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), layers, loss, samples=12, solver=FULL)
    options = problem.config.solver
    expected = from_first(
        lambda: oracle.newton_trajectory(
            problem.params,
            problem.parsed,
            problem.x,
            problem.y,
            loss,
            problem.C,
            10,
            max_cg=20,
            drop=options.factors[0],
            boost=options.factors[1],
            eta=options.eta,
        )
    )
    iterations = 10 if comm.size < 6 else 4
    expected = expected[: iterations + 1]
    numbers = (1, 2, 3) if comm.size < 4 else (4,) if comm.size < 6 else (6, 8, 16)  # what fewer cannot do
    for ranks in [p for p in numbers if p <= comm.size]:
        part = sub(comm, ranks)
        for grid in grids(ranks) if part else []:
            assert part is not None
            found = run(lay_out(problem, part, grid), iterations)
            check_trajectory(found, expected, 1e-6)
            assert [s.cg for s, _ in found[1:]] == [r["cg_iterations"][0] for r in expected[1:]]
            assert relative(found[1][1] - found[0][1], expected[1]["theta"] - expected[0]["theta"]) < 1e-10


@pytest.mark.parametrize("how", ["previous", "none"])
@pytest.mark.parametrize(("unit", "batch"), [("rank", 4), ("rank", 100), ("layer", 100)])
def test_diagonal_trajectory(comm: Comm, how: str, unit: str, batch: int) -> None:
    """Block-diagonal systems, one per rank or per layer block, with subsamples drawn by cycling a permutation."""
    solver = {
        "combine": how,
        "diagonal_unit": unit,
        "subsample": 0.5,
        "early_termination": {"mode": "off"},
        "max_cg": 20,
        "subproblem": "cg",
    }
    problem = Problem((5,), MLP, samples=12, solver=solver)
    on = lay_out(problem, comm, batch=batch)
    blocks = own_blocks(on)
    if unit == "layer":
        lengths = np.cumsum([v.size for v in problem.params.values()])
        layer = np.searchsorted(lengths, np.arange(lengths[-1]), side="right") // 2  # weight and bias of one layer
        blocks = [b[layer[b] == m] for b in blocks for m in range(3)]
    cycle = Cycle(problem.samples, subsample_size(0.5, problem.samples), 0, SUBSAMPLE)
    options = problem.config.solver
    expected = from_first(
        lambda: oracle.newton_trajectory(
            problem.params,
            problem.parsed,
            problem.x,
            problem.y,
            problem.loss,
            problem.C,
            6,
            max_cg=20,
            drop=options.factors[0],
            boost=options.factors[1],
            eta=options.eta,
            combine=how,
            subsets=[cycle.draw(k) for k in range(6)],
            mask_blocks=blocks,
        )
    )
    check_trajectory(run(on, 6), expected, 1e-7)


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_pieces_equal_a_dense_solve_without_messages(comm: Comm, net: str) -> None:
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN)
    on = lay_out(problem, comm)
    at = on.objective.evaluate(on.theta, np.arange(0), np.arange(problem.samples))
    grad = on.objective.gradient(on.theta, at)
    model, mine = on.model(), local_systems(on.network.blocks, per_layer=False)
    before = {name: t.values()[:2] for name, t in on.comm.ledger.phases.items()}
    with on.comm.phase("cg"):
        found = local_cg(
            lambda v, unit: model.block_product(v, unit, 0.2),
            grad,
            mine,
            1e-12,
            1000,
            early_termination.NeverTerminate(),
        )
    after = {name: t.values()[:2] for name, t in on.comm.ledger.phases.items()}
    assert after == {"cg": (0, 0), **before}  # calls and bytes of every phase, this one included
    g = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )
    gradient = flat(oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C))
    expected = np.zeros(len(gradient))
    for block in own_blocks(on):
        system = g[np.ix_(block, block)] + 0.2 * np.eye(len(block))
        expected[block] = np.linalg.solve(system, -gradient[block])
    assert relative(flat(on.whole(found.d)), expected) < 1e-9


def test_stopping_rule_is_relative(comm: Comm) -> None:
    on = lay_out(Problem((5,), MLP), comm)
    model, mine = on.model(), local_systems(on.network.blocks, per_layer=True)
    g = put(np.random.default_rng(comm.rank).normal(size=on.network.size))

    def iterations(scale: float) -> int:
        product = lambda v, unit: model.block_product(v, unit, 0.01)  # noqa: E731
        return local_cg(product, scale * g, mine, 0.01, 100, early_termination.NeverTerminate()).iterations

    assert iterations(1.0) == iterations(1e6) == iterations(1e-6)
    assert iterations(0.0) == 0


def test_residual_and_limit(comm: Comm) -> None:
    """The result meets ‖r‖ ≤ ξ‖g‖ and its predecessor does not; max_cg ends the solve."""
    on = lay_out(Problem((5,), MLP), comm.split(comm.rank))
    model, (unit,) = on.model(), local_systems(on.network.blocks, per_layer=False)
    g = put(np.random.default_rng(0).normal(size=on.network.size))
    product = lambda v, u: model.block_product(v, u, 0.01)  # noqa: E731

    def residual(limit: int) -> tuple[float, int]:
        found = local_cg(product, g, [unit], 0.1, limit, early_termination.NeverTerminate())
        return float(np.linalg.norm(host(product(found.d, unit) + g)) / np.linalg.norm(host(g))), found.iterations

    r, needed = residual(100)
    assert r <= 0.1 and needed > 1
    r, done = residual(needed - 1)
    assert r > 0.1 and done == needed - 1


def test_combination_is_the_best_in_its_span(comm: Comm) -> None:
    problem = Problem((5,), MLP)
    on = lay_out(problem, comm)
    model, (unit,) = on.model(), local_systems(on.network.blocks, per_layer=False)
    rng = np.random.default_rng(7)
    whole = [{k: rng.normal(size=v.shape) for k, v in problem.params.items()} for _ in range(3)]
    g, d, previous = (on.from_params(w) for w in whole)
    dense = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )
    gw, *z = (flat(w) for w in whole)
    basis = np.stack(z, axis=1)
    c = np.linalg.solve(basis.T @ (dense + 0.5 * np.eye(len(gw))) @ basis, -basis.T @ gw)
    found = combine.combine(model, unit, g, d, previous, 0.5, on.comm)
    p = basis @ c
    assert relative(flat(on.whole(found.p)), p) < 1e-10
    assert found.slope == pytest.approx(gw @ p) and found.curvature == pytest.approx(p @ dense @ p)
    doubled = combine.combine(model, unit, g, d, 2 * d, 0.5, on.comm)  # collinear: one direction is left
    alone = combine.combine(model, unit, g, d, None, 0.5, on.comm)
    assert relative(doubled.p, alone.p) < 1e-8


def test_plain_pieces_when_the_combination_goes_uphill(comm: Comm) -> None:
    on = lay_out(Problem((5,), MLP), comm)
    model, (unit,) = on.model(), local_systems(on.network.blocks, per_layer=False)
    zero, d = put(np.zeros(on.network.size)), put(np.ones(on.network.size))
    assert same(combine.combine(model, unit, zero, d, None, 0.5, on.comm).p, d)


@pytest.mark.parametrize(
    ("ratio", "factor"), [(-1.0, 1.5), (0.2, 1.5), (0.25, 1.0), (0.74, 1.0), (0.75, 0.5), (9.0, 0.5)]
)
def test_damping(ratio: float, factor: float) -> None:
    assert damping.update(2.0, ratio, 0.5, 1.5) == 2.0 * factor
    assert damping.update(1e10, -1.0, 0.5, 1.5) == 1e10
    assert damping.update(1e-10, 1.0, 0.5, 1.5) == 1e-10


class Scripted:
    """An objective whose values after the starting point are given; the rest is the real one's."""

    def __init__(self, real: Any, values: list[float]) -> None:
        self._real, self._values, self.trials = real, values, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def evaluate(self, *args: Any) -> Any:
        at = self._real.evaluate(*args)
        if self.trials:
            at.value = self._values[min(self.trials, len(self._values)) - 1]
        self.trials += 1
        return at


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_a_failing_line_search_is_bounded_and_raises_lambda(comm: Comm, bad: float) -> None:
    on = lay_out(Problem((5,), MLP), comm)
    solver = on.newton(Scripted(on.objective, [bad]))  # type: ignore[arg-type]
    first = solver.start(State(copy(on.theta), 1.0))
    step = solver.step()
    assert (step.alpha, step.ratio, step.damping, step.trials) == (0.0, -1.0, 1.5, 12)
    assert step.loss == first.loss and same(solver.state.theta, on.theta) and solver.state.previous is None
    solver.close()


def test_backtracking_halves_until_f_decreases(comm: Comm) -> None:
    on = lay_out(Problem((5,), MLP), comm)
    solver = on.newton(Scripted(on.objective, [float("nan"), 1e9, -1e9]))  # type: ignore[arg-type]
    solver.start(State(copy(on.theta), 1.0))
    step = solver.step()
    assert (step.alpha, step.trials, step.loss) == (0.25, 3, -1e9)
    solver.close()


@pytest.mark.parametrize("mode", ["lockstep", "async", "off"])
def test_a_gradient_that_is_not_finite_is_a_rejected_step(comm: Comm, mode: str) -> None:
    """The run goes back to the last good point with a larger λ, and on from there."""
    on = lay_out(Problem((5,), MLP, solver={"early_termination": {"mode": mode}}), comm)
    scripted = Scripted(on.objective, [0.0, -1.0])
    real, calls = on.objective.gradient, []

    def gradient(theta: np.ndarray, at: Any) -> np.ndarray:
        calls.append(1)
        g = real(theta, at)
        return g * float("nan") if len(calls) == 2 and comm.rank == 0 else g

    scripted.gradient = gradient  # type: ignore[attr-defined]
    solver = on.newton(scripted)  # type: ignore[arg-type]
    first = solver.start(State(copy(on.theta), 1.0))
    step = solver.step()
    assert (step.alpha, step.ratio, step.damping) == (0.0, -1.0, 1.5)
    assert (step.loss, step.grad_norm) == (first.loss, first.grad_norm)
    assert same(solver.state.theta, on.theta) and solver.state.previous is None
    assert solver.step().loss == -1.0
    solver.close()


def test_it_goes_on_after_a_rejected_step(comm: Comm) -> None:
    """After a rejection the next iteration starts from the same f and ∇f and another subsample."""
    problem = Problem((5,), MLP, solver={"subsample": 0.4, "early_termination": {"mode": "off"}})
    on = lay_out(problem, comm)
    values = [float("nan")] * 12
    scripted = Scripted(on.objective, values)
    solver = on.newton(scripted)  # type: ignore[arg-type]
    solver.start(State(copy(on.theta), 1.0))
    rejected = solver.step()
    scripted._values = [*values, 0.0]
    accepted = solver.step()
    assert rejected.alpha == 0.0 and accepted.alpha == 1.0 and accepted.loss == 0.0
    other = on.newton(Scripted(on.objective, [0.0]))  # type: ignore[arg-type]
    other.start(State(copy(on.theta), rejected.damping, iteration=1, evaluated=1))  # with the second subsample
    assert other.step().alpha == 1.0
    assert relative(solver.state.theta, other.state.theta) < 1e-12
    other.close()
    solver.close()


def test_minibatch_gradients(comm: Comm) -> None:
    """Stochastic mode: f and ∇f are those of the drawn samples, anew at every accepted point."""
    solver = {"gradient_batch": 5, "subsample": 0.3, "early_termination": {"mode": "off"}, "seed": 4}
    problem = Problem((5,), MLP, samples=12, solver=solver)
    on = lay_out(problem, comm)
    draws = Cycle(12, 5, 4, 2)
    for k, (step, theta) in enumerate(run(on, 4)):
        rows = draws.draw(k)
        params = oracle.unflatten(theta, {n: p.shape for n, p in problem.params.items()})
        part = replace(problem, samples=12)
        c = problem.C * problem.samples / len(rows)  # the regulariser belongs to all samples
        value = oracle.objective(params, part.parsed, problem.x[rows], problem.y[rows], problem.loss, c)
        grad = oracle.gradient(params, part.parsed, problem.x[rows], problem.y[rows], problem.loss, c)
        assert step.loss == pytest.approx(value, rel=1e-11)
        assert step.grad_norm == pytest.approx(np.linalg.norm(flat(grad)), rel=1e-9)


def test_subsamples_cycle_through_permutations() -> None:
    cycle, seen = Cycle(10, 4, 1, SUBSAMPLE), []
    for k in range(3):
        draw = cycle.draw(k)
        assert len(set(draw)) == 4 and list(draw) == sorted(draw)
        seen.extend(draw)
    assert set(seen[:8]) | set(seen) == set(range(10)) and len(set(seen[:8])) == 8
    assert not same(cycle.draw(0), cycle.draw(3))
    assert same(Cycle(10, 4, 1, SUBSAMPLE).draw(7), cycle.draw(7))


def test_subsamples_with_so_many_of_every_part() -> None:
    counts = [50, 3, 20]
    sizes = allotted(20, counts, [0.1, 0.5, 0.4])
    assert sum(sizes) == 20 and sizes[1] == 3 and sizes[2] == pytest.approx(4 * sizes[0], abs=3)
    assert allotted(7, counts, [50, 3, 20]) == [4, 1, 2]
    draws = Stratified(counts, sizes, 1, SUBSAMPLE)
    for k in range(3):
        drawn = draws.draw(k)
        assert list(drawn) == sorted(set(drawn)) and draws.size == len(drawn)
        assert list(np.bincount(np.searchsorted([50, 53], drawn, side="right"))) == sizes
    assert set(np.concatenate([draws.draw(k) for k in range(50)])) == set(range(73))
    assert not same(draws.draw(0), draws.draw(1))


@pytest.mark.at16
def test_every_rank_decides_alike(comm: Comm) -> None:
    """α, ρ, λ, f and |∇f| have the same bits on all ranks."""
    problem = Problem((5,), MLP, samples=20, solver={"subsample": 0.3})
    on = lay_out(problem, comm)
    for step, _ in run(on, 5):
        values = [step.loss, step.grad_norm, step.damping, step.alpha or 0.0, step.ratio or 0.0]
        mine = np.array(values).view(np.int64)
        lowest, highest = (comm.minmax(float(v & 0xFFFFFFFF)) for v in mine[:2])
        assert lowest[0] == lowest[1] and highest[0] == highest[1]
        assert comm.bcast_scalars(values) == values


# --- early termination ------------------------------------------------------------------------------------------------


def slow_solve(
    comm: Comm, watch: early_termination.TerminationRule, rank: int, pause: float
) -> tuple[cg.Solution, list[float]]:
    """A local solve that takes about 40 iterations, one rank sleeping in each product."""
    n = 60
    matrix = np.diag(np.linspace(1.0, 4000.0, n))
    unit = units_of(n)
    g = np.ones(n)
    times: list[float] = []

    def product(v: np.ndarray, _: Any) -> np.ndarray:
        if comm.rank == rank:
            time.sleep(pause)
        times.append(time.perf_counter())
        return matrix @ v

    watch.begin(0, comm.size)
    return local_cg(product, g, [unit], 1e-8, 500, watch), times


def units_of(n: int) -> Any:
    from dnewton.curvature.jacobian import LocalSystem

    return LocalSystem((0,), slice(0, n))


@pytest.mark.mpi(min_size=2)
def test_async_cuts_off_a_slow_rank(comm: Comm) -> None:
    """The slow rank stops within two of its iterations after the others have met the fraction."""
    slow, pause = comm.size - 1, 0.15
    watch = early_termination.make("async", 0.5, 5, comm)
    comm.barrier()
    start = time.perf_counter()
    found, times = slow_solve(comm, watch, slow, pause)
    done = time.perf_counter() - start
    comm.sum_scalars([0.0])
    watch.complete()
    others = comm.sum_scalars([done if r == comm.rank and comm.rank != slow else 0.0 for r in range(comm.size)])
    if comm.rank == slow:
        assert found.cut and found.iterations >= 1
        reached = sorted(others[:-1])[-(-comm.size // 2) - 1]  # when the fraction of all ranks was met
        later = [t - start for t in times if t - start > reached + 0.02]
        assert len(later) <= 2
    else:
        assert not found.cut or comm.size > 2
    watch.close()


@pytest.mark.mpi(min_size=2)
def test_async_serves_many_iterations(comm: Comm) -> None:
    """The two slots of the counter are used in turn and are zero when their turn comes."""
    watch = early_termination.make("async", 1.0, 5, comm)
    for iteration in range(20):
        watch.begin(iteration, comm.size)
        if comm.rank == comm.size - 1:  # nobody else can make all finish: it must never be cut
            for _ in range(3):
                assert not watch.should_terminate()
                time.sleep(1e-3)
        watch.finished(counts=True)
        comm.barrier()
        watch.complete()
        comm.barrier()
    watch.close()


def test_lockstep_twice_the_same(comm: Comm) -> None:
    solver = {"early_termination": {"mode": "lockstep", "fraction": 0.5, "every": 2}, "cg_tolerance": 1e-3}
    problem = Problem((5,), MLP, samples=12, solver=solver)
    runs = [run(lay_out(problem, comm), 5) for _ in range(2)]
    for (a, theta_a), (b, theta_b) in zip(*runs, strict=True):
        assert (a.cg, a.cut, a.loss, a.ratio) == (b.cg, b.cut, b.loss, b.ratio)
        assert same(theta_a, theta_b)


@pytest.mark.mpi(min_size=2)
def test_lockstep_cuts_at_the_fraction(comm: Comm) -> None:
    """Rank r needs r + 1 counts; everyone still solving stops when half of the ranks are done."""
    watch = early_termination.make("lockstep", 0.5, 1, comm)
    watch.begin(0, comm.size)
    iterations, cut = 0, False
    while iterations < comm.rank + 1 and not cut:
        iterations += 1
        cut = iterations < comm.rank + 1 and watch.should_terminate()
    if not cut:
        watch.finished(counts=True)
    needed = -(-comm.size // 2)
    assert cut == (comm.rank >= needed) and iterations <= needed
    watch.close()


def test_directions_with_nan_are_not_taken_and_end_the_run(comm: Comm) -> None:
    """λ rises, the point stays, and after a while the run ends with a line that says why."""
    on = lay_out(Problem((5,), MLP, samples=20, solver={"early_termination": {"mode": "off"}}), comm)
    solver = on.newton()
    solver.start(State(copy(on.theta), 1.0))
    before, grad = copy(solver.state.theta), copy(solver._grad)
    solver._grad[...] = float("nan")
    for i in range(damping.MAX_BROKEN):
        step = solver.step()
        assert step.alpha == 0.0 and step.damping == pytest.approx(1.5 ** (i + 1)) and solver.state.previous is None
        assert same(solver.state.theta, before)
    solver._grad = grad
    assert solver.step().alpha  # one that is sound begins the count anew
    solver._grad[...] = float("nan")
    for _ in range(damping.MAX_BROKEN):
        solver.step()
    with pytest.raises(UserError, match=r"direction has not been finite in iterations \d+ to \d+, whatever lambda"):
        solver.step()
    solver.close()


@pytest.mark.parametrize("mode", ["async", "lockstep", "off"])
def test_more_ranks_than_units(comm: Comm, mode: str) -> None:
    """Ranks with nothing to solve take part in everything and count in nothing."""
    solver = {"early_termination": {"mode": mode, "every": 1} if mode == "lockstep" else {"mode": mode}}
    problem = Problem((1,), [{"dense": {"units": 1, "activation": "tanh"}}], "squared", samples=4, solver=solver)
    on = lay_out(problem, comm, Grid(1, comm.size))
    found = run(on, 3)
    assert found[-1][0].loss < found[0][0].loss
    active = comm.sum_scalars([float(found[1][0].active)])[0]
    assert active == 1.0


def test_dot_accumulates_in_float64() -> None:
    x = np.full(200_001, 0.1, dtype=np.float32)
    assert dot(x, x) == pytest.approx(200_001 * float(np.float32(0.1)) ** 2, rel=1e-12)
