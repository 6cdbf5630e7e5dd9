"""K-FAC: factors, inverses, placements, what is sent, and trajectories against a plain reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle_solvers as reference
import pytest
from crews import OnCrew, begun, crewed, net, replicas, section
from hypothesis import given
from hypothesis import strategies as st
from places import host, same
from problems import MLP, OnRanks, Problem, flat, lay_out, relative

from dnewton.arrays.namespace import copy, zeros
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.model.gathered_layers import GatheredLayers
from dnewton.solvers.baselines import kfac_assignment
from dnewton.solvers.baselines.kfac import KFAC
from dnewton.solvers.baselines.kfac_assignment import LayerSize
from dnewton.solvers.baselines.kfac_factors import decompose, local_pass
from dnewton.solvers.baselines.workers import Share
from dnewton.solvers.interface import SolverState, StartPoint

pytestmark = pytest.mark.mpi

ONE_POSITION = [
    {"conv": {"channels": 3, "kernel": [4, 3], "activation": "tanh"}},
    "flatten",
    {"dense": {"units": 3}},
]


def trajectory(problem: Problem, comm: Comm, workers: int, passes: int, **options: Any) -> list[np.ndarray] | None:
    found = begun(problem, comm, workers, **options)
    if found is None:
        return None
    points = [found.flat()]
    for _ in range(passes):
        found.solver.step()
        points.append(found.flat())
    return points


# --- factors ----------------------------------------------------------------------------------------------------------


def found_factors(on: OnRanks, rows: np.ndarray) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """A and G of every layer in the order of PyTorch's weights, and Σ ∇ξ. Collective."""
    gradient = zeros(on.network.size, on.theta)
    names = {b.name for b in on.network.blocks}
    sums = local_pass(on.objective, on.theta, rows, gradient, names, names)
    found = {}
    for name, pair in sums.items():
        a, g = (host(m) for m in pair)
        i = int(name.split(".")[1])
        shape = on.problem.params[f"{name}.weight"].shape
        kernel, channels = int(np.prod(shape[2:])), shape[1]  # columns are (kernel, channel); PyTorch's are the reverse
        order = [*np.arange(kernel * channels).reshape(kernel, channels).T.reshape(-1), kernel * channels]
        found[i] = a[np.ix_(order, order)] / len(rows), g / len(rows)
    return dict(sorted(found.items())), gradient


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_factors(comm: Comm, name: str, loss: str) -> None:
    """In KFC's convention, from explicit patches sample by sample, on every number of model ranks."""
    problem, rows = net(name, loss=loss), np.array([0, 3, 4, 9, 12])
    on = lay_out(problem, comm)
    found, gradient = found_factors(on, rows)
    expected = reference.factors(problem, problem.params, rows)
    assert list(found) == list(expected)
    for i in expected:
        for mine, whole in zip(found[i], expected[i], strict=True):
            assert relative(mine, whole) < 1e-11
    task = reference.Task(problem)
    mean = task.gradient(task.start, rows) - task.start / (problem.C * problem.samples)
    assert relative(flat(on.whole(gradient)), len(rows) * mean) < 1e-11


@pytest.mark.parametrize(
    ("layers", "rows", "i"),
    [
        (MLP, [4], 0),
        (MLP, [7], 1),
        (MLP, [0], 2),
        (ONE_POSITION, [2], 0),
        (ONE_POSITION, [3], 2),
    ],
)
def test_the_kronecker_product_of_one_sample_is_its_fisher_block(
    comm: Comm, layers: Any, rows: list[int], i: int
) -> None:
    """One sample, and for a convolution one output position: nothing is approximated."""
    problem = Problem((5,) if layers is MLP else (2, 4, 3), layers)
    a, g = found_factors(lay_out(problem, comm), np.array(rows))[0][i]
    assert relative(np.kron(g, a), reference.fisher_block(problem, problem.params, rows, i)) < 1e-11


def test_equal_inputs_make_the_product_exact(comm: Comm) -> None:
    """A of rank one: Σ (g gᵀ) ⊗ (a aᵀ) = b G ⊗ A, however many samples; not so for the next layer."""
    problem = net("mlp")
    problem.x[:] = problem.x[0]
    found, _ = found_factors(lay_out(problem, comm), np.arange(13))
    exact = [reference.fisher_block(problem, problem.params, range(13), i) for i in (0, 1)]
    assert relative(np.kron(found[0][1], found[0][0]), exact[0]) < 1e-11
    different = net("mlp")
    found, _ = found_factors(lay_out(different, comm), np.arange(13))
    block = reference.fisher_block(different, different.params, range(13), 0)
    assert relative(np.kron(found[0][1], found[0][0]), block) > 1e-2


