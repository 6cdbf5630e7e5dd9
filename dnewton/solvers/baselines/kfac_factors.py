"""Kronecker factors of the empirical Fisher (true labels), in the convention of KFC (Grosse and Martens 2016).

Dense: A = (1/b) Σ [a;1][a;1]ᵀ, G = (1/b) Σ g gᵀ. Convolution with T output positions: A = (1/b) Σ_nt p pᵀ over patches
p with a 1 appended, G = (1/bT) Σ_nt g gᵀ. g is the gradient of one sample's loss, not divided by b. Weights of samples
are factors of the terms of both sums: the sweep carries √w g, and the gradient takes the other √w.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, block_bytes, eigh, itemsize, namespace, ones, sample_blocks, take, zeros
from dnewton.data.sampling import Indices
from dnewton.model.block import Block
from dnewton.model.cotangent import Cotangent
from dnewton.model.layers.interface import Linear
from dnewton.model.objective import Objective


def local_pass(
    objective: Objective,
    theta: Array,
    indices: Indices,
    gradient: Array,
    wanted: Collection[str],
    factored: Collection[str],
) -> dict[str, tuple[Array, Array]]:
    """Add Σ ∇ξ over some samples to `gradient`; for the layers `factored` also b·A and b·G over them.

    `wanted` are the layers for which any rank of the replica is asked. Collective over the replica.
    """
    network, factors = objective.network, {}
    tape = objective.forward(theta, indices, keep=True)
    cot, root = objective.loss.root_gradient(tape.z, take(objective.data.y, indices))

    def visit(block: Block, op: Linear, here: Cotangent, z: Array) -> None:
        d = here.keep_whole()[:, 0, ...]  # (N, Q, O)
        whole = d if root is None else d * root[:, None, None]
        block.add(gradient, op.weight_gradient(whole, z), whole)
        name = block.name
        if name in wanted:
            inputs = network.whole_slice(block, z)
            outputs = network.whole_slice(block, d, of_outputs=True)
            if name in factored:
                factors[name] = (_inputs_factor(op, inputs, root), _outputs_factor(outputs))

    network.backward(theta, tape, cot[:, None, :], visit)
    return factors


def _inputs_factor(op: Linear, z: Array, root: Array | None) -> Array:
    """Σ_nt w_n [φ;1][φ;1]ᵀ; `root` is √w, None for ones."""
    xp, n = namespace(z), z.shape[0]
    one = op.rows(z[:1, ...])
    a, total = one.shape[2] + 1, None
    for part in sample_blocks(n, one.shape[1] * a * itemsize(z), block_bytes(z)):
        rows = op.rows(z[part, ...])
        flat = ones((rows.shape[0] * rows.shape[1], a), z)
        flat[:, :-1] = xp.reshape(rows, (flat.shape[0], a - 1))
        if root is not None:
            flat *= xp.repeat(root[part], rows.shape[1])[:, None]
        product = flat.T @ flat
        total = product if total is None else total + product
    return total


def _outputs_factor(d: Array) -> Array:
    """Σ_nt g gᵀ / T."""
    n, positions, g = d.shape
    flat = namespace(d).reshape(d, (n * positions, g))
    return flat.T @ flat / positions


@dataclass
class Decomposition:
    """A layer's curvature, ready to be applied: eigenvectors and eigenvalues, or two inverses."""

    left: Array  # of G: Q_G, or its inverse
    right: Array  # of A
    left_values: Array | None = None
    right_values: Array | None = None

    def apply(self, gradient: Array, damping: float) -> Array:
        """(A ⊗ G + λI)⁻¹ of a gradient (g, a), exactly by the eigenvalues, or with λ parted by π."""
        if self.left_values is None or self.right_values is None:
            return self.left @ gradient @ self.right
        inside = self.left.T @ gradient @ self.right
        inside = inside / (self.left_values[:, None] * self.right_values[None, :] + damping)
        return self.left @ inside @ self.right.T

    def parts(self) -> list[Array]:
        """The arrays, for a message."""
        values = [] if self.left_values is None else [self.left_values, self.right_values]
        return [self.left, self.right, *values]


def decompose(a: Array, g: Array, eigen: bool, damping: float) -> Decomposition:
    """Eigendecompositions, or the inverses of A + π√λ I and G + √λ/π I with π² = (tr A / a) / (tr G / g)."""
    if not (_finite(a) and _finite(g)):  # the run has diverged: the next evaluation says so on all ranks
        nothing = [math.nan * m for m in (g, a)]
        return Decomposition(*nothing, *([m[0] for m in nothing] if eigen else []))
    if eigen:
        (left_values, left) = _eigh(g)
        (right_values, right) = _eigh(a)
        return Decomposition(left, right, left_values, right_values)
    xp = namespace(a)
    mean_a, mean_g = (float(xp.sum(xp.linalg.diagonal(m))) / m.shape[0] for m in (a, g))
    ratio = (mean_a / mean_g) ** 0.5 if mean_a > 0 and mean_g > 0 else 1.0
    root = damping**0.5
    return Decomposition(_inverse(g, root / ratio), _inverse(a, ratio * root))


def _eigh(matrix: Array) -> tuple[Array, Array]:
    xp = namespace(matrix)
    values, vectors = eigh(matrix)
    return xp.maximum(values, zeros((), values)), vectors


def _inverse(matrix: Array, shift: float) -> Array:
    """(matrix + shift I)⁻¹ by its eigenvalues, which rounding cannot make negative."""
    values, vectors = _eigh(matrix)
    return (vectors / (values + shift)) @ vectors.T


def _finite(matrix: Array) -> bool:
    xp = namespace(matrix)
    return bool(xp.all(xp.isfinite(matrix)))
