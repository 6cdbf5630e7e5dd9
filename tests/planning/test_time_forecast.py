"""Forecasts of seconds: sums of what they consist of, monotonic where they must be, and lists of ranks."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import CNN, MLP, Problem

from dnewton.errors import UserError
from dnewton.grid import grids
from dnewton.planning import grid_search
from dnewton.planning.machine import BESIDE, MachineConstants, Price
from dnewton.planning.net_plan import NetPlan, infer_shapes
from dnewton.planning.pass_times import Passes
from dnewton.planning.scaling import Scaling, paying, rank_list, verdict

MACHINE = MachineConstants(cores=4, nodes=2)
sides = st.floats(1, 1e5)


def plan_of(net: str, ranks: int, grid: tuple[int, int] | None = None) -> NetPlan:
    problem = Problem((50,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN)
    work = grid_search.Workload(1000, 100, problem.outputs)
    return grid_search.choose(infer_shapes(problem.config.net), ranks, work, grid=grid)


@given(sides, sides, sides, st.floats(1, 10))
def test_a_product_costs_more_the_longer_its_sides(m: float, k: float, n: float, more: float) -> None:
    price = Price.on(MachineConstants(), 1, 4)
    whole = price.product(m, k, n)
    assert whole >= 2 * m * k * n / MACHINE.flops
    for longer in ((m * more, k, n), (m, k * more, n), (m, k, n * more)):
        assert whole <= price.product(*longer) <= more * whole * (1 + 1e-9) + price.call
    assert price.wide().product(m, k, n) > whole


@given(st.integers(1, 64), st.integers(1, 16), st.integers(0, 8))
def test_ranks_fill_nodes(ranks: int, cores: int, nodes: int) -> None:
    machine = MachineConstants(cores=cores, nodes=nodes)
    on_node = machine.ranks_on_node(ranks)
    used = min(math.ceil(ranks / cores), nodes or ranks)
    assert on_node * used >= ranks and (on_node <= cores or nodes)
    assert machine.share(ranks) == cores / on_node
    alone, shared = Price.on(machine, 1, 4), Price.on(machine, ranks, 4)
    assert shared.flops <= alone.flops and shared.memory <= alone.memory and shared.call >= alone.call


def test_a_rank_with_cores_uses_them_for_large_products_alone() -> None:
    machine = MachineConstants(cores=8, nodes=1)
    assert Price.on(machine, 1, 4).threads == 8 and Price.on(machine, 1, 4, largest=1e6).threads == 1
    assert Price.on(machine, 1, 4).flops > 4 * Price.on(machine, 8, 4).flops
    alone = Price.on(dataclasses.replace(machine, threads=1), 1, 4)  # beside others it has a smaller rate
    assert BESIDE * alone.flops == pytest.approx(Price.on(machine, 8, 4).flops)
    assert BESIDE * alone.memory == pytest.approx(Price.on(machine, 8, 4).memory)


def test_collectives() -> None:
    price = Price.on(MachineConstants(latency=1e-3, network=1e6), 8, 4)
    free = dataclasses.replace(price, call=0.0)
    assert free.allreduce(1000, 1) == free.gather(1000, 1) == free.bcast(1000, 1) == free.scalars(1) == 0
    assert free.allreduce(0, 8) == pytest.approx(3e-3)
    assert free.allreduce(1000, 2) == pytest.approx(1e-3 + 4e-3)
    assert free.allreduce(1000, 2, itemsize=8) == pytest.approx(1e-3 + 8e-3)
    assert free.gather(0, 5) == pytest.approx(3e-3)


@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("ranks", [1, 4, 6])
def test_passes(net: str, ranks: int) -> None:
    """More samples take longer, a message more than none, and batches no less than all at once."""
    for grid in grids(ranks):
        plan = plan_of(net, ranks, (grid.rows, grid.cols))
        passes = Passes(plan, Price.on(MACHINE, ranks, 4), 100)
        assert passes.forward(0) == passes.backward(0) == 0
        for sweep in (passes.forward, passes.backward):
            assert 0 < sweep(50) < sweep(100) < sweep(1000)
            assert sweep(1000, batch=1000) < sweep(1000, batch=10)
        assert passes.sweep({50: 2}) > passes.sweep({100: 1}) > 0
        assert passes.tangents(100, 4, 100) > passes.tangents(100, 1, 100) > passes.forward(100, loss=False)
        slow = dataclasses.replace(MACHINE, latency=1.0)
        waits = Passes(plan, Price.on(slow, ranks, 4), 100).forward(100) - passes.forward(100)
        assert (waits > 0.5) == (ranks > 1)


def test_the_largest_block_shrinks_with_ranks() -> None:
    free = MachineConstants(latency=1e-12, network=1e15, call=1e-12)
    one, four = (Passes(plan_of("mlp", n), Price.on(free, n, 4), 1000) for n in (1, 4))
    assert four.forward(1000, loss=False) < one.forward(1000, loss=False)


@dataclasses.dataclass(frozen=True)
class Timed:
    ranks: int
    total: float


@pytest.mark.parametrize(
    ("seconds", "most", "said"),
    [
        ([8.0, 4.0, 2.0], 4, "adding ranks pays up to 4"),
        ([8.0, 4.0, 4.5], 2, "beyond 2 rank(s) more ranks cost more than they save"),
        ([8.0, 4.0, 3.9], 2, "beyond 2 rank(s) more ranks save little"),
        ([8.0, 9.0, 10.0], 1, "beyond 1 rank(s) more ranks cost"),
    ],
)
def test_where_ranks_stop_paying(seconds: list[float], most: int, said: str) -> None:
    scaling = Scaling.of([Timed(2**k, value) for k, value in enumerate(seconds)])
    assert paying(scaling).planned.ranks == most and verdict(scaling).startswith(said)
    assert scaling.rows[1].faster == seconds[0] / seconds[1]
    assert scaling.rows[1].efficiency == seconds[0] / seconds[1] / 2
    assert verdict(Scaling.of([Timed(1, 1.0)])) == ""


def test_a_leap_must_pay_for_all_its_ranks() -> None:
    scaling = Scaling.of([Timed(1, 8.0), Timed(4, 3.0), Timed(100_000, 2.4)])
    assert paying(scaling).planned.ranks == 4


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8", [8]),
        ("1,2,4", [1, 2, 4]),
        ("1,2,4,...,32", [1, 2, 4, 8, 16, 32]),
        ("1, 2, ..., 6", [1, 2, 4, 6]),
        ("1,2,3,...,6", [1, 2, 3, 4, 5, 6]),
        ("4,8,12,…,20", [4, 8, 12, 16, 20]),
        ("3,9,27,...,100", [3, 9, 27, 81, 100]),
    ],
)
def test_lists_of_ranks(text: str, numbers: list[int]) -> None:
    assert rank_list(text) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "x",
        "-1",
        "1,,2",
        "2,1",
        "1,1",
        "...,4",
        "1,...,4",
        "1,2,...",
        "1,2,...,4,8",
        "1,2,4,5,...,9",
        "4,8,...,6",
    ],
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(UserError, match="--ranks"):
        rank_list(text)


def test_too_many_numbers() -> None:
    with pytest.raises(UserError, match="at most 64"):
        rank_list("1,2,3,...,1000")


def test_ranks_without_weights() -> None:
    """A layer of 5 units and one of 4 give no more than so many ranks something to own."""
    for ranks in (1, 4, 50):
        plan = plan_of("mlp", ranks)
        owners = sum(
            any(
                plan.grid.width(x.out_split, x.out_units, r) * plan.grid.width(x.in_split, x.in_units, r)
                for x in plan.parametric()
            )
            for r in range(ranks)
        )
        assert plan.idle() == ranks - owners
    assert plan_of("mlp", 1).idle() == 0 < plan_of("mlp", 1000).idle()
