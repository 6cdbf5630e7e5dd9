"""Text files parsed once: every rank parses some blocks, the rows then go to the ranks that own their columns.

A plain file is cut into byte ranges, one run of blocks per rank. A compressed one can only be read from its start:
every rank decompresses it and parses every P-th block.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.data.file_kinds import compression, guard, open_bytes
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError
from dnewton.grid import ceil_div

TEXT_BLOCK = 2 << 20  # bytes of text that are parsed at a time
_BEGINNING = 64 << 10  # bytes by which the ends of lines are told
_PACKED_BLOCK = 2 << 20


class BadLine(Exception):
    """A line that cannot be read; `line` counts from the start of the block."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Rows:
    """The samples of one block as CSR parts; dense rows have no `columns`."""

    y: Any  # (rows, targets) numbers, or (rows,) strings
    indptr: Any
    columns: Any  # None: `values` is (rows, features)
    values: Any
    lines: Any  # the line of each row in its block
    weights: Any = None  # (rows,) of the samples, of a table that has them


@dataclass
class Parsed:
    """What this rank has parsed of a file: blocks by number, and for all blocks where their rows start."""

    starts: Any = None  # (blocks + 1,) first row of every block
    blocks: dict[int, Rows] = field(default_factory=dict)
    owner: Callable[[int], int] = lambda b: 0


