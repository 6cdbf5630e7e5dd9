"""Opens what the YAML's data section names: bundled sets, and files of every readable kind, alone or several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.config.schema import DataPart, FilePair
from dnewton.data.file_kinds import check_regular, guard, kind_of, open_bytes
from dnewton.data.formats import hdf5, images, libsvm, tables, text
from dnewton.data.formats.array_files import open_npy, open_npz
from dnewton.data.sources import Source, Values, from_arrays, joined
from dnewton.errors import UserError

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")


@dataclass(frozen=True)
class Opening:
    """What opening a file takes besides its name: the YAML key for messages, the declared features, the CSV targets."""

    key: str
    features: int | None
    comm: Comm
    target: Sequence[str | int] | None = None
    zero_based: bool | None = None  # how the training file counts its features, if it is LIBSVM text


def is_bundled(name: object) -> bool:
    """True for a bundled set that no file of the same name hides."""
    return isinstance(name, str) and name in BUNDLED and not os.path.isfile(name)


def find_part(part: DataPart, folder: str) -> DataPart:
    """A data part with absolute paths, looked up in the working directory and then in `folder`, the YAML file's.

    The name of a bundled set, and a name that is not found, stay as they are.
    """
    if isinstance(part, FilePair):
        return FilePair(x=_find(part.x, folder), y=_find(part.y, folder))
    if isinstance(part, str):
        return _find(part, folder)
    return [_find(name, folder) for name in part]


def _find(name: str, folder: str) -> str:
    if is_bundled(name):
        return name
    path = next((p for p in (name, os.path.join(folder, name)) if os.path.exists(p)), None)
    return os.path.abspath(path) if path else name


def open_part(part: DataPart, opening: Opening) -> Source:
    """The source of one part of the data. Raises UserError alike on all ranks. Collective over the world."""
    if isinstance(part, FilePair):
        return _open_file(part.x, part.y, opening)
    if isinstance(part, str):
        return _open_bundled(part, opening) if is_bundled(part) else _open_file(part, None, opening)
    sources = []
    for name in part:
        sources.append(_open_file(name, None, opening))
        if sources[-1].zero_based is not None and opening.zero_based is None:
            opening = replace(opening, zero_based=sources[-1].zero_based)
    return joined(sources, f"{part[0]} and {len(part) - 1} more" if len(part) > 1 else part[0])


def read_bundled(name: str, part: str) -> tuple[Values, Values]:
    """x and y of a bundled set's fixed train or test part (four fifths and one fifth, stratified by class)."""
    from sklearn import datasets  # slow to import: only rank 0 does
    from sklearn.model_selection import train_test_split

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    stratify = None if name == "diabetes" else y
    kept = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=stratify)
    rows = np.sort(kept[0] if part == "train" else kept[1])  # the split is fixed: it is part of the data set
    return x[rows], y[rows]


def _open_bundled(name: str, opening: Opening) -> Source:
    if opening.key not in ("data.train", "data.test", "--data"):
        raise UserError(f"{opening.key}: {name} is a bundled set with a train and a test part; name a file")
    part = "train" if opening.key.endswith("train") else "test"
    x, y = read_bundled(name, part) if opening.comm.rank == 0 else (None, None)
    return from_arrays(name, opening.comm.array_from_root(x), opening.comm.array_from_root(y))


