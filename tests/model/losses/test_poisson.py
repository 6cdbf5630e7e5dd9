"""Poisson regression beyond what holds of every loss (test_losses.py): counts, the log link, metric, prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checks import everywhere
from inside import start
from problems import MLP, Problem
from runs import fails, metrics, train

from dnewton.comm.communicator import Comm

LAYERS = [{"dense": {"units": 8, "activation": "tanh"}}, {"dense": {"units": 1}}]


@pytest.mark.mpi
def test_everywhere(comm: Comm) -> None:
    everywhere(comm, Problem((5,), MLP, "poisson"))


@pytest.mark.jobs(3)
def test_counts_are_learnt_and_predicted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 2))
    rate = np.exp(1.0 + x[:, 0] - 0.5 * x[:, 1] ** 2)
    np.savez(tmp_path / "counts.npz", x=x, y=rng.poisson(rate))
    net = {
        "net": {"input": [2], "loss": "poisson", "layers": LAYERS},
        "data": {"train": "counts.npz"},
        "solver": {"C": 10.0, "max_iterations": 30, "subsample": 1.0},
        "parallel": {"dtype": "float64"},
    }
    assert train(3, tmp_path, net, "run").returncode == 0
    words = ("--model", "run", "--data", "counts.npz", "--out", "p.npz", "--scores", "s.json", "--dtype", "float64")
    assert start(2, *words, cwd=tmp_path, module="dnewton.predict").returncode == 0
    found = np.load(tmp_path / "p.npz")
    assert np.allclose(found["prediction"], np.exp(found["output"]))
    assert np.abs(found["prediction"][:, 0] / rate - 1).mean() < 0.1
    rmse = json.loads((tmp_path / "s.json").read_text())["rmse"]
    assert rmse == pytest.approx(metrics(tmp_path, "run")[-1]["train_rmse"], rel=1e-6)


@pytest.mark.jobs(1)
def test_what_counts_are_not(tmp_path: Path) -> None:
    x = np.zeros((3, 2))
    np.savez(tmp_path / "negative.npz", x=x, y=[1.0, -2.0, 0.0])
    np.savez(tmp_path / "counts.npz", x=x, y=[1, 2, 0])
    net = {"net": {"input": [2], "loss": "poisson", "layers": LAYERS}, "data": {"train": "negative.npz"}}
    fails(train(1, tmp_path, net, "run"), "row 1", "-2", "counts are not negative")
    elsewhere = {**net, "data": {"train": "counts.npz", "test": "negative.npz"}}
    fails(train(1, tmp_path, elsewhere, "run"), "negative.npz", "row 1", "counts are not negative")
    np.savez(tmp_path / "words.npz", x=x, y=["a", "b", "c"])
    fails(train(1, tmp_path, {**net, "data": {"train": "words.npz"}}, "run"), "y holds strings, numbers are needed")
    scaled = {**net, "data": {"train": "counts.npz", "scale_targets": "standardize"}}
    fails(train(1, tmp_path, scaled, "run"), "data.scale_targets", "use none")
