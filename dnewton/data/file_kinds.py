"""Data files as bytes: kinds told apart by content, decompression, and reads whose failures are one line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dnewton.data.format_register import FORMATS
from dnewton.errors import UserError, one_line

BLOCK_BYTES = 8 << 20  # what a reader holds besides the columns that it is asked for: one such block or two
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


@contextmanager
def guard(path: str) -> Iterator[None]:
    """What goes wrong while reading `path` becomes a UserError that names it."""
    try:
        yield
    except PermissionError:
        raise UserError(f"{path}: cannot be read: permission denied") from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is damaged or cut short: {one_line(error)}") from None


def check_regular(path: str, key: str) -> None:
    """Raise UserError unless `path` is a file with something in it; `key` is the YAML's, for the message."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{key}: {path}: cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{key}: {path} is a directory; name a file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{key}: {path} is not a regular file")
    if status.st_size == 0:
        raise UserError(f"{key}: {path} is empty")
    if not os.access(path, os.R_OK):
        raise UserError(f"{key}: {path}: cannot be read: permission denied")


def compression(path: str) -> str | None:
    """gzip, bzip2, xz or zip by the first bytes of the file, else None. A .npz and its like is no compressed file."""
    with guard(path), open(path, "rb") as file:
        head = file.read(6)
    if head.startswith(b"PK\x03\x04"):
        return "zip" if _member(path) is not None else None
    return next((name for magic, name in _COMPRESSION.items() if head.startswith(magic)), None)


def _member(path: str) -> str | None:
    """The file inside a .zip; None where its members are arrays. Raises UserError where it has several files."""
    if path.lower().endswith(".npz"):
        return None
    with guard(path), zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
    if not names or any(n.endswith(".npy") for n in names):
        return None
    if "[Content_Types].xml" in names or "mimetype" in names:
        raise UserError(f"{path}: is a document of an office program; save the table as CSV text")
    if len(names) > 1:
        raise UserError(f"{path}: holds {len(names)} files ({', '.join(names[:5])}); extract those that are meant")
    return names[0]


def _open_zip(path: str) -> Any:
    name = _member(path)
    assert name is not None
    try:
        with zipfile.ZipFile(path) as archive:  # its file stays open until the member is closed
            return archive.open(name)
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: {one_line(error)}; extract it") from None


def open_bytes(path: str) -> Any:
    """The content of a file, decompressed. Use it inside :func:`guard`."""
    how = compression(path)
    if how == "gzip":
        return gzip.open(path, "rb")
    if how == "bzip2":
        return bz2.open(path, "rb")
    if how == "zip":
        return _open_zip(path)
    if how == "xz":
        return lzma.open(path, "rb")
    return open(path, "rb")


def suffix_of(path: str) -> str:
    """The suffix in small letters, without that of a compression."""
    return os.path.splitext(re.sub(r"\.(gz|bz2|xz|zip)$", "", path.lower()))[1]


def kind_of(path: str) -> str:
    """The name of a file's format in :data:`FORMATS`.

    Raises UserError when the content is of none, or of another than the suffix promises.
    """
    with guard(path), open_bytes(path) as file:
        head = file.read(1 << 16)
    if not head:
        raise UserError(f"{path}: is empty")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is text in UTF-16 or UTF-32; save it as UTF-8")
    promised = suffix if (suffix := suffix_of(path)) in FORMATS else None
    if promised is not None and FORMATS[promised].takes(head, path):
        kind = promised  # no other format need be asked, or imported
    else:
        kind = next((name for name in FORMATS.names() if FORMATS[name].takes(head, path)), "")
    if kind and not FORMATS[kind].packed and compression(path) is not None:
        raise UserError(f"{path}: {FORMATS[kind].words} inside a compressed file; decompress it first")
    if promised is not None and kind != promised:
        raise UserError(f"{path}: begins with {head[:8]!r}; that is not {FORMATS[promised].words}")
    if not kind:
        raise UserError(
            f"{path}: unknown kind of file (begins with {head[:8]!r}); readable are LIBSVM and CSV text, .npy, .npz, "
            "HDF5, idx, CIFAR batches and .mat, the texts and idx also as .gz, .bz2, .xz and .zip"
        )
    return kind
