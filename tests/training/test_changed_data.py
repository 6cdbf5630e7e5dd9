"""A run is resumed with the features that it began with, whatever the ranks, or when the user says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from runs import fails, train

RNG = np.random.default_rng(1)
X = RNG.normal(size=(150, 6))
Y = RNG.normal(size=150)


def net(shape: list[int], **data: Any) -> dict[str, Any]:
    layers: list[Any] = [{"dense": {"units": 3, "activation": "tanh"}}, {"dense": {"units": 1}}]
    if len(shape) == 3:
        layers = [{"conv": {"channels": 3, "kernel": 2, "activation": "relu"}}, "flatten", layers[1]]
    return {
        "net": {"input": shape, "loss": "squared", "layers": layers},
        "data": {"train": "d.npz", **data},
        "solver": {"max_iterations": 2},
        "output": {"checkpoint_every": 1},
    }


@pytest.mark.jobs(4)
@pytest.mark.parametrize("shape", [[6], [2, 3, 1]], ids=str)
@pytest.mark.parametrize("grid", ["auto", "[2,2]"])
def test_it_is_noticed(tmp_path: Path, shape: list[int], grid: str) -> None:
    x = X.reshape(150, *shape)
    np.savez(tmp_path / "d.npz", x=x, y=Y)
    if shape == [2, 3, 1]:
        x = x.reshape(150, 2, 3, 1)
    config = net(shape, scale="standardize")
    if shape == [2, 3, 1]:
        config["net"]["layers"][0]["conv"]["kernel"] = [2, 1]
    assert train(1, tmp_path, config, "run").returncode == 0
    more = ["--resume", "run", "--set", f"parallel.grid={grid}", "--set"]
    same = start(4, *more, "solver.max_iterations=3", cwd=tmp_path)
    assert same.returncode == 0 and "resuming after iteration 2" in same.stdout, same.stderr
    other = x.copy()
    other[0] += 0.5  # the first and the last sample are always looked at
    np.savez(tmp_path / "d.npz", x=other, y=Y)
    refused = start(4, *more, "solver.max_iterations=4", cwd=tmp_path)
    fails(refused, "features", "--changed-data")
    allowed = start(4, *more, "solver.max_iterations=4", "--changed-data", cwd=tmp_path)
    assert allowed.returncode == 0 and "warning: resuming although" in allowed.stdout, allowed.stderr


@pytest.mark.jobs(1)
def test_a_limit_of_time_that_is_too_short(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    config = {**net([6]), "solver": {"max_iterations": 10**6, "C": float("inf")}}
    result = train(1, tmp_path, config, "run", "--max-seconds", "0.001")
    assert result.returncode == 85 and "--max-seconds 0.001 is too short" in result.stdout, result.stdout
