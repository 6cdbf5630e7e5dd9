"""Binary cross-entropy on one output."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import LOSSES, LossSection


@LOSSES.add("logistic")
class Logistic(LossSection):
    """ξ = log(1 + eᶻ) - y z, B = p(1 - p) with p = 1/(1 + e⁻ᶻ)."""

    targets = "classes"

    def outputs_problem(self, outputs: int) -> str:
        """One output."""
        return "" if outputs == 1 else f"logistic needs one output, the last layer has {outputs}"

    def probabilities(self, z: Array) -> Array:
        """1 - p and p."""
        p = _sigmoid(z)
        return namespace(z).concat([1 - p, p], axis=1)

    def terms(self, z: Array, y: Array) -> Array:
        """What ξ is the sum of, per output."""
        xp = namespace(z)
        z, y = xp.astype(z, xp.float64), xp.astype(y, xp.float64)
        return xp.logaddexp(z, xp.zeros_like(z)) - y * z

    def gradient(self, z: Array, y: Array) -> Array:
        """p - y."""
        return _sigmoid(z) - y

    def state(self, z: Array, y: Array) -> Array:
        """p (1 - p)."""
        p = _sigmoid(z)
        return p * (1 - p)

    def hessian_product(self, state: Array, u: Array) -> Array:
        """B u."""
        return state * u

    def half(self, state: Array, u: Array) -> Array:
        """√B u."""
        return namespace(u).sqrt(state) * u


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1 + namespace(z).tanh(0.5 * z))
