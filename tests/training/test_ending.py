"""Why a run ended: in its output, in metrics.jsonl, and in what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from runs import fails, metrics, train
from safetensors.numpy import load_file

from dnewton.training.ending import Standing, reason

NET: dict[str, Any] = {
    "input": [2],
    "loss": "squared",
    "layers": [{"dense": {"units": 8, "activation": "tanh"}}, {"dense": {"units": 1}}],
}


def at(iteration: int, best: int | None, passes: int = 0) -> Standing:
    return Standing(iteration, "accuracy", best, "", passes=passes)


def test_the_first_reason_that_holds() -> None:
    assert reason("", at(3, 1), 10, None, False) == ""
    assert reason("", at(3, 1), 10, 3, False) == ""
    assert reason("", at(4, 1), 10, 3, False) == "patience"
    assert reason("", at(3, None), 10, 3, False) == "patience"  # no figure was ever a number
    assert reason("", at(10, 1), 10, None, False) == "iterations"
    assert reason("", at(3, 1), 10, None, True) == "time"
    assert reason("tolerance", at(10, 1), 10, 3, True) == "tolerance"


def test_passes_before_a_method_do_not_count() -> None:
    """Neither for the iterations nor for those without a better figure."""
    assert reason("", at(10, 1, passes=10), 3, 2, False) == "" == reason("", at(12, 12, passes=10), 3, 2, False)
    assert reason("", at(12, 7, passes=10), 3, 2, False) == "patience"
    assert reason("", at(13, 13, passes=10), 3, 2, False) == "iterations"
    assert reason("", at(0, 0, passes=10), 0, None, False) == "iterations"


def written(folder: Path, x: Any, y: Any, **solver: Any) -> dict[str, Any]:
    np.savez(folder / "data.npz", x=x, y=y)
    return {"net": NET, "data": {"train": "data.npz"}, "solver": {"subsample": 1.0, "C": float("inf"), **solver}}


def stopped(folder: Path, out: str, result: Any, why: str) -> int:
    """Checks that the last line alone, and the output, tell the reason; returns the last iteration."""
    lines = metrics(folder, out)
    assert result.returncode == 0, result.stderr
    assert not any("stopped" in line for line in lines[:-1])
    assert lines[-1]["stopped"]["reason"] == why
    text = lines[-1]["stopped"]["text"]
    assert text in result.stdout and text in (folder / out / "log.txt").read_text()
    assert text.startswith(f"ended after iteration {lines[-1]['iteration']} ({why}): ")
    return int(lines[-1]["iteration"])


@pytest.mark.jobs(2)
@pytest.mark.parametrize("ranks", [1, 2])
def test_without_progress_a_run_ends_and_a_resumed_one_at_the_same_place(tmp_path: Path, ranks: int) -> None:
    """One sample with several targets: f is at its lowest after some iterations, as far as float32 can tell."""
    y = np.random.default_rng(0).normal(size=20)
    values = written(tmp_path, np.full((20, 2), 0.3), y, early_termination={"mode": "off"})
    result = train(ranks, tmp_path, values, "run", settings=["solver.max_iterations=200"])
    last = stopped(tmp_path, "run", result, "no progress")
    assert 5 < last < 80
    result = train(ranks, tmp_path, values, "parts", settings=[f"solver.max_iterations={last - 2}"])
    assert stopped(tmp_path, "parts", result, "iterations") == last - 2
    result = start(ranks, "--resume", "parts", "--set", "solver.max_iterations=200", cwd=tmp_path)
    assert stopped(tmp_path, "parts", result, "no progress") == last
    a, b = metrics(tmp_path, "run"), metrics(tmp_path, "parts")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]
    result = start(ranks, "--resume", "parts", cwd=tmp_path)  # nothing is left to do, and the file says why
    assert stopped(tmp_path, "parts", result, "no progress") == last
    result = start(ranks, "--resume", "parts", "--set", "parallel.dtype=float64", cwd=tmp_path)
    assert metrics(tmp_path, "parts")[-1]["iteration"] > last, result.stdout


@pytest.mark.jobs(2)
@pytest.mark.parametrize("method", ["newton", "adam", "hessian_free"])
def test_patience_keeps_the_best_weights(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 2))
    values = written(tmp_path, x[:12], rng.normal(size=12), max_iterations=60, seed=1)
    np.savez(tmp_path / "other.npz", x=x[12:], y=np.sin(x[12:, 0]))
    values["data"]["validation"] = "other.npz"
    settings = [f"solver.name={method}", "solver.patience=3", "parallel.dtype=float64"]
    last = stopped(tmp_path, "run", train(2, tmp_path, values, "run", settings=settings), "patience")
    scores = [line["validation_rmse"] for line in metrics(tmp_path, "run")]
    best = int(np.argmin(scores))
    assert last == best + 3 < 60
    assert f"weights of iteration {best}, the best by validation" in metrics(tmp_path, "run")[-1]["stopped"]["text"]
    model, kept = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("model", "best"))
    assert all(np.array_equal(model[k], v) for k, v in kept.items()) and len(kept) == len(model)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert newest.name.startswith(f"iteration-{last:08d}")
    result = start(2, "--resume", "run", "--set", "solver.patience=5", cwd=tmp_path)
    scores = [line["validation_rmse"] for line in metrics(tmp_path, "run")]
    assert stopped(tmp_path, "run", result, "patience") == int(np.argmin(scores)) + 5


@pytest.mark.jobs(1)
def test_reasons_by_the_gradient(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = written(tmp_path, rng.normal(size=(20, 2)), rng.normal(size=20))
    result = train(1, tmp_path, values, "run", settings=["solver.tolerance=0.5"])
    assert stopped(tmp_path, "run", result, "tolerance") > 0
    values = written(tmp_path, np.zeros((20, 2)), np.zeros(20))
    values["net"] = {**NET, "layers": [{"dense": {"units": 8, "activation": "relu"}}, {"dense": {"units": 1}}]}
    result = train(1, tmp_path, values, "flat", settings=["solver.C=.inf"])
    assert stopped(tmp_path, "flat", result, "no gradient") == 0


@pytest.mark.jobs(1)
def test_patience_needs_a_validation_part(tmp_path: Path) -> None:
    values = written(tmp_path, np.zeros((4, 2)), np.zeros(4))
    fails(train(1, tmp_path, values, "run", settings=["solver.patience=3"]), "solver.patience", "data.validation")
    fails(train(1, tmp_path, values, "run", settings=["solver.patience=0", "data.validation=data.npz"]), "patience")
