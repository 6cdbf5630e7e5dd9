"""A job for test_memory.py: every rank reads its columns of a file and says how its resident size grew.

mpirun -np P python tests/support/read_columns.py FILE SCALE
"""

from __future__ import annotations

import json
import math
import sys

from dnewton.comm.communicator import Comm
from dnewton.data.format_register import Opening
from dnewton.data.readers import open_part
from dnewton.data.samples import Window, load
from dnewton.grid import SplitAxis, cut
from dnewton.hardware import node


def main(path: str, how: str) -> None:
    comm = Comm.world()
    before = node.peak_rss_bytes()
    source = open_part(path, Opening("IN", None, comm))
    units = SplitAxis(source.shape[0])
    window = Window.of(source.shape, units, cut(source.shape[0], comm.size, comm.rank))
    x, _ = load(source, window, how, "float32", comm)
    grown = node.peak_rss_bytes() - before
    slice_bytes = source.samples * window.width * source.dtype.itemsize
    assert x.shape[0] == source.samples and math.prod(x.shape[1:]) == window.width  # type: ignore[union-attr]
    rows = comm.gather_to_root([grown, slice_bytes])
    if comm.rank == 0:
        print(json.dumps(rows.tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
