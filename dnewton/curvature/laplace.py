"""The Laplace approximation of the weights' posterior (D. J. C. MacKay, Neural Computation 4, 1992).

With A the rows RᵀJ of all samples, R Rᵀ = B, the Hessian of l·f is H = AᵀA + μI, μ = 1/C. With A = U S V, VVᵀ = I, the
covariance of the weights is s H⁻¹ = s Vᵀ(S² + μ)⁻¹V + (s/μ)(I - VᵀV): V from the eigenvectors of AᵀA, or of AAᵀ where
there are fewer rows than weights. Where kinds of rows (terms of equations) scatter by different s_t, it is
H⁻¹ (Σ s_t A_tᵀA_t + s μ I) H⁻¹, the covariance of what the weighted least squares find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dnewton.arrays.namespace import Array, contiguous, eigh, empty, identity, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import Loss
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import OutputHessian
from dnewton.model.network import Network
from dnewton.storage.posterior import Posterior

LEAST = 1e-12  # μ over the largest eigenvalue of AᵀA: below it rounding would be taken for knowledge
KEPT = 1e-14  # of the eigenvalues of AAᵀ over the largest, those whose vectors V are more than rounding


class RowBatch(NamedTuple):
    """Rows of A that follow each other."""

    rows: Array  # (n·K, weights of this rank)
    kinds: Array | None  # the kind of each row, (n·K,); None where there is one kind


@dataclass(frozen=True)
class Spectrum:
    """What the rows say of some weights: their H⁻¹ is Vᵀ(values + μ)⁻¹V + (I - VᵀV)/μ."""

    basis: Array  # V, (r, weights of this rank)
    values: Array  # (r,)
    shift: float  # μ
    complete: bool  # whether nothing is outside of V
    shares: Sequence[Array]  # V A_tᵀA_t Vᵀ by kind; none where there is one kind
    comm: Comm | None  # the ranks that share V

    def determined(self) -> list[float]:
        """By kind, the number of parameters that its rows determine: tr H⁻¹A_tᵀA_t."""
        xp = namespace(self.values)
        weights = 1 / (self.values + self.shift)
        if not self.shares:
            return [float(xp.sum(self.values * weights))]
        return [float(xp.sum(xp.linalg.diagonal(share) * weights)) for share in self.shares]

    def covariance(self, scales: Sequence[float], scale: float) -> tuple[Array, Array, float]:
        """V (r, weights of this rank), d and o of the covariance Vᵀ diag(d) V + o (I - VᵀV), for scatters s_t and s.

        Collective over the ranks that share V where there are several kinds.
        """
        xp = namespace(self.values)
        weights = 1 / (self.values + self.shift)
        outside = 0.0 if self.complete else scale / self.shift
        if not self.shares:
            return self.basis, scale * weights, outside
        inner = scale * self.shift * identity(self.values.shape[0], self.values)
        for share, s in zip(self.shares, scales, strict=True):
            inner += s * share
        d, turned = _eigh(weights[:, None] * inner * weights[None, :], self.comm)
        return turned.T @ self.basis, xp.maximum(d, xp.zeros_like(d)), outside


def rows_of(network: Network, theta: Array, x: Array, y: Array, loss: Loss) -> tuple[Array, Array]:
    """A on a batch, (n, K, weights of this rank) in the order of θ, and z (n, K). Collective like a backward sweep."""
    rows, z = output_rows(network, theta, x)
    n = int(z.shape[0])
    return OutputHessian(loss, z, y, 0.0).half_rows(rows, slice(0, n)) * math.sqrt(n), z


def output_rows(network: Network, theta: Array, x: Array) -> tuple[Array, Array]:
    """J on a batch, (n, K, weights of this rank) in the order of θ, and z (n, K). Collective like a backward sweep."""
    tape = network.forward(theta, x)
    n, k = (int(size) for size in tape.z.shape)
    j = jacobian.build(network, theta, [tape], "dense")
    unit = jacobian.local_systems(network.blocks, per_layer=False)[0]
    return namespace(theta).reshape(j.rows(unit, slice(0, n)), (n, k, unit.size)), tape.z


def by_weights(batches: Iterable[RowBatch], kinds: int, shift: float, like: Array, comm: Comm | None) -> Spectrum:
    """By AᵀA. `like` is θ of this rank; with `comm` of all ranks' weights, else of this rank's alone.

    Collective over `comm`.
    """
    xp, size = namespace(like), int(like.shape[0])
    widths = [size] if comm is None else [int(w) for w in comm.concatenate(_one(size, like))]
    total, start = sum(widths), 0 if comm is None else sum(widths[: comm.rank])
    squares = [zeros((total, size), like) for _ in range(kinds)]
    for rows, kind in batches:
        every = rows if comm is None else comm.gather_features(rows, "world", widths)
        for t, square in enumerate(squares):
            if kind is None:
                square += every.T @ rows
            else:
                chosen = xp.nonzero(kind == t)[0]
                square += every[chosen, :].T @ rows[chosen, :]
    if comm is not None:
        squares = [comm.gather_features(square, "world", widths) for square in squares]
    matrix = squares[0] if kinds == 1 else sum(squares[1:], squares[0])
    values, vectors = _eigh(matrix, comm)
    values = xp.maximum(values, xp.zeros_like(values))
    shares = [] if kinds == 1 else [vectors.T @ square @ vectors for square in squares]
    basis = vectors.T[:, start : start + size]
    return Spectrum(basis, values, _shift(values, shift), True, shares, comm)


def by_rows(
    batches: Iterable[RowBatch], rows: int, kinds: int, shift: float, like: Array, comm: Comm | None
) -> Spectrum:
    """By AAᵀ of `rows` rows; see :func:`by_weights`. Collective over `comm`."""
    xp, size = namespace(like), int(like.shape[0])
    a, numbers, start = empty((rows, size), like), [], 0
    for part, kind in batches:
        a[start : start + part.shape[0], :] = part
        start += int(part.shape[0])
        numbers.append(kind)
    gram = a @ a.T
    values, vectors = _eigh(gram if comm is None else comm.allreduce(gram), comm)
    kept = xp.nonzero(~(values <= KEPT * rows * float(values[-1])))[0]  # NaN is kept, to be noticed
    values, vectors = xp.take(values, kept), xp.take(vectors, kept, axis=1)
    roots = xp.sqrt(values)
    shares = []
    if kinds > 1:
        kind = xp.concat(numbers)
        for t in range(kinds):
            chosen = vectors[xp.nonzero(kind == t)[0], :] * roots[None, :]
            shares.append(chosen.T @ chosen)
    basis = (vectors.T @ a) / roots[:, None]
    return Spectrum(basis, values, _shift(values, shift), False, shares, comm)


def _shift(values: Array, shift: float) -> float:
    """μ, as far as rounding lets it be small; 1 where neither rows nor a prior say anything."""
    largest = float(values[-1]) if values.shape[0] else 0.0
    return max(shift, LEAST * largest) or 1.0


def _eigh(matrix: Array, comm: Comm | None) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, the same on all ranks to the bit. Collective over `comm`."""
    if not matrix.shape[0]:
        return zeros((0,), matrix), matrix
    if comm is None or comm.size == 1:
        return _decomposed(matrix)
    values, vectors = zeros((matrix.shape[0],), matrix), zeros(matrix.shape, matrix)
    if comm.rank == 0:
        values, vectors = _decomposed(matrix)
    return comm.bcast(values), comm.bcast(contiguous(vectors))


