"""Preconditioners of a rank's own diagonal system; they communicate nothing.

`kronecker`: a dense layer's block of G is nearly A ⊗ Γ with A = E[φφᵀ] and Γ = E[Dᵀ B D] (Martens and Grosse 2015),
and (A + π√μ I) ⊗ (Γ + √μ/π I), μ = λ + 1/C, is inverted by its factors. `diagonal`: the diagonal of G + λI; exact where
J is held as rows or the layer is dense, without the products between positions of a convolution otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from dnewton.arrays import Array, inverse, namespace
from dnewton.curvature.blocks import BlockJacobian, Factored
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import Piece, Unit

Preconditioner = Callable[[Array], Array]
Name = Literal["none", "diagonal", "kronecker"]


def make(name: Name, model: GaussNewton, unit: Unit, damping: float) -> Preconditioner | None:
    """M⁻¹ as a function of a vector on the unit's span; None for `none`."""
    if name == "none" or not unit.size:
        return None
    mu = model.regulariser + damping
    parts = [_block(name, model, model.jacobian.pieces[i], mu) for i in unit.blocks]
    start = unit.span.start
    spans = [model.jacobian.pieces[i][0].j.block.span for i in unit.blocks]

    def apply(r: Array) -> Array:
        pieces = [part(r[s.start - start : s.stop - start]) for part, s in zip(parts, spans, strict=True)]
        return pieces[0] if len(pieces) == 1 else namespace(r).concat(pieces)

    return apply


def _block(name: Name, model: GaussNewton, pieces: list[Piece], mu: float) -> Preconditioner:
    j = pieces[0].j
    if name == "kronecker" and len(pieces) == 1 and isinstance(j, Factored) and j.phi.shape[1] == 1 and j.block.size:
        return _kronecker(model, j, mu)
    diagonal = sum((_diagonal(model, piece) for piece in pieces[1:]), _diagonal(model, pieces[0])) + mu
    return lambda r: r / diagonal


def _kronecker(model: GaussNewton, j: Factored, mu: float) -> Preconditioner:
    xp, phi, samples = namespace(j.phi), j.phi[:, 0], model.jacobian.samples
    if j.block.has_bias:
        phi = xp.concat([phi, xp.ones((phi.shape[0], 1), dtype=phi.dtype)], axis=1)
    a = phi.T @ phi / samples
    # As many samples as give twice as many vectors D_ik as Γ has rows: more would not make it better, only dearer.
    o = j.block.shape[0]
    step = max(1, samples * model.jacobian.outputs // (2 * o))
    some = slice(0, samples, step)
    d = _bent(model, j.d.dense(samples)[some], some)  # (K, n, O)
    flat = xp.reshape(d, (d.shape[0] * d.shape[1], o))
    gamma = flat.T @ flat / d.shape[1]
    scale_a, scale_g = float(xp.linalg.trace(a)) / a.shape[0], float(xp.linalg.trace(gamma)) / o
    pi = math.sqrt(scale_a / scale_g) if scale_a > 0 and scale_g > 0 else 1.0
    left, right = inverse(gamma, math.sqrt(mu) / pi), inverse(a, pi * math.sqrt(mu))
    if left is None or right is None:
        return lambda r: r
    block = j.block

    def apply(r: Array) -> Array:
        w = xp.reshape(r[: block.weights], block.shape)
        if not block.has_bias:
            return xp.reshape(left @ w @ right, (block.weights,))
        w = left @ xp.concat([w, xp.reshape(r[block.weights :], (o, 1))], axis=1) @ right
        return xp.concat([xp.reshape(w[:, :-1], (block.weights,)), w[:, -1]])

    return apply


def _bent(model: GaussNewton, d: Array, some: slice) -> Array:
    """Rᵀ D of some samples at one position, (n, K, 1, O) to (K, n, O), without the 1/√|S|."""
    xp = namespace(d)
    turned = xp.permute_dims(d[:, :, 0], (2, 0, 1))  # (O, n, K)
    return xp.permute_dims(model.half_of(turned, some), (2, 1, 0))


def _diagonal(model: GaussNewton, piece: Piece) -> Array:
    """Σ_i of the diagonal of J_iᵀ B_i J_i / |S|, laid out like the block."""
    j, here = piece.j, piece.here
    if not isinstance(j, Factored):
        return _squares(model, j, here)
    xp, block = namespace(j.phi), j.block
    n, q, o = j.phi.shape[0], j.phi.shape[1], block.shape[0]
    d = j.d.dense(n)
    turned = xp.permute_dims(d, (2, 3, 0, 1))  # (Q, O, n, K)
    bent = xp.sum(model.half_of(turned, here) ** 2, axis=-1)  # (Q, O, n)
    by_position = xp.reshape(xp.permute_dims(bent, (2, 0, 1)), (n * q, o))
    squares = by_position.T @ xp.reshape(j.phi**2, (n * q, j.phi.shape[2]))
    flat = xp.reshape(squares, (block.weights,))
    if block.has_bias:
        flat = xp.concat([flat, xp.sum(by_position, axis=0)])
    return flat / model.jacobian.samples


def _squares(model: GaussNewton, j: BlockJacobian, here: slice) -> Array:
    rows = j.as_rows()
    xp = namespace(rows)
    n, k = here.stop - here.start, model.jacobian.outputs
    turned = xp.reshape(rows.T, (rows.shape[1], n, k))
    bent = model.half_of(turned, here)
    return xp.sum(bent**2, axis=(1, 2)) / model.jacobian.samples
