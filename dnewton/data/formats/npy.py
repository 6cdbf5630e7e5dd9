"""`.npy` files, with their targets in a file beside them."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import numpy as np

from dnewton.data.file_kinds import guard
from dnewton.data.format_register import FORMATS, Format, begins_with, opened_by_each
from dnewton.data.formats.array_files import RawArray, as_text, check_samples, check_targets, read_header
from dnewton.data.sources import Source, Values


def open_npy(path: str, labels: str | None) -> Source:
    """A `.npy` of samples; the targets are in `labels` or in a file beside it (see :func:`beside`)."""
    raw = raw_npy(path)
    labels = labels or beside(path)
    targets = None
    if labels is not None:
        other = raw_npy(labels)
        check_targets(labels, other.shape, other.dtype, raw.shape[0])
        targets = _whole(other)
    check_samples(path, raw.shape, raw.dtype)
    return Source(path, raw.shape[0], raw.shape[1:], raw.dtype, raw.blocks, targets, raw.rows)


def raw_npy(path: str) -> RawArray:
    """The array of a `.npy` file."""
    with guard(path), open(path, "rb") as file:
        raw = RawArray(path, *read_header(file, path))
    if raw.dtype.kind in "fiub":  # others are refused by their kind
        raw.check_size()
    return raw


def _whole(raw: RawArray) -> Any:
    def read() -> Values:
        with guard(raw.path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return as_text(np.asarray(np.load(raw.path, allow_pickle=False)))

    return read


def beside(path: str) -> str | None:
    """The file of targets that belongs to a `.npy` of samples: `a.npy` and `a.y.npy`, or x and y (images and labels)
    as words of the name; None when there is no such file."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    names = [f"{stem}.y{suffix}", f"{stem}.labels{suffix}"]
    for old, new in (("x", "y"), ("X", "y"), ("X", "Y"), ("images", "labels"), ("data", "labels"), ("data", "target")):
        names += [re.sub(rf"(?<![A-Za-z]){old}(?![A-Za-z])", new, name)]
    candidates = (os.path.join(folder, n) for n in names if n != name)
    return next((p for p in candidates if os.path.isfile(p)), None)


FORMATS.add(".npy")(
    Format("a NumPy array (.npy)", begins_with(b"\x93NUMPY"), opened_by_each(open_npy), labels_apart=True)
)
