"""Which runs a comparison has, and how far it is."""

from __future__ import annotations

from typing import Any

import pytest

from dnewton.cli import compare_plans
from dnewton.cli.compare_progress import CompareProgress
from dnewton.cli.compare_state import first_difference
from dnewton.config import parse
from dnewton.config.schema import Config
from dnewton.errors import UserError
from dnewton.reporting.comparison import Target


def test_words_of_the_command_line() -> None:
    assert [compare_plans.seconds(t) for t in ("90", "60s", "2m", "1.5h")] == [90, 60, 120, 5400]
    assert compare_plans.swept(["tau=1, 4", "net.loss=squared"]) == {"solver.tau": ["1", "4"], "net.loss": ["squared"]}
    for mistake, word in (("name=adam", "name"), ("seed=1,2", "--seeds")):
        with pytest.raises(UserError, match=word):
            compare_plans.swept([mistake])
    assert [compare_plans.seeds(t) for t in ("3", "4,", "7, 1,7")] == [[0, 1, 2], [4], [7, 1]]
    for mistake in ("", "0", "-1", "1001", "1,x", ","):
        with pytest.raises(UserError, match="--seeds"):
            compare_plans.seeds(mistake)
    assert compare_plans.target("test_accuracy=0.95") == Target("test_accuracy", 0.95)
    assert [Target("loss", 1e-3).words, Target("train_rmse", 2).words] == ["f <= 0.001", "train rmse <= 2"]


def test_a_target_is_of_a_figure_that_there_is() -> None:
    def config(loss: str, data: str) -> Config:
        return parse.load(
            f"net: {{input: [2], loss: {loss}, layers: [{{dense: {{units: 1}}}}]}}\ndata: {data}", "net.yaml"
        )

    counts = compare_plans.figures(config("poisson", "{train: a.npz, split: 0.2}"))
    assert counts == ["loss", "grad_norm", "train_rmse", "test_rmse"]
    labels = compare_plans.figures(config("logistic", "{train: a.npz, test: b.npz, split: 0.2}"))
    assert labels == ["loss", "grad_norm", "train_accuracy", "validation_accuracy", "test_accuracy"]
    squared = config("squared", "{train: a.npz}")  # takes labels, too
    assert compare_plans.figures(squared) == ["loss", "grad_norm", "train_accuracy", "train_rmse"]
    assert compare_plans.figures(squared, "rmse") == ["loss", "grad_norm", "train_rmse"]
    assert not compare_plans.target_problem(Target("test_rmse", 1), counts)
    said = compare_plans.target_problem(Target("test_accuracy", 1), counts)
    assert said == "--target test_accuracy: these runs have loss, grad_norm, train_rmse, test_rmse"
    assert "data.validation" in compare_plans.target_problem(Target("validation_rmse", 1), counts)


def test_plans_go_seed_by_seed() -> None:
    text = "net: {input: [2], loss: squared, layers: [{dense: {units: 1}}]}"
    found = compare_plans.plans(text, ".", "net.yaml", ["newton", "sgd"], {"solver.momentum": ["0"]}, [], True, [4, 2])
    assert [(p.name, p.method, p.config.solver.seed) for p in found] == [
        ("newton-seed=4", "newton", 4),
        ("sgd-momentum=0-seed=4", "sgd-momentum=0", 4),
        ("newton-seed=2", "newton", 2),
        ("sgd-momentum=0-seed=2", "sgd-momentum=0", 2),
    ]
    assert {p.config.solver.max_iterations for p in found} == {compare_plans.FOREVER}


def record(iteration: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {"iteration": iteration, "train_seconds": seconds, "loss": 3.2e-4, "train_accuracy": 0.5, **more}


def test_how_far_it_is() -> None:
    now = [0.0]
    far = CompareProgress(4, 60.0, lambda: now[0])
    assert far.now() == "reading"
    assert far.begin("newton", compare_plans.FOREVER) == "1 of 4, newton"
    now[0] = 2.0
    assert far.now() == "1 of 4, newton, setting up, 2.0 s"
    assert far.passed(record(0, 0.1)) == ""  # not so often in a log
    assert far.ended(record(9, 60.2), why="end: time") == (
        "1 of 4, newton, 9 iterations, 60.2 s, f 0.00032, train accuracy 0.5, end: time"
    )
    far.begin("adam", compare_plans.FOREVER)
    now[0] = 13.0
    assert far.passed(record(3, 11.0)) == "2 of 4, adam, 11 s of 60, iteration 3, f 0.00032, train accuracy 0.5"
    now[0] = 33.0
    assert far.now().startswith("2 of 4, adam, 31 s of 60, iteration 3")
    now[0] = 99.0
    assert far.now().startswith("2 of 4, adam, 60 s of 60")
    far.begin("sgd-learning_rate=0.1-momentum=0.9-nesterov=true-weight_decay=0.0001-seed=12", 50)
    far.passed(record(40, 1e5, validation_accuracy=0.123456, test_accuracy=0.98765))
    assert "iteration 40 of 50" in far.now() and len(far.now()) <= 80
    assert len(far.ended(record(50, 1e5), before="finished before")) <= 80
    live = CompareProgress(1, None, lambda: now[0])
    live.live = True
    assert live.begin("sgd", 50) == "" and live.passed(record(0, 0.0)) == ""
    now[0] += 20
    assert live.passed(record(1, 20.0)) == "" and live.now().startswith("1 of 1, sgd, 20 s, iteration 1 of 50, f ")


def test_differences_are_named_by_their_keys() -> None:
    before = {"a": {"b": [1, {"c": 2}]}, "old": 1}
    assert first_difference(before, {"a": {"b": [1, {"c": 2}]}, "new": 2}) == ""
    assert first_difference(before, {"a": {"b": [1, {"c": 3}]}}) == "a.b[1].c was 2 and is 3"
    assert first_difference(before, {"a": {"b": [1]}}) == 'a.b was [1, {"c": 2}] and is [1]'


def test_solvers_are_named_in_one_place() -> None:
    """Or a run of one method would be called by the name of another."""
    text = "net: {input: [2], loss: squared, layers: [{dense: {units: 1}}]}"
    with pytest.raises(UserError, match=r"--set solver\.name: name the solvers"):
        compare_plans.plans(text, ".", "net.yaml", ["adam"], {}, ["solver.name=sgd"], True)
