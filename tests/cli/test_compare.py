"""The comparison solvers and `dnewton.compare` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import needs, start
from problems import CNN, MLP, Problem
from runs import KEYS, fails, metrics, train, write_problem
from safetensors.numpy import load_file

from dnewton.config import strict_yaml
from dnewton.config.solver_register import SOLVERS
from dnewton.reporting import raster


@pytest.fixture
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compare.png, which takes longer than small runs."""
    monkeypatch.setattr(raster, "drawn", lambda *_: b"")


OTHERS = [name for name in SOLVERS.names() if name != "newton"]
SERVED = {"downpour", "mdownpour", "adownpour", "mvadownpour", "dc_asgd"}


def values(problem: Problem, folder: Path, name: str, **options: Any) -> dict[str, Any]:
    found = write_problem(problem, folder)
    small = {} if name == "hessian_free" else {"batch": 2, "learning_rate": 0.02}
    return {**found, "solver": {"C": problem.C, "name": name, "max_iterations": 4, **small, **options}}


@pytest.mark.usefixtures("no_plot")
@pytest.mark.jobs(3)
def test_every_solver_runs(tmp_path: Path) -> None:
    """Metrics with all keys, a falling loss and a whole model file, on an odd number of ranks and samples."""
    problem = Problem((2, 7, 6), CNN, samples=211)
    net = {**write_problem(problem, tmp_path), "solver": {"C": problem.C, "max_iterations": 5}}
    (tmp_path / "net.yaml").write_text(strict_yaml.dump(net))
    result = run_compare(
        3, tmp_path, "--net", "net.yaml", "--solvers", ",".join(OTHERS), "--init", "init.safetensors", "--out", "all"
    )
    assert result.returncode == 0, result.stderr
    for name in OTHERS:
        found = metrics(tmp_path / "all", name)
        assert [r["iteration"] for r in found] == [0, 1, 2, 3, 4, 5]
        wanted = KEYS | {"samples_seen", "train_seconds", "train_accuracy", "test_accuracy"}
        assert all(set(r) >= wanted for r in found)
        assert found[0]["loss"] == pytest.approx(problem.objective_value(), rel=1e-12)
        assert found[-1]["loss"] < found[0]["loss"], name
        assert found[-1]["samples_seen"] >= 5 * 211 - 1e-6
        model = load_file(tmp_path / "all" / name / "model.safetensors")
        assert {k: v.shape for k, v in model.items()} == {k: v.shape for k, v in problem.params.items()}
        assert ("staleness" in found[-1]) == (name in SERVED)