def _open_file(path: str, labels: str | None, opening: Opening) -> Source:
    comm, found = opening.comm, ""
    with comm.raise_together():
        for name in (path, *([labels] if labels is not None else [])):
            if not os.path.lexists(name):
                raise UserError(f"{opening.key}: {name} is neither a file nor a bundled set ({', '.join(BUNDLED)})")
            check_regular(name, opening.key)
        if comm.rank == 0:
            found = kind_of(path)
    kind = comm.text_from_root(found)
    if labels is not None and kind not in ("npy", "idx"):
        raise UserError(
            f"{opening.key}: {path} holds its own labels; the form {{x: FILE, y: FILE}} is for .npy and idx"
        )
    if opening.target is not None and kind != "csv":
        raise UserError(
            f"{opening.key}: {path} is not a table of text, its labels have a fixed place; leave target out"
        )
    if kind == "libsvm":
        return _open_libsvm(path, opening)
    if kind == "csv":
        return _open_table(path, opening)
    with comm.raise_together():
        if kind == "hdf5":
            return hdf5.open_hdf5(path)
        if kind == "npy":
            return open_npy(path, labels)
        if kind == "npz":
            return open_npz(path)
        if kind == "idx":
            return images.open_idx(path, labels)
        if kind == "records":
            return images.open_records(path)
        if kind == "batch":
            return images.open_batch(path)
        if hdf5.is_version_73(path):
            return hdf5.open_hdf5(path, reverse=True)
    return _open_mat(path, comm)


def _open_libsvm(path: str, opening: Opening) -> Source:
    comm, width = opening.comm, opening.features
    with comm.raise_together(), guard(path), open_bytes(path) as file:
        skip = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # a mark that some programs begin UTF-8 files with
    parsed = text.parse_file(path, lambda block: libsvm.parse(block, width, opening.zero_based), comm, skip)
    if not parsed.starts[-1]:
        raise UserError(f"{path}: holds no samples")
    columns = [rows.columns for rows in parsed.mine.values() if len(rows.columns)]
    least = comm.minmax(float(min([2**31, *(int(c.min()) for c in columns)])))[0]
    most = int(comm.minmax(float(max([0, *(int(c.max()) for c in columns)])))[1])
    zero_based = least == 0 if opening.zero_based is None else opening.zero_based
    base = 0 if zero_based else 1
    features = width if width is not None else most + 1 - base
    if most - base >= features:  # counted from 0, so that the width itself is one too many
        with comm.raise_together():
            for b, rows in sorted(parsed.mine.items()):
                places = np.flatnonzero(rows.columns - base >= features)
                if len(places):
                    row = int(parsed.starts[b]) + int(np.searchsorted(rows.indptr, places[0], side="right")) - 1
                    raise UserError(
                        f"{path}: row {row}: index {int(rows.columns[places[0]])} is beyond net.input, which declares "
                        f"{width} features; they count from 0 here, because an index 0 occurs"
                    )
    y = text.gathered_targets(path, parsed, comm)
    return replace(text.source(path, parsed, features, comm, base, zero_based), targets=lambda: y)


def _open_table(path: str, opening: Opening) -> Source:
    comm = opening.comm
    wanted = None if opening.target is None else list(opening.target)
    with comm.raise_together():
        table = tables.plan(path, opening.features, wanted)
    parsed = text.parse_file(path, lambda block: tables.parse(block, table), comm, table.skip)
    if not parsed.starts[-1]:
        raise UserError(f"{path}: holds no samples")
    found = text.source(path, parsed, table.columns - len(table.targets), comm)
    found = replace(found, columns=table.names)
    if not table.targets:
        return found
    y = text.gathered_targets(path, parsed, comm)
    return replace(found, targets=lambda: y)


def _open_mat(path: str, comm: Comm) -> Source:
    """Rank 0 reads a .mat file of the old kind, which cannot be read in part, and the columns go where they belong."""
    x: Any = None
    y: Values | None = None
    with comm.raise_together():
        if comm.rank == 0:
            x, y, _ = hdf5.read_mat(path)
    shape = tuple(int(n) for n in comm.text_from_root(" ".join(map(str, x.shape)) if comm.rank == 0 else None).split())
    has_y = comm.text_from_root("y" if y is not None else "") == "y"
    targets = comm.array_from_root(y) if has_y else None
    found = text.source(path, text.whole(x, shape, comm), int(np.prod(shape[1:])), comm)
    return replace(found, shape=shape[1:], targets=None if targets is None else lambda: targets)
