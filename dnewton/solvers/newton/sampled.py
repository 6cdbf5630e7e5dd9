"""The `sampled` preconditioner: G on few samples plus μI, inverted exactly; it communicates nothing.

With A the rows of RᵀJ_u of r evenly spaced samples of S, over √r, and μ = λ + 1/C, (μI + AᵀA)⁻¹ v is
(v - Aᵀ(μI + AAᵀ)⁻¹ A v)/μ. What few samples see of G is what they have in common, its large eigenvalues; conjugate
gradients on all of S are left with the rest. All of it is in float64: in float32 the difference would cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.linear_algebra import Cholesky
from dnewton.arrays.namespace import Array, contiguous, copy, diagonal, namespace, ones, zeros
from dnewton.curvature.block_jacobian import BlockJacobian, Factored
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.gram import GramTerm, add_term, panel_width, panels_of, tile
from dnewton.curvature.jacobian import LocalSystem
from dnewton.grid import ceil_div


class _Part(Protocol):
    """The rows of A of one block."""

    def term(self) -> GramTerm:
        """What A Aᵀ of the block is made of."""
        ...

    def times(self, v: Array) -> Array:
        """A v for v on the block's span, (r·K,)."""
        ...

    def transposed(self, y: Array) -> Array:
        """Aᵀ y on the block's span."""
        ...


@dataclass(frozen=True)
class _Dense:
    """A dense layer: row (i, k) is d[i,k] ⊗ φ[i], never multiplied out."""

    phi: Array  # (r, I), with ones for a bias
    d: Array  # (r, K, O)
    bias: bool

    def term(self) -> GramTerm:
        r, k, o = self.d.shape
        return GramTerm(namespace(self.d).reshape(self.d, (r * k, o)), self.phi @ self.phi.T, k)

    def times(self, v: Array) -> Array:
        xp = namespace(v)
        r, k, _ = self.d.shape
        u = xp.matmul(self.d, (self.phi @ self._weights(v).T)[:, :, None])
        return xp.reshape(u, (r * k,))

    def _weights(self, v: Array) -> Array:
        """(O, I), the bias as the last column, as φ has it."""
        xp = namespace(v)
        o, i = self.d.shape[2], self.phi.shape[1]
        if not self.bias:
            return xp.reshape(v, (o, i))
        weights = xp.reshape(v[: o * (i - 1)], (o, i - 1))
        return xp.concat([weights, xp.reshape(v[o * (i - 1) :], (o, 1))], axis=1)

    def transposed(self, y: Array) -> Array:
        xp = namespace(y)
        r, k, o = self.d.shape
        i = self.phi.shape[1]
        e = xp.reshape(xp.matmul(xp.reshape(y, (r, 1, k)), self.d), (r, o))
        w = e.T @ self.phi
        if not self.bias:
            return xp.reshape(w, (o * i,))
        return xp.concat([xp.reshape(w[:, :-1], (o * (i - 1),)), w[:, -1]])


@dataclass(frozen=True)
class _Rows:
    """Any other block: its rows as a matrix."""

    rows: Array  # (r·K, variables)
    outputs: int

    def term(self) -> GramTerm:
        return GramTerm(self.rows, None, self.outputs)

    def times(self, v: Array) -> Array:
        return self.rows @ v

    def transposed(self, y: Array) -> Array:
        return y @ self.rows


class SampledGaussNewton:
    """AAᵀ of one local system, formed once for all λ."""

    def __init__(self, model: GaussNewton, unit: LocalSystem, samples: int) -> None:
        """About `samples` evenly spaced samples of S."""
        self._regulariser = model.regulariser
        blocks = model.jacobian.of(unit)
        start = unit.span.start
        self._spans = [slice(j.block.span.start - start, j.block.span.stop - start) for j in blocks]
        some = slice(0, model.samples, ceil_div(model.samples, max(1, min(samples, model.samples))))
        self._parts = [_part(model, j, some) for j in blocks]
        terms = [part.term() for part in self._parts]
        rows = int(terms[0].factor.shape[0])
        self._gram = zeros((rows, rows), terms[0].factor)  # the lower triangle
        for term in terms:
            add_term(term, panels_of(self._gram, panel_width(term.outputs, tile(term.factor))))

    def preconditioner(self, damping: float) -> Callable[[Array], Array] | None:
        """v on the unit's span to (μI + AᵀA)⁻¹ v; None where rounding leaves no factorisation."""
        mu = self._regulariser + damping
        shifted = copy(self._gram)
        here = diagonal(shifted)
        here += mu
        factor = Cholesky.factor(shifted)
        if factor is None:
            return None

        def apply(v: Array) -> Array:
            xp = namespace(v)
            wide = xp.astype(v, xp.float64)
            pieces = [part.times(wide[s]) for part, s in zip(self._parts, self._spans, strict=True)]
            y = factor.solve(sum(pieces[1:], pieces[0]))
            back = xp.concat([part.transposed(y) for part in self._parts])
            return xp.astype((wide - back) / mu, v.dtype)

        return apply


def _part(model: GaussNewton, j: BlockJacobian, some: slice) -> _Part:
    """A of a block on the samples `some` of S."""
    if isinstance(j, Factored) and j.phi.shape[1] == 1:
        phi = j.phi.part(some)[:, 0, :]
        xp = namespace(phi)
        n = phi.shape[0]
        phi = xp.astype(phi, xp.float64)
        if j.block.has_bias:
            phi = xp.concat([phi, ones((n, 1), phi)], axis=1)
        d = xp.permute_dims(j.d.dense(n, some)[:, :, 0, :], (2, 0, 1))  # (O, n, K)
        half = model.half_transposed(xp.astype(d, xp.float64), some) * math.sqrt(model.samples / n)
        return _Dense(phi, contiguous(xp.permute_dims(half, (1, 2, 0))), j.block.has_bias)
    outputs = model.outputs
    rows = j.as_rows(some)
    xp = namespace(rows)
    rows = xp.astype(rows, xp.float64)
    n, size = rows.shape[0] // outputs, rows.shape[1]
    half = model.half_transposed(xp.reshape(rows.T, (size, n, outputs)), some) * math.sqrt(model.samples / n)
    return _Rows(contiguous(xp.reshape(half, (size, n * outputs)).T), outputs)
