"""Softmax cross-entropy."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import LOSSES, LossSection


@LOSSES.add("cross_entropy")
class CrossEntropy(LossSection):
    """ξ = -log softmax(z)_y, B = diag(p) - p pᵀ with p = softmax(z)."""

    targets = "classes"
    noise = "stated"

    def outputs_problem(self, outputs: int) -> str:
        """One output has no classes."""
        return "" if outputs > 1 else "cross_entropy needs two outputs or more; use logistic for one"

    def probabilities(self, z: Array) -> Array:
        """softmax(z)."""
        return self.state(z, z)

    def terms(self, z: Array, y: Array) -> Array:
        """What ξ is the sum of, per sample."""
        xp = namespace(z)
        z = xp.astype(z, xp.float64)
        z = z - xp.max(z, axis=1, keepdims=True)
        log_sum = xp.log(xp.sum(xp.exp(z), axis=1))
        return log_sum - xp.sum(z * xp.astype(y, xp.float64), axis=1)

    def gradient(self, z: Array, y: Array) -> Array:
        """p - y."""
        return self.state(z, y) - y

    def state(self, z: Array, y: Array) -> Array:
        """p."""
        xp = namespace(z)
        e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def hessian_product(self, state: Array, u: Array) -> Array:
        """p ∘ u - p (p·u)."""
        xp = namespace(u)
        pu = state * u
        return pu - state * xp.sum(pu, axis=-1, keepdims=True)

    def half(self, state: Array, u: Array) -> Array:
        """R = diag(√p) - p √pᵀ: B is singular, R not symmetric."""
        xp = namespace(u)
        ru = xp.sqrt(state) * u
        return ru - state * xp.sum(ru, axis=-1, keepdims=True)

    def half_transposed(self, state: Array, u: Array) -> Array:
        """√p ∘ (u - p·u)."""
        xp = namespace(u)
        return xp.sqrt(state) * (u - xp.sum(state * u, axis=-1, keepdims=True))
