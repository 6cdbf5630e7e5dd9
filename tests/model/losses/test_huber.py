"""The Huber loss beyond what holds of every loss (test_losses.py): its threshold, and outliers."""

from __future__ import annotations

import numpy as np
import pytest
from checks import everywhere
from problems import MLP, Problem

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import Config


@pytest.mark.mpi
def test_everywhere(comm: Comm) -> None:
    everywhere(comm, Problem((5,), MLP, "huber"), kinks=True)


@pytest.mark.parametrize("written", [{"huber": {"delta": 0.25}}, {"name": "huber", "delta": 0.25}])
def test_delta(written: object) -> None:
    loss = loss_of(written)
    z, y = np.array([[0.1, 2.0, -3.0]]), np.zeros((1, 3))
    assert loss.value(z, y) == pytest.approx(0.005 + 0.25 * (2.0 - 0.125) + 0.25 * (3.0 - 0.125))
    assert loss.gradient(z, y).tolist() == [[0.1, 0.25, -0.25]]
    assert loss.hessian_product(loss.state(z, y), np.ones((1, 3))).tolist() == [[1.0, 0.0, 0.0]]
    net = {"input": [1], "loss": written, "layers": [{"dense": {"units": 3}}]}
    resolved = Config.model_validate({"net": net}).resolved()["net"]["loss"]
    assert resolved == {"huber": {"delta": 0.25}} and loss_of(resolved) == loss
