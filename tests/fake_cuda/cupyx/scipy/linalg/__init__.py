"""Triangular systems."""

from __future__ import annotations

from typing import Any

import numpy as np
from cupy._array import ndarray
from cupy._core import apply


def solve_triangular(
    a: ndarray,
    b: ndarray,
    trans: Any = 0,
    lower: bool = False,
    unit_diagonal: bool = False,
    overwrite_b: bool = False,
    check_finite: bool = False,
) -> ndarray:
    """By substitution; a zero on the diagonal is divided by and nobody is told. CuPy takes stacks of matrices too."""
    if not isinstance(a, ndarray) or not isinstance(b, ndarray):
        raise np.linalg.LinAlgError("cupy.linalg only supports cupy.ndarray")
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError("expected square matrix")
    if a.shape[:-1] != b.shape[: a.ndim - 1]:
        raise ValueError("incompatible dimensions")
    return apply("trsm", lambda *x: _substitute(*x, trans, lower, unit_diagonal), (a, b))  # type: ignore[no-any-return]


def _substitute(a: np.ndarray, b: np.ndarray, trans: Any, lower: bool, unit: bool) -> np.ndarray:
    if trans in (1, 2, "T", "C"):
        a, lower = np.swapaxes(a, -1, -2), not lower
        a = np.conj(a) if trans in (2, "C") else a
    dtype = a.dtype if a.dtype.char in "fd" else np.promote_types(a.dtype.char, "f")
    x = np.array(b if b.ndim == a.ndim else b[..., None], dtype)
    n = a.shape[-1]
    for i in range(n) if lower else range(n - 1, -1, -1):
        known = slice(0, i) if lower else slice(i + 1, n)
        x[..., i, :] -= np.matmul(a[..., None, i, known], x[..., known, :])[..., 0, :]
        if not unit:
            x[..., i, :] /= a[..., i, i, None]
    return x.reshape(b.shape)
