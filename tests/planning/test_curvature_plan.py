"""How the curvature is held: passes against dense algebra, chunks, memory plans, measured rates."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from itertools import product

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import put
from problems import MLP, OnRanks, Problem, by_paper, flat, lay_out, relative
from systems import LAMBDA, NETS, dense_pieces, gram, setting

from dnewton.arrays.namespace import zeros
from dnewton.comm.communicator import Comm
from dnewton.config import parse
from dnewton.config.schema import Config
from dnewton.curvature.jacobian import LocalSystem, local_systems
from dnewton.errors import UserError
from dnewton.grid import ceil_div, even_slices, grids, runs
from dnewton.hardware.rates import Rates
from dnewton.planning import costs, curvature_plan, grid_search, traffic_forecast
from dnewton.planning.net_plan import infer_shapes
from dnewton.solvers.newton import cg, early_termination
from dnewton.solvers.newton.cg import PlainCG
from dnewton.solvers.newton.newton import State


def whole_matrix(problem: Problem) -> np.ndarray:
    return oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )


# --- passes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [100, 2])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared", "logistic"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_products_by_passes(comm: Comm, net: str, loss: str, chunk: int) -> None:
    """J v, G v and every rank's own G_pp v_p, on every grid, against the dense matrix and the explicit blocks."""
    shape, layers = NETS[net]
    problem = Problem(shape, [*layers[:-1], {"dense": {"units": 1 if loss == "logistic" else 3}}], loss)
    g = whole_matrix(problem)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        rng = np.random.default_rng(1)
        direction = {k: rng.normal(size=v.shape) for k, v in problem.params.items()}
        v = on.from_params(direction)
        (unit,) = local_systems(on.network.blocks, per_layer=False)
        model, explicit = on.by_passes(chunk, parts=2), on.model()
        assert relative(model.images([v], unit, on.comm), explicit.images([v], unit, on.comm)) < 1e-12
        found = flat(on.whole(model.full_product(v, unit, LAMBDA, on.comm)))
        assert relative(found, g @ flat(direction) + LAMBDA * flat(direction)) < 1e-11
        mine = model.joint_product(v, unit, LAMBDA, on.comm)
        assert relative(mine, explicit.block_product(v, unit, LAMBDA)) < 1e-11


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_diagonal_systems_by_passes(comm: Comm, net: str, per_layer: bool) -> None:
    problem, on, grad = setting(comm, net, "cross_entropy")
    model, mine = on.by_passes(4), local_systems(on.network.blocks, per_layer)

    def multiply(v: np.ndarray, unit: LocalSystem) -> np.ndarray:
        return model.joint_product(v, unit, LAMBDA, on.comm)

    def solve(fraction: float, limit: int = 500) -> cg.Solution:
        rule = early_termination.make_joint("lockstep" if fraction < 1 else "off", fraction, on.comm)
        rule.begin(1, int(on.comm.sum_scalars([float(grad.size > 0)])[0]))
        systems = [PlainCG(multiply, grad, unit, 1e-12) for unit in mine]
        nothing = zeros(grad.shape, grad)
        idle = lambda unit: (multiply(nothing, unit), None)[1]  # noqa: E731
        return cg.solve_jointly(systems, idle, grad, limit, rule)

    assert relative(flat(on.whole(solve(1.0).d)), dense_pieces(problem, on, per_layer)) < 1e-8
    assert solve(1.0, limit=3).iterations <= 3
    early = solve(0.01)  # the first to finish ends it for all
    counts = comm.gather_to_root([early.iterations, early.cut, bool(grad.size)])
    if comm.rank == 0:
        active = counts[counts[:, 2] > 0]
        assert active[:, 0].min() == active[:, 0].max() and not active[:, 1].all()


