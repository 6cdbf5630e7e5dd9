"""CIFAR's binary records, which begin with nothing that tells them apart: files are known by the suffix .bin."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from dnewton.data.file_kinds import compression, guard, open_bytes, suffix_of
from dnewton.data.format_register import FORMATS, Format, opened_by_each
from dnewton.data.formats.array_files import RawArray, stream_blocks
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError

_RECORDS = {3073: 1, 3074: 2}  # CIFAR-10 and CIFAR-100: bytes of a record, and of these the labels


def open_records(path: str) -> Source:
    """CIFAR binary records: one label byte (CIFAR-100: two, the second counts), then 3 x 32 x 32 pixels."""
    size, packed = os.path.getsize(path), compression(path) is not None
    labels: dict[int, Values] = {}
    if packed:
        size, labels = _count_records(path)
    record = next((r for r in _RECORDS if size % r == 0), None)
    if record is None:
        raise UserError(f"{path}: has {size} bytes, which is not a whole number of CIFAR records (3073 or 3074 bytes)")
    skip, samples = _RECORDS[record], size // record
    raw = RawArray(path, 0, (samples, record), False, np.dtype("u1"))

    def targets() -> Values:
        y = labels[record] if packed else np.concatenate(list(raw.blocks(skip - 1, skip)))[:, 0]
        bad = np.flatnonzero(y >= (10 if skip == 1 else 100))
        if bad.size:
            raise UserError(f"{path}: row {int(bad[0])}: label {int(y[bad[0]])}; these are not CIFAR records")
        return y

    def streamed(lo: int, hi: int) -> Iterator[Values]:
        with guard(path), open_bytes(path) as file:
            yield from stream_blocks(file, raw, lo, hi)

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        yield from (streamed if packed else raw.blocks)(lo + skip, hi + skip)

    def rows(indices: Values, lo: int, hi: int) -> Values:
        return raw.rows(indices, lo + skip, hi + skip)

    return Source(
        path, samples, (3, 32, 32), raw.dtype, blocks, targets, None if packed else rows, repeatable=not packed
    )


def _count_records(path: str) -> tuple[int, dict[int, Values]]:
    """The bytes of a compressed file, and the labels for either size of record: what one decompression can tell."""
    size = 0
    labels = {record: [np.zeros(0, dtype=np.uint8)] for record in _RECORDS}
    with guard(path), open_bytes(path) as file:
        while data := file.read(1 << 20):
            for record, skip in _RECORDS.items():
                labels[record].append(np.frombuffer(data, dtype=np.uint8)[(skip - 1 - size) % record :: record])
            size += len(data)
    return size, {record: np.concatenate(parts) for record, parts in labels.items()}


FORMATS.add("CIFAR records")(
    Format(
        "CIFAR binary records",
        lambda head, path: suffix_of(path) == ".bin",
        opened_by_each(lambda path, _: open_records(path)),
        packed=True,
    )
)
