"""The benchmark of Newton's defaults: all methods start at one point, its Jacobian is right, its tables count right."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from dnewton.comm.communicator import Comm
from dnewton.hardware.device import HOST

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[1] / "scripts" / "bench"))

import target_tables as tables  # noqa: E402
import time_to_target  # noqa: E402
from target_methods import Point, jacobian, race, task_of  # noqa: E402
from target_problems import regression  # noqa: E402

pytestmark = pytest.mark.serial


@pytest.mark.parametrize("options", [["--problems", "step"], ["--classify", "--problems", "64-64-10"]])
def test_all_methods_start_at_one_point(options: list[str], comm: Comm, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    methods = ["--methods", "default", "adam", "lbfgs", "scipy"]
    time_to_target.main([*options, *methods, "--seeds", "1", "--seconds", "0.02", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert len(row["curves"]) == (6 if "--classify" in options else 8)
    starts = np.array([curve[0][2:] for curve in row["curves"].values()])
    np.testing.assert_allclose(starts, starts[:1].repeat(len(starts), 0), rtol=1e-4, atol=0)
    assert all(later[0] >= sooner[0] for c in row["curves"].values() for sooner, later in zip(c, c[1:], strict=False))


@pytest.mark.parametrize("name", ["2-40-40-3 field", "2-48-48-1 cone, relu"])
def test_jacobian_for_scipy(name: str, comm: Comm) -> None:
    """Against PyTorch's reverse mode."""
    with task_of(regression(name, 0), comm, HOST, "cpu") as task:
        x = task.problem.train[0][:3].astype(np.float64)
        layers = [(b.weight, b.bias, b.layer.spec.activation) for b in task.network.blocks]
        found = jacobian(layers, task.theta.astype(np.float64), x)
        net = task.torch_net().double()
        rows = []
        for z in net(torch.from_numpy(x)).ravel():
            slopes = torch.autograd.grad(z, list(net.parameters()), retain_graph=True)
            row = np.zeros(task.weights)
            for block, weight, bias in zip(task.network.blocks, slopes[::2], slopes[1::2], strict=True):
                block.weight(row)[...] = weight.numpy()
                block.bias(row)[...] = bias.numpy()
            rows.append(row)
        np.testing.assert_allclose(found, np.array(rows), rtol=1e-10, atol=1e-12)


def test_tables_of_known_curves() -> None:
    def curve(*rows: tuple[float, float]) -> list[Point]:
        return [Point(t, 2 * t, loss, 10 * loss) for t, loss in rows]

    curves = {
        "default": curve((1, 1.0), (2, 1e-3), (6, 1e-6)),
        "ours a": curve((1, 1e-2), (3, 1e-5)),
        "ours b": curve((4, 1e-4)),
        "Adam 0.1": curve((1, 1.0), (20, math.nan), (30, 5e-4)),
    }
    row = tables.regression_row(curves, "cpu", noisy=False)
    assert [(t["default"], t["best"], t["which"]) for t in row["targets"]] == [
        (2, 3, "ours a"),
        (6, 3, "ours a"),
        (math.inf, math.inf, ""),
    ]
    assert [t["ratio"] for t in row["targets"][:2]] == [2 / 3, 2]
    assert row["settings"] == {"ours a": [3, 3, math.inf], "ours b": [4, math.inf, math.inf]}
    (other,) = row["others"]
    assert (other["loss"], other["seconds"], other["default"], other["sooner"]) == (5e-4, 30, 6, 5)
    (noisy,) = tables.regression_row(curves, "cpu", noisy=True)["others"]
    assert noisy["loss"] == 5e-3  # on the held-out part
    summary = tables.regression_summary([{"problem": "p", **row}])
    assert summary["ratios"] == {"p": 2}
    assert summary["all"] == {"p": 5}


def test_methods_take_turns_to_the_end_of_the_time() -> None:
    order = []

    def method(name: str, cost: float):  # type: ignore[no-untyped-def]
        spent = 0.0
        while True:
            order.append(name)
            yield Point(spent, spent, 1.0, 1.0)
            spent += cost

    curves, failed = race({"a": method("a", 1), "b": method("b", 3)}, 8, "cpu", lambda name, point: False)
    assert not failed
    assert {name: curve[-1].cpu for name, curve in curves.items()} == {"a": 8, "b": 9}
    assert "".join(order) == "aaabbaabaaaab"
