"""The figures of a run in other programs: what they get, what a mistake or a failing network does."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import event_files
import numpy as np
import pytest
from inside import start
from runs import fails, metrics, train

import dnewton as dn
from dnewton.config import parse
from dnewton.config.logger_register import LOGGERS
from dnewton.errors import UserError
from dnewton.loggers import loggers
from dnewton.loggers.delivery import Delivery
from dnewton.loggers.interface import FAILED, FINISHED, STOPPED, Logger, parameters
from dnewton.reporting.figures import columns

NET = {
    "net": {"input": [64], "loss": "cross_entropy", "layers": [{"dense": {"units": 10}}]},
    "data": {"train": "digits", "split": 0.5, "scale": "unit"},
    "output": {"checkpoint_every": 2},
}
TWO = ["solver.max_iterations=2"]
LIBRARIES = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboardX"}


def agrees(found: dict[str, dict[int, Any]], folder: Path, out: str) -> None:
    """Every number of metrics.jsonl by its name, once per step."""
    wanted = columns(metrics(folder, out))
    numbers = {k: v for k, v in wanted.items() if any(isinstance(x, (int, float)) for x in v) and k != "iteration"}
    assert set(found) == set(numbers) and "comm.gradient.bytes" in found and "train_accuracy" in found
    for name, values in numbers.items():
        there = {k: v for k, v in zip(wanted["iteration"], values, strict=True) if v is not None}
        assert set(found[name]) == set(there)
        for step, value in there.items():
            assert found[name][step] == pytest.approx([value], rel=1e-6), (name, step)


@pytest.mark.jobs(3)
def test_tensorboard(tmp_path: Path) -> None:
    """Alone rank 0 writes; a run that goes on adds its steps, and takes the place of those after its checkpoint."""
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "run" / "loggers" / "tensorboard"
    result = train(3, tmp_path, NET, "run", settings=["output.loggers=[tensorboard]", "solver.max_iterations=3"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("logging to tensorboard: tensorboard --logdir run/loggers/tensorboard") == 1
    assert len(list(folder.glob("events.*"))) == 1
    agrees(event_files.scalars(folder), tmp_path, "run")
    first = {v.tag: v for e in event_files.events(next(folder.glob("events.*"))) for v in e.summary.value}
    assert b"max_iterations" in first["config/text_summary"].tensor.string_val[0]
    about = first["_hparams_/session_start_info"].metadata.plugin_data.content
    assert b"solver.max_iterations" in about and b"dnewton.ranks" in about

    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    newest.rename(newest.with_name(".refused-" + newest.name))  # as if it had been killed after iteration 3
    result = start(3, "--resume", "run", "--set=solver.max_iterations=4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [r["iteration"] for r in metrics(tmp_path, "run")] == [0, 1, 2, 3, 4]
    assert len(list(folder.glob("events.*"))) == 2
    agrees(event_files.scalars(folder), tmp_path, "run")

    again = train(1, tmp_path, NET, "run", "--overwrite", settings=TWO)
    assert again.returncode == 0 and not folder.exists(), again.stderr


@pytest.mark.jobs(2)
def test_a_logger_that_comes_later_gets_the_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    assert train(2, tmp_path, NET, "run", settings=TWO).returncode == 0
    words = ["--set=solver.max_iterations=3", "--set=output.loggers=[tensorboard]"]
    result = start(2, "--resume", "run", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    agrees(event_files.scalars(tmp_path / "run" / "loggers" / "tensorboard"), tmp_path, "run")


def test_fit(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    rng = np.random.default_rng(0)
    net = dn.net([3], [dn.dense(1)], loss="squared")
    model = dn.fit(
        net, rng.normal(size=(20, 3)), rng.normal(size=20), out=tmp_path / "run", output={"loggers": "tensorboard"}
    )
    found = event_files.scalars(tmp_path / "run" / "loggers" / "tensorboard")["loss"]
    assert [found[k] for k in found] == [pytest.approx([v], rel=1e-6) for v in model.history["loss"]]


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if none of the libraries was installed."""
    with without(monkeypatch):
        for library in LIBRARIES.values():
            monkeypatch.setitem(sys.modules, library, None)
        yield


