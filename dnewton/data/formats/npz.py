"""`.npz` archives with x and y."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
    raw_source,
    read_header,
    stream_blocks,
)
from dnewton.data.formats.array_names import choose, named
from dnewton.data.reordered import channel_major
from dnewton.data.sample_shape import targets_by_sample
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line


def open_npz(path: str, opening: Opening) -> Source:
    """An archive with x and y, and perhaps weights; members that are not compressed are read like `.npy` files."""
    with _archive(path) as archive:
        chosen = choose(path, _names(archive), opening)
        raw = _member(archive, chosen.x, path)
        y = None if chosen.y is None else _member(archive, chosen.y, path)
        w = None if chosen.w is None else _member(archive, chosen.w, path)
        stored = archive.getinfo(f"{chosen.x}.npy").compress_type == zipfile.ZIP_STORED
    check_samples(path, raw.shape, raw.dtype)
    if stored:
        raw.check_size()
    whole = partial(_load, path, chosen.x)
    source = raw_source(raw, opening.arrays.targets_apart if y is None else y.shape, opening, None if stored else whole)
    if not stored and source.samples_in == "rows" and not raw.fortran:  # else a row of it is no piece of the stream

        def blocks(lo: int, hi: int) -> Iterator[Values]:
            with guard(path), zipfile.ZipFile(path) as archive, archive.open(f"{chosen.x}.npy") as file:
                read_header(file, path)
                yield from stream_blocks(file, raw, lo, hi)

        source = replace(source, blocks=blocks)
    samples = source.samples
    if y is not None:
        shape = targets_by_sample(np.empty(y.shape, dtype=bool), samples).shape
        check_targets(path, shape, y.dtype, samples)
        source = replace(source, targets=lambda: targets_by_sample(_load(path, str(chosen.y)), samples))
    if w is not None:
        check_weights(f"{path}: array {chosen.w!r}", w.shape, w.dtype, samples)
        source = replace(source, weights=partial(_load, path, str(chosen.w)))
    return channel_major(source, opening)


@contextmanager
def _archive(path: str) -> Iterator[zipfile.ZipFile]:
    try:
        with guard(path), zipfile.ZipFile(path) as archive:
            yield archive
    except (ValueError, RuntimeError) as error:  # damaged names, an unknown or encrypted archive
        raise UserError(f"{path}: cannot be read as .npz: {one_line(error)}") from None


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [n.removesuffix(".npy") for n in archive.namelist()]


def _array(path: str, name: str | None, opening: Opening) -> Values:
    with _archive(path) as archive:
        inside = named(path, _names(archive), name, opening.key)
        raw = _member(archive, inside, path)
    check_targets(path, raw.shape, raw.dtype, None)
    return _load(path, inside)


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
    Format(
        "an .npz",
        begins_with(b"PK\x03\x04", b"PK\x05\x06"),
        arrays_opened_by_each(open_npz),
        has_arrays=True,
        oriented=True,
        array=_array,
    )
)
