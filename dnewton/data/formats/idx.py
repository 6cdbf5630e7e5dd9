"""idx, the format of the MNIST family: images or vectors, with the labels in a file of their own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np

from dnewton.data.file_kinds import compression, guard, open_bytes
from dnewton.data.format_register import FORMATS, Format, opened_by_each
from dnewton.data.formats.array_files import RawArray, check_targets, stream_blocks
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def open_idx(path: str, labels: str | None) -> Source:
    """Images (or vectors) in idx; the labels are in `labels` or in the file that the usual names pair with it."""
    raw = _idx_header(path)
    if len(raw.shape) == 1:
        raise UserError(f"{path}: holds labels ({list(raw.shape)}); name the file of images")
    if len(raw.shape) == 3:
        raw = RawArray(path, raw.offset, (raw.shape[0], 1, *raw.shape[1:]), False, raw.dtype)
    labels = labels or _labels_beside(path)
    y = None
    if labels is not None:
        other = _idx_header(labels)
        check_targets(labels, other.shape, other.dtype, raw.shape[0])
        y = _read_all(other)
    targets = None if y is None else lambda: y
    if compression(path) is None:
        raw.check_size(exact=True)
        return Source(path, raw.shape[0], raw.shape[1:], raw.dtype, raw.blocks, targets, raw.rows)

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        with guard(path), open_bytes(path) as file:
            _skip(file, raw.offset)
            yield from stream_blocks(file, raw, lo, hi)
            if file.read(1):
                raise UserError(f"{path}: goes on after its last row; its header does not fit its content")

    return Source(path, raw.shape[0], raw.shape[1:], raw.dtype, blocks, targets, repeatable=False)


def _labels_beside(path: str) -> str | None:
    folder, name = os.path.split(path)
    other = re.sub("idx[234]", "idx1", name.replace("images", "labels"))
    names = [other, re.sub(r"\.(gz|bz2|xz)$", "", other), other + ".gz"]
    return next((p for p in (os.path.join(folder, n) for n in names if n != name) if os.path.isfile(p)), None)


def _idx_header(path: str) -> RawArray:
    with guard(path), open_bytes(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not head[3]:
            raise UserError(f"{path}: begins with {head!r}; an idx file begins with two zero bytes, a type and a rank")
        sizes = file.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise EOFError("it ends in the header")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    if 0 in shape:
        raise UserError(f"{path}: is empty, shape {list(shape)}")
    return RawArray(path, 4 + 4 * head[3], shape, False, np.dtype(_IDX_TYPES[head[2]]))


def _skip(file: IO[bytes], count: int) -> None:
    if len(file.read(count)) != count:
        raise EOFError("it ends in the header")


def _read_all(raw: RawArray) -> Values:
    with guard(raw.path), open_bytes(raw.path) as file:
        _skip(file, raw.offset)
        parts = list(stream_blocks(file, raw, 0, raw.features))
    values = np.concatenate(parts).reshape(raw.shape)
    return np.asarray(values.astype(values.dtype.newbyteorder("=")))


def _is_idx(head: bytes, path: str) -> bool:
    return len(head) > 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 1 <= head[3] <= 4


FORMATS.add("idx")(Format("an idx file", _is_idx, opened_by_each(open_idx), packed=True, labels_apart=True))
