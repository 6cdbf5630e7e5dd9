"""What happens around a process: its streams closed, full or without a reader; signals of terminals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

pytestmark = pytest.mark.serial
TRAIN = f"{sys.executable} -m dnewton.train --net mlp.yaml --set solver.max_iterations=2 --out run"


@pytest.mark.parametrize("streams", [">&-", "2>&-", "> /dev/full", "| head -1", "< /dev/null | true"])
def test_a_finished_run_is_a_success(tmp_path: Path, streams: str) -> None:
    shell = f"set -o pipefail; {TRAIN} {streams}"
    result = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=jobs.environment(), capture_output=True, timeout=60
    )
    assert result.returncode == 0, result.stderr.decode()
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert "ended after iteration 2" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("number", "ignored"), [(signal.SIGHUP, False), (signal.SIGHUP, True), (signal.SIGUSR2, False)]
)
def test_signals_stop_it_unless_they_are_ignored(tmp_path: Path, number: int, ignored: bool) -> None:
    words = [*TRAIN.split(), "--set", "solver.name=sgd", "--set", f"solver.max_iterations={60 if ignored else 10**6}"]

    def before() -> None:
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=jobs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    jobs.until(lambda: metrics.exists() and metrics.stat().st_size)
    time.sleep(0.05)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (0 if ignored else 85), said
    assert "DEBUG" not in said  # UCX's answer to SIGHUP
    assert ignored or f"stopped by {signal.Signals(number).name}" in said
