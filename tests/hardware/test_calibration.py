"""The rates of this machine: measured once, and kept where they may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnewton.comm.communicator import Comm
from dnewton.config import parse
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
    again, note = calibration.rates(config, alone, Device())
    assert again == first and "measured before" in note
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
