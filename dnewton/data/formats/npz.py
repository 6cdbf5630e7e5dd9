"""`.npz` archives with x and y."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from functools import partial

import numpy as np

from dnewton.data.file_kinds import guard
from dnewton.data.format_register import FORMATS, Format, Opening, arrays_opened_by_each, begins_with
from dnewton.data.formats.array_files import (
    RawArray,
    as_text,
    check_samples,
    check_targets,
    check_weights,
    pick,
    pick_weights,
    read_header,
    stream_blocks,
)
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line


def open_npz(path: str, opening: Opening | None = None) -> Source:
    """An archive with x and y, and perhaps weights; members that are not compressed are read like `.npy` files."""
    try:
        with guard(path), zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist()]
            x, y = pick(path, names)
            w = pick_weights(path, names, opening)
            raw = _member(archive, x, path)
            other = _member(archive, y, path) if y is not None else None
            third = _member(archive, w, path) if w is not None else None
            stored = archive.getinfo(f"{x}.npy").compress_type == zipfile.ZIP_STORED
    except (ValueError, RuntimeError) as error:  # damaged names, an unknown or encrypted archive
        raise UserError(f"{path}: cannot be read as .npz: {one_line(error)}") from None
    check_samples(path, raw.shape, raw.dtype)
    targets = None
    if y is not None and other is not None:
        check_targets(path, other.shape, other.dtype, raw.shape[0])
        targets = partial(_load, path, y)
    weights = None
    if w is not None and third is not None:
        check_weights(f"{path}: array {w!r}", third.shape, third.dtype, raw.shape[0])
        weights = partial(_load, path, w)
    if stored:
        raw.check_size()
        return Source(path, raw.shape[0], raw.shape[1:], raw.dtype, raw.blocks, targets, raw.rows, weights=weights)

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        if raw.fortran:  # rare: a row of it cannot be read by itself
            yield _load(path, x).reshape(raw.shape[0], raw.features)[:, lo:hi]
            return
        with guard(path), zipfile.ZipFile(path) as archive, archive.open(f"{x}.npy") as file:
            read_header(file, path)
            yield from stream_blocks(file, raw, lo, hi)

    return Source(path, raw.shape[0], raw.shape[1:], raw.dtype, blocks, targets, repeatable=False, weights=weights)


def _load(path: str, key: str) -> Values:
    with guard(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return as_text(np.asarray(np.load(path, allow_pickle=False)[key]))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: is damaged or cut short: {one_line(error)}") from None


def _member(archive: zipfile.ZipFile, key: str, path: str) -> RawArray:
    """A member's array; its offset in the archive is right where the member is not compressed."""
    try:
        info = archive.getinfo(f"{key}.npy")
        with archive.open(info) as file:
            inside, shape, fortran, dtype = read_header(file, f"{path}: array {key!r}")
    except KeyError:
        raise UserError(f"{path}: array {key!r} is not a .npy member") from None
    with open(path, "rb") as raw:
        raw.seek(info.header_offset + 26)  # the local header's lengths of its name and extra field
        lengths = raw.read(4)
    start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    return RawArray(path, start + inside, shape, fortran, dtype)


FORMATS.add(".npz")(
    Format("an .npz", begins_with(b"PK\x03\x04", b"PK\x05\x06"), arrays_opened_by_each(open_npz), has_arrays=True)
)