@pytest.mark.parametrize("damping", [1e-6, 0.03, 1.0])
def test_inverses(damping: float) -> None:
    """Eigenvectors: (G ⊗ A + λI)⁻¹ exactly. π: (G + √λ/π I)⁻¹ V (A + π√λ I)⁻¹ with π² = (tr A / a) / (tr G / g)."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(9, 5)), rng.normal(size=(2, 4))  # the second factor is singular
    a, g, v = 3.0 * roots[0].T @ roots[0], 0.1 * roots[1].T @ roots[1], rng.normal(size=(4, 5))
    for kind in ("eigen", "pi"):
        found = decompose(a, g, kind == "eigen", damping).apply(v, damping)
        assert relative(found, reference.precondition(a, g, v, kind, damping)) < 1e-8
    pi = np.sqrt(np.trace(a) / 5 / (np.trace(g) / 4))
    split = np.kron(g + np.sqrt(damping) / pi * np.eye(4), a + np.sqrt(damping) * pi * np.eye(5))
    found = decompose(a, g, False, damping).apply(v, damping)
    assert relative(found.reshape(-1), np.linalg.solve(split, v.reshape(-1))) < 1e-8


@pytest.mark.parametrize("eigen", [True, False])
def test_inverses_of_nothing(eigen: bool) -> None:
    """Factors of zeros leave the gradient over λ."""
    v = np.arange(6.0).reshape(2, 3)
    assert relative(decompose(np.zeros((3, 3)), np.zeros((2, 2)), eigen, 0.5).apply(v, 0.5), v / 0.5) < 1e-12


@pytest.mark.parametrize("eigen", [True, False])
def test_inverses_of_a_lost_run(eigen: bool) -> None:
    """No exception on the one rank that decomposes: the others would wait for it."""
    bad = np.full((3, 3), np.nan)
    for a, g in ((bad, np.eye(2)), (np.eye(3), np.full((2, 2), np.inf))):
        found = decompose(a, g, eigen, 0.5)
        assert np.isnan(found.apply(np.ones((2, 3)), 0.5)).all()
        assert [p.shape for p in found.parts()] == [
            p.shape for p in decompose(np.eye(3), np.eye(2), eigen, 1.0).parts()
        ]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_whole_matrices(comm: Comm, name: str) -> None:
    """A layer's matrix holds its weights in patch order and the bias last; back again gives the same vector."""
    on = lay_out(net(name), comm)
    whole = GatheredLayers(on.network)
    matrices = whole.matrices(on.theta)
    for b, matrix in zip(on.network.blocks, matrices, strict=True):
        weight = on.problem.params[f"{b.name}.weight"]
        patch_order = np.moveaxis(weight.reshape(*weight.shape[:2], -1), 1, 2).reshape(len(weight), -1)
        assert same(matrix[:, :-1], patch_order)
        assert same(matrix[:, -1], on.problem.params[f"{b.name}.bias"])
    assert same(whole.vector(matrices), on.theta)


# --- trajectories -----------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "dp_kfac": {"name": "dp_kfac", "inverse_every": 3},
    "dp_kfac-turn": {
        "name": "dp_kfac",
        "assignment": "round_robin",
        "factor_every": 2,
        "inverse_every": 1,
        "kl_clip": None,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
    },
    "d_kfac": {"name": "d_kfac", "factor_every": 2, "inverse_every": 2, "decay": 0.6, "kl_clip": 0.1},
    "d_kfac-pi": {"name": "d_kfac", "inverse": "pi", "inverse_every": 1, "momentum": 0.0},
    "mpd_kfac": {"name": "mpd_kfac", "weight_decay": 0.05, "decay": 0.3, "damping": 0.3},
}


