"""Data that are in memory: arrays that every rank has, or features of which every rank has its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.data.sources import Source, Values, block_rows, from_arrays
from dnewton.errors import UserError

BLOCK = 4 << 20  # bytes of a sparse matrix that are made dense at a time


@dataclass(frozen=True)
class Columns:
    """This rank's features of all samples; those of rank 0 come first, then those of rank 1, and so on."""

    local: Any  # (samples, features of this rank)
    total: int  # features of all ranks


def columns(local: Any, total: int) -> Columns:
    """The data of ranks that hold only their own features: `local` (samples, features of this rank), and how many
    features all ranks hold together."""
    return Columns(local, total)


def source_of(name: str, x: Any, y: Any, comm: Comm) -> Source:
    """Samples and targets in memory as a source; `name` stands for them in messages.

    `x`: an array, nested list, table with named columns, sparse matrix (all the same on all ranks) or
    :class:`Columns`; `y`: one target a sample, or rows of them, or None. Raises UserError alike on all ranks.
    Collective over `comm`.
    """
    with comm.raise_together():
        targets = None if y is None else labels(name, y)
    if isinstance(x, Columns):
        source = _of_columns(name, x, comm)
    else:
        with comm.raise_together():
            source = _of_array(name, x)
    with comm.raise_together():
        if targets is not None and len(targets) != source.samples:
            raise UserError(f"{name}: x has {source.samples} sample(s), y has {len(targets)}; they must be as many")
    _agree(name, source, targets, comm)
    return source if targets is None else _with_targets(source, targets)


def _with_targets(source: Source, targets: Values) -> Source:
    from dataclasses import replace

    return replace(source, targets=lambda: targets)


def labels(name: str, y: Any) -> Values:
    """Targets as numbers or text: (samples,) or (samples, targets). Raises UserError."""
    values = np.asarray(y)
    if values.dtype.kind == "O":
        kinds = {isinstance(v, str) for v in values.ravel().tolist()}
        try:
            values = values.astype(str if kinds == {True} else np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{name}: y must hold numbers or strings, not a mixture or other objects") from None
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind not in "fiubU":
        raise UserError(f"{name}: y must hold numbers or strings, it has dtype {values.dtype}")
    if values.ndim not in (1, 2) or values.size == 0:
        raise UserError(f"{name}: y must be [samples] or [samples, targets], it has shape {list(values.shape)}")
    return np.where(values, 1, 0) if values.dtype.kind == "b" else values


def _numbers(name: str, x: Any) -> Values:
    try:
        values = np.asarray(x)
        if values.dtype.kind == "O":  # of pandas: columns with pd.NA
            nullable = hasattr(x, "to_numpy") and hasattr(x, "columns")
            values = x.to_numpy(dtype=np.float64, na_value=np.nan) if nullable else values.astype(np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: x must hold numbers, all rows of one length") from None
    if values.dtype.kind not in "fiub":
        raise UserError(f"{name}: x must hold numbers, it has dtype {values.dtype}")
    if values.ndim not in (2, 3, 4):
        raise UserError(
            f"{name}: x must be [samples, features], [samples, channels, length] or [samples, channels, height, "
            f"width], it has shape {list(values.shape)}"
        )
    return values


def _of_array(name: str, x: Any) -> Source:
    from dataclasses import replace

    if hasattr(x, "tocsr"):
        return _of_sparse(name, x)
    values = _numbers(name, x)
    if values.size == 0:
        raise UserError(f"{name}: x is empty, shape {list(values.shape)}")
    named = getattr(x, "columns", None)
    names = tuple(map(str, named)) if named is not None and values.ndim == 2 else None
    return replace(from_arrays(name, values, None), columns=names)


def _of_sparse(name: str, x: Any) -> Source:
    matrix = x.tocsr()
    samples, features = matrix.shape
    if matrix.dtype.kind not in "fiub" or samples * features == 0:
        raise UserError(f"{name}: x must be a matrix of numbers, it is {list(matrix.shape)} of {matrix.dtype}")

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        for part in block_rows(samples, max(1, hi - lo) * matrix.dtype.itemsize, BLOCK):
            yield matrix[part, lo:hi].toarray()

    def rows(indices: Values, lo: int, hi: int) -> Values:
        return np.asarray(matrix[indices, lo:hi].toarray())

    return Source(name, samples, (features,), matrix.dtype, blocks, None, rows)


def _of_columns(name: str, given: Columns, comm: Comm) -> Source:
    """Every rank's features, which go to the ranks that own them when they are asked for. Collective over `comm`."""
    with comm.raise_together():
        local = _numbers(name, given.local)
        if local.ndim != 2:
            raise UserError(f"{name}: columns(local, total): local must be [samples, features], {list(local.shape)}")
    every = comm.concatenate(np.array([[local.shape[0], local.shape[1], given.total]], dtype=np.int64))
    with comm.raise_together():
        if len({int(n) for n in every[:, 0]}) > 1:
            raise UserError(f"{name}: columns(local, total): the ranks hold {every[:, 0].tolist()} samples")
        if {int(n) for n in every[:, 2]} != {int(every[:, 1].sum())}:
            raise UserError(
                f"{name}: columns(local, total): total is {given.total}, the ranks hold {every[:, 1].tolist()} features"
            )
        if not int(every[0, 0]) * given.total:
            raise UserError(f"{name}: x is empty, {int(every[0, 0])} samples of {given.total} features")
    wide = comm.minmax(float(local.dtype != np.float32))[1] > 0
    local = local.astype(np.float64 if wide else np.float32, copy=False)
    ends = np.cumsum(every[:, 1])
    start = int(ends[comm.rank]) - local.shape[1]
    owned: dict[tuple[int, int], Values] = {}

    def fetch(lo: int, hi: int) -> None:
        wanted = comm.concatenate(np.array([[lo, hi]], dtype=np.int64))
        parts = []
        for first, last in wanted.tolist():
            a, b = (min(max(edge - start, 0), local.shape[1]) for edge in (first, last))
            parts.append(np.ascontiguousarray(local[:, a : max(a, b)]))
        arrived = comm.alltoall(parts)
        shaped = [part.reshape(len(local), -1) if part.size else np.empty((len(local), 0)) for part in arrived]
        owned[lo, hi] = np.concatenate(shaped, axis=1).astype(local.dtype, copy=False)

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        yield owned[lo, hi]

    return Source(name, len(local), (given.total,), local.dtype, blocks, None, fetch=fetch)


def _agree(name: str, source: Source, targets: Values | None, comm: Comm) -> None:
    """Raise UserError where the ranks were given different data: later they would wait for each other.

    Collective over `comm`.
    """
    import zlib

    about = f"{source.samples} {source.shape} {source.dtype} {None if targets is None else targets.dtype}"
    seen = zlib.crc32(about.encode())
    content = 0 if targets is None else zlib.crc32(np.ascontiguousarray(targets).view(np.uint8).data)
    shapes, contents = comm.minmax(float(seen)), comm.minmax(float(content))
    with comm.raise_together():
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name}: the ranks were given x or y of different shapes or dtypes (here {about}); all must give the "
                "same, or dnewton.columns(local, total)"
            )
        if contents[0] != contents[1]:
            raise UserError(f"{name}: y differs from rank to rank; all must give the same")
