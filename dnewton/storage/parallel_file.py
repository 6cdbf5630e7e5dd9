"""One file written by all ranks at once, each its own blocks of the matrices in it.

By positioned writes: MPI-IO takes three times as long (scripts/bench/checkpoint.py), and their failures
are OSErrors. Rank 0 creates the file in its full length first, and no rank reads while it grows: a network file system
then has no reason to complete pages that two nodes share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dnewton.comm.communicator import Comm


@dataclass(frozen=True)
class Piece:
    """This rank's block of a row-major matrix in a file."""

    name: str  # of the tensor
    offset: int  # bytes, where the tensor starts
    columns: int  # of the whole matrix
    row: int  # where the block starts
    column: int
    data: np.ndarray  # (rows, columns) of the block, contiguous


def write(path: str, header: bytes, size: int, pieces: Iterable[Piece], comm: Comm) -> None:
    """Write a new file of `size` bytes, a header and every rank's blocks, synced to the disk.

    Raises UserError alike on all ranks when a rank cannot write. Collective over `comm`.
    """
    with comm.raise_together():
        if comm.rank == 0:
            if os.path.lexists(path):
                os.unlink(path)  # left by a run that was killed while writing
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            try:
                _put(handle, memoryview(header), 0)
                os.ftruncate(handle, size)
                os.fsync(handle)
            finally:
                os.close(handle)
    with comm.raise_together():
        handle = os.open(path, os.O_WRONLY)
        try:
            for piece in pieces:
                comm.stops.poll()
                _put_block(handle, piece)
            os.fsync(handle)
        finally:
            os.close(handle)


def _put_block(handle: int, piece: Piece) -> None:
    rows, columns = piece.data.shape
    if rows == 0 or columns == 0:
        return
    itemsize = piece.data.itemsize
    content = piece.data.view(np.uint8).reshape(piece.data.nbytes).data
    start = piece.offset + (piece.row * piece.columns + piece.column) * itemsize
    if columns == piece.columns:
        _put(handle, content, start)
        return
    step, length = piece.columns * itemsize, columns * itemsize
    for i in range(rows):
        _put(handle, content[i * length : (i + 1) * length], start + i * step)


def _put(handle: int, content: memoryview, start: int) -> None:
    while len(content):
        done = os.pwrite(handle, content[: 1 << 30], start)
        content, start = content[done:], start + done


def sync_folder(path: str) -> None:
    """Sync the names in a folder to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
