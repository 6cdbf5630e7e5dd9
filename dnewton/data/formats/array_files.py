"""Arrays as plain bytes in files, read with positioned reads of just the needed bytes.

Positioned reads rather than a memory map: a failing disk is then an error message and not a bus error, and pages that
were read do not count as this process's memory.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from dnewton.data.file_kinds import BLOCK_BYTES, guard
from dnewton.data.format_register import Opening
from dnewton.data.reordered import reordered
from dnewton.data.sample_shape import in_columns, said
from dnewton.data.sources import Source, Values, block_rows
from dnewton.errors import UserError, one_line

_GAP = 16 << 10  # bytes that are cheaper to read than to skip


@dataclass(frozen=True)
class RawArray:
    """An array as plain bytes in a file (a `.npy`, or a member of an archive that is not compressed)."""

    path: str
    offset: int
    shape: tuple[int, ...]  # (samples, ...)
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def features(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape[1:])

    def check_size(self, exact: bool = False) -> None:
        """Raise UserError when the file ends before the array does, or (`exact`) is longer than the array."""
        needed = self.offset + math.prod(self.shape) * self.dtype.itemsize
        size = os.path.getsize(self.path)
        if size < needed:
            row = max(0, size - self.offset) // max(1, self.features * self.dtype.itemsize)
            where = "" if self.fortran else f" (in row {row} of {self.shape[0]})"
            raise UserError(f"{self.path}: is cut short: has {size} bytes{where}, {needed} are needed")
        if exact and size > needed:
            raise UserError(f"{self.path}: goes on after its last row: has {size} bytes, its header says {needed}")

    def blocks(self, lo: int, hi: int) -> Iterator[Values]:
        """Columns lo to hi in blocks of consecutive rows."""
        width = hi - lo if self.fortran or self._by_row(lo, hi) else self.features
        with guard(self.path), open(self.path, "rb", buffering=0) as file:
            for part in block_rows(self.shape[0], width * self.dtype.itemsize, BLOCK_BYTES):
                yield self._range(file.fileno(), part.start, part.stop, lo, hi)

    def rows(self, indices: Values, lo: int, hi: int) -> Values:
        """Columns lo to hi of some rows (ascending); neighbours are read together."""
        out = np.empty((len(indices), hi - lo), dtype=self.dtype)
        if not out.size:
            return out
        row = self.features * self.dtype.itemsize
        near = self.shape[0] if self.fortran else max(1, _GAP // row)
        limit = max(1, BLOCK_BYTES // ((hi - lo) * self.dtype.itemsize if self.fortran else row))
        with guard(self.path), open(self.path, "rb", buffering=0) as file:
            for a, b in runs(indices, near, limit):
                first, last = int(indices[a]), int(indices[b - 1]) + 1
                part = self._range(file.fileno(), first, last, lo, hi)
                out[a:b] = part if last - first == b - a else np.take(part, indices[a:b] - first, axis=0)
        return out

    def _by_row(self, lo: int, hi: int) -> bool:
        """Whether reading only this range of every row beats reading whole rows."""
        return (self.features - (hi - lo)) * self.dtype.itemsize > _GAP

    def _range(self, fd: int, first: int, last: int, lo: int, hi: int) -> Values:
        size = self.dtype.itemsize
        n = last - first
        width = hi - lo
        if width == 0:
            return np.empty((n, 0), dtype=self.dtype)
        if self.fortran:
            out = np.empty((width, n), dtype=self.dtype)
            for j in range(width):
                at = self.offset + (self._column(lo + j) * self.shape[0] + first) * size
                _read(fd, out[j], at)
            return out.T
        if self._by_row(lo, hi):
            out = np.empty((n, width), dtype=self.dtype)
            for i in range(n):
                _read(fd, out[i], self.offset + ((first + i) * self.features + lo) * size)
            return out
        whole = np.empty((n, self.features), dtype=self.dtype)
        _read(fd, whole, self.offset + first * self.features * size)
        return whole[:, lo:hi]

    def _column(self, feature: int) -> int:
        """Where a feature (channel-major) comes among the columns of a column-major array."""
        place = np.unravel_index(feature, self.shape[1:])
        return int(np.ravel_multi_index(place[::-1], self.shape[:0:-1]))


def runs(indices: Values, near: int, limit: int) -> Iterator[tuple[int, int]]:
    """Ascending indices cut where neighbours are more than `near` apart or a run would span more than `limit`."""
    start = 0
    breaks = np.flatnonzero(np.diff(indices) > near) + 1
    for end in [*breaks.tolist(), len(indices)]:
        while start < end:
            stop = start + int(np.searchsorted(indices[start:end], indices[start] + limit))
            yield start, stop
            start = stop


def _read(fd: int, out: Values, offset: int) -> None:
    view = memoryview(out).cast("B")  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if got == 0:
            raise EOFError(f"it ends at byte {offset + done}")
        done += got


def as_text(values: Values) -> Values:
    """Labels that are bytes as text."""
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


def read_header(file: IO[bytes], what: str) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """The offset of the numbers, the shape, whether it is column-major, and the dtype; `what` is for the message."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that are odd, but can be read
            shape, fortran, dtype = read(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"its header says that it is {list(shape)}")
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise UserError(f"{what}: cannot be read as an array: {one_line(error)}") from None
    return file.tell(), shape, fortran and len(shape) > 1, dtype


