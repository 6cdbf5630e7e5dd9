"""The losses ξ(z; y), their gradients and their K x K Hessians B in the outputs z (docs/method.md).

`y` is one-hot (N, K) or real targets (N, K); for `logistic` it is (N, 1) with 0 or 1. Values are summed in float64.
"""

from __future__ import annotations

import math
from typing import Protocol

from dnewton.arrays.namespace import Array, namespace


class Loss(Protocol):
    """A loss with a positive semi-definite Hessian in the outputs."""

    def value(self, z: Array, y: Array) -> float:
        """Sum of ξ over the samples, float64."""
        ...

    def gradient(self, z: Array, y: Array) -> Array:
        """∂ξ/∂z per sample, (N, K)."""
        ...

    def state(self, z: Array) -> Array:
        """What `hessian_product` needs of the outputs, (N, K)."""
        ...

    def hessian_product(self, state: Array, u: Array) -> Array:
        """B u per sample for u (..., N, K)."""
        ...

    def half(self, state: Array, u: Array) -> Array:
        """R u per sample with R Rᵀ = B, for u (..., N, K)."""
        ...

    def half_transposed(self, state: Array, u: Array) -> Array:
        """Rᵀ u per sample."""
        ...


class Squared:
    """ξ = ‖z - y‖², B = 2I."""

    def value(self, z: Array, y: Array) -> float:
        xp = namespace(z)
        return float(xp.sum(xp.astype(z - y, xp.float64) ** 2))

    def gradient(self, z: Array, y: Array) -> Array:
        return 2 * (z - y)

    def state(self, z: Array) -> Array:
        return z

    def hessian_product(self, state: Array, u: Array) -> Array:
        return 2 * u

    def half(self, state: Array, u: Array) -> Array:
        return math.sqrt(2) * u

    half_transposed = half


class CrossEntropy:
    """ξ = -log softmax(z)_y, B = diag(p) - p pᵀ."""

    def value(self, z: Array, y: Array) -> float:
        xp = namespace(z)
        z = xp.astype(z, xp.float64)
        z = z - xp.max(z, axis=1, keepdims=True)
        log_sum = xp.log(xp.sum(xp.exp(z), axis=1))
        return float(xp.sum(log_sum - xp.sum(z * xp.astype(y, xp.float64), axis=1)))

    def gradient(self, z: Array, y: Array) -> Array:
        return self.state(z) - y

    def state(self, z: Array) -> Array:
        xp = namespace(z)
        e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def hessian_product(self, state: Array, u: Array) -> Array:
        xp = namespace(u)
        pu = state * u
        return pu - state * xp.sum(pu, axis=-1, keepdims=True)

    def half(self, state: Array, u: Array) -> Array:  # R = diag(√p) - p √pᵀ: B is singular, R not symmetric
        xp = namespace(u)
        ru = xp.sqrt(state) * u
        return ru - state * xp.sum(ru, axis=-1, keepdims=True)

    def half_transposed(self, state: Array, u: Array) -> Array:
        xp = namespace(u)
        return xp.sqrt(state) * (u - xp.sum(state * u, axis=-1, keepdims=True))


class Logistic:
    """Binary cross-entropy on one output: ξ = log(1 + eᶻ) - y z, B = p(1 - p)."""

    def value(self, z: Array, y: Array) -> float:
        xp = namespace(z)
        z, y = xp.astype(z, xp.float64), xp.astype(y, xp.float64)
        return float(xp.sum(xp.logaddexp(z, xp.zeros_like(z)) - y * z))

    def gradient(self, z: Array, y: Array) -> Array:
        return self._sigmoid(z) - y

    def state(self, z: Array) -> Array:
        p = self._sigmoid(z)
        return p * (1 - p)

    def hessian_product(self, state: Array, u: Array) -> Array:
        return state * u

    def half(self, state: Array, u: Array) -> Array:
        return namespace(u).sqrt(state) * u

    half_transposed = half

    @staticmethod
    def _sigmoid(z: Array) -> Array:
        return 0.5 * (1 + namespace(z).tanh(0.5 * z))


LOSSES: dict[str, Loss] = {"squared": Squared(), "cross_entropy": CrossEntropy(), "logistic": Logistic()}
