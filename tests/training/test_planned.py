"""Plans for any number of ranks: of every method, with the phases that add up, and the best number of replicas."""

from __future__ import annotations

from typing import Any

import pytest

from dnewton.config import parse
from dnewton.config.shipped_nets import read_net
from dnewton.config.solver_register import SOLVERS
from dnewton.errors import UserError
from dnewton.hardware.rates import Rates
from dnewton.planning.machine import MachineConstants
from dnewton.planning.net_plan import infer_shapes
from dnewton.training.planned import Planned, Problem, alternatives, best_replicas, plan_run

OFFICE = MachineConstants()


def problem(*settings: str, net: str = "mlp.yaml", samples: int = 1437, machine: MachineConstants = OFFICE) -> Problem:
    config = parse.load(read_net(net)[0], net, list(settings))
    return Problem(config, infer_shapes(config.net), samples, 360, machine, Rates())


@pytest.mark.parametrize("name", list(SOLVERS.names()))
def test_every_method_has_a_forecast(name: str) -> None:
    of = problem(f"solver.name={name}")
    for ranks in (2, 5, 8):
        planned = plan_run(of, ranks)
        seconds = planned.seconds
        assert all(value >= 0 for value in seconds.values()) and planned.total == sum(seconds.values())
        assert seconds["gradient"] > 0 and seconds["evaluate"] > 0 and seconds["report"] > 0
        assert (planned.bytes is None) == (name != "newton")
        assert planned.how.peak > 112 * 2**20


@pytest.mark.parametrize(
    "settings",
    [
        ["solver.damping=paper"],
        ["solver.damping=paper", "solver.subproblem=exact"],
        ["solver.curvature=full"],
        ["solver.curvature=full", "solver.subproblem=exact"],
        ["solver.curvature=full", "solver.jacobian=implicit"],
        ["solver.jacobian=implicit"],
        ["solver.jacobian=dense"],
        ["solver.diagonal_unit=layer"],
        ["solver.preconditioner=kronecker", "solver.damping=paper"],
        ["solver.preconditioner=diagonal"],
        ["solver.combine=none"],
        ["parallel.replicas=2"],
        ["parallel.replicas=2", "solver.replica_solve=exact"],
        ["parallel.dtype=float64"],
    ],
    ids=",".join,
)
@pytest.mark.parametrize("net", ["mlp.yaml", "cnn.yaml"])
def test_every_form_of_newton_has_a_forecast(net: str, settings: list[str]) -> None:
    planned = plan_run(problem(*settings, net=net), 4)
    assert {"function", "gradient", "jacobian", "cg", "combine"} <= set(planned.seconds)
    assert all(0 < value < 1e3 for value in planned.seconds.values())
    slower = plan_run(problem(*settings, net=net, machine=MachineConstants(flops=1e9, memory=1e9)), 4)
    assert slower.total > 2 * planned.total


def test_messages_cost_what_the_network_says() -> None:
    near, far = (plan_run(problem(machine=MachineConstants(latency=s)), 4) for s in (1e-6, 1e-1))
    assert far.seconds["function"] > 0.1 > near.seconds["function"]
    assert far.seconds["cg"] == near.seconds["cg"]  # local systems send nothing
    one = [plan_run(problem(machine=MachineConstants(latency=s)), 1).total for s in (1e-6, 1e-1)]
    assert one[0] == one[1]


def test_other_layouts() -> None:
    found = alternatives(problem(), 4)
    layouts = {(p.division.replicas, p.grid.rows, p.grid.cols) for p in found}
    assert layouts == {(1, 1, 4), (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1)}
    assert [p.total for p in found] == sorted(p.total for p in found)
    assert {p.division.replicas for p in alternatives(problem("solver.name=adam"), 4)} == {4}


def test_the_best_number_of_replicas() -> None:
    """Far ranks had better not share every layer's sums; a message per iteration is dear enough."""
    far = problem("parallel.replicas=best", machine=MachineConstants(latency=1e-3))
    best = plan_run(far, 4)
    each = {d: plan_run(problem(f"parallel.replicas={d}", machine=far.machine), 4).total for d in (1, 2, 4)}
    assert best.total == min(each.values()) and best.division.replicas == min(each, key=lambda d: each[d])
    assert plan_run(problem("parallel.replicas=best", "solver.name=adam"), 4).division.replicas == 4
    auto = plan_run(problem("parallel.replicas=auto"), 4)
    assert auto.division.replicas == 1
    fixed = best_replicas(problem("parallel.replicas=best", "parallel.grid=[1,2]"), 4)
    assert (fixed.division.replicas, fixed.grid.size) == (2, 2)
    with pytest.raises(UserError, match=r"parallel\.replicas: best"):
        best_replicas(problem("parallel.replicas=best", "parallel.grid=[1,3]"), 4)


def test_what_does_not_fit_is_left_out() -> None:
    tight = problem("parallel.memory=160MiB", net="cnn.yaml")

    def peaks(found: list[Planned]) -> list[float]:
        return [p.how.peak for p in found]

    assert max(peaks(alternatives(tight, 8)), default=0.0) <= 160 * 2**20


def test_layouts_in_words() -> None:
    said: dict[str, Any] = {
        "parallel.grid=[2,2]": "2 x 2",
        "parallel.replicas=4": "4 of 1 x 1",
        "solver.name=downpour": "3 of 1 x 1 + 1",
    }
    for setting, words in said.items():
        assert plan_run(problem(setting), 4).layout() == words