def parse_numbers(text: bytes) -> Any:
    """The numbers of a text that are separated by blanks; fewer than there are words if one is not a number."""
    if not text.strip():
        return np.zeros(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older versions of NumPy warn where newer ones raise
            return np.fromstring(text, dtype=np.float64, sep=" ")
    except ValueError:
        return np.zeros(0)


def is_number(word: bytes) -> bool:
    """Whether a word is a number as the text formats have them."""
    try:
        float(word)
    except ValueError:
        return False
    return b"_" not in word


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a text: few control characters and no zeros."""
    start = head[:4096]
    return b"\0" not in head and sum(c < 32 and c not in b"\t\n\r\f" for c in start) <= len(start) // 20


def line_end(head: bytes) -> bytes:
    r"""What ends the lines of a file that begins so: \r of old Macintosh files, else \n, also for \r\n."""
    return b"\r" if b"\r" in head and b"\n" not in head else b"\n"


Parse = Callable[[bytes], Rows]


def parse_file(path: str, parse: Parse, comm: Comm, skip: int = 0) -> Parsed:
    """Parse a file from byte `skip` (of the decompressed text) on; `parse` gets blocks of whole lines.

    Raises UserError that names the line, alike on all ranks. Collective over the world.
    """
    packed = compression(path) is not None
    parsed = Parsed()
    with comm.raise_together():
        with guard(path), open_bytes(path) as file:
            end = line_end(file.read(_BEGINNING))
        if packed:
            parsed.owner = lambda b: b % comm.size
            blocks = 0
            for b, text in _packed_blocks(path, skip, end):
                blocks = b + 1
                if parsed.owner(b) == comm.rank:
                    parsed.blocks[b] = _parsed(path, parse, b, text, None, skip, end)
        else:
            size = os.path.getsize(path) - skip
            per_rank = max(1, ceil_div(size, comm.size * TEXT_BLOCK))
            blocks = comm.size * per_rank
            parsed.owner = lambda b: b // per_rank
            cuts = [skip + b * size // blocks for b in range(blocks + 1)]
            with guard(path), open(path, "rb") as file:
                for b in range(blocks):
                    if parsed.owner(b) == comm.rank:
                        text = lines_starting_in(file, cuts[b], cuts[b + 1], cuts[b] == skip, end)
                        parsed.blocks[b] = _parsed(path, parse, b, text, cuts[b], skip, end)
    counts = [0.0] * blocks
    for b, rows in parsed.blocks.items():
        counts[b] = float(len(rows.y))
    parsed.starts = np.concatenate([[0], np.cumsum(comm.sum_scalars(counts))]).astype(np.int64)
    return parsed


def _parsed(path: str, parse: Parse, block: int, text: bytes, start: int | None, skip: int, end: bytes) -> Rows:
    try:
        return parse(text if end == b"\n" else text.replace(end, b"\n"))
    except BadLine as error:
        before = _lines_before(path, block, start, skip, end)
        raise UserError(f"{path}: line {before + error.line + 1}: {error}") from None


def lines_starting_in(file: Any, start: int, stop: int, first: bool, end: bytes = b"\n") -> bytes:
    """The whole lines, which end with `end`, whose first byte lies in [start, stop); `first`: a line starts at `start`
    itself."""
    back = 0 if first else 1
    file.seek(start - back)
    text = file.read(stop - start + back)
    if not first:
        at = text.find(end) + 1
        if not at:  # no line starts here
            return b""
        text = text[at:]
    if text and not text.endswith(end):
        text += _rest_of_line(file, end)
    return bytes(text)


def _rest_of_line(file: Any, end: bytes) -> bytes:
    if end == b"\n":
        return bytes(file.readline())
    parts: list[bytes] = []
    while part := file.read(1 << 12):
        at = part.find(end) + 1
        if at:
            file.seek(at - len(part), os.SEEK_CUR)
            return b"".join([*parts, part[:at]])
        parts.append(part)
    return b"".join(parts)


def _packed_blocks(path: str, skip: int, end: bytes) -> Iterator[tuple[int, bytes]]:
    with guard(path), open_bytes(path) as file:
        number = 0
        file.read(skip)
        rest = b""  # of a line that begins in the block before
        while text := file.read(_PACKED_BLOCK):
            if end == b"\n":
                yield number, text if text.endswith(end) else text + file.readline()
            else:  # no line is read by itself: going back in a compressed file is slow
                at = text.rfind(end) + 1
                yield number, rest + text[:at] if at else b""
                rest = text[at:] if at else rest + text
            number += 1
        if rest:
            yield number, rest


def _lines_before(path: str, block: int, start: int | None, skip: int, end: bytes) -> int:
    """The number of lines before a block; only for messages."""
    if start is None:
        with guard(path), open_bytes(path) as file:
            lines: int = file.read(skip).count(end)
        return lines + sum(text.count(end) for b, text in _packed_blocks(path, skip, end) if b < block)
    lines, left = 0, start
    with guard(path), open(path, "rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 24))):
            lines += part.count(end)
            left -= len(part)
        if block > 0 and not part.endswith(end):
            lines += 1  # the line that begins before the block and ends in it
    return lines


def source(
    path: str,
    parsed: Parsed,
    features: int,
    comm: Comm,
    base: int = 0,
    zero_based: bool | None = None,
) -> Source:
    """A source over parsed rows; `base` is the index of the first feature in the file.

    Its `fetch` can be called for one range of columns: the parsed rows are given up then.
    """
    slices: dict[tuple[int, int], list[Any]] = {}

    def fetch(lo: int, hi: int) -> None:
        if (lo, hi) not in slices:
            slices[lo, hi] = _redistribute(parsed, lo, hi, base, comm)
            parsed.blocks.clear()

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        for part in slices[lo, hi]:
            yield part if isinstance(part, np.ndarray) else part.toarray()

    samples = int(parsed.starts[-1])
    dtype = np.dtype(np.float64)
    return Source(path, samples, (features,), dtype, blocks, None, fetch=fetch, zero_based=zero_based)


def gathered_targets(path: str, parsed: Parsed, comm: Comm) -> Any:
    """The targets of all rows, in the file's order: whole numbers as integers. Collective over the world."""
    parts = [y for b in sorted(parsed.blocks) if len(y := parsed.blocks[b].y)]
    letters = int(comm.minmax(max([0.0, *(y.dtype.itemsize / 4 for y in parts if y.dtype.kind == "U")]))[1])
    widths = [float(y.shape[1]) for y in parts if y.ndim == 2]
    least = comm.minmax(min([math.inf, *widths]))[0]
    most = comm.minmax(max([0.0, *widths]))[1]
    some = letters > 0
    if least != most and not some:
        raise UserError(f"{path}: some lines have {int(least)} target(s), others {int(most)}")
    shape = (0,) if some else (0, int(most))
    empty = np.zeros(shape, dtype=f"U{max(1, letters)}" if some else np.float64)
    local = np.concatenate([empty, *(y.astype(empty.dtype).reshape(len(y), *shape[1:]) for y in parts)])
    out = _in_file_order(local, parsed, comm)
    if out.ndim == 2 and out.shape[1] == 1:
        out = out[:, 0]
    if out.dtype.kind == "f" and out.ndim == 1 and bool(np.all((out == np.round(out)) & (np.abs(out) < 2**53))):
        return out.astype(np.int64)
    return out


def gathered_weights(parsed: Parsed, comm: Comm) -> Any:
    """The weights of all rows of a table that has them, in the file's order, float64. Collective over the world."""
    parts = [w for b in sorted(parsed.blocks) if (w := parsed.blocks[b].weights) is not None]
    return _in_file_order(np.concatenate([np.zeros(0), *parts]), parsed, comm)


def _in_file_order(local: Any, parsed: Parsed, comm: Comm) -> Any:
    """What every rank has of its blocks' rows, of all rows. Collective over the world."""
    every = comm.concatenate(local)
    order = np.argsort([parsed.owner(b) for b in range(len(parsed.starts) - 1)], kind="stable")
    out, at = np.empty_like(every), 0
    for b in order:
        n = int(parsed.starts[b + 1] - parsed.starts[b])
        out[parsed.starts[b] : parsed.starts[b + 1]] = every[at : at + n]
        at += n
    return out


def _redistribute(parsed: Parsed, lo: int, hi: int, base: int, comm: Comm) -> list[Any]:
    """Columns lo to hi of all rows, block by block in the file's order: CSR, or arrays where the rows are dense."""
    from scipy import sparse

    bounds = comm.concatenate(np.array([[lo, hi]], dtype=np.int64))
    blocks = len(parsed.starts) - 1
    out: dict[int, Any] = {}
    own_blocks = sorted(parsed.blocks)
    turns = int(comm.minmax(float(len(own_blocks)))[1])
    of_rank = [[b for b in range(blocks) if parsed.owner(b) == r] for r in range(comm.size)]
    dense = comm.minmax(float(any(parsed.blocks[b].columns is None for b in own_blocks)))[1] > 0
    for turn in range(turns):
        rows = parsed.blocks[own_blocks[turn]] if turn < len(own_blocks) else None
        if comm.size == 1:
            assert rows is not None
            out[own_blocks[turn]] = rows.values[:, lo:hi] if dense else _csr(rows, base, lo, hi)
            continue
        received = comm.alltoall(_cut(rows, bounds, base, dense))
        for r, message in enumerate(received):
            if turn >= len(of_rank[r]):
                continue
            b = of_rank[r][turn]
            n = int(parsed.starts[b + 1] - parsed.starts[b])
            if dense:
                out[b] = message.view(np.float64).reshape(n, hi - lo)
                continue
            width = hi - lo
            per_column = message[: 4 * width].view(np.int32)
            nonzeros = int(per_column.sum())
            values = message[4 * width : 4 * width + 8 * nonzeros].copy().view(np.float64)
            places = message[4 * width + 8 * nonzeros :].copy().view(np.int32)
            indptr = np.concatenate([[0], np.cumsum(per_column)])
            out[b] = sparse.csc_matrix((values, places, indptr), shape=(n, width))
    return [out[b] for b in range(blocks) if len(out[b].shape) and out[b].shape[0]]


def _csr(rows: Rows, base: int, lo: int, hi: int) -> Any:
    from scipy import sparse

    columns = rows.columns - base
    if lo == 0:
        width = max(hi, int(columns.max(initial=-1)) + 1)
        whole = sparse.csr_matrix((rows.values, columns, rows.indptr), shape=(len(rows.y), width))
        return whole if width == hi else whole[:, :hi]
    whole = sparse.csr_matrix((rows.values, columns, rows.indptr))
    return whole[:, lo:hi]


def _cut(rows: Rows | None, bounds: Any, base: int, dense: bool) -> list[Any]:
    """A block's columns for every rank, as messages: counts per column, values, rows."""
    from scipy import sparse

    if rows is None:
        return [np.zeros(0, dtype=np.uint8) for _ in bounds]
    if dense:
        return [np.ascontiguousarray(rows.values[:, lo:hi]) for lo, hi in bounds]
    width = int(bounds.max())
    columns = rows.columns - base
    csc = sparse.csr_matrix((rows.values, columns, rows.indptr), shape=(len(rows.y), max(width, 1))).tocsc()
    messages = []
    for lo, hi in bounds:
        a, b = csc.indptr[lo], csc.indptr[hi]
        parts = [np.diff(csc.indptr[lo : hi + 1]).astype(np.int32), csc.data[a:b], csc.indices[a:b].astype(np.int32)]
        messages.append(np.concatenate([p.view(np.uint8) for p in parts]))
    return messages


def whole(x: Any, shape: tuple[int, ...], comm: Comm) -> Parsed:
    """A matrix (dense or CSR) that rank 0 holds, in the form of parsed blocks; other ranks pass None."""
    samples, features = shape[0], int(np.prod(shape[1:]))
    step = max(64, TEXT_BLOCK // (8 * features))
    parsed = Parsed(starts=np.append(np.arange(0, samples, step), samples))
    if comm.rank == 0:
        for b, start in enumerate(parsed.starts[:-1]):
            rows = x[start : start + step]
            none = np.zeros((rows.shape[0], 0))
            if isinstance(x, np.ndarray):
                flat = rows.reshape(len(rows), features).astype(np.float64)
                parsed.blocks[b] = Rows(none, None, None, flat, None)
            else:
                parsed.blocks[b] = Rows(none, rows.indptr, rows.indices, rows.data.astype(np.float64), None)
    return parsed