def check_samples(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise UserError unless an array can hold samples."""
    if dtype.kind not in "fiub":
        raise UserError(f"{name}: x must hold numbers, it has dtype {dtype}")
    if len(shape) not in (2, 3, 4):
        raise UserError(
            f"{name}: x must be [samples, features], [samples, channels, length] or [samples, channels, height, "
            f"width], it is {list(shape)}"
        )
    if math.prod(shape) == 0:
        raise UserError(f"{name}: x is empty, shape {list(shape)}")


def check_targets(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], samples: int | None) -> None:
    """Raise UserError unless an array can hold the targets of so many samples (None: any number of them)."""
    if dtype.kind not in "fiubUS":
        raise UserError(f"{name}: y must hold numbers or strings, it has dtype {dtype}")
    if len(shape) == 2 and (shape[1] == 0 or (dtype.kind == "U" and shape[1] > 1)):
        raise UserError(f"{name}: y must be [samples] or numbers [samples, targets], it is {list(shape)} {dtype}")
    if samples is None:
        return
    if len(shape) not in (1, 2) or shape[0] != samples:
        raise UserError(f"{name}: y must have one row per sample ({samples}), it has shape {list(shape)}")


def raw_source(
    raw: RawArray, targets: Sequence[int] | None, opening: Opening, whole: Callable[[], Values] | None = None
) -> Source:
    """The samples in an array, in its rows or its columns; `targets`: the shape of the targets.

    `whole` reads all of an array that is compressed, where a row of it is not a piece of the stream; others leave
    `blocks` and `rows` to positioned reads.
    """
    stated, strict = opening.arrays.samples, opening.strict
    columns = in_columns(raw.path, raw.shape, targets, opening.input, stated, strict, matlab=False)
    notes = said(raw.path, raw.shape, columns)
    samples, shape = (raw.shape[-1], raw.shape[:-1]) if columns else (raw.shape[0], raw.shape[1:])
    places = None
    flat = raw
    if columns:  # the same bytes as rows of the other order
        flat = replace(raw, shape=(samples, math.prod(shape)), fortran=not raw.fortran)
        if raw.fortran and len(shape) > 1:
            places = np.arange(math.prod(shape)).reshape(shape[::-1]).T.ravel()

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        assert whole is not None
        values = whole()
        yield (np.moveaxis(values, -1, 0) if columns else values).reshape(samples, math.prod(shape))[:, lo:hi]

    source = Source(raw.path, samples, shape, raw.dtype, flat.blocks, None, flat.rows, notes=notes)
    source = replace(source, samples_in="columns" if columns else "rows")
    if whole is not None:
        return replace(source, blocks=blocks, rows=None, repeatable=False)
    return source if places is None else reordered(source, shape, places)


def check_weights(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], samples: int) -> None:
    """Raise UserError unless an array can hold the weights of so many samples."""
    if dtype.kind not in "fiub":
        raise UserError(f"data.weights: {name}: weights must be numbers, they have dtype {dtype}")
    if math.prod(shape) != samples or max(shape, default=0) != samples:
        raise UserError(f"data.weights: {name}: one weight per sample ({samples}) is needed, they are {list(shape)}")


def stream_blocks(file: IO[bytes], raw: RawArray, lo: int, hi: int) -> Iterator[Values]:
    """Columns from a stream that stands at the first row."""
    row = raw.features * raw.dtype.itemsize
    for part in block_rows(raw.shape[0], row, BLOCK_BYTES):
        n = part.stop - part.start
        data = file.read(n * row)
        if len(data) != n * row:
            raise EOFError(f"it ends in row {part.start + len(data) // row} of {raw.shape[0]}")
        yield np.frombuffer(data, dtype=raw.dtype).reshape(n, raw.features)[:, lo:hi]
