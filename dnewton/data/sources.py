"""Sources of samples: bundled sets and `.npz` files, read by columns so that a rank holds only its features.

A source is (samples, features) with images flattened channel-major; `columns(lo, hi)` reads a contiguous range.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from dnewton.errors import UserError, one_line

Values = np.ndarray[Any, Any]

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """A data set that can be read by columns."""

    name: str
    samples: int
    shape: tuple[int, ...]  # of one sample: (features,) or (C, H, W)
    dtype: np.dtype[Any]  # as stored
    columns: Callable[[int, int, str], Values]  # (lo, hi, dtype) -> (samples, hi - lo)
    targets: Callable[[], Values]

    @property
    def features(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape)


def is_bundled(name: str) -> bool:
    """True for a bundled set that no file of the same name hides."""
    return name in BUNDLED and not os.path.isfile(name)


def find_file(name: str, folder: str) -> str:
    """The absolute path of a data file, looked up in the working directory and then in `folder`, the YAML file's.

    The name of a bundled set, and a name that is not found, stay as they are.
    """
    if is_bundled(name):
        return name
    path = next((p for p in (name, os.path.join(folder, name)) if os.path.exists(p)), None)
    return os.path.abspath(path) if path else name


def open_file(path: str, part: str) -> Source:
    """The source for a file; `part` is train or test, for messages. Raises UserError when there is none."""
    name = path
    if not os.path.exists(path):
        raise UserError(f"data.{part}: {name} is neither a file nor a bundled set ({', '.join(BUNDLED)})")
    if os.path.isdir(path):
        raise UserError(f"data.{part}: {path} is a directory; name a file inside it")
    if not path.endswith(".npz"):
        raise UserError(f"data.{part}: {path}: unknown kind of file; an .npz with arrays x and y is needed")
    return _npz(path)


def read_bundled(name: str, part: str) -> tuple[Values, Values]:
    """x and y of a bundled set's fixed train or test part (four fifths and one fifth, stratified by class)."""
    from sklearn import datasets  # slow to import: only rank 0 does
    from sklearn.model_selection import train_test_split

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    stratify = None if name == "diabetes" else y
    kept = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=stratify)
    rows = np.sort(kept[0] if part == "train" else kept[1])  # the split is fixed: it is part of the data set
    return x[rows], y[rows]


def from_arrays(name: str, x: Values, y: Values) -> Source:
    """A source over arrays in memory."""
    return Source(name, len(y), (x.shape[1],), x.dtype, lambda lo, hi, dtype: x[:, lo:hi].astype(dtype), lambda: y)


def _npz(path: str) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {n.removesuffix(".npy") for n in archive.namelist()}
            for key in ("x", "y"):
                if key not in names:
                    found = ", ".join(sorted(names)) or "nothing"
                    raise UserError(f"{path}: has no array {key!r}; x and y are needed (found {found})")
            shape, fortran, dtype = _header(archive, "x", path)
            y_shape, _, y_dtype = _header(archive, "y", path)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read as .npz: {one_line(error)}") from None
    if dtype.kind not in "fiub":
        raise UserError(f"{path}: x must hold numbers, it has dtype {dtype}")
    if y_dtype.kind not in "fiubU":
        raise UserError(f"{path}: y must hold numbers or strings, it has dtype {y_dtype}")
    if len(shape) not in (2, 4):
        raise UserError(
            f"{path}: x must be [samples, features] or [samples, channels, height, width], it is {list(shape)}"
        )
    if len(y_shape) == 2 and (y_shape[1] == 0 or (y_dtype.kind == "U" and y_shape[1] > 1)):
        raise UserError(f"{path}: y must be [samples] or numbers [samples, targets], it is {list(y_shape)} {y_dtype}")
    if len(y_shape) not in (1, 2) or y_shape[0] != shape[0]:
        raise UserError(f"{path}: y must have one row per sample ({shape[0]}), it has shape {list(y_shape)}")
    if shape[0] == 0 or math.prod(shape[1:]) == 0:
        raise UserError(f"{path}: x is empty, shape {list(shape)}")

    def columns(lo: int, hi: int, wanted: str) -> Values:
        return _npz_columns(path, shape, fortran, dtype, lo, hi, wanted)

    def targets() -> Values:
        return _guarded(path, lambda: np.asarray(np.load(path, allow_pickle=False)["y"]))

    return Source(path, shape[0], shape[1:], dtype, columns, targets)


def _guarded(path: str, read: Callable[[], Values]) -> Values:
    try:
        return read()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: is damaged or cut short: {one_line(error)}") from None


def _header(archive: zipfile.ZipFile, key: str, path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        with archive.open(f"{key}.npy") as stream:
            return _read_header(stream)
    except (ValueError, KeyError, zlib.error, SyntaxError) as error:
        raise UserError(f"{path}: array {key!r} cannot be read: {one_line(error)}") from None


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _npz_columns(
    path: str, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any], lo: int, hi: int, wanted: str
) -> Values:
    n, features = shape[0], math.prod(shape[1:])

    def whole() -> Values:  # column-major arrays: rare, and a row cannot be read by itself
        x = np.load(path, allow_pickle=False)["x"]
        return np.ascontiguousarray(x.reshape(n, features)[:, lo:hi]).astype(wanted)

    def streamed() -> Values:
        out = np.empty((n, hi - lo), dtype=wanted)
        row = features * dtype.itemsize
        step = max(1, _READ_BYTES // row)
        with zipfile.ZipFile(path) as archive, archive.open("x.npy") as stream:
            _read_header(stream)
            for i in range(0, n, step):
                m = min(step, n - i)
                data = stream.read(m * row)
                if len(data) != m * row:
                    raise EOFError(f"x ends in row {i + len(data) // row} of {n}")
                out[i : i + m] = np.frombuffer(data, dtype=dtype).reshape(m, features)[:, lo:hi]
        return out

    return _guarded(path, whole if fortran else streamed)
