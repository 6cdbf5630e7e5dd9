"""Training by the command line: what a run writes, how it goes on, what it refuses."""

from __future__ import annotations

from pathlib import Path

import jobs
import numpy as np
import oracle
import pytest
from inside import needs, start
from problems import CNN, MLP, Problem, with_outputs
from runs import KEYS, arguments, fails, metrics, train, write_problem
from safetensors.numpy import load_file

from dnewton.config import strict_yaml

QUIET = ["solver.early_termination.mode=off", "output.checkpoint_every=0"]


@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_run_against_the_reference(tmp_path: Path, ranks: int, loss: str) -> None:
    """From YAML, .npz and .safetensors to metrics and model, against the single-machine reference."""
    layers = with_outputs(CNN, 1 if loss == "logistic" else 3)
    solver = {"curvature": "full", "combine": "previous", "subsample": 1.0, "max_cg": 15, "max_iterations": 4}
    problem = Problem((2, 7, 6), layers, loss, solver=solver)
    result = train(ranks, tmp_path, write_problem(problem, tmp_path), "run", "--init", "init.safetensors")
    assert result.returncode == 0, result.stderr
    expected = oracle.newton_trajectory(
        problem.params,
        problem.parsed,
        problem.x,
        problem.y,
        loss,
        problem.C,
        4,
        max_cg=15,
        drop=0.6667,
        combine="previous",
    )
    found = metrics(tmp_path, "run")
    assert [r["iteration"] for r in found] == [0, 1, 2, 3, 4]
    for record, reference in zip(found, expected, strict=True):
        assert set(record) >= KEYS
        for key in ("loss", "grad_norm", "lambda"):
            assert record[key] == pytest.approx(reference[key], rel=1e-6)
        if record["iteration"]:
            assert record["step"] == reference["step"]
            assert record["cg_iterations"]["max"] == reference["cg_iterations"][0]
    model = load_file(tmp_path / "run" / "model.safetensors")
    shapes = {k: v.shape for k, v in problem.params.items()}
    for key, value in oracle.unflatten(expected[-1]["theta"], shapes).items():
        assert model[key].shape == shapes[key] and np.allclose(model[key], value, rtol=1e-6, atol=1e-9)
    z = oracle.forward(model, problem.parsed, problem.x)[-1]
    if loss == "squared":
        assert found[-1]["test_rmse"] == pytest.approx(np.sqrt(np.mean((z - problem.y) ** 2)), rel=1e-9)
    else:
        right = (z > 0) == (problem.y > 0) if loss == "logistic" else z.argmax(1) == problem.y.argmax(1)
        assert found[-1]["test_accuracy"] == pytest.approx(np.mean(right))
    assert strict_yaml.parse((tmp_path / "run" / "config.yaml").read_text(), "x")["solver"]["C"] == problem.C
    assert (tmp_path / "run" / "log.txt").read_text().count("\n") > 5


@pytest.mark.jobs(4)
def test_initial_point_only(tmp_path: Path) -> None:
    problem = Problem((5,), MLP)
    values = write_problem(problem, tmp_path)
    for ranks in (1, 4):
        result = train(ranks, tmp_path, values, f"run{ranks}", "--init", "init.safetensors", "--init-only")
        assert result.returncode == 0, result.stderr
        (record,) = metrics(tmp_path, f"run{ranks}")
        assert record["loss"] == pytest.approx(problem.objective_value(), rel=1e-12) and record["step"] is None
        model = load_file(tmp_path / f"run{ranks}" / "model.safetensors")
        assert all(np.array_equal(model[k], v) for k, v in problem.params.items()) and len(model) == len(problem.params)


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_resume_equals_a_straight_run(tmp_path: Path, ranks: int) -> None:
    problem = Problem((5,), MLP, samples=20, solver={"subsample": 0.3, "max_iterations": 7})
    values = write_problem(problem, tmp_path)
    settings = ["solver.early_termination.mode=off", "output.checkpoint_every=2"]
    assert train(ranks, tmp_path, values, "straight", settings=settings).returncode == 0
    assert train(ranks, tmp_path, values, "parts", settings=[*settings, "solver.max_iterations=3"]).returncode == 0
    result = start(ranks, "--resume", "parts", "--set", "solver.max_iterations=7", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    a, b = metrics(tmp_path, "straight"), metrics(tmp_path, "parts")
    assert [r["iteration"] for r in b] == list(range(8))
    for key in ("loss", "grad_norm", "lambda", "step", "ratio", "cg_iterations", "train_accuracy"):
        assert [r[key] for r in a] == [r[key] for r in b], key
    one, two = (load_file(tmp_path / d / "model.safetensors") for d in ("straight", "parts"))
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert len(list((tmp_path / "straight" / "checkpoints").iterdir())) == 3
    newest = sorted((tmp_path / "parts" / "checkpoints").iterdir())[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])  # cut short: the one before serves
    result = start(ranks, "--resume", "parts", cwd=tmp_path)
    assert result.returncode == 0 and "trying an older checkpoint" in result.stdout, result.stderr
    assert [r["loss"] for r in metrics(tmp_path, "parts")] == [r["loss"] for r in a]


