"""Writes any readable data set as `.npy` or HDF5 laid out for column slices; every rank writes its columns."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.data.scaling import check_finite
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line
from dnewton.grid import cut

_CHUNK = 1 << 20  # bytes of an HDF5 chunk
_GATHERED = 64 << 20  # bytes that are written at a time


@dataclass(frozen=True)
class Output:
    """Where and how to write; `order` is C or F, for `.npy`: column-major files are read fastest by column slices."""

    path: str
    dtype: str | None
    order: str | None = None

    @property
    def labels(self) -> str:
        """The file of targets beside a `.npy`."""
        return f"{os.path.splitext(self.path)[0]}.y.npy"

    def written(self, source: Source) -> list[str]:
        """The files that writing this source makes."""
        return (
            [self.path] if self.path.endswith((".h5", ".hdf5")) or source.targets is None else [self.path, self.labels]
        )


def check(output: Output, overwrite: bool) -> None:
    """Raise UserError when the output cannot be written or is there already."""
    if not output.path.endswith((".npy", ".h5", ".hdf5")):
        raise UserError(f"{output.path}: the output must end in .npy, .h5 or .hdf5")
    folder = os.path.dirname(os.path.abspath(output.path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"{output.path}: cannot be written; name a file in a folder that exists")
    for path in (output.path, output.labels) if output.path.endswith(".npy") else (output.path,):
        if os.path.isdir(path):
            raise UserError(f"{path}: is a directory; name a file")
        if os.path.exists(path) and not overwrite:
            raise UserError(f"{path}: is there already; give --overwrite or another name")


def convert(source: Source, output: Output, comm: Comm) -> list[str]:
    """Write x as [samples, features] or [samples, channels, height, width], and y. Collective over the world.

    Files appear under their names when they are whole. Returns their names. Raises UserError alike on all ranks.
    """
    size = math.prod(source.shape[1:])  # of one channel
    lo, hi = (size * c for c in cut(source.shape[0], comm.size, comm.rank))
    if source.fetch is not None:
        source.fetch(lo, hi)
    dtype = np.dtype(output.dtype or source.dtype.newbyteorder("="))
    y = source.all_targets() if source.targets is not None else None
    temporary = output.path + ".tmp"
    try:
        _write(source, output, temporary, dtype, (lo, hi), y, comm)
    except UserError:
        if comm.rank == 0:
            for path in (temporary, output.labels + ".tmp"):
                Path(path).unlink(missing_ok=True)
        raise
    with comm.raise_together():
        if comm.rank == 0:
            if y is None and output.path.endswith(".npy"):
                Path(output.labels).unlink(missing_ok=True)  # of what was here before
            elif output.path.endswith(".npy"):
                os.replace(output.labels + ".tmp", output.labels)
            os.replace(temporary, output.path)
    return output.written(source)


def _write(
    source: Source,
    output: Output,
    temporary: str,
    dtype: np.dtype,
    bounds: tuple[int, int],
    y: Values | None,
    comm: Comm,
) -> None:
    lo, hi = bounds
    if output.path.endswith(".npy"):
        _write_npy(source, output, temporary, dtype, (lo, hi), comm)
        with comm.raise_together():
            if comm.rank == 0 and y is not None:
                with open(output.labels + ".tmp", "wb") as file:
                    np.save(file, y)
    else:
        _write_hdf5(source, temporary, dtype, (lo, hi), y, comm)


def _write_npy(source: Source, output: Output, path: str, dtype: np.dtype, bounds: tuple[int, int], comm: Comm) -> None:
    fortran = (output.order or ("F" if len(source.shape) == 1 else "C")) == "F"
    if fortran and len(source.shape) > 1:
        raise UserError("--order F is for plain features; images are written in order C")
    shape = (source.samples, *source.shape)
    lo, hi = bounds
    with comm.raise_together():
        if comm.rank == 0:
            with open(path, "wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                start = file.tell()
                file.truncate(start + source.samples * source.features * dtype.itemsize)
    with comm.raise_together():
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        row = 0
        with open(path, "r+b", buffering=0) as file:
            for part in _gathered(source, lo, hi, dtype):
                if fortran:
                    for j in range(hi - lo):
                        _put(file.fileno(), part[:, j], start + ((lo + j) * source.samples + row) * dtype.itemsize)
                elif hi - lo == source.features:
                    _put(file.fileno(), part, start + row * source.features * dtype.itemsize)
                else:
                    for i in range(len(part)):
                        _put(file.fileno(), part[i], start + ((row + i) * source.features + lo) * dtype.itemsize)
                row += len(part)
            os.fsync(file.fileno())


def _gathered(source: Source, lo: int, hi: int, dtype: np.dtype) -> Iterator[Values]:
    """Checked columns in larger blocks than the reader's, so that writes are not small."""
    parts: list[Values] = []
    held = row = 0
    for block in source.blocks(lo, hi):
        check_finite(block, source.name, "x", row, lo)
        row += len(block)
        parts.append(_cast(block, dtype, source, row - len(block), lo))
        held += parts[-1].nbytes
        if held >= _GATHERED:
            yield np.concatenate(parts)
            parts, held = [], 0
    if parts:
        yield np.concatenate(parts)


def _cast(block: Values, dtype: np.dtype, source: Source, row: int, column: int) -> Values:
    """The block in another dtype. Raises UserError naming the first number that does not survive."""
    cast = block.astype(dtype)
    lost = ~np.isfinite(cast) if dtype.kind == "f" else cast != block
    if lost.any():
        i, j = (int(v) for v in np.argwhere(lost)[0])
        raise UserError(
            f"{source.origin.row(row + i)}: column {column + j}: {block[i, j]} does not fit --dtype {dtype}"
        )
    return cast


def _put(fd: int, values: Values, offset: int) -> None:
    data = memoryview(np.ascontiguousarray(values)).cast("B")  # type: ignore[arg-type]
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def _write_hdf5(
    source: Source, path: str, dtype: np.dtype, bounds: tuple[int, int], y: Values | None, comm: Comm
) -> None:
    """Rank after rank, as the library without MPI needs it; chunks of few columns and many rows."""
    import h5py

    lo, hi = bounds
    size = math.prod(source.shape[1:])
    with comm.raise_together():
        if comm.rank == 0:
            Path(path).unlink(missing_ok=True)
            columns = max(1, min(source.shape[0], 64))
            rows = min(source.samples, max(1, _CHUNK // (columns * size * dtype.itemsize)))
            with h5py.File(path, "w") as file:
                file.create_dataset(
                    "x", (source.samples, *source.shape), dtype, chunks=(rows, columns, *source.shape[1:])
                )
                if y is not None:
                    file["y"] = y if y.dtype.kind != "U" else np.array(y, dtype=h5py.string_dtype())
    for turn in range(comm.size):
        with comm.raise_together():
            if comm.rank == turn and hi > lo:
                row = 0
                try:
                    with h5py.File(path, "r+") as file:
                        for part in _gathered(source, lo, hi, dtype):
                            shape = (len(part), (hi - lo) // size, *source.shape[1:])
                            file["x"][row : row + len(part), lo // size : hi // size] = part.reshape(shape)
                            row += len(part)
                except OSError as error:
                    raise UserError(f"{path}: cannot be written: {one_line(error)}") from None
