"""`.npy` files, with their targets in a file beside them."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from dnewton.data.file_kinds import guard
from dnewton.data.format_register import FORMATS, Format, Opening, begins_with
from dnewton.data.formats.array_files import (
    RawArray,
    as_text,
    check_samples,
    check_targets,
    raw_source,
    read_header,
)
from dnewton.data.formats.array_names import PAIRS
from dnewton.data.reordered import channel_major
from dnewton.data.sample_shape import targets_by_sample
from dnewton.data.sources import Source, Values


def open_npy(path: str, labels: str | None, opening: Opening) -> Source:
    """A `.npy` of samples; the targets are in `labels` or in a file beside it (see :func:`beside`)."""
    raw = raw_npy(path)
    check_samples(path, raw.shape, raw.dtype)
    apart = opening.arrays.targets_apart
    labels = labels or (beside(path) if apart is None else None)
    other = None if labels is None else raw_npy(labels)
    source = raw_source(raw, apart if other is None else other.shape, opening)
    if other is not None:
        shape = targets_by_sample(np.empty(other.shape, dtype=bool), source.samples).shape
        check_targets(str(labels), shape, other.dtype, source.samples)
        source = replace(source, targets=_whole(other, source.samples))
    return channel_major(source, opening)


def raw_npy(path: str) -> RawArray:
    """The array of a `.npy` file."""
    with guard(path), open(path, "rb") as file:
        raw = RawArray(path, *read_header(file, path))
    if raw.dtype.kind in "fiub":  # others are refused by their kind
        raw.check_size()
    return raw


def _whole(raw: RawArray, samples: int) -> Any:
    def read() -> Values:
        with guard(raw.path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(targets_by_sample(as_text(np.load(raw.path, allow_pickle=False)), samples))

    return read


def beside(path: str) -> str | None:
    """The file of targets that belongs to a `.npy` of samples: `a.npy` and `a.y.npy`, or x and y (images and labels)
    as words of the name; None when there is no such file."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    names = [f"{stem}.y{suffix}", f"{stem}.labels{suffix}"]
    for old, new in PAIRS:
        names += [re.sub(rf"(?<![A-Za-z]){old}(?![A-Za-z])", new, name)]
    candidates = (os.path.join(folder, n) for n in names if n != name)
    return next((p for p in candidates if os.path.isfile(p)), None)


def _open(path: str, labels: str | None, opening: Opening) -> Source:
    with opening.comm.raise_together():
        return open_npy(path, labels, opening)


def _array(path: str, name: str | None, opening: Opening) -> Values:
    raw = raw_npy(path)
    check_targets(path, raw.shape, raw.dtype, None)
    values: Values = _whole(raw, 0)()
    return values


FORMATS.add(".npy")(
    Format(
        "a NumPy array (.npy)",
        begins_with(b"\x93NUMPY"),
        _open,
        labels_apart=True,
        oriented=True,
        array=_array,
    )
)
