"""The rates of this machine: measured once, and kept where they may be."""

from __future__ import annotations

import json
import os
from datetime import date, timedelta
from pathlib import Path

import pytest
from inside import start
from runs import fails, train

from dnewton.comm.communicator import Comm
from dnewton.config import parse
from dnewton.errors import UserError
from dnewton.hardware import calibration
from dnewton.hardware.device import Device
from dnewton.hardware.rates import Rates


def net(*widths: int) -> list[object]:
    return [{"dense": {"units": w, "activation": "tanh"}} for w in widths[:-1]] + [{"dense": {"units": widths[-1]}}]


def test_rates_are_measured_once(comm: Comm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alone = comm.split(comm.rank)
    alone.least_cores = 1.0
    text = json.dumps({"net": {"input": [2], "loss": "squared", "layers": net(2)}})
    config = parse.load(text, "net.yaml", [])
    first, note = calibration.rates(config, alone, Device())
    assert "measured now" in note and first.flops > 1e8 and first.bandwidth > 1e8
    monkeypatch.setattr(calibration, "measure", lambda dtype, device: pytest.fail("measured twice"))
    monkeypatch.setattr(calibration, "PLAUSIBLE", 0.0)  # however slow or busy the machine is
    again, note = calibration.rates(config, alone, Device())
    assert again == first and "measured on" in note
    resumed, note = calibration.rates(config.with_rates(1e9, 2e9), alone, Device())
    assert resumed == Rates(1e9, 2e9) and note == "given"


def test_a_damaged_cache_is_measured_anew(comm: Comm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", lambda dtype, device: Rates(3e9, 4e9))
    for damage in ("", "[1]", '{"a": 3}', '{"a": {"flops": "x", "bandwidth": 1}}', "\0"):
        calibration.cache_file().parent.mkdir(exist_ok=True)
        calibration.cache_file().write_text(damage)
        assert calibration._of_this_machine("float32", True, Device(), Rates())[0] == Rates(3e9, 4e9)
        assert [f.name for f in calibration.cache_file().parent.iterdir()] == ["rates.json"]
    calibration.cache_file().unlink()
    calibration.cache_file().mkdir()
    found, note = calibration._of_this_machine("float32", True, Device(), Rates())
    assert found == Rates() and "cannot be written" in note
    assert [f.name for f in calibration.cache_file().parent.iterdir()] == ["rates.json"]


def test_without_a_cache_the_stated_rates_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found, note = calibration._of_this_machine("float32", True, Device(), Rates())
    assert found == Rates() and "cannot be written" in note
    found, note = calibration._of_this_machine("float32", False, Device(), Rates())
    assert found == Rates() and "share cores" in note


def written(**entry: object) -> None:
    """The cache as a run would have left it for this machine."""
    key = f"{calibration._processor()}, {calibration._threads()} BLAS thread(s), float32"
    calibration.cache_file().parent.mkdir(exist_ok=True)
    calibration.cache_file().write_text(json.dumps({key: entry, "another": {"flops": 1e9, "bandwidth": 1e9}}))


def decided(again: bool = False, alone: bool = True) -> tuple[Rates, str]:
    return calibration._of_this_machine("float32", alone, Device(), Rates(5e10, 1e10), again)


def days_ago(days: int) -> str:
    return (date.today() - timedelta(days=days)).isoformat()


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Rates]:
    """What the machine is made to show, one after another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    coming: list[Rates] = []
    monkeypatch.setattr(calibration, "measure", lambda dtype, device: coming.pop(0))
    return coming


@pytest.mark.parametrize(("day", "kept"), [(0, True), (29, True), (31, False), (-2, False), (None, False)])
def test_old_rates_are_measured_again(measured: list[Rates], day: int | None, kept: bool) -> None:
    written(flops=6e10, bandwidth=2e10, **({} if day is None else {"date": days_ago(day)}))
    measured.append(Rates(3e10, 1e10))  # lower than before, but what holds now
    for _ in range(2):  # once, if at all
        assert decided()[0] == (Rates(6e10, 2e10) if kept else Rates(3e10, 1e10))
    assert len(measured) == kept
    assert f"measured on {days_ago(day if kept and day else 0)}" in decided()[1]
    assert "another" in json.loads(calibration.cache_file().read_text())


def test_old_rates_serve_where_none_can_be_measured(measured: list[Rates]) -> None:
    written(flops=6e10, bandwidth=2e10, date=days_ago(400))
    assert decided(alone=False)[0] == Rates(6e10, 2e10)
    calibration.cache_file().parent.chmod(0o500)
    if not os.access(calibration.cache_file().parent, os.W_OK):  # not as root
        measured.append(Rates(3e10, 1e10))
        assert decided()[0] == Rates(6e10, 2e10)
    calibration.cache_file().parent.chmod(0o700)


def test_implausible_rates_are_measured_again_a_few_times(measured: list[Rates]) -> None:
    """The first run was under load; a machine that is as slow as it seems is believed in the end."""
    written(flops=9e9, bandwidth=2e10, date=days_ago(1))
    measured += [Rates(5e10, 1e10)]
    assert decided()[0] == Rates(5e10, 2e10) and decided()[0] == Rates(5e10, 2e10)
    written(flops=9e9, bandwidth=2e10, date=days_ago(1))
    measured += [Rates(8e9, 1e9), Rates(9.5e9, 1e9), Rates(7e9, 1e9)]
    for expected in (9e9, 9.5e9, 9.5e9, 9.5e9, 9.5e9):
        assert decided()[0] == Rates(expected, 2e10)
    assert not measured


def test_calibrate(measured: list[Rates], comm: Comm) -> None:
    written(flops=6e10, bandwidth=2e10, date=days_ago(1))
    measured += [Rates(3e10, 3e10)]
    assert decided(again=True)[0] == Rates(3e10, 3e10) and decided()[0] == Rates(3e10, 3e10)
    with pytest.raises(UserError, match="ranks share cores"):
        decided(again=True, alone=False)
    config = parse.load(json.dumps({"net": {"input": [2], "loss": "squared", "layers": net(2)}}), "net.yaml", [])
    with pytest.raises(UserError, match=r"parallel\.rates=auto"):
        calibration.rates(config.with_rates(1e9, 2e9), comm, Device(), again=True)


@pytest.mark.jobs(1)
def test_train_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"net": {"input": [10], "loss": "squared", "layers": net(1)}, "data": {"train": "diabetes"}}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", lambda dtype, device: Rates(3e10, 3e10))
    written(flops=6e10, bandwidth=2e10, date=days_ago(1))
    result = train(1, tmp_path, values, "run", "--calibrate", settings=["solver.max_iterations=0"])
    assert "rates: measured now" in result.stdout, result.stderr
    assert "flops: 30000000000.0" in (tmp_path / "run" / "config.yaml").read_text()
    fails(start(1, "--resume", "run", "--calibrate", cwd=tmp_path), "--calibrate", "parallel.rates=auto")
    settings = ["solver.name=sgd"]
    fails(train(1, tmp_path, values, "other", "--calibrate", settings=settings), "--calibrate: sgd")
