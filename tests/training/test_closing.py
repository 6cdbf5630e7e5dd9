"""The last lines of a run, against scikit-learn's figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from inside import needs
from runs import train
from sklearn.metrics import max_error, r2_score

import dnewton as dn

RNG = np.random.default_rng(2)
X = RNG.uniform(-1, 1, (61, 3))
Y = 40 + 3 * np.sin(X[:, 0]) + X[:, 1] * X[:, 2]


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [needs(1, 1, {}), needs(3, 3, {}), needs(3, 2, {"replicas": 2}), needs(4, 4, {"replicas": 2})],
)
def test_of_a_regression(tmp_path: Path, ranks: int, parallel: dict[str, int]) -> None:
    np.savez(tmp_path / "a.npz", x=X[:40], y=Y[:40])
    np.savez(tmp_path / "b.npz", x=X[40:], y=Y[40:])
    net = {
        "net": {"input": [3], "loss": "squared", "layers": [{"dense": {"units": 5, "activation": "tanh"}}]},
        "data": {"train": "a.npz", "test": "b.npz", "scale_targets": "standardize"},
        "solver": {"max_iterations": 6},
        "parallel": {"dtype": "float64", **parallel},
    }
    net["net"]["layers"].append({"dense": {"units": 1}})  # type: ignore[index]
    result = train(ranks, tmp_path, net, "run")
    assert result.returncode == 0, result.stderr
    model = dn.load(tmp_path / "run", comm=_alone())
    for part, rows in (("train", slice(0, 40)), ("test", slice(40, 61))):
        line = next(line for line in result.stdout.splitlines() if line.startswith(f"{part}: rmse"))
        rmse, alone, r2, largest = (
            float(v) for v in re.findall(r"[-+0-9.]+(?:e[-+0-9]+)?", line.replace("R² 1 - ", ""))
        )
        r2 = 1 - r2 if "R² 1 - " in line else r2
        found = model.predict(X[rows])
        assert rmse == pytest.approx(np.sqrt(np.mean((found - Y[rows]) ** 2)), rel=1e-3)
        assert alone == pytest.approx(Y[rows].std(), rel=1e-3)
        assert r2 == pytest.approx(r2_score(Y[rows], found), abs=2e-4)
        assert largest == pytest.approx(max_error(Y[rows], found), rel=1e-3)
        scores = model.scores(X[rows], Y[rows])
        assert scores["r2"] == pytest.approx(r2_score(Y[rows], found))
        assert scores["largest_error"] == pytest.approx(max_error(Y[rows], found))


def _alone() -> object:
    from dnewton.comm import library

    return library.mpi().COMM_SELF


@pytest.mark.jobs(1)
def test_small_errors_have_digits(tmp_path: Path) -> None:
    """A straight line is fitted to rounding: neither 0.0000 nor R² 1."""
    x = np.linspace(-1, 1, 30)[:, None]
    np.savez(tmp_path / "a.npz", x=x, y=2 * x[:, 0] - 1 + 1e-6 * np.sin(9 * x[:, 0]))
    net = {
        "net": {"input": [1], "loss": "squared", "layers": [{"dense": {"units": 1}}]},
        "data": {"train": "a.npz"},
        "solver": {"max_iterations": 30, "C": float("inf")},
        "parallel": {"dtype": "float64"},
    }
    out = train(1, tmp_path, net, "run").stdout
    assert re.search(r"train: rmse [5-7]\.\d+e-07 .*R² 1 - \S+e-\d+, largest error \S+e-0[67]", out), out
