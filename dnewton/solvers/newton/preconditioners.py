"""Preconditioners of a rank's own diagonal system; they communicate nothing.

`kronecker`: a dense layer's block of G is nearly A ⊗ Γ with A = E[φφᵀ] and Γ = E[Dᵀ B D] (Martens and Grosse 2015),
and (A + π√μ I) ⊗ (Γ + √μ/π I), μ = λ + 1/C, is inverted by its factors. `diagonal`: the diagonal of G + λI; exact where
J is held as rows or the layer is dense, without the products between positions of a convolution otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dnewton.arrays.namespace import Array, block_bytes, inverse, namespace, ones, sample_blocks
from dnewton.curvature.block_jacobian import BlockJacobian, Factored
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem

Preconditioner = Callable[[Array], Array]


def make(name: str, model: GaussNewton, unit: LocalSystem, damping: float) -> Preconditioner | None:
    """M⁻¹ (`diagonal` or `kronecker`) as a function of a vector on the unit's span; None for `none`."""
    if name == "none" or not unit.size:
        return None
    mu = model.regulariser + damping
    blocks = model.jacobian.of(unit)
    parts = [_block(name, model, j, mu) for j in blocks]
    start = unit.span.start
    spans = [j.block.span for j in blocks]

    def apply(r: Array) -> Array:
        pieces = [part(r[s.start - start : s.stop - start]) for part, s in zip(parts, spans, strict=True)]
        return pieces[0] if len(pieces) == 1 else namespace(r).concat(pieces)

    return apply


def _block(name: str, model: GaussNewton, j: BlockJacobian, mu: float) -> Preconditioner:
    if name == "kronecker" and isinstance(j, Factored) and j.phi.shape[1] == 1 and j.block.size:
        return _kronecker(model, j, mu)
    diagonal = _diagonal(model, j) + mu
    return lambda r: r / diagonal


def _kronecker(model: GaussNewton, j: Factored, mu: float) -> Preconditioner:
    phi, samples = j.phi.part()[:, 0, :], model.samples
    xp = namespace(phi)
    if j.block.has_bias:
        phi = xp.concat([phi, ones((phi.shape[0], 1), phi)], axis=1)
    if model.root_weights is not None:
        phi = phi * model.root_weights[:, None]
    a = phi.T @ phi / samples
    # As many samples as give twice as many vectors D_ik as Γ has rows: more would not make it better, only dearer.
    o = j.block.shape[0]
    step = max(1, samples * model.outputs // (2 * o))
    some = slice(0, samples, step)
    n = len(range(samples)[some])
    d = _half_transposed(model, j.d.dense(n, some), some)  # (K, n, O)
    flat = xp.reshape(d, (d.shape[0] * n, o))
    gamma = samples * (flat.T @ flat) / n
    scale_a = float(xp.linalg.trace(a)) / a.shape[0]
    scale_g = float(xp.linalg.trace(gamma)) / o
    pi = math.sqrt(scale_a / scale_g) if scale_a > 0 and scale_g > 0 else 1.0
    left = inverse(gamma, math.sqrt(mu) / pi)
    right = inverse(a, pi * math.sqrt(mu))
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


def _half_transposed(model: GaussNewton, d: Array, some: slice) -> Array:
    """Rᵀ D of some samples at one position, (n, K, 1, O) to (K, n, O)."""
    xp = namespace(d)
    transposed = xp.permute_dims(d[:, :, 0, :], (2, 0, 1))  # (O, n, K)
    return xp.permute_dims(model.half_transposed(transposed, some), (2, 1, 0))


def _diagonal(model: GaussNewton, j: BlockJacobian) -> Array:
    """Σ_i of the diagonal of J_iᵀ B_i J_i / |S|, laid out like the block; summed over samples that stay in cache."""
    samples = model.samples
    k = model.outputs
    size = j.block.size
    per_sample = size if not isinstance(j, Factored) else j.phi.shape[1] * j.block.shape[0]
    held = j.phi.like if isinstance(j, Factored) else j.as_rows(slice(0, 0))
    parts = sample_blocks(samples, 4 * k * per_sample * 8, block_bytes(held))
    terms = [_squares(model, j, here) if not isinstance(j, Factored) else _by_factors(model, j, here) for here in parts]
    return sum(terms[1:], terms[0])


def _by_factors(model: GaussNewton, j: Factored, here: slice) -> Array:
    block, phi = j.block, j.phi.part(here)
    xp = namespace(phi)
    n, q, i = phi.shape
    o = block.shape[0]
    transposed = xp.permute_dims(j.d.dense(n, here), (2, 3, 0, 1))  # (Q, O, n, K)
    squares = xp.sum(model.half_transposed(transposed, here) ** 2, axis=-1)  # (Q, O, n)
    by_position = xp.reshape(xp.permute_dims(squares, (2, 0, 1)), (n * q, o))
    flat = xp.reshape(by_position.T @ xp.reshape(phi**2, (n * q, i)), (block.weights,))
    if not block.has_bias:
        return flat
    there = block.at_bias(xp.permute_dims(squares, (2, 0, 1)))
    return xp.concat([flat, xp.sum(there, axis=(0, 1))])


def _squares(model: GaussNewton, j: BlockJacobian, here: slice) -> Array:
    rows = j.as_rows(here)
    xp = namespace(rows)
    transposed = xp.reshape(rows.T, (rows.shape[1], here.stop - here.start, model.outputs))
    return xp.sum(model.half_transposed(transposed, here) ** 2, axis=(1, 2))
