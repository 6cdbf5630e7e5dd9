"""Scalars that ride in the sum of an array arrive as they are, whatever the array's precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dnewton.comm import riders
from dnewton.comm.communicator import Comm


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_those_of_two_messages_bit_for_bit(comm: Comm, dtype: str) -> None:
    rng = np.random.default_rng(comm.rank)
    values = [1e-300, -1e300, math.pi * (comm.rank + 1), 1 / 3, 0.0, *rng.normal(size=5)]
    array = rng.integers(-100, 100, (2, 7)).astype(dtype)
    wanted, sums = comm.allreduce(array.copy()), comm.sum_scalars(values)
    before = comm.ledger[comm.ledger.phase].values()
    summed, carried = comm.reduce_with(array, values)
    calls, moved = (b - a for a, b in zip(before[:2], comm.ledger[comm.ledger.phase].values()[:2], strict=True))
    if comm.size > 1:
        extra = riders.numbers(len(values), comm.size, array.itemsize)
        assert (calls, moved) == (1, (array.size + extra) * array.itemsize)
    if comm.rank == 0:
        assert summed.shape == array.shape
        assert np.array_equal(summed, wanted)
        assert np.array_equal(carried, sums)


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_rides_too(comm: Comm, dtype: str) -> None:
    last = comm.rank == comm.size - 1
    _, carried = comm.reduce_with(np.zeros(3, dtype=dtype), [math.inf if last else 1.0, math.nan if last else 1.0, 1.0])
    if comm.rank == 0:
        assert carried[0] == math.inf
        assert math.isnan(carried[1])
        assert carried[2] == comm.size
