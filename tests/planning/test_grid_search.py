"""The planner: pure functions, for P up to 64 in one process."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import strategies as st
from problems import CNN, MLP, Problem

from dnewton.config import parse
from dnewton.config.shipped_nets import read_net, shipped_nets
from dnewton.errors import UserError
from dnewton.grid import KINDS, Grid, SplitAxis, grids
from dnewton.planning import grid_search
from dnewton.planning.net_plan import infer_shapes

sizes = st.integers(1, 12)


def test_every_weight_has_one_owner() -> None:
    for ranks in (1, 2, 3, 6, 8, 64):
        for grid, kind in product(grids(ranks), KINDS.values()):
            owners, biases = np.zeros((7, 5), int), np.zeros(7, int)
            for rank in range(ranks):
                (a, b), (c, d) = (
                    grid.bounds(kind.target, SplitAxis(7), rank),
                    grid.bounds(kind.source, SplitAxis(5), rank),
                )
                owners[a:b, c:d] += 1
                biases[a:b] += kind.owns_bias(grid, rank)
            assert (owners == 1).all() and (biases == 1).all()


@pytest.mark.parametrize("ranks", [*range(1, 17), 24, 31, 32, 48, 63, 64])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_plans_up_to_64_ranks(net: str, ranks: int) -> None:
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN)
    shapes = infer_shapes(problem.config.net)
    work = grid_search.Workload(1000, 100, problem.outputs)
    plan = grid_search.choose(shapes, ranks, work)
    assert plan.grid.size == ranks and not any(plan.incoming(plan.layers[0]))
    for a, b in zip(plan.layers, plan.layers[1:], strict=False):
        assert plan.grid.canonical(a.out_split) == plan.grid.canonical(b.source) and a.out_units == b.in_units
    assert [layer.first for layer in plan.parametric()] == [True] + [False] * (len(plan.parametric()) - 1)


def test_the_planner_finds_the_cheapest_plan() -> None:
    """Dynamic programming against trying every combination of kinds on every grid."""
    layers = [*MLP, {"dense": {"units": 4}}]
    shapes = infer_shapes(Problem((40,), layers).config.net)
    work = grid_search.Workload(500, 50, 4)
    for ranks in (2, 4, 6):

        def cost(plan: grid_search.NetPlan) -> float:
            grid, machine = plan.grid, grid_search.Machine()
            each = sum(grid_search._layer_cost(layer, grid, work, machine) for layer in plan.layers)
            last = plan.layers[-1]
            end = grid_search._move_cost(grid, last.out_split, "full", last.out_units, 1, 500 * 1.3, work, machine)
            return each + end

        best = min(
            cost(grid_search.fixed(shapes, grid, list(kinds), work))
            for grid in grids(ranks)
            for kinds in product(KINDS.values(), repeat=len(layers))
        )
        assert cost(grid_search.choose(shapes, ranks, work)) == pytest.approx(best)


def test_memory_limit_and_fixed_choices() -> None:
    shapes = infer_shapes(Problem((1000,), [{"dense": {"units": 1000}}, {"dense": {"units": 3}}]).config.net)
    work = grid_search.Workload(100, 100, 3)
    roomy = grid_search.choose(shapes, 4, work, grid=(2, 2))
    assert roomy.grid == Grid(2, 2)
    tight = grid_search.choose(shapes, 4, work, memory=grid_search.memory_bytes(roomy, work) * 0.9)
    sizes = [
        grid_search.memory_bytes(grid_search.choose(shapes, 4, work, grid=(g.rows, g.cols)), work) for g in grids(4)
    ]
    assert grid_search.memory_bytes(tight, work) <= max(min(sizes), grid_search.memory_bytes(roomy, work) * 0.9)
    with pytest.raises(UserError, match=r"parallel.grid: \[2, 3\] has 6 ranks but the job has 4.*\[2, 2\]"):
        grid_search.choose(shapes, 4, work, grid=(2, 3))
    wanted = [{"dense": {"units": 8, "split": "all->full"}}, {"dense": {"units": 3, "split": "col->row"}}]
    plan = grid_search.choose(infer_shapes(Problem((9,), wanted).config.net), 6, work, grid=(3, 2))
    assert [layer.split_kind.name for layer in plan.layers if layer.split_kind] == ["all->full", "col->row"]


def test_flatten_may_be_cut_again_by_features() -> None:
    """One channel on 8 ranks: slices of channels would leave seven ranks without work."""
    layers = [
        {"conv": {"channels": 1, "kernel": 3}},
        "flatten",
        {"dense": {"units": 5000, "split": "row->col"}},
        {"dense": {"units": 2}},
    ]
    shapes = infer_shapes(Problem((1, 30, 30), layers, samples=1).config.net)
    plan = grid_search.choose(shapes, 8, grid_search.Workload(10_000, 1000, 2), grid=(4, 2))
    assert plan.layers[2].in_units == SplitAxis(28 * 28, 1)


def test_shipped_nets_fit() -> None:
    assert {"cnn.yaml", "mlp.yaml", "mlp_regression.yaml"} <= set(shipped_nets())
    for name in shipped_nets():
        infer_shapes(parse.load(read_net(name)[0], name).net)