class without:
    """Inside, no logger is registered yet, and afterwards none that was made of what stands for a library."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __enter__(self) -> None:
        for name in LOGGERS.names():
            self._monkeypatch.delitem(LOGGERS._objects, name, raising=False)
            self._monkeypatch.delitem(sys.modules, f"dnewton.loggers.{name}_logger", raising=False)

    def __exit__(self, *_: object) -> None:
        for name in LOGGERS.names():
            LOGGERS._objects.pop(name, None)
            sys.modules.pop(f"dnewton.loggers.{name}_logger", None)


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.jobs(2)
def test_a_missing_library_is_said_before_anything_is_written(tmp_path: Path, name: str) -> None:
    result = train(2, tmp_path, NET, "run", settings=[f"output.loggers=[{name}]"])
    fails(result, f"output.loggers: {name}", LIBRARIES[name], f"pip install 'dnewton[{name}]'")
    assert not (tmp_path / "run").exists()


@pytest.mark.jobs(1)
def test_unknown_names(tmp_path: Path) -> None:
    fails(train(1, tmp_path, NET, "run", settings=["output.loggers=[tensorbord]"]), "output.loggers", "'tensorboard'")
    fails(train(1, tmp_path, NET, "run", settings=["output.loggers=3"]), "output.loggers", "a list of tensorboard")


def mlflow_stand_in(modules: dict[str, Any], store: dict[str, Any]) -> None:
    """The part of MLflow that is used. Metrics of a step that is sent twice are there twice, as with MLflow."""

    class Client:
        def get_experiment_by_name(self, name: str) -> Any:
            return store.setdefault("experiments", {}).get(name)

        def create_experiment(self, name: str) -> str:
            store["experiments"][name] = types.SimpleNamespace(experiment_id="7")
            return "7"

        def create_run(self, experiment: str, run_name: str) -> Any:
            store["run"] = {"name": run_name, "experiment": experiment, "params": {}, "metrics": [], "state": "RUNNING"}
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        def get_run(self, run: str) -> Any:
            assert run == "abc"
            return types.SimpleNamespace(info=types.SimpleNamespace(experiment_id=store["run"]["experiment"]))

        def update_run(self, run: str, status: str) -> None:
            assert run == "abc" and store["run"]["state"] == "FINISHED"
            store["run"]["state"] = status

        def get_metric_history(self, run: str, name: str) -> Any:
            return [m for m in store["run"]["metrics"] if m.key == name]

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            assert run == "abc" and len(params) <= 100
            assert not set(store["run"]["params"]) & {p.key for p in params}
            store["run"]["params"].update({p.key: p.value for p in params})
            store["run"]["metrics"].extend(metrics)

        def set_terminated(self, run: str, status: str) -> None:
            store["run"]["state"] = status

    def entity(*names: str) -> Any:
        return lambda *values: types.SimpleNamespace(**dict(zip(names, values, strict=True)))

    modules["mlflow"] = types.ModuleType("mlflow")
    modules["mlflow"].get_tracking_uri = lambda: "file:here"
    modules["mlflow.entities"] = types.ModuleType("mlflow.entities")
    modules["mlflow.entities"].Metric = entity("key", "value", "timestamp", "step")
    modules["mlflow.entities"].Param = entity("key", "value")
    modules["mlflow.tracking"] = types.ModuleType("mlflow.tracking")
    modules["mlflow.tracking"].MlflowClient = Client


def wandb_stand_in(modules: dict[str, Any], store: dict[str, Any]) -> None:
    """The part of wandb that is used."""

    class Run:
        offline = False
        url = "https://wandb.example/run"
        dir = "there/files"

        def __init__(self, **given: Any) -> None:
            store.setdefault("starts", []).append(given)
            self.id = given["id"] or "xyz"
            self.step = max((step for step, _ in store.get("lines", ())), default=-1) + 1

        def log(self, figures: dict[str, float], step: int, commit: bool) -> None:
            store.setdefault("lines", []).append((step, figures))
            self.step = step + 1

        def mark_preempting(self) -> None:
            store["preempting"] = True

        def finish(self, exit_code: int) -> None:
            store["exit"] = exit_code

    modules["wandb"] = types.ModuleType("wandb")
    modules["wandb"].init = Run
    modules["wandb"].Settings = lambda **given: given


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """What the libraries have been given."""
    modules: dict[str, Any] = {}
    store: dict[str, dict[str, Any]] = {"mlflow": {}, "wandb": {}}
    mlflow_stand_in(modules, store["mlflow"])
    wandb_stand_in(modules, store["wandb"])
    with without(monkeypatch):
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        yield store


@pytest.mark.jobs(2)
def test_mlflow_and_wandb(tmp_path: Path, stand_ins: dict[str, dict[str, Any]]) -> None:
    settings = ["output.loggers=[mlflow,wandb]", "solver.max_iterations=3"]
    result = train(2, tmp_path, NET, "run", settings=settings)
    assert result.returncode == 0, result.stderr
    assert "logging to mlflow: file:here, experiment 7, run abc" in result.stdout
    assert "logging to wandb: https://wandb.example/run" in result.stdout
    mlflow, wandb = stand_ins["mlflow"], stand_ins["wandb"]
    assert mlflow["run"]["name"] == "run" and list(mlflow["experiments"]) == ["dnewton"]
    assert mlflow["run"]["params"]["solver.max_iterations"] == "3" and mlflow["run"]["params"]["dnewton.ranks"] == "2"
    assert wandb["starts"][0]["config"]["solver"]["max_iterations"] == 3 and wandb["starts"][0]["name"] == "run"
    assert mlflow["run"]["state"] == "FINISHED" and wandb["exit"] == 0

    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    newest.rename(newest.with_name(".refused-" + newest.name))  # as if it had been killed after iteration 3
    result = start(2, "--resume", "run", "--set=solver.max_iterations=4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert wandb["starts"][1]["id"] == "xyz" and mlflow["run"]["params"]["solver.max_iterations"] == "3"
    found: dict[str, dict[int, list[float]]] = {}
    for metric in mlflow["run"]["metrics"]:
        found.setdefault(metric.key, {}).setdefault(metric.step, []).append(metric.value)
    assert set(found["loss"]) == {0, 1, 2, 3, 4} and all(len(v) == 1 for v in found["loss"].values())
    assert [step for step, _ in wandb["lines"]] == [0, 1, 2, 3, 4]
    last = metrics(tmp_path, "run")[4]
    assert found["comm.gradient.bytes"][4] == [last["comm"]["gradient"]["bytes"]]
    assert wandb["lines"][4][1]["train_accuracy"] == last["train_accuracy"]


class Recording(Logger):
    """Keeps what it gets, or fails, or waits."""

    identifier = "x"
    where = "here"

    def __init__(self, fails_at: int | None = None, gate: threading.Event | None = None) -> None:
        self.got: list[Any] = []
        self._fails_at = fails_at
        self._gate = gate

    def record(self, step: int, figures: Any) -> None:
        if self._gate is not None:
            self._gate.wait()
        if step == self._fails_at:
            raise ConnectionError("no\nroute")
        self.got.append((step, figures))

    def close(self, how: str) -> None:
        self.got.append(how)


@pytest.mark.jobs(2)
def test_a_failing_network_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: dict[str, dict[str, Any]]
) -> None:
    logger = Recording(fails_at=1)
    monkeypatch.setitem(LOGGERS._objects, "wandb", lambda about: logger)
    settings = ["output.loggers=[wandb,mlflow]", "solver.max_iterations=3"]
    result = train(2, tmp_path, NET, "run", settings=settings)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("warning")]
    assert len(lines) == 1 and "wandb failed" in lines[0] and "ConnectionError: no route" in lines[0]
    assert [step for step, _ in logger.got] == [0]
    assert {m.step for m in stand_ins["mlflow"]["run"]["metrics"]} == {0, 1, 2, 3}
    assert "wandb failed" in (tmp_path / "run" / "log.txt").read_text()


def test_a_network_that_hangs_is_not_waited_for() -> None:
    gate = threading.Event()
    logger = Recording(gate=gate)
    delivery = Delivery("wandb", lambda: logger)
    for step in range(3):
        delivery.record(step, {})
    delivery.close(STOPPED, 0.05)
    said = delivery.messages()
    assert "longer than 0.05 s" in said[-1] and logger.got == []
    gate.set()
    delivery._thread.join(10)
    assert logger.got == [(0, {}), (1, {}), (2, {}), STOPPED]


def test_one_that_cannot_be_opened() -> None:
    def opened() -> Logger:
        raise ValueError("no key")

    delivery = Delivery("wandb", opened)
    delivery._thread.join(10)
    delivery.record(0, {})
    delivery.close(FAILED, 5.0)
    assert ["no key" in text for text in delivery.messages()] == [True] and delivery.messages() == []


def test_numbers_and_parameters() -> None:
    record = {"iteration": 3, "loss": 1.5, "a": {"b": 2, "c": None}, "x": float("nan"), "s": "t", "l": [1], "on": True}
    assert loggers.scalars(record) == {"loss": 1.5, "a.b": 2.0, "on": 1.0}
    config = {"net": {"layers": [{"dense": {"units": 1}}]}, "solver": {"C": float("inf"), "patience": None, "on": True}}
    assert parameters(config) == {
        "net.layers": json.dumps([{"dense": {"units": 1}}]),
        "solver.C": float("inf"),
        "solver.patience": "None",
        "solver.on": True,
    }
    assert FINISHED in loggers.PATIENCE


def test_the_configuration_keeps_the_names() -> None:
    text = "net: {input: [2], loss: squared, layers: [{dense: {units: 1}}]}\noutput: {loggers: tensorboard}"
    config = parse.load(text, "net.yaml", [])
    assert config.output.loggers == ["tensorboard"]
    with pytest.raises(UserError, match=r"output\.loggers.*mlflow"):
        parse.load(text.replace("tensorboard", "[mlfow]"), "net.yaml", [])
