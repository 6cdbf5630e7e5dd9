"""Global average pooling against plain loops, on every grid."""

from __future__ import annotations

from typing import Any

import pytest
from checks import everywhere
from problems import Problem

from dnewton.comm.communicator import Comm

pytestmark = pytest.mark.mpi

CONV = {"conv": {"channels": 5, "kernel": 2, "activation": "tanh"}}
NETS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "image": ((2, 4, 5), [CONV, "global_avgpool", {"dense": {"units": 3}}]),
    "sequence": ((3, 6), [CONV, {"global_avgpool": {}}, {"dense": {"units": 3}}]),
    "first": ((3, 2, 4), ["global_avgpool", {"dense": {"units": 4, "activation": "tanh"}}, {"dense": {"units": 3}}]),
    "last": ((2, 4, 4), [{"conv": {"channels": 3, "kernel": 3}}, "global_avgpool"]),
}


@pytest.mark.parametrize("name", NETS)
def test_everywhere(comm: Comm, name: str) -> None:
    shape, layers = NETS[name]
    everywhere(comm, Problem(shape, layers))
