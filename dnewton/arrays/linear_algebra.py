"""Factorisations."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, on_host


class Cholesky:
    """L Lᵀ of a symmetric positive definite matrix."""

    def __init__(self, lower: Array) -> None:
        self._lower = lower

    @classmethod
    def factor(cls, matrix: Array) -> Cholesky | None:
        """Takes over the matrix; None where it is not positive definite."""
        from scipy.linalg import lapack

        assert on_host(matrix)
        potrf = lapack.spotrf if matrix.dtype == "float32" else lapack.dpotrf
        lower, info = potrf(matrix.T, lower=1, overwrite_a=1, clean=0)
        return cls(lower) if info == 0 else None

    def solve(self, right: Array) -> Array:
        """matrix⁻¹ right."""
        from scipy.linalg import lapack

        potrs = lapack.spotrs if self._lower.dtype == "float32" else lapack.dpotrs
        return potrs(self._lower, right, lower=1)[0]