def _decomposed(matrix: Array) -> tuple[Array, Array]:
    """NaN where the matrix is not finite, which all ranks notice later."""
    xp = namespace(matrix)
    if bool(xp.all(xp.isfinite(matrix))):
        return eigh(matrix)
    return matrix[0, :] + math.nan, matrix + math.nan


def _one(size: int, like: Array) -> Array:
    return zeros((1,), like) + float(size)


def output_covariances(network: Network, theta: Array, x: Array, posterior: Posterior) -> tuple[Array, Array]:
    """z (n, K), and the covariances of the outputs at new samples, (n, K, K), θ and x being on the host in float64.

    Collective over the ranks of the network.
    """
    rows, z = output_rows(network, theta, x)
    comm, xp = network.comm, namespace(z)
    n, k, _ = rows.shape
    total = zeros((n, k, k), z)
    for group in posterior.groups:
        j = xp.take(rows, group.places, axis=2)
        u = comm.allreduce(xp.matmul(j, group.basis.T))
        total += xp.matmul(u * group.variances, xp.permute_dims(u, (0, 2, 1)))
        if group.outside:
            rest = j - xp.matmul(u, group.basis)
            beyond = xp.matmul(u, group.others)
            squares = comm.allreduce(xp.matmul(rest, xp.permute_dims(rest, (0, 2, 1))))
            total += group.outside * (squares + xp.matmul(beyond, xp.permute_dims(beyond, (0, 2, 1))))
    return z, total
