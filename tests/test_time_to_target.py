"""The benchmark of Newton's defaults: all methods start at one point, its Jacobian is right, its tables count right."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from dnewton.comm.communicator import Comm
from dnewton.hardware import node
from dnewton.hardware.device import HOST

pytestmark = pytest.mark.serial
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs PyTorch", allow_module_level=True)

SCRIPTS = str(Path(__file__).parents[1] / "scripts" / "bench")


@pytest.fixture(scope="module")
def bench() -> SimpleNamespace:
    """The script's modules. They import PyTorch: only here, so that other tests and ranks need not wait for it."""
    sys.path.append(SCRIPTS)
    names = {"main": "time_to_target", "methods": "target_methods", "problems": "target_problems"}
    return SimpleNamespace(
        **{key: importlib.import_module(name) for key, name in names.items()},
        tables=importlib.import_module("target_tables"),
        torch=importlib.import_module("torch"),
    )


@pytest.mark.parametrize("options", [["--problems", "step"], ["--classify", "--problems", "64-64-10"]])
def test_all_methods_start_at_one_point(options: list[str], bench: SimpleNamespace, comm: Comm, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    methods = ["--methods", "default", "adam", "lbfgs", "scipy"]
    bench.main.main([*options, *methods, "--seeds", "1", "--seconds", "0.02", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert len(row["curves"]) == (6 if "--classify" in options else 8)
    starts = np.array([curve[0][2:] for curve in row["curves"].values()])
    np.testing.assert_allclose(starts, starts[:1].repeat(len(starts), 0), rtol=1e-4, atol=0)
    assert all(later[0] >= sooner[0] for c in row["curves"].values() for sooner, later in zip(c, c[1:], strict=False))


@pytest.mark.parametrize("name", ["2-40-40-3 field", "2-48-48-1 cone, relu"])
def test_jacobian_for_scipy(name: str, bench: SimpleNamespace, comm: Comm) -> None:
    """Against PyTorch's reverse mode."""
    with bench.methods.task_of(bench.problems.regression(name, 0), comm, HOST, "cpu") as task:
        x = task.problem.train[0][:3].astype(np.float64)
        layers = [(b.weight, b.bias, b.layer.spec.activation) for b in task.network.blocks]
        found = bench.methods.jacobian(layers, task.theta.astype(np.float64), x)
        net = task.torch_net().double()
        rows = []
        for z in net(bench.torch.from_numpy(x)).ravel():
            slopes = bench.torch.autograd.grad(z, list(net.parameters()), retain_graph=True)
            row = np.zeros(task.weights)
            for block, weight, bias in zip(task.network.blocks, slopes[::2], slopes[1::2], strict=True):
                block.weight(row)[...] = weight.numpy()
                block.bias(row)[...] = bias.numpy()
            rows.append(row)
        np.testing.assert_allclose(found, np.array(rows), rtol=1e-10, atol=1e-12)


def test_tables_of_known_curves(bench: SimpleNamespace) -> None:
    def curve(*rows: tuple[float, float]) -> list[Any]:
        return [bench.methods.Point(t, 2 * t, loss, 10 * loss) for t, loss in rows]

    curves = {
        "default": curve((1, 1.0), (2, 1e-3), (6, 1e-6)),
        "ours a": curve((1, 1e-2), (3, 1e-5)),
        "ours b": curve((4, 1e-4)),
        "Adam 0.1": curve((1, 1.0), (20, math.nan), (30, 5e-4)),
        "L-BFGS": curve((1, 1.0), (54, 1e-5)),
    }
    row = bench.tables.regression_row(curves, "cpu", noisy=False)
    assert [(t["default"], t["best"], t["which"]) for t in row["targets"]] == [
        (2, 3, "ours a"),
        (6, 3, "ours a"),
        (math.inf, math.inf, ""),
    ]
    assert [t["ratio"] for t in row["targets"][:2]] == [2 / 3, 2]
    assert row["settings"] == {"ours a": [3, 3, math.inf], "ours b": [4, math.inf, math.inf]}
    adam = row["others"][0]
    assert (adam["loss"], adam["seconds"], adam["default"], adam["sooner"]) == (5e-4, 30, 6, 5)
    noisy = bench.tables.regression_row(curves, "cpu", noisy=True)
    assert noisy["others"][0]["loss"] == 5e-3  # on the held-out part
    assert bench.tables.ratio_to(noisy, "held-out") == 0  # none of ours gets there
    assert math.isnan(bench.tables.ratio_to(noisy, "1e-3"))
    summary = bench.tables.regression_summary([{"problem": "p", **row}])
    assert summary["ratios"] == {"p": 2}
    assert summary["best"] == {"p": 9}  # L-BFGS, whose loss is the lowest


def test_of_methods_beyond_the_last_target_the_soonest_counts(bench: SimpleNamespace) -> None:
    curves = {"default": [bench.methods.Point(1, 1, 1e-8, 0)]}
    curves |= {f"Adam {t}": [bench.methods.Point(t, t, 10.0**-t, 0)] for t in (8, 9)}
    (other,) = bench.tables.regression_row(curves, "cpu", noisy=False)["others"]
    assert (other["method"], other["loss"], other["sooner"]) == ("Adam 8", 1e-7, 8)


def test_summary_over_seeds_and_problems(bench: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    def row(problem: str, ratio: float, sooner: float) -> dict[str, Any]:
        target = {"target": "1e-5", "ratio": ratio, "best": 1.0}
        other = {"method": "Adam 1", "loss": 1.0, "seconds": 1.0, "sooner": sooner}
        return {"problem": problem, "targets": [target], "others": [other]}

    rows = [row("p", 1.0, 12.0), row("p", 1.2, 11.0), row("p", 3.0, 1.0), row("q", 1.8, 4.0)]
    found = bench.tables.regression_summary(rows)
    assert found["ratios"] == {"p": 1.2, "q": 1.8}
    assert found["best"] == found["sooner"]["Adam"] == {"p": 11, "q": 4}
    said = capsys.readouterr().out
    assert "to 1e-5: <= 1 on 0, <= 1.5 on 1, <= 2 on 2 of 2 problems" in said
    assert "Adam: >= 10 on 1, >= 3 on 2, >= 1 on 2 of 2 problems" in said
    assert "1.20    3.00" in said


def test_the_row_of_a_classification(bench: SimpleNamespace) -> None:
    curves = {
        "default": [bench.methods.Point(1, 1, 0.5, 0.5), bench.methods.Point(3, 3, 0.9, 0.9)],
        "Adam 1": [bench.methods.Point(2, 2, 0.9, 0.89), bench.methods.Point(4, 4, 0.9, 0.88)],
        "Adam 1 decay 0.01": [bench.methods.Point(1, 1, 0.9, 0.89)],
        "SGD 1": [bench.methods.Point(9, 9, 0.9, 0.895)],
    }
    row = bench.tables.classification_row(curves, "cpu")
    assert (row["best"], row["adam"], row["ratio"], row["tuned"]) == (0.9, "Adam 1", 1.5, "SGD 1")
    assert row["points"] == pytest.approx(0.5)


def test_methods_take_turns_to_the_end_of_the_time(bench: SimpleNamespace) -> None:
    order = []

    def method(name: str, cost: float):  # type: ignore[no-untyped-def]
        spent = 0.0
        while True:
            order.append(name)
            yield bench.methods.Point(spent, spent, 1.0, 1.0)
            spent += cost

    curves, failed = bench.methods.race({"a": method("a", 1), "b": method("b", 3)}, 8, "cpu", lambda name, point: False)
    assert not failed
    assert {name: curve[-1].cpu for name, curve in curves.items()} == {"a": 8, "b": 9}
    assert "".join(order) == "aaabbaabaaaab"


def test_a_job_takes_the_threads_that_the_script_says(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its products would be worth more."""
    for name in node.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    sides = importlib.import_module("sides")
    with threadpoolctl.threadpool_limits(limits=1), sides.threads(1):
        assert "OMP_NUM_THREADS=1" in node.limit_threads(1, 2.0)
        assert all(lib["num_threads"] == 1 for lib in threadpoolctl.threadpool_info())
    assert not any(name in os.environ for name in node.THREAD_VARIABLES)