@pytest.mark.parametrize("representation", ["factored", "dense"])
@pytest.mark.parametrize(("net", "parts", "chunk"), list(product(["mlp", "cnn"], [1, 2], [1, 2, 4])))
def test_chunks_change_nothing(comm: Comm, net: str, parts: int, chunk: int, representation: str) -> None:
    _, on, grad = setting(comm, net, "cross_entropy")
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    whole, cut = (on.model(representation=representation, parts=p, chunk=c) for p, c in ((1, 100), (parts, chunk)))
    assert relative(cut.block_product(grad, unit, 0.1), whole.block_product(grad, unit, 0.1)) < 1e-13
    assert relative(gram(cut.jacobian, unit), gram(whole.jacobian, unit)) < 1e-13


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    samples=st.integers(1, 6),
    chunk=st.integers(1, 7),
    activation=st.sampled_from(["linear", "tanh", "relu"]),
)
def test_any_mlp_by_any_representation(
    comm: Comm, widths: list[int], samples: int, chunk: int, activation: str
) -> None:
    layers = [{"dense": {"units": w, "activation": activation}} for w in widths]
    problem = Problem((3,), layers, "squared", samples=samples)
    on = lay_out(problem, comm)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    v = put(np.random.default_rng(0).normal(size=on.network.size))
    expected = on.by_passes(chunk).joint_product(v, unit, 0.3, on.comm)
    for representation in ("factored", "dense"):
        model = on.model(representation=representation, chunk=chunk)
        assert relative(model.block_product(v, unit, 0.3), expected) < 1e-10


# --- whole runs -------------------------------------------------------------------------------------------------------


def trained(comm: Comm, iterations: int = 3, **options: object) -> tuple[OnRanks, list[float]]:
    problem = Problem((5,), MLP, samples=24, solver={"subsample": 0.5, "cg_tolerance": 1e-9, **options})
    on = lay_out(problem, comm, batch=100)
    solver = on.newton()
    losses = [solver.start(State(on.theta, 1.0)).loss]
    losses += [solver.step().loss for _ in range(iterations)]
    solver.close()
    return on, losses


@pytest.mark.parametrize("combined", ["none", "previous"])
@pytest.mark.parametrize("curvature", ["diagonal", "full"])
def test_one_trajectory_by_every_representation(comm: Comm, curvature: str, combined: str) -> None:
    options = {"curvature": curvature, "combine": combined, "early_termination": {"mode": "off"}, "subproblem": "cg"}
    _, expected = trained(comm, jacobian="factored", **options)
    assert expected[-1] < expected[0]
    for jacobian in ("dense", "implicit"):
        assert np.allclose(trained(comm, jacobian=jacobian, **options)[1], expected, rtol=1e-6), jacobian


@pytest.mark.parametrize("jacobian", ["factored", "implicit"])
def test_a_warm_start_meets_the_same_rule(comm: Comm, jacobian: str) -> None:
    options = {"early_termination": {"mode": "off"}, "jacobian": jacobian, "diagonal_unit": "layer", "subproblem": "cg"}
    cold = trained(comm, 4, **options)[1]
    assert np.allclose(trained(comm, 4, warm_start=True, **options)[1], cold, rtol=1e-6)
    rough = {**options, "cg_tolerance": 0.5}  # where the start is seen in the result, from the second step on
    cold, warm = (trained(comm, 3, warm_start=start, **rough)[1] for start in (False, True))
    assert warm[:2] == cold[:2] and warm[2] != cold[2] and warm[-1] < warm[0]


@pytest.mark.parametrize("mode", ["lockstep", "off"])
def test_early_termination_by_passes(comm: Comm, mode: str) -> None:
    stop = {"mode": mode, "fraction": 0.3} if mode == "lockstep" else {"mode": mode}
    losses = trained(comm, 4, jacobian="implicit", early_termination=stop)[1]
    assert losses[-1] < losses[0] and comm.minmax(losses[-1])[0] == comm.minmax(losses[-1])[1]