@pytest.mark.parametrize("case", CASES)
def test_trajectory(comm: Comm, case: str) -> None:
    """D x M for every D that fits; 13 samples in batches of 2 leave workers without samples."""
    problem = net("mlp")
    for workers in replicas(comm):
        options = {"batch": 2, **CASES[case]}
        found = begun(problem, comm, workers, **options)
        if found is None:
            continue
        o = section(problem, **options).model_dump()
        for k, (theta, method) in enumerate(reference.history(problem, workers, o, 2)):
            step = found.solver.step() if k else None
            assert relative(found.flat(), theta) < 1e-8
            assert isinstance(method, reference.KFAC)
            if step is not None:
                assert step.extra["kl_clip"] == pytest.approx(method.clip, rel=1e-7)


@pytest.mark.parametrize("case", ["dp_kfac", "d_kfac", "mpd_kfac"])
def test_trajectory_of_a_convolutional_net(comm: Comm, case: str) -> None:
    problem = net("cnn", samples=5)
    for workers in replicas(comm):
        options = {"batch": 2, **CASES[case]}
        found = trajectory(problem, comm, workers, 1, **options)
        if found is not None:
            o = section(problem, **options).model_dump()
            expected = reference.run(problem, workers, o, 1)
            assert relative(found[1], expected[1]) < 1e-8 and relative(expected[1], expected[0]) > 1e-3


def test_one_dense_layer_by_hand(comm: Comm) -> None:
    """Steps 1 and 2 of one layer: p = (A ⊗ G + λI)⁻¹ g, the average of the factors, the clip, the momentum."""
    problem = Problem((4,), [{"dense": {"units": 3}}], samples=6)
    task = reference.Task(problem)
    theta, v, kept = task.start, np.zeros_like(task.start), None
    for epoch in range(3):
        (rows,) = (np.concatenate(parts) for parts in reference.batches(6, 1, 6, 0, epoch))
        a, g = reference.factors(problem, task.params(theta), rows)[0]
        old = min(1 - 1 / (epoch + 1), 0.55)
        a, g = (a, g) if kept is None else (old * kept[0] + (1 - old) * a, old * kept[1] + (1 - old) * g)
        kept = a, g
        params = task.params(task.gradient(theta))
        matrix = np.column_stack([params["layers.0.weight"], params["layers.0.bias"]])
        p = np.linalg.solve(np.kron(g, a) + 0.03 * np.eye(15), matrix.reshape(-1))
        p *= min(1.0, np.sqrt(1e-3 / (0.05**2 * p @ matrix.reshape(-1))))
        v = 0.9 * v + np.concatenate([p.reshape(3, 5)[:, :-1].reshape(-1), p.reshape(3, 5)[:, -1]])
        theta = theta - 0.05 * v
    for workers in replicas(comm):
        found = trajectory(problem, comm, workers, 3, name="d_kfac", decay=0.55, inverse_every=1, batch=6)
        if found is not None and workers == 1:
            assert relative(found[3], theta) < 1e-10


def same_for_all(found: OnCrew, rows: int) -> None:
    """Give every worker the first worker's samples."""
    workers = found.solver.workers  # type: ignore[attr-defined]
    real = workers.shares

    def shares(epoch: int) -> Iterator[Share]:
        for _ in real(epoch):
            yield Share(np.arange(rows), rows * workers.count)

    workers.shares = shares


def test_equal_samples_on_all_workers_make_the_variants_equal(comm: Comm) -> None:
    """Then a worker's own factors are those of all."""
    problem, ends = net("mlp"), []
    for name in ("dp_kfac", "d_kfac"):
        found = begun(problem, comm, comm.size, name=name, batch=2)
        assert found is not None
        same_for_all(found, 5)
        for _ in range(2):
            found.solver.step()
        ends.append(found.flat())
    assert relative(*ends) < 1e-10


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_placement_does_not_change_results(comm: Comm, name: str) -> None:
    """grad_worker_fraction 1, ..., 1/D and both assignments."""
    problem = net(name, samples=8)
    for workers in [w for w in replicas(comm) if w > 1 or w == comm.size]:
        fractions = [r / workers for r in range(1, workers + 1) if workers % r == 0]
        found = [
            trajectory(
                problem,
                comm,
                workers,
                1,
                name="d_kfac",
                batch=2,
                inverse_every=2,
                grad_worker_fraction=f,
                assignment=how,
            )
            for f, how in [*((f, "greedy") for f in fractions), (fractions[0], "round_robin")]
        ]
        for other in found[1:]:
            if other is not None and found[0] is not None:
                assert relative(other[-1], found[0][-1]) < 1e-9


