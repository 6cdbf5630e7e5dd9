"""Convolution and pooling over sequences [channels, length]: by the oracle on the ranks, and as a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checks import everywhere
from inside import start
from problems import Problem
from runs import fails, metrics, train
from safetensors.numpy import load_file

from dnewton.comm.communicator import Comm

NETS = {
    "options": [
        {"conv": {"channels": 4, "kernel": 3, "stride": 2, "padding": 1, "activation": "tanh"}},
        {"conv": {"channels": 3, "kernel": 2, "activation": "sigmoid"}},
        "flatten",
        {"dense": {"units": 3}},
    ],
    "maximum": [
        {"conv": {"channels": 5, "kernel": 2, "padding": 1, "activation": "tanh"}},
        {"maxpool": {"size": 2}},
        "flatten",
        {"dense": {"units": 3}},
    ],
    "mean": [
        {"avgpool": {"size": 3, "stride": 2, "padding": 1}},
        {"conv": {"channels": 2, "kernel": 3}},
        "flatten",
        {"dense": {"units": 3, "activation": "tanh"}},
    ],
    "one of everything": [{"conv": {"channels": 1, "kernel": 9}}, "flatten", {"dense": {"units": 2}}],
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", NETS)
def test_everywhere(comm: Comm, name: str) -> None:
    everywhere(comm, Problem((2, 9), NETS[name]), kinks=name == "maximum")


def net(shape: list[int], **conv: object) -> dict[str, object]:
    layers = [{"conv": {"channels": 4, "activation": "tanh", **conv}}, "global_avgpool", {"dense": {"units": 2}}]
    return {
        "net": {"input": shape, "loss": "cross_entropy", "layers": layers},
        "data": {"train": "waves.npz", "test": "waves.npz", "scale": "standardize"},
        "solver": {"max_iterations": 20, "subsample": 0.5, "early_termination": {"mode": "lockstep"}},
        "parallel": {"dtype": "float64"},
    }


def waves(folder: Path) -> None:
    """Two channels of fast and of slow oscillations."""
    rng = np.random.default_rng(0)
    fast = np.arange(300) % 2
    phase, t = rng.uniform(0, 6, (300, 2, 1)), np.arange(24)
    x = np.sin(t * np.where(fast, 1.6, 0.5)[:, None, None] + phase) + 0.1 * rng.normal(size=(300, 2, 24))
    np.savez(folder / "waves.npz", x=x, y=fast)
    np.savez(folder / "images.npz", x=x[:, :, None, :], y=fast)


@pytest.mark.jobs(3)
def test_a_run_is_that_of_images_of_height_one(tmp_path: Path) -> None:
    waves(tmp_path)
    assert train(3, tmp_path, net([2, 24], kernel=5, padding=2, stride=2), "sequence").returncode == 0
    image = net([2, 1, 24], kernel=[1, 5], padding=[0, 2], stride=[1, 2])
    image["data"] = {"train": "images.npz", "test": "images.npz", "scale": "standardize"}
    assert train(3, tmp_path, image, "image").returncode == 0
    found = [metrics(tmp_path, run) for run in ("sequence", "image")]
    assert [line["loss"] for line in found[0]] == [line["loss"] for line in found[1]]
    assert found[0][-1]["test_accuracy"] > 0.95
    weights = [load_file(tmp_path / run / "model.safetensors")["layers.0.weight"] for run in ("sequence", "image")]
    assert weights[0].shape == (4, 2, 5) and np.array_equal(weights[0], weights[1][:, :, 0, :])
    for ranks, run, data in ((2, "sequence", "waves.npz"), (1, "image", "images.npz")):
        words = ("--model", run, "--data", data, "--out", f"{run}.txt")
        assert start(ranks, *words, cwd=tmp_path, module="dnewton.predict").returncode == 0
    assert (tmp_path / "sequence.txt").read_text() == (tmp_path / "image.txt").read_text()
    again = train(
        3, tmp_path, net([2, 24], kernel=5, padding=2, stride=2), "again", "--init", "sequence/model.safetensors"
    )
    assert again.returncode == 0


@pytest.mark.jobs(1)
def test_mistakes(tmp_path: Path) -> None:
    waves(tmp_path)
    fails(train(1, tmp_path, net([2, 24], kernel=[1, 3]), "run"), "net.layers[0] (conv)", "kernel [1, 3] is for images")
    fails(
        train(1, tmp_path, net([2, 24], kernel=30), "run"), "net.layers[0] (conv)", "kernel 30 does not fit", "[2, 24]"
    )
    fails(train(1, tmp_path, net([2, 23], kernel=3), "run"), "samples have shape [2, 24]", "[2, 23]")
