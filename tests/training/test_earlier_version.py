"""A run that version 0.1 of before the packages left in the middle goes on, to the same end as it had there.

`fixtures/run_of_0_1` was stopped by a signal after iteration 5 of 8, whose line it had not written; beside it are the
metrics and the model of the same run undisturbed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from inside import start
from safetensors.numpy import load_file

DATA = Path(__file__).parent / "fixtures"


@pytest.mark.jobs(2)
def test_a_run_of_the_version_before_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "run_of_0_1", run)
    result = start(2, "--resume", str(run), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "solver.early_stop is called solver.early_termination now" in result.stdout
    assert "changed since the checkpoint" not in result.stdout
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (DATA / "run_of_0_1.metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(9))
    for now, then in zip(lines, before, strict=True):
        for key in ("loss", "grad_norm", "lambda", "step", "ratio", "train_accuracy", "test_accuracy"):
            expected_value = None if then[key] is None else pytest.approx(then[key], rel=1e-8)
            assert now[key] == expected_value, (now["iteration"], key)
    expected = load_file(DATA / "run_of_0_1.model.safetensors")
    found = load_file(run / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert np.allclose(found[name], value, rtol=1e-8, atol=1e-10), name
