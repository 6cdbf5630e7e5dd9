"""What the wrapper over mpi4py does to messages."""

from __future__ import annotations

import numpy as np
import pytest
from places import same

from dnewton.comm.communicator import Comm
from dnewton.errors import UserError


@pytest.mark.parametrize("limit", [1, 7, 10**6])
def test_long_messages_are_cut(comm: Comm, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """MPI counts are 32-bit numbers: sums and gathers of more elements go in pieces, with the same result."""
    monkeypatch.setattr("dnewton.comm.communicator.MESSAGE_BYTES", 8 * limit)
    total = comm.allreduce(np.arange(23.0).reshape(1, 23) * (comm.rank + 1))
    assert same(total, np.arange(23.0).reshape(1, 23) * sum(range(1, comm.size + 1)))
    for root in range(comm.size):
        numbers = np.arange(23.0) * (comm.rank + 1)
        found = comm.reduce(numbers, root)
        wanted = np.arange(23.0) * (sum(range(1, comm.size + 1)) if comm.rank == root else comm.rank + 1)
        assert same(found, wanted)
        assert same(comm.bcast(np.full(3, float(comm.rank)), root), np.full(3, float(root)))
    widths = [r % 3 for r in range(comm.size)]  # some are empty
    mine = np.full((5, 2, widths[comm.rank]), float(comm.rank))
    whole = comm.gather_features(mine, "row", widths)
    expected = np.concatenate([np.full((5, 2, w), float(r)) for r, w in enumerate(widths)], axis=2)
    assert same(whole, expected if comm.size > 1 else mine)


def test_arrays_from_root_and_together(comm: Comm) -> None:
    for array in (np.arange(6).reshape(2, 3), np.zeros((0, 4), dtype=np.float32), np.array(["ant", "bee"])):
        found = comm.array_from_root(array if comm.rank == 0 else None)
        assert same(found, array) and found.dtype == array.dtype
    with pytest.raises(UserError, match=f"rank {comm.size - 1} is wrong"), comm.raise_together():
        if comm.rank == comm.size - 1:
            raise UserError(f"rank {comm.rank} is wrong")


@pytest.mark.mpi
@pytest.mark.parametrize("length", [0, 1, 1015, 1016, 1017, 5000])
def test_a_text_of_rank_0_arrives_whole_whatever_its_length(comm: Comm, length: int) -> None:
    text = ("für Ω" * 1000).encode()[:length].decode("utf-8", "surrogateescape")  # cut within a letter, too
    assert comm.text_from_root(text if comm.rank == 0 else "mine") == text
