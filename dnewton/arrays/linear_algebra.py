"""Symmetric positive definite systems by Cholesky factors, eigenvalues of symmetric matrices, sums of outer products.

Of a symmetric matrix only the lower triangle is read: who forms one saves half of the operations. On the host it is
SciPy's LAPACK: NumPy's own factor comes from `potrf` through several copies, at a third of the rate, and LU takes twice
the operations. SciPy's linear algebra is imported when a matrix is first factored, and not at the start of a run.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from dnewton.arrays import cuda_kernels
from dnewton.arrays.namespace import (
    Array,
    block_bytes,
    contiguous,
    cuda,
    empty,
    itemsize,
    kernel,
    namespace,
    on_cuda,
    on_host,
    routines,
    sample_blocks,
)


@cache
def _routine(package: str, name: str, dtype: str) -> Any:
    """SciPy's function over BLAS or LAPACK of a precision."""
    return getattr(routines(package), ("s" if dtype == "float32" else "d") + name)


_TILE, _GROUPS, _LEAST = 64, 128, 256  # of a GPU's products: width of a tile, enough of them, rows that pay for one
_LANES = 1 << 17  # threads of a GPU that sum columns


def transposed_product(a: Array, b: Array) -> Array:
    """aᵀ b for matrices of many rows and few columns, (m, o) and (m, i) to (o, i).

    A GPU has one group of threads to a tile of the result, and a small result leaves most of it idle: there rows are
    taken in groups whose products are added. CuPy copies what such products take transposed: some rows at a time.
    """
    (m, o), i = a.shape, b.shape[1]
    most = _GROUPS // max(1, math.ceil(o / _TILE) * math.ceil(i / _TILE))
    if min(most, m // _LEAST) < 2 or not on_cuda(a):
        return a.T @ b
    total = None
    for part in sample_blocks(m, o * itemsize(a), block_bytes(a)):
        partial = _in_groups(a[part, :], b[part, :], most)
        total = partial if total is None else total + partial
    return total


def _in_groups(a: Array, b: Array, most: int) -> Array:
    """aᵀ b as the sum of at most so many products."""
    (m, o), i = a.shape, b.shape[1]
    groups = min(most, m // _LEAST)
    if groups < 2:
        return a.T @ b
    xp, n = namespace(a), m // groups
    whole = n * groups
    left = xp.permute_dims(xp.reshape(a[:whole, :], (groups, n, o)), (0, 2, 1))
    total = xp.sum(xp.matmul(left, xp.reshape(b[:whole, :], (groups, n, i))), axis=0)
    return total if whole == m else total + a[whole:, :].T @ b[whole:, :]


def column_sums(matrix: Array) -> Array:
    """The sums of a matrix's columns, (m, o) to (o,).

    CuPy has one group of threads to a result, which for few columns leaves most of a GPU idle; there rows are summed in
    lanes, and these as CuPy does.
    """
    rows, columns = matrix.shape
    lanes = min(rows // _LEAST, _LANES // max(1, columns))
    if lanes < 2 or not on_cuda(matrix):
        return namespace(matrix).sum(matrix, axis=0)
    parts = empty((lanes, columns), matrix)
    kernel(cuda_kernels.COLUMN_SUMS)(contiguous(matrix), rows, columns, lanes, parts)
    return namespace(matrix).sum(parts, axis=0)


class Cholesky:
    """L of a matrix L Lᵀ."""

    def __init__(self, lower: Array) -> None:
        """`lower` is (n, n) in C order and holds L; what is above its diagonal is not read."""
        self.lower = lower

    @classmethod
    def factor(cls, matrix: Array) -> Cholesky | None:
        """The factor of a symmetric matrix (n, n), of which the lower triangle is read and which is overwritten where
        the library allows it; None where it is not positive definite in its precision. Float32 or float64."""
        if not matrix.shape[0]:
            return cls(matrix)
        if on_host(matrix):
            # LAPACK's matrices are in Fortran order: its upper triangle U, A = UᵀU, is our lower one
            upper, info = _routine("lapack", "potrf", matrix.dtype.name)(
                contiguous(matrix).T, lower=0, clean=0, overwrite_a=1
            )
            # NaN compares with nothing, so that LAPACK does not see it; it reaches the last pivot
            return cls(upper.T) if info == 0 and np.isfinite(upper[-1, -1]) else None
        try:
            if on_cuda(matrix):
                from cupyx import errstate

                with errstate(linalg="raise"):
                    lower = contiguous(cuda().linalg.cholesky(matrix))
            else:
                lower = namespace(matrix).linalg.cholesky(matrix)
            return cls(lower) if math.isfinite(float(lower[-1, -1])) else None
        except np.linalg.LinAlgError:
            return None

    def solve(self, right: Array) -> Array:
        """(L Lᵀ)⁻¹ b for a vector b (n,), or for the columns of a matrix (n, m)."""
        return self.backward(self.forward(right))

    def forward(self, right: Array) -> Array:
        """L⁻¹ b for a vector or for columns."""
        return self._triangular(right, transposed=False)

    def backward(self, right: Array) -> Array:
        """L⁻ᵀ b for a vector or for columns."""
        return self._triangular(right, transposed=True)

    def solve_rows(self, rows: Array) -> Array:
        """X with X Lᵀ = B for the rows of B (m, n), which is overwritten where the library allows it."""
        if not on_host(rows):
            return contiguous(self.forward(rows.T).T)
        if not rows.size:
            return rows
        trsm = _routine("blas", "trsm", rows.dtype.name)
        solved = trsm(1.0, self.lower.T, contiguous(rows).T, lower=0, trans_a=1, overwrite_b=1)
        return solved.T

    def _triangular(self, right: Array, transposed: bool) -> Array:
        if not right.size:
            return right
        if on_host(right):
            trtrs = _routine("lapack", "trtrs", right.dtype.name)
            return trtrs(self.lower.T, right, lower=0, trans=0 if transposed else 1)[0]
        if on_cuda(right):
            from cupyx.scipy.linalg import solve_triangular

            # cuBLAS's matrices are in Fortran order, as the transpose is: anything else would be copied for every solve
            return solve_triangular(self.lower.T, right, trans=int(not transposed), lower=False, check_finite=False)
        xp = namespace(right)
        lower = xp.tril(self.lower)
        return xp.linalg.solve(lower.T if transposed else lower, right)


def product(a: Array, b: Array, room: Array) -> Array:
    """a b for matrices; on the host in the memory of `room`, a flat array of at least its length: a product that is
    only looked at would else cost as much again in fresh pages."""
    if not on_host(a):
        return a @ b
    out = room[: a.shape[0] * b.shape[1]].reshape(a.shape[0], b.shape[1])
    return np.matmul(a, b, out=out)


def subtract_product(out: Array, a: Array, b: Array) -> None:
    """out -= a bᵀ for (n, k) and (m, k); in one call, without a temporary, where all are of the host and in C order."""
    if on_host(out) and out.size and a.shape[1] and all(x.flags.c_contiguous for x in (out, a, b)):
        gemm = _routine("blas", "gemm", out.dtype.name)
        gemm(-1.0, b.T, a.T, beta=1.0, c=out.T, trans_a=1, overwrite_c=1)
    else:
        out -= a @ b.T


def symmetric_eigenvalues(matrix: Array) -> Array:
    """The eigenvalues, ascending, of a symmetric matrix, of which the lower triangle is read. Raises LinAlgError."""
    if not on_cuda(matrix):
        return namespace(matrix).linalg.eigvalsh(matrix)
    from cupyx import errstate

    with errstate(linalg="raise"):
        return cuda().linalg.eigvalsh(matrix)