def test_the_clip(comm: Comm) -> None:
    """ν = min(1, √(κ / |η² pᵀg|)): small with a small κ, 1 with a large one or none."""
    for clip, least, most in [(1e-8, 0.0, 0.1), (1e8, 1.0, 1.0), (None, 1.0, 1.0)]:
        found = begun(net("mlp"), comm, comm.size, name="d_kfac", kl_clip=clip, batch=13)
        assert found is not None
        nu = found.solver.step().extra["kl_clip"]
        assert least <= nu <= most and nu > 0


def test_a_run_goes_on_from_what_was_saved(comm: Comm) -> None:
    """The momentum; the factors begin anew."""
    found = begun(net("mlp"), comm, comm.size, name="dp_kfac", batch=2)
    assert found is not None
    found.solver.step()
    vectors = {k: copy(v) for k, v in found.solver.saved().vectors.items()}
    assert set(vectors) == {"velocity"} and np.any(host(vectors["velocity"]))
    again = crewed(net("mlp"), comm, comm.size, name="dp_kfac", batch=2)
    assert isinstance(again, OnCrew) and isinstance(again.solver, KFAC)
    again.solver.begin(
        StartPoint(copy(found.solver.theta), 1, SolverState(vectors, values=found.solver.saved().values))
    )
    assert same(again.solver._velocity, vectors["velocity"])
    again.solver.step()
    assert again.solver.iteration == 2


# --- what is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fraction", "inverse"),
    [
        ("dp_kfac", 1.0, "eigen"),
        ("mpd_kfac", 1.0, "pi"),
        ("d_kfac", 1.0, "eigen"),
        ("d_kfac", 0.5, "eigen"),
        ("d_kfac", 0.0, "eigen"),
        ("d_kfac", 1.0, "pi"),
    ],
)
def test_counted_bytes_are_those_of_the_plan(comm: Comm, name: str, fraction: float, inverse: str) -> None:
    """Sums count every rank's payload, gathers every rank's own part: those add up to the payload once per group."""
    workers = comm.size
    if fraction == 0.5 and workers % 2:
        return
    options: dict[str, Any] = {"batch": 1, "inverse_every": 3, "factor_every": 2, "kl_clip": None, "inverse": inverse}
    if fraction != 1:
        options["grad_worker_fraction"] = fraction or 1 / workers
    problem = net("cnn", samples=4 * workers)
    found = begun(problem, comm, workers, name=name, **options)
    assert found is not None and isinstance(found.solver, KFAC)
    solver, place = found.solver, found.solver._place
    expected = kfac_assignment.volumes(solver._sizes, place, name, workers, inverse == "eigen")  # type: ignore[arg-type]
    rows = workers // place.columns
    for k, share in enumerate(solver.workers.shares(0)):  # factors at 0 and 2, decompositions at 0 and 3
        before = {p: t.bytes for p, t in comm.ledger.phases.items()}
        solver.update(share, 0.01, k)
        sent = {p: t.bytes - before.get(p, 0) for p, t in comm.ledger.phases.items()}
        assert sent.get("exchange", 0) == 8 * expected.gradient
        assert sent.get("factors", 0) == (8 * expected.factors if k in (0, 2) else 0)
        together = comm.sum_scalars([float(sent.get("precondition", 0))])[0]
        decomposed = expected.inverse if k in (0, 3) else 0
        assert together == 8 * (decomposed + rows * expected.preconditioned)
        assert sum(sent.values()) == sum(sent.get(p, 0) for p in ("exchange", "factors", "precondition"))