@pytest.mark.mpi
@pytest.mark.parametrize(("curvature", "jacobian"), [("diagonal", "implicit"), ("full", "implicit")])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_forecast_by_passes(comm: Comm, net: str, curvature: str, jacobian: str) -> None:
    options = {
        "curvature": curvature,
        "jacobian": jacobian,
        "subsample": 0.5,
        "max_cg": 4,
        "early_termination": {"mode": "off"},
    }
    shape, layers = NETS[net]
    problem = Problem(shape, layers, samples=12, solver=options)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid, batch=100)
        solver = on.newton()
        solver.start(State(on.theta, 1.0))
        for iteration in range(2):
            before = {n: t.bytes for n, t in on.comm.ledger.phases.items()}
            step = solver.step()
            change = {n: t.bytes - before.get(n, 0) for n, t in on.comm.ledger.phases.items()}
            cg = int(comm.minmax(float(step.cg))[1])
            did = traffic_forecast.Iteration(
                12,
                solver._strategy.chunks(12, 6),
                trials=step.trials,
                columns=1 + (iteration > 0),
                itemsize=8,
                full_cg=cg if curvature == "full" else 0,
                how=jacobian,
                joint_cg=cg,
            )
            expected = traffic_forecast.iteration_bytes(on.plan, did)
            for phase in ("function", "gradient", "jacobian", "cg", "combine"):
                assert comm.sum_scalars([float(change.get(phase, 0))])[0] == expected[phase], (grid, phase)
        solver.close()


# --- decisions --------------------------------------------------------------------------------------------------------


def decided(
    layers: list[object],
    shape: list[int],
    samples: int,
    subsample: int,
    ranks: int = 1,
    memory: float = math.inf,
    loss: str = "squared",
    batch: int = 1024,
    on_device: bool = False,
    **options: object,
) -> curvature_plan.CurvaturePlan:
    config = Config.model_validate(
        {"net": {"input": shape, "loss": loss, "layers": layers}, "solver": by_paper({"batch_size": batch, **options})}
    )
    shapes = infer_shapes(config.net)
    work = grid_search.Workload(samples, subsample, shapes[-1].out_shape[0], batch)
    plan = grid_search.choose(shapes, ranks, work)
    return curvature_plan.decide(plan, work, config.solver, memory=memory, on_device=on_device)


def net(*widths: int) -> list[object]:
    return [{"dense": {"units": w, "activation": "tanh"}} for w in widths[:-1]] + [{"dense": {"units": widths[-1]}}]


def test_the_cheapest_way() -> None:
    """Few rows of the Gram matrix: dual; few variables: primal; a wide dense layer: Gram coordinates."""

    def way(inputs: int, hidden: int, outputs: int, samples: int, **options: object) -> str:
        found = decided(net(hidden, outputs), [inputs], 10 * samples, samples, **options)
        return found.ways[0]

    assert way(300, 200, 1, 20) == "dual"
    assert way(2, 5, 1, 900) == "primal"
    assert way(800, 100, 5, 100, subproblem="cg") == "gram"
    assert way(10, 100, 5, 900, subproblem="cg") == "plain"
    assert way(800, 100, 5, 100, subproblem="cg", warm_start=True) == "plain"
    assert way(800, 100, 5, 100, subproblem="cg", preconditioner="kronecker") == "kronecker"
    assert way(10, 30, 5, 900, subproblem="exact") in ("primal", "dual")


@pytest.mark.parametrize(("samples", "n"), [(900, 2 * 40 + 40 + 40 + 1), (20, 20)])
def test_a_gpu_keeps_one_matrix_more_to_factor_one(samples: int, n: int) -> None:
    """CuPy's factor is a copy: of the whole system's matrix, by variables or by rows, too."""

    def bytes_of(on_device: bool) -> float:
        full = {"curvature": "full", "subproblem": "exact"}
        return decided(net(40, 1), [2], 10 * samples, samples, on_device=on_device, **full).parts["curvature"]

    assert bytes_of(True) - bytes_of(False) == costs.WIDE * n**2


def test_the_cheapest_representation() -> None:
    """Dense rows for a small block on a large image, D and φ for a fully connected layer."""
    image = [{"conv": {"channels": 32, "kernel": 5}}, "flatten", {"dense": {"units": 10}}]
    assert decided(image, [1, 28, 28], 1000, 100).held["layers.0"] == "dense"
    assert decided(net(1000, 10), [784], 9000, 1000).held["layers.0"] == "factored"
    slow_memory, fast = Rates(1e13, 1e10), Rates(1e9, 1e12)
    (block, _) = costs.blocks_of(
        grid_search.choose(
            infer_shapes(
                Config.model_validate({"net": {"input": [1, 28, 28], "loss": "squared", "layers": image}}).net
            ),
            1,
            grid_search.Workload(100, 100, 10),
        )
    )
    assert costs.cheapest(block, 100, 10, 4, fast) == "dense"
    assert costs.cheapest(dataclasses.replace(block, q=1, held=1), 100, 10, 4, slow_memory) == "factored"


