"""Where a rank runs: the ranks beside it on its node, and the cores that they share."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def on_node(mpi: Any, shared: Any) -> tuple[int, int, float]:
    """This rank's place among the ranks on its node, their number, and its fair share of the cores they may use.

    `shared` is MPI's COMM_TYPE_SHARED. Collective over `mpi`.
    """
    node = mpi.Split_type(shared)
    allowed = np.zeros(4096, dtype=np.int32)
    allowed[[c for c in os.sched_getaffinity(0) if c < allowed.size]] = 1
    users = np.empty_like(allowed)
    node.Allreduce(allowed, users)
    place, ranks = int(node.Get_rank()), int(node.Get_size())
    node.Free()
    return place, ranks, float(np.sum(allowed[users > 0] / users[users > 0]))


def sharing(mpi: Any, shared: Any, number: int) -> int:
    """How many ranks of this node pass the same number. Collective over `mpi`."""
    node = mpi.Split_type(shared)
    every = np.empty(node.Get_size(), dtype=np.int64)
    node.Allgather(np.array([number], dtype=np.int64), every)
    node.Free()
    return int(np.sum(every == number))
