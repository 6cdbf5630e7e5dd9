"""Gauss-Newton products G v = v/C + (1/|S|) Σ_i J_iᵀ B_i J_i v (Wang et al. 2018, equations 9 and 27)."""

from __future__ import annotations

import math

from dnewton.arrays import Array, dot, namespace
from dnewton.comm import Comm
from dnewton.curvature.jacobian import Jacobian, Unit
from dnewton.curvature.losses import Loss


class GaussNewton:
    """The curvature at one point: this rank's Jacobian, B through the loss, and the regulariser 1/C."""

    def __init__(self, jacobian: Jacobian, loss: Loss, z: Array, regulariser: float) -> None:
        """`z` are the outputs on S, (S, K)."""
        self.jacobian, self._loss, self._state = jacobian, loss, loss.state(z)
        self.regulariser = regulariser

    def block_product(self, v: Array, unit: Unit, damping: float) -> Array:
        """(G_uu + λI) v on a diagonal unit alone; returns the unit's span. Communicates nothing."""
        out = namespace(v).zeros_like(v)
        self.jacobian.add_curved(v, unit, self.bend, out)
        return self._damped(out, v, unit, damping)

    def full_product(self, v: Array, unit: Unit, damping: float, comm: Comm) -> Array:
        """This rank's part of (G + λI) v; `unit` holds all its blocks.

        Collective over the world: one sum of K|S| numbers.
        """
        u = comm.sum(self.jacobian.times(v, unit))
        out = namespace(v).zeros_like(v)
        self.jacobian.add_transposed(self.bend(u, slice(0, u.shape[0])), unit, out)
        return self._damped(out, v, unit, damping)

    def bend(self, u: Array, here: slice) -> Array:
        """B u / |S| for the samples of a slice."""
        return self._loss.hessian_product(self._state[here], u) / self.jacobian.samples

    def half(self, u: Array) -> Array:
        """R u / √|S| per sample, with R Rᵀ = B; for u (..., S, K)."""
        return self._loss.half(self._state, u) / math.sqrt(self.jacobian.samples)

    def half_transposed(self, u: Array) -> Array:
        """Rᵀ u / √|S| per sample."""
        return self._loss.half_transposed(self._state, u) / math.sqrt(self.jacobian.samples)

    def half_of(self, u: Array, here: slice) -> Array:
        """Rᵀ u for u (..., n, K) of the samples of a slice."""
        return self._loss.half_transposed(self._state[here], u)

    def _damped(self, out: Array, v: Array, unit: Unit, damping: float) -> Array:
        part = out[unit.span]
        part += (self.regulariser + damping) * v[unit.span]
        return part

    def quadratic(self, u: Array, w: Array) -> float:
        """(J x)ᵀ B (J y) / |S| for complete u = J x and w = J y, (S, K); float64."""
        xp = namespace(u)
        n = u.shape[0] * u.shape[1]
        bw = self._loss.hessian_product(self._state, w)
        return dot(xp.reshape(u, (n,)), xp.reshape(bw, (n,))) / self.jacobian.samples