def test_memory_decides_step_by_step() -> None:
    """Chunks, then the smaller representation, then passes, then a refusal."""
    wide, small = net(500, 500, 1000), net(20, 20, 30)
    assert decided(wide, [100], 4000, 400).how == "implicit"  # 1,000 outputs, and no messages on one rank
    assert decided(wide, [100], 4000, 400, ranks=2, curvature="full").how == "implicit"
    roomy = decided(wide, [100], 4000, 400, ranks=2)
    assert roomy.how == "explicit" and roomy.batch == 1024
    tight = decided(wide, [100], 4000, 400, ranks=2, memory=0.5 * roomy.peak)
    assert tight.how == "implicit" and tight.peak <= 0.5 * roomy.peak
    few = net(500, 500, 10)
    for curvature in ("full", "diagonal"):
        assert decided(few, [100], 4000, 400, curvature=curvature).how == "explicit"
    assert decided(small, [8], 90000, 30000).how == "explicit"
    for curvature in ("full", "diagonal"):
        assert decided(small, [8], 90000, 30000, memory=100e6, curvature=curvature).how == "implicit"
    image = [{"conv": {"channels": 2, "kernel": 3, "padding": 1}}, "flatten", {"dense": {"units": 25}}]
    fast = decided(image, [100, 14, 14], 1000, 500, batch=50)
    assert fast.held["layers.0"] == "factored" and fast.how == "explicit"
    less = decided(
        image, [100, 14, 14], 1000, 500, batch=50, memory=0.8 * fast.peak - 0.8 * fast.activation_cache_bytes
    )
    assert less.held["layers.0"] == "dense" and less.peak < fast.peak
    batches = decided(wide, [100], 4000, 100, memory=66e6)
    assert batches.batch < 1024 and batches.peak <= 66e6
    with pytest.raises(UserError, match=r"parallel.memory: the largest of 1 rank.*MiB"):
        decided(wide, [100], 4000, 400, memory=1e6)
    with pytest.raises(UserError, match="exact"):
        decided(wide, [100], 4000, 400, ranks=2, memory=0.5 * roomy.peak, subproblem="exact")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    samples=st.integers(1, 5000),
    share=st.floats(0.01, 1),
    ranks=st.integers(1, 9),
    memory=st.floats(1e4, 1e10),
    options=st.sampled_from(
        [
            {},
            {"curvature": "full"},
            {"jacobian": "implicit"},
            {"jacobian": "dense"},
            {"preconditioner": "diagonal"},
        ]
    ),
)
def test_no_plan_exceeds_its_memory(
    widths: list[int], samples: int, share: float, ranks: int, memory: float, options: dict[str, object]
) -> None:
    subsample = max(1, round(share * samples))
    try:
        found = decided(net(*widths), [7], samples, subsample, ranks, memory, **options)
    except UserError:
        return
    assert found.peak <= memory * (1 + 1e-12)
    assert max(found.chunks(samples, subsample)) <= found.chunk
    tapes = [subsample] if samples <= found.batch else [part.stop - part.start for part in runs(subsample, found.batch)]
    listed = [even_slices(n, ceil_div(n, found.chunk)) for n in tapes]  # every piece, as the Jacobian's loop has them
    assert Counter(part.stop - part.start for parts in listed for part in parts) == found.chunks(samples, subsample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jacobian": "implicit", "subproblem": "exact"}, "exact needs a jacobian"),
        ({"jacobian": "implicit", "preconditioner": "kronecker"}, "kronecker needs"),
        ({"jacobian": "implicit", "early_termination": {"mode": "async"}}, "async"),
        ({"curvature": "full", "preconditioner": "diagonal"}, "needs curvature: diagonal"),
        ({"subproblem": "exact", "preconditioner": "kronecker"}, "needs subproblem"),
    ],
)
def test_what_does_not_go_together(options: dict[str, object], message: str) -> None:
    text = json.dumps({"net": {"input": [2], "loss": "squared", "layers": net(2)}, "solver": options})
    with pytest.raises(UserError, match=message):
        parse.load(text, "net.yaml", [])
