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

from dnewton.errors import UserError, one_line

BLOCK_BYTES = 8 << 20  # what a reader holds besides the columns that it is asked for: one such block or two
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_SUFFIXES = {  # what a name promises, where it promises anything
    ".npy": "npy",
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".mat": "mat",
    ".csv": "csv",
    ".tsv": "csv",
    ".svm": "libsvm",
    ".libsvm": "libsvm",
    ".svmlight": "libsvm",
}
_WORDS = {
    "npy": "a NumPy array (.npy)",
    "npz": "an .npz",
    "hdf5": "an HDF5 file",
    "mat": "a MATLAB .mat file",
    "csv": "a table of text",
    "libsvm": "LIBSVM text",
    "idx": "an idx file",
    "batch": "a CIFAR-10 python batch",
    "records": "CIFAR binary records",
}


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
    """gzip, bzip2 or xz by the first bytes of the file, else None."""
    with guard(path), open(path, "rb") as file:
        head = file.read(6)
    return next((name for magic, name in _COMPRESSION.items() if head.startswith(magic)), None)


def open_bytes(path: str) -> Any:
    """The content of a file, decompressed. Use it inside :func:`guard`."""
    how = compression(path)
    if how == "gzip":
        return gzip.open(path, "rb")
    if how == "bzip2":
        return bz2.open(path, "rb")
    if how == "xz":
        return lzma.open(path, "rb")
    return open(path, "rb")


def kind_of(path: str) -> str:
    """The format: npy, npz, hdf5, mat, idx, batch, records, libsvm or csv.

    Raises UserError when the content is of none, or of another than the name promises.
    """
    with guard(path), open_bytes(path) as file:
        head = file.read(1 << 16)
    if not head:
        raise UserError(f"{path}: is empty")
    found = _by_content(path, head)
    if found in ("npy", "npz", "hdf5", "mat") and compression(path) is not None:
        raise UserError(f"{path}: {_WORDS[found]} inside a compressed file; decompress it first")
    stem = re.sub(r"\.(gz|bz2|xz)$", "", path.lower())
    promised = _SUFFIXES.get(os.path.splitext(stem)[1])
    if promised and found != promised and {promised, found} != {"csv", "libsvm"}:
        raise UserError(f"{path}: begins with {head[:8]!r}; that is not {_WORDS[promised]}")
    if found is None:
        raise UserError(
            f"{path}: unknown kind of file (begins with {head[:8]!r}); readable are LIBSVM and CSV text, .npy, .npz, "
            "HDF5, idx, CIFAR batches and .mat, the texts and idx also as .gz, .bz2, .xz"
        )
    return promised or found


def _by_content(path: str, head: bytes) -> str | None:
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if head.startswith(b"MATLAB 7.3"):
        return "mat"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"MATLAB 5.0"):
        return "mat"
    if re.search(r"\.bin(\.(gz|bz2|xz))?$", path.lower()):
        return "records"
    if len(head) > 4 and head[:2] == b"\0\0" and head[2] in (8, 9, 11, 12, 13, 14) and 1 <= head[3] <= 4:
        return "idx"
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "batch"
    if b"\0" in head or sum(c < 32 and c not in b"\t\n\r\f" for c in head[:4096]) > len(head[:4096]) // 20:
        return None
    return "libsvm" if re.search(rb"(?:^|[\s])\d+:[^\s:]", head) else "csv"
