"""The self-test of an installation sees what it is for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.model.network import Network
from dnewton.training import self_test

pytestmark = pytest.mark.mpi


def verdicts(comm: Comm) -> list[bool]:
    return [item.ok for item in self_test.run(comm)]


def test_all_is_well(comm: Comm) -> None:
    items = list(self_test.run(comm))
    assert [item.ok for item in items] == [True] * 4
    assert all(item.difference < 1e-9 for item in items)
    assert not self_test.Item("", math.inf, 1.0, 0.0).ok


def test_a_wrong_sum_is_seen(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Comm.allreduce

    def wrong(self: Comm, array: Any, group: Any = "world") -> Any:
        found = right(self, array, group)
        return found + 1.0 if found.size == 1000 else found

    monkeypatch.setattr(Comm, "allreduce", wrong)
    assert verdicts(comm)[0] is False


def test_a_wrong_gradient_is_seen_by_all(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Network.gradient

    def wrong(self: Network, theta: Any, tape: Any, cot: Any, grad: Any) -> Any:
        right(self, theta, tape, cot, grad)
        if comm.rank == comm.size - 1:
            grad[0] += 1e-3

    monkeypatch.setattr(Network, "gradient", wrong)
    assert verdicts(comm)[1] is False


def test_a_wrong_product_is_seen(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    right = GaussNewton.full_product

    def wrong(self: GaussNewton, *args: Any) -> Any:
        return np.asarray(right(self, *args)) * (1 + 1e-4)

    monkeypatch.setattr(GaussNewton, "full_product", wrong)
    assert verdicts(comm)[2] is False
