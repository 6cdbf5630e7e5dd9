"""What is in an HDF5 file: names of data sets in all groups, labels of every kind, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dnewton.data.sources import Values
from dnewton.errors import UserError, one_line

# What h5py raises for damaged files, besides OSError.
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError)
DEEPEST = 8  # groups in groups that are searched
MOST = 5000  # names


def opened(path: str) -> Any:
    """The file, open for reading."""
    import h5py  # half a second that other formats need not spend

    return h5py.File(path, "r")


@contextmanager
def readable(path: str) -> Iterator[None]:
    """What h5py raises becomes a UserError that says what to do."""
    try:
        yield
    except DAMAGE as error:
        text = one_line(error)
        if "unable to lock file" in text.lower():
            raise UserError(
                f"{path}: is locked: another program has it open for writing; wait until that has closed it, or set "
                "HDF5_USE_FILE_LOCKING=FALSE if none has (a file system may know no locks)"
            ) from None
        if "already open for write" in text.lower() or "consistency flags" in text.lower():
            raise UserError(
                f"{path}: is open for writing, or the program that wrote it has died: wait until it is closed, or "
                "run h5clear -s on it"
            ) from None
        raise UserError(f"{path}: not a readable HDF5 file: {text}") from None


def dataset_names(file: Any) -> list[str]:
    """The data sets at the root and in groups, as `group/name`, nearest to the root first; MATLAB's own are left out.

    Links to groups elsewhere are not followed.
    """
    import h5py

    found: list[str] = []
    level = [("", file)]
    for _ in range(DEEPEST):
        below = []
        for prefix, group in level:
            for name in group:
                if name.startswith("#") or len(found) > MOST:
                    continue
                item = group.get(name)
                if isinstance(item, h5py.Dataset):
                    found.append(prefix + name)
                elif isinstance(item, h5py.Group) and isinstance(group.get(name, getlink=True), h5py.HardLink):
                    below.append((f"{prefix}{name}/", item))
        level = below[:MOST]
    return found


def labels(file: Any, name: str, path: str, turned: bool) -> Values:
    """Targets: numbers, strings of fixed or variable length, MATLAB's cells and rows of characters."""
    import h5py

    y = file[name]
    if y.shape is None:
        raise UserError(f"{path}: {name} is empty")
    if turned and _matlab_class(y) == "cell":
        return np.array([_characters(file[ref], path, name) for ref in np.ravel(y[()])], dtype=str)
    if turned and _matlab_class(y) == "char":
        codes = np.asarray(y[()]).T
        return np.array(["".join(map(chr, row)).rstrip() for row in codes], dtype=str)
    if y.dtype.kind in "OS":
        if h5py.check_string_dtype(y.dtype) is None:
            raise UserError(f"{path}: y must hold numbers or strings, it has dtype {y.dtype}")
        values = np.asarray(y.asstr(errors="replace")[()], dtype=str)
    else:
        values = np.asarray(y[()])
    return values.T if turned else values


def _matlab_class(y: Any) -> str:
    kind = y.attrs.get("MATLAB_class", b"")
    return kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)


def _characters(item: Any, path: str, name: str) -> str:
    """The text in a cell, whose axes are those of one row of characters."""
    if _matlab_class(item) != "char":
        raise UserError(f"{path}: the cells of {name!r} must hold text, one holds {_matlab_class(item) or 'numbers'}")
    if "MATLAB_empty" in item.attrs:
        return ""
    return "".join(map(chr, np.ravel(item[()])))
