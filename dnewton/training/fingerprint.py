"""A checksum of some samples' features, by which a resumed run notices that its data have changed."""

from __future__ import annotations

import numpy as np

from dnewton.arrays.namespace import to_host
from dnewton.comm.communicator import Comm
from dnewton.data.samples import Samples, Window
from dnewton.storage import checksum

ROWS = 64  # spread evenly over the samples


def fingerprint(samples: Samples, window: Window, comm: Comm) -> str:
    """Of up to ROWS samples with all their features as the net takes them, the same whatever the ranks.

    Collective over the ranks of `comm`, which hold the columns of `window`.
    """
    rows = np.unique(np.linspace(0, samples.count - 1, min(ROWS, samples.count)).astype(np.int64))
    (x,) = samples.batches([rows])
    flat = np.ascontiguousarray(window.flat(np.asarray(to_host(x))), dtype=np.float32)
    held = comm.concatenate(np.array([[window.lo, window.hi]], dtype=np.int64)).tolist()
    first = held.index([window.lo, window.hi]) == comm.rank  # others may hold the same columns
    own = checksum.partial(flat, 0, window.lo) if first and window.width else 0
    parts = comm.concatenate(np.array([[own]], dtype=np.uint64))
    return f"{checksum.added([int(part) for part in parts[:, 0]]):016x}"
