"""The Huber loss: squared near the target, linear beyond `delta`, so that outliers pull with a bounded force."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, namespace, zeros
from dnewton.config.loss_entry import LOSSES, LossSection
from dnewton.config.types import Positive


@LOSSES.add("huber")
class Huber(LossSection):
    """ξ = Σ_k h(z_k - y_k) with h(r) = r²/2 where |r| <= δ, else δ(|r| - δ/2) (Huber 1964); B = diag(|r| <= δ).

    As PyTorch's HuberLoss, summed over the outputs. Where every residual is beyond δ, B is zero and the damping alone
    bounds the step.
    """

    targets = "real"

    delta: Positive = 1.0  # in the units of the (scaled) targets

    def terms(self, z: Array, y: Array) -> Array:
        """What ξ is the sum of, per output."""
        xp = namespace(z)
        r = xp.abs(xp.astype(z - y, xp.float64))
        near = xp.minimum(r, zeros((), r) + self.delta)
        return near * (r - 0.5 * near)

    def gradient(self, z: Array, y: Array) -> Array:
        """The residual, cut off at ±δ."""
        xp = namespace(z)
        bound = zeros((), z) + self.delta
        return xp.maximum(xp.minimum(z - y, bound), -bound)

    def state(self, z: Array, y: Array) -> Array:
        """1 where |z - y| <= δ, else 0."""
        xp = namespace(z)
        return xp.astype(xp.abs(z - y) <= self.delta, z.dtype)

    def hessian_product(self, state: Array, u: Array) -> Array:
        """B u."""
        return state * u

    def half(self, state: Array, u: Array) -> Array:
        """√B u = B u."""
        return state * u
