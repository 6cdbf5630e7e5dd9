"""MATLAB `.mat` files: version 7.3 is HDF5 with the axes reversed, the versions before are read whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from dnewton.data.file_kinds import guard
from dnewton.data.format_register import FORMATS, Format, Opening, begins_with
from dnewton.data.formats import text
from dnewton.data.formats.array_files import check_samples, check_targets, check_weights, pick, pick_weights
from dnewton.data.formats.hdf5 import open_hdf5
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError, one_line


def is_version_73(path: str) -> bool:
    """A .mat file that is HDF5 inside."""
    with guard(path), open(path, "rb") as file:
        return b"MATLAB 7.3" in file.read(128) or (file.seek(0) == 0 and file.read(8) == b"\x89HDF\r\n\x1a\n")


def read_mat(path: str, opening: Opening) -> tuple[Values, Values | None, Values | None]:
    """x (dense or scipy sparse), y and weights of a .mat file up to version 7: the whole of it."""
    from scipy import io, sparse

    with guard(path):
        try:
            content: dict[str, Any] = io.loadmat(path, squeeze_me=False)
        except Exception as error:  # damaged files end in any exception inside the library
            raise UserError(f"{path}: not a readable .mat file: {one_line(error)}") from None
    arrays = {k: v for k, v in content.items() if not k.startswith("__")}
    x_name, y_name = pick(path, list(arrays))
    x: Any = arrays[x_name]
    if sparse.issparse(x):
        x = sparse.csr_matrix(cast(Any, x))
    check_samples(path, x.shape, x.dtype)
    w_name = pick_weights(path, list(arrays), opening)
    w: Any = None if w_name is None else arrays[w_name]
    if w is not None:
        w = sparse.csr_matrix(w).toarray() if sparse.issparse(w) else w
        check_weights(f"{path}: variable {w_name!r}", w.shape, w.dtype, x.shape[0])
        w = np.ravel(w)
    if y_name is None:
        return x, None, w
    y: Any = arrays[y_name]
    if y.dtype.kind == "U":
        y = np.char.strip(y)
    elif sparse.issparse(y):
        y = sparse.csr_matrix(cast(Any, y)).toarray()
    if y.ndim == 2 and 1 in y.shape and y.size == x.shape[0]:
        y = y.reshape(y.size)
    check_targets(path, y.shape, y.dtype, x.shape[0])
    return x, y, w


def _open_mat(path: str, labels: str | None, opening: Opening) -> Source:
    """Version 7.3 like HDF5. Of the others, which cannot be read in part, rank 0 reads all of it, and the columns go
    where they belong."""
    comm = opening.comm
    with comm.raise_together():
        if is_version_73(path):
            return open_hdf5(path, opening, reverse=True)
    x: Any = None
    y: Values | None = None
    w: Values | None = None
    with comm.raise_together():
        if comm.rank == 0:
            x, y, w = read_mat(path, opening)
    shape = tuple(int(n) for n in comm.text_from_root(" ".join(map(str, x.shape)) if comm.rank == 0 else None).split())
    has = comm.text_from_root(f"{'y' if y is not None else ''}{'w' if w is not None else ''}")
    targets = comm.array_from_root(y) if "y" in has else None
    weights = comm.array_from_root(w) if "w" in has else None
    columns = text.source(path, text.whole(x, shape, comm), int(np.prod(shape[1:])), comm)
    return replace(
        columns,
        shape=shape[1:],
        targets=None if targets is None else lambda: targets,
        weights=None if weights is None else lambda: weights,
    )


FORMATS.add(".mat")(Format("a MATLAB .mat file", begins_with(b"MATLAB 7.3", b"MATLAB 5.0"), _open_mat, has_arrays=True))