@pytest.mark.jobs(3)
@pytest.mark.parametrize(
    ("name", "options"),  # training/test_resume.py has those without servers
    [
        ("adam", {}),
        ("downpour", {"tau": 3}),
        ("mdownpour", {}),
        ("adownpour", {}),
        ("dc_asgd", {"variant": "adaptive"}),
    ],
)
def test_resume_equals_a_straight_run(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    problem = Problem((6,), MLP, samples=13)
    turns = {"mode": "round_robin"} if name in SERVED else {}
    net = values(problem, tmp_path, name, **options, **turns)
    assert train(3, tmp_path, net, "straight", "--init", "init.safetensors").returncode == 0
    half = train(3, tmp_path, net, "half", "--init", "init.safetensors", settings=["solver.max_iterations=2"])
    assert half.returncode == 0, half.stderr
    result = start(3, "--resume", "half", "--set=solver.max_iterations=4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    straight, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("straight", "half"))
    for key, value in straight.items():
        assert np.array_equal(value, resumed[key]), key
    lines = metrics(tmp_path, "half")
    assert [r["iteration"] for r in lines] == [0, 1, 2, 3, 4]
    assert lines[-1]["samples_seen"] == metrics(tmp_path, "straight")[-1]["samples_seen"]
    assert lines[3]["train_seconds"] > lines[2]["train_seconds"]


@pytest.mark.jobs(4)
@pytest.mark.parametrize("name", ["easgd", "downpour"])
def test_resume_with_other_workers(tmp_path: Path, name: str) -> None:
    """Workers that were not there begin at the common point; the run goes on where it was."""
    problem = Problem((6,), MLP, samples=13)
    net = values(problem, tmp_path, name, **({"tau": 1} if name == "easgd" else {}))
    assert train(3, tmp_path, net, "run", settings=["solver.max_iterations=2"]).returncode == 0
    result = start(4, "--resume", "run", "--set=solver.max_iterations=4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = metrics(tmp_path, "run")
    assert [r["iteration"] for r in lines] == [0, 1, 2, 3, 4] and lines[-1]["loss"] < lines[2]["loss"]


@pytest.mark.parametrize(("name", "extra"), [needs(5, "downpour", 1), needs(4, "dp_kfac", 0)])
def test_layouts_of_equal_replicas_agree(tmp_path: Path, name: str, extra: int) -> None:
    """Two workers of 1 or 2 model ranks each take the same way; with servers in turn."""
    problem = Problem((6,), MLP, samples=13)
    net = values(problem, tmp_path, name, **({"mode": "round_robin"} if extra else {}))
    net["parallel"]["replicas"] = 2
    for ranks in (2, 4):
        result = train(ranks + extra, tmp_path, net, f"run{ranks}", "--init", "init.safetensors")
        assert result.returncode == 0, result.stderr
    one, two = (load_file(tmp_path / f"run{ranks}" / "model.safetensors") for ranks in (2, 4))
    for key, value in one.items():
        assert np.allclose(value, two[key], rtol=1e-9, atol=1e-12), key


@pytest.mark.parametrize(
    ("ranks", "settings", "words"),
    [
        needs(1, 1, ["solver.name=downpour"], ["server_ranks", "2 ranks"]),
        needs(3, 3, ["solver.name=sgd", "parallel.replicas=2"], ["parallel.replicas", "1, 3"]),
        needs(5, 5, ["solver.name=sgd", "parallel.grid=[1,2]"], ["parallel.grid", "multiple of 2"]),
        needs(2, 2, ["solver.name=easgd", "solver.momentum=0.5"], ["momentum", "eamsgd"]),
        needs(2, 2, ["solver.replica_solve=exact", "solver.subproblem=exact"], ["replica_solve"]),
        needs(3, 3, ["solver.name=d_kfac", "solver.grad_worker_fraction=0.5"], ["grad_worker_fraction", "0.333"]),
        needs(2, 2, ["solver.name=sgd", "solver.momentum=0", "solver.nesterov=true"], ["nesterov"]),
        needs(2, 2, ["solver.name=adm"], ["solver.name", "adam"]),
        needs(2, 2, ["solver.name=adam", "solver.learnin_rate=1"], ["solver.learnin_rate", "learning_rate"]),
        needs(3, 3, ["solver.name=downpour", "data.train=missing.npz"], ["missing.npz"]),
        needs(2, 2, ["solver.name=dp_kfac", "parallel.memory=64MiB"], ["parallel.memory"]),
    ],
)
def test_mistakes(tmp_path: Path, ranks: int, settings: list[str], words: list[str]) -> None:
    fails(train(ranks, tmp_path, "mlp.yaml", "run", settings=settings), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.jobs(3)
def test_a_mistake_found_while_training_ends_the_servers_too(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_text("no")
    result = train(3, tmp_path, "mlp.yaml", "run", "--init", "bad.safetensors", settings=["solver.name=downpour"])
    fails(result, "bad.safetensors")


@pytest.mark.jobs(2)
def test_one_word_changes_the_method_and_the_log_says_what_is_not_used(tmp_path: Path) -> None:
    result = train(2, tmp_path, "mlp.yaml", "run", settings=["solver.name=adam", "solver.max_iterations=1"])
    assert result.returncode == 0, result.stderr
    assert "adam does not use newton's subsample" in (tmp_path / "run" / "log.txt").read_text()


def run_compare(ranks: int, folder: Path, *args: str) -> Any:
    return start(ranks, *args, cwd=folder, module="dnewton.compare")


@pytest.mark.jobs(3)
def test_compare(tmp_path: Path) -> None:
    """A directory per run, all from the same start; a table, the curves and a plot."""
    result = run_compare(
        3,
        tmp_path,
        "--net",
        "mlp.yaml",
        "--solvers",
        "newton,sgd,downpour",
        "--sweep",
        "learning_rate=0.1,0.05",
        "--set",
        "solver.max_iterations=2",
        "--out",
        "all",
    )
    assert result.returncode == 0, result.stderr
    names = [
        "newton",
        "sgd-learning_rate=0.1",
        "sgd-learning_rate=0.05",
        "downpour-learning_rate=0.1",
        "downpour-learning_rate=0.05",
    ]
    first = {metrics(tmp_path / "all", name)[0]["loss"] for name in names}
    assert max(first) - min(first) < 1e-5
    for name in names:
        assert (tmp_path / "all" / name / "model.safetensors").exists()
        assert name in (tmp_path / "all" / "compare.txt").read_text()
    curves = json.loads((tmp_path / "all" / "compare.json").read_text())
    assert list(curves) == names
    for c in curves.values():
        assert c["iteration"] == [0, 1, 2] and c["seconds"] == sorted(c["seconds"]) and c["bytes"][2] > c["bytes"][1]
    for name in names[3:]:  # what one run's servers sent is not the next one's
        assert curves[name]["bytes"][0] == 0 or curves[name]["bytes"][0] < curves[name]["bytes"][1]
    assert (tmp_path / "all" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert all(f"{k + 1} of 5, {name}" in result.stdout for k, name in enumerate(names))
    page = (tmp_path / "all" / "compare.html").read_text()
    assert "Loss f over time" in page and "sgd-learning_rate=0.05" in page and "mlp on digits, 3 rank(s)" in page
    again = run_compare(2, tmp_path, "--net", "mlp.yaml", "--solvers", "newton", "--out", "all")
    fails(again, "ranks was 3 and is 2", "--overwrite")


SMALL = {
    "net": {"input": [64], "loss": "cross_entropy", "layers": [{"dense": {"units": 10}}]},
    "data": {"train": "digits", "split": 0.5, "scale": "unit"},
    "output": {"checkpoint_every": 2},
}


def small(folder: Path, *args: str, ranks: int = 2, iterations: int = 2) -> Any:
    (folder / "small.yaml").write_text(strict_yaml.dump(SMALL))
    words = ["--net", "small.yaml", "--out", "all", "--set", f"solver.max_iterations={iterations}"]
    return run_compare(ranks, folder, *words, *args)


@pytest.mark.usefixtures("no_plot")
@pytest.mark.jobs(2)
def test_seeds_and_a_target_and_what_is_kept(tmp_path: Path) -> None:
    """Finished runs are not run again; seeds and solvers join them."""
    first = small(tmp_path, "--solvers", "newton,sgd", "--seeds", "2", "--target", "train_accuracy=0.2")
    assert first.returncode == 0, first.stderr
    assert max(map(len, first.stdout.split("\n\n")[0].splitlines())) <= 80
    names = [f"{solver}-seed={seed}" for seed in (0, 1) for solver in ("newton", "sgd")]
    starts = {name: metrics(tmp_path / "all", name)[0]["loss"] for name in names}
    assert starts["newton-seed=0"] == pytest.approx(starts["sgd-seed=0"], rel=1e-6)
    assert abs(starts["newton-seed=0"] - starts["newton-seed=1"]) > 1e-3
    curves = json.loads((tmp_path / "all" / "compare.json").read_text())
    assert [(c["method"], c["seed"]) for c in curves.values()] == [
        ("newton", 0),
        ("sgd", 0),
        ("newton", 1),
        ("sgd", 1),
    ]
    lines = metrics(tmp_path / "all", "sgd-seed=1")
    at = next(r for r in lines if r["train_accuracy"] >= 0.2)
    assert curves["sgd-seed=1"]["reached"] == {"train accuracy >= 0.2": at["train_seconds"]}
    before = {path: path.stat().st_mtime_ns for name in names for path in (tmp_path / "all" / name).rglob("*.*")}

    second = small(tmp_path, "--solvers", "newton,adam", "--seeds", "0,2", "--quiet")
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("dnewton compare:") and "of 4" not in second.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    now = json.loads((tmp_path / "all" / "compare.json").read_text())
    assert _without(now).items() >= _without(curves).items()
    assert [k for k in now if k not in curves] == ["adam-seed=0", "newton-seed=2", "adam-seed=2"]
    table = (tmp_path / "all" / "compare.txt").read_text()
    assert [line.split()[1] for line in table.splitlines() if line.startswith(("newton ", "sgd ", "adam "))][:3] == [
        "3",
        "2",
        "2",
    ]


@pytest.mark.usefixtures("no_plot")
@pytest.mark.jobs(2)
def test_a_limit_of_time_is_the_whole_jobs(tmp_path: Path) -> None:
    """It is over before the first step; the same command without it goes on."""
    stopped = small(tmp_path, "--solvers", "newton,sgd", "--max-seconds", "0.1")
    assert stopped.returncode == 85 and "stopped by the limit of time; the same command" in stopped.stdout
    assert "2 of 2" not in stopped.stdout
    assert small(tmp_path, "--solvers", "newton,sgd").returncode == 0
    assert [len(metrics(tmp_path / "all", name)) for name in ("newton", "sgd")] == [3, 3]


def _without(curves: dict[str, Any]) -> dict[str, Any]:
    return {name: {k: v for k, v in c.items() if k != "reached"} for name, c in curves.items()}


@pytest.mark.usefixtures("no_plot")
@pytest.mark.jobs(2)
def test_unfinished_runs_go_on_and_others_are_in_the_way(tmp_path: Path) -> None:
    assert small(tmp_path, "--solvers", "newton,sgd", iterations=4).returncode == 0
    whole = [r["loss"] for r in metrics(tmp_path / "all", "newton")]
    folder = tmp_path / "all" / "newton"
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:30])  # killed while it wrote this line
    (folder / "model.safetensors").unlink()
    newest = max((folder / "checkpoints").iterdir())
    newest.rename(newest.with_name(".writing-" + newest.name))
    result = small(tmp_path, "--solvers", "newton,sgd", iterations=4)
    assert result.returncode == 0, result.stderr
    assert "resuming after iteration 2" in (folder / "log.txt").read_text() and "sgd, finished before" in result.stdout
    assert [r["loss"] for r in metrics(tmp_path / "all", "newton")] == whole and (folder / "model.safetensors").exists()

    fails(small(tmp_path, "--solvers", "newton", "--set", "solver.C=3", iterations=4), "solver.C was 1.0 and is 3.0")
    fails(small(tmp_path, "--solvers", "sgd", "--set", "data.scale=none", iterations=4), 'data.scale was "unit"')
    (tmp_path / "all" / "adam").mkdir()
    (tmp_path / "all" / "adam" / "model.safetensors").write_text("mine")
    fails(small(tmp_path, "--solvers", "newton,adam", iterations=4), "adam: holds another run", "--overwrite")
    assert (tmp_path / "all" / "adam" / "model.safetensors").read_text() == "mine"
    again = small(tmp_path, "--solvers", "newton", "--set", "solver.C=3", "--overwrite", iterations=4)
    assert again.returncode == 0, again.stderr
    assert [r["loss"] for r in metrics(tmp_path / "all", "newton")] != whole


@pytest.mark.usefixtures("no_plot")
@pytest.mark.jobs(2)
def test_a_larger_budget_goes_on_and_a_smaller_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(strict_yaml.dump(SMALL))

    def given(budget: str) -> Any:
        words = ["--net", "small.yaml", "--out", "all", "--solvers", "sgd", "--budget", budget]
        return run_compare(2, tmp_path, *words)

    assert given("0.1s").returncode == 0
    count = len(metrics(tmp_path / "all", "sgd"))
    assert given("0.3s").returncode == 0
    lines = metrics(tmp_path / "all", "sgd")
    assert len(lines) > count and [r["iteration"] for r in lines] == list(range(len(lines)))
    assert [r for r in lines if "stopped" in r] == lines[-1:]
    fails(given("0.1s"), "sgd: holds a run of", "--budget is 0.1 s")


@pytest.mark.jobs(3)
def test_a_target_that_no_run_can_have(tmp_path: Path) -> None:
    """It is known on all ranks before any run has trained, also where one of them serves."""
    result = small(tmp_path, "--solvers", "downpour,newton", "--target", "test_rmse=1", ranks=3)
    fails(result, "--target test_rmse: these runs have loss, grad_norm, train_accuracy, test_accuracy")
    assert "2 of 2" not in result.stdout


@pytest.mark.usefixtures("no_plot")
@pytest.mark.jobs(2)
def test_compare_stops_at_the_budget(tmp_path: Path) -> None:
    """And a run that diverges is said, after the others have been done."""
    result = run_compare(
        2,
        tmp_path,
        "--net",
        "mlp.yaml",
        "--solvers",
        "sgd,adam",
        "--budget",
        "0.5s",
        "--out",
        "all",
        "--sweep",
        "weight_decay=0.0,1e30",
    )
    fails(result, "sgd-weight_decay=1e30")
    text = (tmp_path / "all" / "compare.txt").read_text()
    assert "sgd has diverged" in text and "warning: sgd-weight_decay=1e30" in result.stdout
    folder = tmp_path / "all" / "adam-weight_decay=0.0"
    assert "adam does not use newton's subsample" in (folder / "log.txt").read_text()
    lines = metrics(tmp_path / "all", "adam-weight_decay=0.0")
    assert lines[-2]["train_seconds"] < 0.5 and lines[-1]["train_seconds"] > 0.4  # the clock is read after the line


@pytest.mark.jobs(2)
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--solvers", "newton,adamm"], ["--solvers", "adamm"]),
        (["--solvers", "newton", "--sweep", "learning_rate=1,2"], ["--sweep", "solver.learning_rate"]),
        (["--solvers", "adam", "--sweep", "learning_rate"], ["--sweep learning_rate"]),
        (["--solvers", "adam", "--budget", "soon"], ["--budget soon"]),
        (["--solvers", "adam", "--sweep", "learning_rate=0.1,fast"], ["learning_rate", "fast"]),
        (["--solvers", "adam", "--set", "solver.tau=3"], ["solver.tau"]),
        (["--solvers", "adam,downpour", "--set", "parallel.replicas=2"], ["parallel.replicas: 2"]),
        (["--solvers", "adam", "--init", "missing.safetensors"], ["missing.safetensors"]),
        (["--solvers", "adam", "--seeds", "two"], ["--seeds two"]),
        (["--solvers", "adam", "--seeds", "2", "--set", "solver.seed=1"], ["solver.seed", "--seeds"]),
        (["--solvers", "adam", "--target", "accuracy=1"], ["--target accuracy=1", "test_accuracy"]),
        (["--solvers", "adam", "--target", "test_rmse=1"], ["--target test_rmse: these runs have loss,"]),
        (["--solvers", "adam", "--target", "loss=low"], ["--target loss=low"]),
        (["--solvers", "adam", "--max-seconds", "0"], ["--max-seconds 0"]),
        (["--solvers", "adam", "--target", "validation_accuracy=1"], ["validation", "data.validation"]),
        (["--solvers", "sgd", "--sweep", "momentum=0", "--sweep", "momentum=0.5"], ["swept already"]),
        ([], ["--solvers"]),
    ],
)
def test_compare_mistakes(tmp_path: Path, args: list[str], words: list[str]) -> None:
    fails(run_compare(2, tmp_path, "--net", "mlp.yaml", "--out", "all", *args), *words)
    assert not (tmp_path / "all").exists()