def test_memory_held_is_that_of_the_plan(comm: Comm) -> None:
    for workers in replicas(comm):
        for name in ("dp_kfac", "d_kfac", "mpd_kfac"):
            found = begun(net("cnn", samples=4), comm, workers, name=name, batch=4)
            if found is None:
                continue
            solver, step = found.solver, found.solver.step()
            assert isinstance(solver, KFAC)
            ranks = [(w, m) for w in range(workers) for m in range(comm.size // workers)]
            held = [
                kfac_assignment.held_numbers(solver._sizes, solver._place, name, w, m, name != "mpd_kfac")  # type: ignore[arg-type]
                for w, m in ranks
            ]
            assert step.extra["curvature_bytes"] == 8 * max(held)


# --- placement --------------------------------------------------------------------------------------------------------

SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12)


def sizes_of(pairs: list[tuple[int, int]]) -> list[LayerSize]:
    return [LayerSize(f"layers.{i}", a, g) for i, (a, g) in enumerate(pairs)]


@given(
    pairs=SIZES,
    workers=st.integers(1, 12),
    ranks=st.integers(1, 4),
    how=st.sampled_from(["greedy", "round_robin"]),
    variant=st.sampled_from(["dp_kfac", "d_kfac", "mpd_kfac"]),
    data=st.data(),
)
def test_every_layer_has_an_owner_in_its_column(
    pairs: list[tuple[int, int]], workers: int, ranks: int, how: Any, variant: Any, data: Any
) -> None:
    sizes = sizes_of(pairs)
    rows = data.draw(st.sampled_from([r for r in range(1, workers + 1) if workers % r == 0]))
    fraction = rows / workers if variant == "d_kfac" else 1.0
    place = kfac_assignment.place(sizes, workers, ranks, variant, how, fraction)
    assert place.columns == (workers // rows if variant == "d_kfac" else workers)
    for i in range(len(sizes)):
        row, column = place.place(place.owner[i])
        assert 0 <= place.owner[i] < workers and 0 <= place.position[i] < ranks
        assert column == place.column[i] and 0 <= row < workers // place.columns
    held = [kfac_assignment.held_numbers(sizes, place, variant, w, m) for w in range(workers) for m in range(ranks)]
    squares = sum(s.a**2 + s.g**2 for s in sizes)
    decomposed = sum(s.a**2 + s.g**2 + s.a + s.g for s in sizes) * (workers // place.columns)
    assert sum(held) == decomposed + squares * (1 if variant == "dp_kfac" else workers)


@given(pairs=SIZES, workers=st.integers(1, 8))
def test_greedy_is_nearly_balanced(pairs: list[tuple[int, int]], workers: int) -> None:
    """Graham's bound 4/3 - 1/(3D) times what no placement can beat; and never worse than in turn by more."""
    sizes = sizes_of(pairs)
    costs = sorted((s.cost for s in sizes), reverse=True)
    place = kfac_assignment.place(sizes, workers, 1, "dp_kfac", "greedy")
    load = [sum(s.cost for s, o in zip(sizes, place.owner, strict=True) if o == w) for w in range(workers)]
    pair = sum(costs[workers - 1 : workers + 1]) if len(costs) > workers else 0.0  # two of the D + 1 largest meet
    least = max(sum(costs) / workers, costs[0], pair)
    assert max(load) <= sum(costs) / workers + (1 - 1 / workers) * costs[0] + 1e-6
    if len(costs) <= 2 * workers:  # there the bound below is what the best placement reaches
        assert max(load) <= (4 / 3 - 1 / (3 * workers)) * best(costs, workers) + 1e-6
    assert max(load) >= least - 1e-6


def best(costs: list[float], bins: int) -> float:
    """The smallest possible largest load, by trying all placements up to the names of bins."""
    least = sum(costs)

    def place(i: int, load: list[float]) -> None:
        nonlocal least
        if max(load) >= least:
            return
        if i == len(costs):
            least = max(load)
            return
        for b in {value: b for b, value in enumerate(load)}.values():
            place(i + 1, [v + costs[i] * (j == b) for j, v in enumerate(load)])

    place(0, [0.0] * bins)
    return least


def test_in_turn() -> None:
    place = kfac_assignment.place(sizes_of([(3, 2)] * 7), 6, 2, "d_kfac", "round_robin", 0.5)  # 3 rows, 2 columns
    assert place.column == (0, 1, 0, 1, 0, 1, 0)
    assert place.owner == (0, 1, 2, 3, 4, 5, 0)
    assert place.position == (0, 0, 0, 0, 0, 0, 1)


def test_greedy_weighs_cubes() -> None:
    """11³ + 1 is more than 2 · 8³, though its squares are not."""
    assert kfac_assignment.place(sizes_of([(8, 8), (11, 1)]), 2, 1, "dp_kfac", "greedy").owner == (1, 0)


@pytest.mark.parametrize(("workers", "fraction"), [(4, 0.3), (4, 0.75), (3, 0.5), (2, 0.25)])
def test_fractions_that_do_not_fit(workers: int, fraction: float) -> None:
    with pytest.raises(UserError, match="grad_worker_fraction"):
        kfac_assignment.place(sizes_of([(3, 2)]), workers, 1, "d_kfac", "greedy", fraction)
