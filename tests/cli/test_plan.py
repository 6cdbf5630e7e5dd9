"""`dnewton plan` as a user runs it, against what runs plan and count."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from inside import start
from runs import metrics, train

NET: dict[str, Any] = {
    "net": {"input": [64], "loss": "cross_entropy", "layers": [{"dense": {"units": 6}}, {"dense": {"units": 10}}]},
    "data": {"train": "digits", "test": "digits"},
    "solver": {"max_iterations": 2},
    "parallel": {"rates": {"flops": 4e10, "bandwidth": 1e10}},
}


PLAN = ["--net", "mlp.yaml", "--ranks", "2,4"]


def plan(folder: Path, *args: str, code: int = 0) -> str:
    done = start(1, *args, cwd=folder, module="dnewton.plan")
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.jobs(4)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_run_does_what_was_planned(tmp_path: Path, ranks: int) -> None:
    """Memory to the byte that is printed, bytes of every phase, the form of the curvature."""
    assert train(ranks, tmp_path, NET, "out").returncode == 0
    cores = len(os.sched_getaffinity(0))
    where = ["--cores-per-node", str(cores), "--nodes", "1"]
    said = plan(tmp_path, "--net", "net.yaml", "--ranks", str(ranks), *where, "--json", "plan.json")
    log = (tmp_path / "out" / "log.txt").read_text()
    for pattern in (r", vectors .*", r"jacobian: .*", r"layers\.0 +dense .*"):  # these processes hold the tests, too
        assert re.search(pattern, log)[0] == re.search(pattern, said)[0]  # type: ignore[index]
    (planned,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
    line = next(row for row in reversed(metrics(tmp_path, "out")) if row["step"])
    assert line["solves"] == 1
    counted = {name: traffic["bytes"] for name, traffic in line["comm"].items()}
    for phase, expected in planned["bytes"].items():
        factor = line["trials"] if phase == "function" else 1
        assert counted[phase] == factor * expected, phase
    assert planned["seconds_per_iteration"] == pytest.approx(sum(planned["seconds"].values()))


@pytest.mark.jobs(1)
def test_a_table(tmp_path: Path) -> None:
    files = ["--json", "plan.json", "--svg", "plan.svg"]
    said = plan(tmp_path, "--net", "mnist_mlp.yaml", "--samples", "60000", "--ranks", "1,2,4,...,64", *files)
    lines = said.splitlines()
    assert [line for line in lines if len(line) > 100] == []
    rows = [line.split() for line in lines if re.match(r" +\d+ \d", line)]
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert "beyond" in said or "adding ranks pays" in said
    assert "other layouts of" in said and "machine: " in said and "stated" in said
    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["samples"] == 60000 and told["verdict"] in said
    for planned in told["plans"]:
        assert planned["speed_up"] / planned["ranks"] == pytest.approx(planned["efficiency"])
        assert sum(planned["memory_parts"].values()) >= planned["memory_bytes"]
    drawn = (tmp_path / "plan.svg").read_text()
    assert all(f'data-chart="{name}"' in drawn for name in ("scaling", "seconds", "layout"))


@pytest.mark.jobs(1)
def test_constants_that_are_given(tmp_path: Path) -> None:
    def seconds(*args: str) -> dict[str, float]:
        plan(tmp_path, "--net", "mlp.yaml", "--ranks", "4", "--json", "plan.json", "--overwrite", *args)
        (planned,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
        phases: dict[str, float] = planned["seconds"]
        return phases

    usual, far = seconds("--latency", "1e-5"), seconds("--latency", "1e-2")
    assert far["function"] > usual["function"] + 1e-2
    assert seconds("--flops", "1e8")["gradient"] > 2 * usual["gradient"]
    assert seconds("--bandwidth", "1e6")["function"] > usual["function"]
    assert seconds("--cores-per-node", "2", "--nodes", "1")["cg"] > usual["cg"]
    (tmp_path / "machine.json").write_text(json.dumps({"latency": 1e-2, "note": "by hand"}))
    assert seconds("--machine", "machine.json")["function"] > usual["function"] + 1e-2


@pytest.mark.jobs(2)
@pytest.mark.parametrize("ranks", [1, 2])
def test_calibration(tmp_path: Path, ranks: int) -> None:
    done = start(ranks, "--calibrate", "-o", "machine.json", cwd=tmp_path, module="dnewton.plan")
    assert done.returncode == 0 and "measured" in done.stdout, done.stderr
    kept = json.loads((tmp_path / "machine.json").read_text())
    assert kept["flops"] > 1e8 and kept["memory"] > 1e7 and 0 < kept["latency"] < 1 and kept["cores"] >= 1
    assert "machine.json" in plan(tmp_path, "--net", "mlp.yaml", "--ranks", "2", "--machine", "machine.json")


@pytest.mark.jobs(1)
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--ranks", "2"], "--net FILE and --ranks P"),
        (["--net", "mlp.yaml", "--ranks", "2,1"], "must rise"),
        (["--net", "mlp.yaml", "--ranks", "2", "--latency", "-1"], "--latency -1"),
        (["--net", "mlp.yaml", "--ranks", "2", "--cores-per-node", "0"], "--cores-per-node 0"),
        (["--net", "mlp.yaml", "--ranks", "2", "-o", "x"], "-o is for --calibrate"),
        (["--calibrate", "--net", "mlp.yaml"], "leave --net out"),
        (["--net", "mlp.yaml", "--ranks", "2", "--machine", "none.json"], "none.json: cannot be read"),
        (["--net", "mlp.yaml", "--ranks", "2", "--machine", "odd.json"], "odd.json: speed"),
        (["--net", "mlp.yaml", "--ranks", "2", "--machine", "zero.json"], "zero.json: flops"),
        (["--net", "mlp.yaml", "--ranks", "2", "--samples", "1.5"], "1.5: a whole number is needed"),
        ([*PLAN, "--json", "no/such/folder.json"], "--json no/such/folder.json: there is no folder"),
        ([*PLAN, "--svg", "."], "--svg .: is a directory"),
        ([*PLAN, "--svg", "odd.json"], "--svg odd.json: exists; use --overwrite"),
        ([*PLAN, "--svg", "x", "--json", "./x"], "--json ./x and --svg x are the same file"),
        ([*PLAN, "--svg", "-"], "--svg -: name a file"),
        (["--calibrate", "-o", "odd.json"], "-o odd.json: exists; use --overwrite"),
    ],
)
def test_mistakes(tmp_path: Path, args: list[str], said: str) -> None:
    """Each is one line, before anything is computed or printed."""
    (tmp_path / "odd.json").write_text('{"speed": 1}')
    (tmp_path / "zero.json").write_text('{"flops": 0}')
    done = start(1, *args, cwd=tmp_path, module="dnewton.plan")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.jobs(1)
def test_json_as_the_output(tmp_path: Path) -> None:
    """It is all of the output, and equal to what a file holds; a billion samples take no longer than few."""
    for samples in ("300", "1e9"):
        said = plan(tmp_path, *PLAN, "--samples", samples, "--json", "-", "--svg", "plan.svg", "--overwrite")
        plan(tmp_path, *PLAN, "--samples", samples, "--json", "plan.json", "--overwrite")
        assert (tmp_path / "plan.json").read_text() == said and json.loads(said)["samples"] == float(samples)
    plan(tmp_path, *PLAN, "--json", "/dev/null")  # is written into, never replaced
    assert not Path("/dev/null").is_file()


@pytest.mark.jobs(4)
def test_ranks_with_nothing_to_do_are_told(tmp_path: Path) -> None:
    net = {**NET, "net": {**NET["net"], "input": [1], "layers": [{"dense": {"units": 10}}]}}
    x_y = "\n".join(f"{k % 7},{k % 2}" for k in range(40))
    (tmp_path / "few.csv").write_text(x_y + "\n")
    net["net"]["layers"] = [{"dense": {"units": 2}}]
    net["data"] = {"train": "few.csv"}
    assert train(4, tmp_path, net, "out").returncode == 0
    assert "of 4 model ranks own no weights" in (tmp_path / "out" / "log.txt").read_text()
    assert "ranks own no weights" in plan(tmp_path, "--net", "net.yaml", "--ranks", "4")


@pytest.mark.jobs(4)
def test_the_best_replicas_are_in_the_configuration(tmp_path: Path) -> None:
    net = {**NET, "parallel": {**NET["parallel"], "replicas": "best"}}
    assert train(4, tmp_path, net, "out").returncode == 0
    found = re.search(r"replicas: (\d)\n", (tmp_path / "out" / "config.yaml").read_text())
    assert found and f"best is {found[1]}" in (tmp_path / "out" / "log.txt").read_text()
