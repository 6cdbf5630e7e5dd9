"""HDF5 files by hyperslabs: arrays at the root or in groups; MATLAB's version 7.3 is one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dnewton.data.file_kinds import BLOCK_BYTES
from dnewton.data.format_register import FORMATS, Arrays, Format, Opening, begins_with
from dnewton.data.formats.array_files import check_samples, check_targets, check_weights, runs
from dnewton.data.formats.array_names import Chosen, choose, named
from dnewton.data.formats.hdf5_content import DAMAGE, dataset_names, labels, opened, readable
from dnewton.data.formats.time_limit import tried
from dnewton.data.reordered import channel_major
from dnewton.data.sample_shape import in_columns, said, targets_by_sample
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line
from dnewton.grid import ceil_div


@dataclass(frozen=True)
class Stored:
    """A data set of samples, and how they lie in it."""

    path: str
    name: str
    shape: tuple[int, ...]  # (samples, ...) as its owner sees it
    dtype: np.dtype[Any]
    turned: bool  # MATLAB's axes, which the file has in reverse
    columns: bool  # the samples are the owner's last axis
    chunk: int  # samples in a chunk

    @property
    def features(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape[1:])

    @property
    def last(self) -> bool:
        """Whether the samples are the file's last axis."""
        return self.turned != self.columns

    @property
    def in_part(self) -> bool:
        """Whether a range of features can be read by itself."""
        return len(self.shape) == 2 or not (self.turned or self.columns)

    def width(self, lo: int, hi: int) -> int:
        """Numbers that are read of every sample for features lo to hi."""
        return max(1, hi - lo if self.in_part else self.features)

    def read(self, x: Any, first: int, last: int, lo: int, hi: int) -> Values:
        """Features lo to hi of samples first to last of the open data set."""
        if len(self.shape) == 2:
            return np.asarray(x[lo:hi, first:last]).T if self.last else np.asarray(x[first:last, lo:hi])
        n = last - first
        if not self.in_part:
            part = np.asarray(x[..., first:last] if self.last else x[first:last])
            part = part.T if self.turned else part
            part = np.moveaxis(part, -1, 0) if self.columns else part
            return part.reshape(n, self.features)[:, lo:hi]
        size = math.prod(self.shape[2:])  # whole channels, then the columns
        c_lo, c_hi = lo // size, ceil_div(hi, size)
        part = np.asarray(x[first:last, c_lo:c_hi]).reshape(n, (c_hi - c_lo) * size)
        return part[:, lo - c_lo * size : hi - c_lo * size]

    def slabs(self, ranges: Iterator[tuple[int, int]], lo: int, hi: int) -> Iterator[Values]:
        """Ranges of samples. Raises UserError where the file is damaged."""
        try:
            with opened(self.path) as file:
                for first, last in ranges:
                    yield self.read(file[self.name], first, last, lo, hi)
        except DAMAGE as error:
            raise UserError(f"{self.path}: is damaged or cut short: {one_line(error)}") from None

    def blocks(self, lo: int, hi: int) -> Iterator[Values]:
        """All samples in blocks of whole chunks: each is decompressed once."""
        step = max(1, BLOCK_BYTES // (self.width(lo, hi) * self.dtype.itemsize))
        step = max(step // self.chunk, 1) * self.chunk
        samples = self.shape[0]
        return self.slabs(((i, min(samples, i + step)) for i in range(0, samples, step)), lo, hi)

    def rows(self, indices: Values, lo: int, hi: int) -> Values:
        """Some samples (ascending)."""
        limit = max(1, BLOCK_BYTES // (self.width(lo, hi) * self.dtype.itemsize))
        cuts = list(runs(indices, self.chunk, limit))
        spans = iter([(int(indices[a]), int(indices[b - 1]) + 1) for a, b in cuts])
        out = np.empty((len(indices), hi - lo), dtype=self.dtype)
        for (a, b), part in zip(cuts, self.slabs(spans, lo, hi), strict=True):
            out[a:b] = part[indices[a:b] - indices[a]]
        return out


def open_hdf5(path: str, opening: Opening | None = None, turned: bool = False) -> Source:
    """The data sets x and y, and perhaps weights; `turned` for MATLAB's column-major axes."""
    arrays = Arrays() if opening is None else opening.arrays
    wanted = None if opening is None else opening.input
    strict = opening is not None and opening.strict
    with readable(path), opened(path) as file:
        chosen = choose(path, dataset_names(file), opening)
        x = file[chosen.x]
        if x.shape is None:
            raise UserError(f"{path}: x is empty")
        shape = x.shape[::-1] if turned else x.shape
        check_samples(path, shape, x.dtype)
        y = None if chosen.y is None else labels(file, chosen.y, path, turned)
        w = None if chosen.w is None else np.asarray(file[chosen.w][()])
        counted = arrays.targets_apart if y is None else y.shape
        columns = in_columns(path, shape, counted, wanted, arrays.samples, strict, turned)
        chunk = max(1, x.chunks[-1 if turned != columns else 0]) if x.chunks else 1
        dtype = x.dtype
    notes = said(path, shape, columns)
    shape = (shape[-1], *shape[:-1]) if columns else shape
    if y is not None:
        y = targets_by_sample(y, shape[0])
        check_targets(path, y.shape, y.dtype, shape[0])
    if w is not None:
        check_weights(f"{path}: data set {chosen.w!r}", w.shape, w.dtype, shape[0])
    stored = Stored(path, chosen.x, shape, dtype, turned, columns, chunk)
    source = Source(
        path,
        shape[0],
        tuple(shape[1:]),
        dtype,
        stored.blocks,
        None if y is None else lambda: y,
        stored.rows,
        weights=None if w is None else lambda: w,
        notes=notes,
        samples_in="columns" if columns else "rows",
    )
    return source if opening is None else channel_major(source, opening)


def open_shared(path: str, opening: Opening, turned: bool = False) -> Source:
    """:func:`open_hdf5` on every rank, after rank 0 has tried it. Raises UserError alike on all ranks.

    Collective over the world.
    """
    comm = opening.comm
    with comm.raise_together():
        if comm.rank == 0:
            _try(path, opening.timeout, partial(_walk, path, opening, turned))
    with comm.raise_together():
        return open_hdf5(path, opening, turned)


def read_hdf5(path: str, name: str | None, opening: Opening, turned: bool = False) -> Values:
    """One array of a file, such as the targets. Raises UserError."""

    def read() -> Values:
        with readable(path), opened(path) as file:
            return labels(file, named(path, dataset_names(file), name, opening.key), path, turned)

    _try(path, opening.timeout, read)
    return read()


def _try(path: str, seconds: float, work: Callable[[], object]) -> None:
    import h5py  # noqa: F401  # before the child process is made, which need not load it again

    tried(work, seconds, path, "the HDF5 library")


def _walk(path: str, opening: Opening, turned: bool) -> None:
    """What opening a file reads, and the index of the samples' chunks: all that is a chain of pointers."""
    open_hdf5(path, opening, turned)
    with opened(path) as file:
        chosen: Chosen = choose(path, dataset_names(file), opening)
        if file[chosen.x].chunks:
            file[chosen.x].id.get_num_chunks()


def _open(path: str, labels_path: str | None, opening: Opening) -> Source:
    return open_shared(path, opening)


FORMATS.add(".h5", ".hdf5")(
    Format(
        "an HDF5 file",
        begins_with(b"\x89HDF\r\n\x1a\n"),
        _open,
        has_arrays=True,
        oriented=True,
        array=read_hdf5,
    )
)
