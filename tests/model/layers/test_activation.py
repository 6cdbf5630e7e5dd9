"""Every activation in nets on the ranks, and through saving, resuming, predicting and planning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checks import everywhere
from inside import start
from problems import Problem
from runs import metrics, train

from dnewton.comm.communicator import Comm
from dnewton.model.layers.activation import ACTIVATIONS

NEW = ("silu", "gelu", "sin", "elu")


@pytest.mark.mpi
@pytest.mark.parametrize("name", NEW)
def test_dense(comm: Comm, name: str) -> None:
    layers = [{"dense": {"units": 6, "activation": name}}, {"dense": {"units": 5, "activation": name}}]
    everywhere(comm, Problem((4,), [*layers, {"dense": {"units": 3}}]))


@pytest.mark.mpi
@pytest.mark.parametrize("name", NEW)
def test_under_a_pooling(comm: Comm, name: str) -> None:
    """Where slopes are taken at the maxima alone, also of an activation that is not monotonic."""
    conv = {"conv": {"channels": 3, "kernel": 2, "activation": name}}
    problem = Problem((2, 5, 5), [conv, {"maxpool": {"size": 2}}, "flatten", {"dense": {"units": 3}}], samples=7)
    everywhere(comm, problem, kinks=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_single_precision_far_out(name: str) -> None:
    a = ACTIVATIONS[name]
    s = np.array([-1e4, -90.0, 0.0, 90.0, 1e4], np.float32)
    kept = a.value(s) if a.of == "z" else s
    more = a.derivatives(s, a.value(s), 3) if a.derivatives else []
    for values in (a.value(s), a.slope(kept), a.curve(kept), *more):
        assert values.dtype == np.float32 and np.isfinite(values).all()


@pytest.mark.parametrize("name", [name for name, a in ACTIVATIONS.items() if a.derivatives])
def test_derivatives_at_once(name: str) -> None:
    a = ACTIVATIONS[name]
    assert a.derivatives is not None
    s, step = np.linspace(-3, 3, 41), 1e-5

    def kept(s: np.ndarray) -> np.ndarray:
        return np.asarray(a.value(s) if a.of == "z" else s)

    def curve(s: np.ndarray) -> np.ndarray:
        return np.asarray(a.curve(kept(s)))

    for n in (1, 2, 3):
        found = a.derivatives(s, a.value(s), n)
        assert len(found) == n
        for values, wanted in zip(found, (a.slope(kept(s)), curve(s)), strict=False):
            assert np.abs(values - wanted).max() < 1e-14
    assert np.abs(found[2] - (curve(s + step) - curve(s - step)) / (2 * step)).max() < 1e-8


@pytest.mark.jobs(3)
@pytest.mark.parametrize("name", NEW)
def test_a_run_from_start_to_prediction(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 2))
    np.savez(tmp_path / "d.npz", x=x, y=np.sin(3 * x[:, :1]) * x[:, 1:])
    layers = [{"dense": {"units": 12, "activation": name}}, {"dense": {"units": 1}}]
    net = {
        "net": {"input": [2], "loss": "squared", "layers": layers},
        "data": {"train": "d.npz"},
        "solver": {"max_iterations": 8, "subsample": 1.0, "early_termination": {"mode": "lockstep"}},
        "parallel": {"dtype": "float64"},
        "output": {"checkpoint_every": 4},
    }
    assert train(3, tmp_path, net, "whole").returncode == 0
    assert train(3, tmp_path, net, "half", settings=["solver.max_iterations=4"]).returncode == 0
    resumed = start(3, "--resume", "half", "--set", "solver.max_iterations=8", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    losses = [[line["loss"] for line in metrics(tmp_path, run)] for run in ("whole", "half")]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
    words = ("--model", "whole", "--data", "d.npz", "--out", "p.txt")
    assert start(2, *words, cwd=tmp_path, module="dnewton.predict").returncode == 0
    assert np.loadtxt(tmp_path / "p.txt").shape == (200,)
    planned = start(1, "--net", "net.yaml", "--ranks", "4", cwd=tmp_path, module="dnewton.plan")
    assert planned.returncode == 0 and "layers.1" in planned.stdout
