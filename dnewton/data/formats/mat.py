"""MATLAB `.mat` files: version 7.3 is HDF5 with the axes reversed, the versions before are read whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from dnewton.data.file_kinds import guard
from dnewton.data.format_register import FORMATS, Format, Opening, begins_with
from dnewton.data.formats import text
from dnewton.data.formats.array_files import check_samples, check_targets, check_weights
from dnewton.data.formats.array_names import choose, named
from dnewton.data.formats.hdf5 import open_shared, read_hdf5
from dnewton.data.sample_shape import channel_places, in_columns, said, targets_by_sample
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line


@dataclass(frozen=True)
class Content:
    """What a file holds: x (dense or scipy sparse) with a sample in every row and its channels first."""

    x: Any
    shape: tuple[int, ...]
    y: Values | None
    w: Values | None
    notes: tuple[str, ...]
    columns: bool


def is_version_73(path: str) -> bool:
    """A .mat file that is HDF5 inside."""
    with guard(path), open(path, "rb") as file:
        return b"MATLAB 7.3" in file.read(128) or (file.seek(0) == 0 and file.read(8) == b"\x89HDF\r\n\x1a\n")


def read_mat(path: str, opening: Opening) -> Content:
    """A .mat file up to version 7: the whole of it."""
    from scipy import sparse

    arrays = _variables(path)
    chosen = choose(path, list(arrays), opening)
    x: Any = arrays[chosen.x]
    check_samples(path, x.shape, x.dtype)
    y = None if chosen.y is None else _labels(arrays[chosen.y], path, chosen.y)
    asked = opening.arrays
    counted = asked.targets_apart if y is None else y.shape
    columns = in_columns(path, x.shape, counted, opening.input, asked.samples, opening.strict, matlab=True)
    notes = said(path, x.shape, columns)
    is_sparse = sparse.issparse(x)
    if columns:
        x = x.T if is_sparse else np.moveaxis(x, -1, 0)
    if is_sparse:
        x = sparse.csr_matrix(cast(Any, x))
    samples, shape = x.shape[0], tuple(x.shape[1:])
    if y is not None:
        y = targets_by_sample(y, samples)
        check_targets(path, y.shape, y.dtype, samples)
    w: Any = None if chosen.w is None else arrays[chosen.w]
    if w is not None:
        w = sparse.csr_matrix(w).toarray() if sparse.issparse(w) else w
        check_weights(f"{path}: variable {chosen.w!r}", w.shape, w.dtype, samples)
        w = np.ravel(w)
    places = channel_places(path, shape, opening.input, asked.channels, opening.strict)
    if places is not None:
        shape, order = places
        x = x[:, order] if is_sparse else x.reshape(samples, len(order))[:, order]
    return Content(x, (samples, *shape), y, w, notes, columns)


def _variables(path: str) -> dict[str, Any]:
    """All arrays; those in structures as `structure/field`."""
    from scipy import io

    with guard(path):
        try:
            content: dict[str, Any] = io.loadmat(path, squeeze_me=False)
        except Exception as error:  # damaged files end in any exception inside the library
            raise UserError(f"{path}: not a readable .mat file: {one_line(error)}") from None
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        fields = getattr(getattr(value, "dtype", None), "names", None)
        if fields and value.size == 1:
            for field in fields:
                add(f"{name}/{field}", value[field].item())
        elif hasattr(value, "dtype"):
            found[name] = value

    for name, value in content.items():
        if not name.startswith("__"):
            add(name, value)
    return found


def _labels(y: Any, path: str, name: str) -> Values:
    from scipy import sparse

    if sparse.issparse(y):
        return np.asarray(sparse.csr_matrix(cast(Any, y)).toarray())
    if y.dtype.kind == "O":  # cells
        texts = [cell.item() if getattr(cell, "size", 0) == 1 else "" for cell in y.ravel()]
        if not all(isinstance(t, str) for t in texts) or any(getattr(c, "size", 0) > 1 for c in y.ravel()):
            raise UserError(f"{path}: the cells of {name!r} must hold text, one holds something else")
        return np.char.strip(np.array(texts, dtype=str))
    return np.char.strip(y) if y.dtype.kind == "U" else np.asarray(y)


def _open_mat(path: str, labels: str | None, opening: Opening) -> Source:
    """Version 7.3 like HDF5. Of the others, which cannot be read in part, rank 0 reads all of it, and the columns go
    where they belong."""
    comm = opening.comm
    with comm.raise_together():
        modern = is_version_73(path)
    if modern:
        return open_shared(path, opening, turned=True)
    content: Content | None = None
    about = ""
    with comm.raise_together():
        if comm.rank == 0:
            content = read_mat(path, opening)
            has = [content.y is not None, content.w is not None]
            about = json.dumps([content.shape, has, content.notes, content.columns])
    shape, (has_y, has_w), notes, columns = json.loads(comm.text_from_root(about))
    targets = comm.array_from_root(content.y if content else None) if has_y else None
    weights = comm.array_from_root(content.w if content else None) if has_w else None
    parsed = text.whole(content.x if content else None, tuple(shape), comm)
    return replace(
        text.source(path, parsed, int(np.prod(shape[1:])), comm),
        shape=tuple(shape[1:]),
        targets=None if targets is None else lambda: targets,
        weights=None if weights is None else lambda: weights,
        notes=tuple(notes),
        samples_in="columns" if columns else "rows",
    )


def _array(path: str, name: str | None, opening: Opening) -> Values:
    if is_version_73(path):
        return read_hdf5(path, name, opening, turned=True)
    arrays = _variables(path)
    inside = named(path, list(arrays), name, opening.key)
    return _labels(arrays[inside], path, inside)


FORMATS.add(".mat")(
    Format(
        "a MATLAB .mat file",
        begins_with(b"MATLAB 7.3", b"MATLAB 5.0"),
        _open_mat,
        has_arrays=True,
        oriented=True,
        array=_array,
    )
)