@pytest.mark.jobs(3)
@pytest.mark.parametrize(("curvature", "ranks", "grid"), [("full", 3, "[1, 3]"), ("diagonal", 2, "[2, 1]")])
def test_resume_on_other_ranks(tmp_path: Path, curvature: str, ranks: int, grid: str) -> None:
    """The same trajectory to rounding with the whole Gauss-Newton matrix; with blocks of it a method that goes on."""
    solver = {"subsample": 0.5, "curvature": curvature, "early_termination": {"mode": "off"}, "max_cg": 20}
    values = write_problem(Problem((5,), MLP, samples=20, solver=solver), tmp_path)
    assert train(1, tmp_path, values, "straight", settings=["solver.max_iterations=8"]).returncode == 0
    assert train(1, tmp_path, values, "parts", settings=["solver.max_iterations=4"]).returncode == 0
    more = ("--set", "solver.max_iterations=8", "--set", f"parallel.grid={grid}")
    result = start(ranks, "--resume", "parts", *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "changed since the checkpoint: parallel.grid: auto -> " in result.stdout
    a, b = metrics(tmp_path, "straight"), metrics(tmp_path, "parts")
    assert [r["iteration"] for r in b] == list(range(9)) and b[8]["loss"] < b[4]["loss"]
    if curvature == "full":
        assert [r["loss"] for r in b] == pytest.approx([r["loss"] for r in a], rel=1e-7)
        assert [r["samples_seen"] for r in b] == [r["samples_seen"] for r in a]


@pytest.mark.jobs(2)
def test_data_beside_the_net_are_found_again(tmp_path: Path) -> None:
    """config.yaml names the data by their absolute path, so that it can be used from anywhere."""
    (tmp_path / "sub").mkdir()
    values = write_problem(Problem((5,), MLP, solver={"max_iterations": 1}), tmp_path / "sub")
    (tmp_path / "sub" / "net.yaml").write_text(strict_yaml.dump(values))
    (tmp_path / "digits").mkdir()  # hides nothing
    assert train(2, tmp_path, "sub/net.yaml", "run").returncode == 0
    assert train(1, tmp_path, "run/config.yaml", "again").returncode == 0
    result = start(1, "--resume", "run", "--set", "solver.max_iterations=2", cwd=tmp_path)
    assert result.returncode == 0 and len(metrics(tmp_path, "run")) == 3, result.stderr
    assert train(1, tmp_path, "mlp.yaml", "digits_run", "--init-only").returncode == 0


@pytest.mark.jobs(1)
def test_a_mistake_spares_the_run_that_would_be_overwritten(tmp_path: Path) -> None:
    values = write_problem(Problem((5,), MLP, solver={"max_iterations": 1}), tmp_path)
    assert train(1, tmp_path, values, "run").returncode == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    fails(train(1, tmp_path, values, "run", "--overwrite", settings=["data.train=none.npz"]), "none.npz")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.mark.jobs(1)
def test_resume_refuses_another_net(tmp_path: Path) -> None:
    values = write_problem(Problem((5,), MLP, solver={"max_iterations": 1}), tmp_path)
    assert train(1, tmp_path, values, "run").returncode == 0
    fails(start(1, "--resume", "run", "--set", "solver.seed=5", cwd=tmp_path), "seed was 0 and is 5")
    fails(start(1, "--resume", "run", "--set", "net.layers.0.dense.units=8", cwd=tmp_path), "units")
    fails(start(1, "--resume", "nothing", cwd=tmp_path), "nothing: holds no run")


@pytest.mark.jobs(2)
def test_a_run_directory_is_not_overwritten(tmp_path: Path) -> None:
    values = write_problem(Problem((5,), MLP, solver={"max_iterations": 1}), tmp_path)
    assert train(1, tmp_path, values, "run").returncode == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    fails(train(2, tmp_path, values, "run"), "run: holds another run", "--overwrite")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    assert train(1, tmp_path, values, "run", "--overwrite").returncode == 0


@pytest.mark.serial
@pytest.mark.parametrize("net", ["cnn.yaml", "mlp.yaml", "mlp_regression.yaml"])
def test_shipped_nets(tmp_path: Path, net: str) -> None:
    """By the launcher, as all jobs of users are."""
    result = jobs.start(2, *arguments(tmp_path, net, "run", settings=["solver.max_iterations=3"]), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path, "run")[-1]["loss"] < metrics(tmp_path, "run")[0]["loss"]
    assert all(metrics(tmp_path, "run")[-1]["comm"]["cg"][key] == 0 for key in ("calls", "bytes"))
    assert "\n3/3  f " in result.stdout and ": final" in result.stdout
    assert "\nended after iteration 3 (iterations): " in result.stdout


@pytest.mark.jobs(1)
def test_plan_prints_the_layout(tmp_path: Path) -> None:
    result = start(1, "--net", "cnn.yaml", "--ranks", "16", cwd=tmp_path, module="dnewton.plan")
    assert result.returncode == 0 and "bytes per iteration" in result.stdout
    fails(start(1, "--net", "none.yaml", "--ranks", "2", cwd=tmp_path, module="dnewton.plan"), "none.yaml")


CRASH = """
import sys
from dnewton.cli import launch
def main(c, argv):
    if c.rank == c.size - 1:
        raise RuntimeError("something broke")
    c.sum_scalars([1.0])
launch.run(main, None)
"""


@pytest.mark.serial
def test_an_internal_failure_ends_the_job_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "crash.py").write_text(CRASH)
    result = jobs.start(3, cwd=tmp_path, module="crash", timeout=60)
    assert result.returncode not in (0, 2)
    assert "RuntimeError: something broke" in result.stderr and "rank 2 of 3" in result.stderr
