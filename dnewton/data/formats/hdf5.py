"""HDF5 files by hyperslabs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dnewton.data.file_kinds import BLOCK_BYTES
from dnewton.data.format_register import FORMATS, Format, Opening, arrays_opened_by_each, begins_with
from dnewton.data.formats.array_files import check_samples, check_targets, check_weights, pick, pick_weights, runs
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line
from dnewton.grid import ceil_div

# What h5py raises for damaged files, besides OSError.
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError)


def open_hdf5(path: str, opening: Opening | None = None, reverse: bool = False) -> Source:
    """The data sets x and y, and perhaps weights, at the root of a file; `reverse` for MATLAB's column-major axes."""
    import h5py  # half a second that other formats need not spend

    try:
        with h5py.File(path, "r") as file:
            names = [n for n in file if isinstance(file.get(n), h5py.Dataset)]
            x_name, y_name = pick(path, names)
            w_name = pick_weights(path, names, opening)
            x = file[x_name]
            if x.shape is None:
                raise UserError(f"{path}: x is empty")
            shape, dtype = x.shape[::-1] if reverse else x.shape, x.dtype
            check_samples(path, shape, dtype)
            rows_per_chunk = (x.chunks[-1] if reverse else x.chunks[0]) if x.chunks else 1
            y = None if y_name is None else _labels(file[y_name], path)
            w = None if w_name is None else np.asarray(file[w_name][()])
    except _DAMAGE as error:
        raise UserError(f"{path}: not a readable HDF5 file: {one_line(error)}") from None
    if y is not None:
        if reverse:
            y = y.T
        if y.ndim == 2 and 1 in y.shape and y.size == shape[0]:
            y = y.reshape(y.size)
        check_targets(path, y.shape, y.dtype, shape[0])
    if w is not None:
        check_weights(f"{path}: data set {w_name!r}", w.shape, w.dtype, shape[0])
    features = math.prod(shape[1:])

    def read(x: Any, first: int, last: int, lo: int, hi: int) -> Values:
        n = last - first
        if reverse:
            return np.ascontiguousarray(x[..., first:last].T).reshape(n, features)[:, lo:hi]
        if len(shape) == 2:
            return np.asarray(x[first:last, lo:hi])
        size = math.prod(shape[2:])  # whole channels, then the columns
        c_lo, c_hi = lo // size, ceil_div(hi, size)
        part = np.asarray(x[first:last, c_lo:c_hi]).reshape(n, (c_hi - c_lo) * size)
        return part[:, lo - c_lo * size : hi - c_lo * size]

    def slabs(ranges: Iterator[tuple[int, int]], lo: int, hi: int) -> Iterator[Values]:
        try:
            with h5py.File(path, "r") as file:
                for first, last in ranges:
                    yield read(file[x_name], first, last, lo, hi)
        except _DAMAGE as error:
            raise UserError(f"{path}: is damaged or cut short: {one_line(error)}") from None

    row_bytes = dtype.itemsize * (features if reverse else 1)

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        step = max(1, BLOCK_BYTES // (max(1, hi - lo) * row_bytes))
        step = max(step // rows_per_chunk, 1) * rows_per_chunk  # whole chunks: each is decompressed once
        return slabs(((i, min(shape[0], i + step)) for i in range(0, shape[0], step)), lo, hi)

    def rows(indices: Values, lo: int, hi: int) -> Values:
        limit = max(1, BLOCK_BYTES // (max(1, hi - lo) * row_bytes))
        cuts = list(runs(indices, max(1, rows_per_chunk), limit))
        spans = iter([(int(indices[a]), int(indices[b - 1]) + 1) for a, b in cuts])
        out = np.empty((len(indices), hi - lo), dtype=dtype)
        for (a, b), part in zip(cuts, slabs(spans, lo, hi), strict=True):
            out[a:b] = part[indices[a:b] - indices[a]]
        return out

    source = Source(path, shape[0], tuple(shape[1:]), dtype, blocks, None if y is None else lambda: y, rows)
    return source if w is None else replace(source, weights=lambda: w)


def _labels(y: Any, path: str) -> Values:
    if y.dtype.kind in "OS":  # strings of variable or fixed length
        import h5py

        if h5py.check_string_dtype(y.dtype) is None:
            raise UserError(f"{path}: y must hold numbers or strings, it has dtype {y.dtype}")
        return np.asarray(y.asstr(errors="replace")[()], dtype=str)
    return np.asarray(y[()])


FORMATS.add(".h5", ".hdf5")(
    Format("an HDF5 file", begins_with(b"\x89HDF\r\n\x1a\n"), arrays_opened_by_each(open_hdf5), has_arrays=True)
)
