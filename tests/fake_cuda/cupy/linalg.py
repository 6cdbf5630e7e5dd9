"""`cupy.linalg`: NumPy's LAPACK with CuPy's manners.

What cuSOLVER reports stays on the device unless `cupyx.errstate(linalg="raise")` asks for it, which synchronises.
Without it, a matrix that is singular or not positive definite gives NaN here; on a device it may give anything.
"""

from __future__ import annotations

from typing import Any

import cupyx
import numpy as np
from numpy.linalg import LinAlgError

from cupy._array import ndarray
from cupy._core import apply
from cupy.cuda import stream

__all__ = [
    "LinAlgError",
    "cholesky",
    "cond",
    "cross",
    "det",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
]


def _checked(name: str, *arrays: Any, **kwargs: Any) -> Any:
    """Run a routine that may fail."""
    for array in arrays:
        if not isinstance(array, ndarray):
            raise LinAlgError("cupy.linalg only supports cupy.ndarray")
        if array.dtype == np.float16:
            raise TypeError("float16 is unsupported in linalg")
    result = apply(name, lambda *a: _each(name, a, kwargs), arrays)
    if cupyx.geterr()["linalg"] == "raise":
        stream.blocking_transfer(4)
    return result


def _each(name: str, arrays: tuple[np.ndarray, ...], kwargs: dict[str, Any]) -> Any:
    """The whole stack at once; matrix by matrix if one of them fails, so that NaN stays with that one."""
    routine = getattr(np.linalg, name)
    try:
        return routine(*arrays, **kwargs)
    except LinAlgError:
        if cupyx.geterr()["linalg"] == "raise":
            raise
    first = arrays[0]
    if first.ndim > 2:
        stacks = [_each(name, tuple(a[i] for a in arrays), kwargs) for i in range(first.shape[0])]
        if isinstance(stacks[0], tuple):
            return tuple(np.stack(s) for s in zip(*stacks, strict=True))
        return np.stack(stacks)
    like = routine(*(np.eye(*a.shape, dtype=a.dtype) if a is first else np.ones_like(a) for a in arrays), **kwargs)
    return tuple(np.full_like(x, np.nan) for x in like) if isinstance(like, tuple) else np.full_like(like, np.nan)


def _square(a: Any) -> None:
    if not isinstance(a, ndarray):
        raise LinAlgError("cupy.linalg only supports cupy.ndarray")
    if a.ndim < 2:
        raise LinAlgError(f"{a.ndim}-dimensional array given. Array must be at least two-dimensional")
    if a.shape[-1] != a.shape[-2]:
        raise LinAlgError("Last 2 dimensions of the array must be square")


def solve(a: ndarray, b: ndarray) -> ndarray:
    """No broadcasting of stacks: CuPy has none, except of a one-dimensional `b`."""
    _square(a)
    if not isinstance(b, ndarray):
        raise LinAlgError("cupy.linalg only supports cupy.ndarray")
    if b.ndim == 0 or (b.ndim == 1 and a.shape[-1] != b.size) or (b.ndim > 1 and a.shape[:-1] != b.shape[:-1]):
        raise ValueError("a must have (..., M, M) shape and b must have (M,) or (..., M, K)")
    if b.ndim > 1 or a.ndim == 2:
        return _checked("solve", a, b)  # type: ignore[no-any-return]
    column = apply("broadcast_to", lambda x: np.broadcast_to(x[:, None], (*a.shape[:-1], 1)), (b,))
    return _checked("solve", a, column)[..., 0]  # type: ignore[no-any-return]


def inv(a: ndarray) -> ndarray:
    _square(a)
    return _checked("inv", a)  # type: ignore[no-any-return]


def cholesky(a: ndarray) -> ndarray:
    """The lower factor (there is no `upper=`)."""
    _square(a)
    return _checked("cholesky", a)  # type: ignore[no-any-return]


def eigh(a: ndarray, UPLO: str = "L") -> tuple[ndarray, ndarray]:
    _square(a)
    w, v = _checked("eigh", a, UPLO=UPLO)
    return w, v


def eigvalsh(a: ndarray, UPLO: str = "L") -> ndarray:
    _square(a)
    return _checked("eigvalsh", a, UPLO=UPLO)  # type: ignore[no-any-return]


def eig(a: ndarray) -> Any:
    return tuple(_checked("eig", a))


def eigvals(a: ndarray) -> Any:
    return _checked("eigvals", a)


def svd(a: ndarray, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    return _checked("svd", a, full_matrices=full_matrices, compute_uv=compute_uv)


def qr(a: ndarray, mode: str = "reduced") -> Any:
    return _checked("qr", a, mode=mode)


def det(a: ndarray) -> Any:
    return _checked("det", a)


def slogdet(a: ndarray) -> Any:
    return _checked("slogdet", a)


def pinv(a: ndarray, rcond: Any = 1e-15) -> Any:
    return apply("pinv", np.linalg.pinv, (a, rcond))


def lstsq(a: ndarray, b: ndarray, rcond: Any = None) -> Any:
    return apply("lstsq", lambda *x: tuple(np.asarray(y) for y in np.linalg.lstsq(*x)), (a, b, rcond))


def norm(x: ndarray, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    return apply("norm", np.linalg.norm, (x, ord, axis, keepdims))


def cond(x: ndarray, p: Any = None) -> Any:
    return apply("cond", np.linalg.cond, (x, p))


def matrix_rank(M: ndarray, tol: Any = None) -> Any:
    return apply("matrix_rank", np.linalg.matrix_rank, (M, tol))


def matrix_power(M: ndarray, n: int) -> Any:
    return apply("matrix_power", np.linalg.matrix_power, (M, n))


def matmul(*args: Any, **kwargs: Any) -> Any:
    return apply("matmul", np.matmul, args, kwargs)


def cross(x1: ndarray, x2: ndarray, /, *, axis: int = -1) -> Any:
    return apply("cross", np.cross, (x1, x2), {"axis": axis})


def matrix_transpose(a: ndarray) -> Any:
    return apply("matrix_transpose", np.matrix_transpose, (a,))
