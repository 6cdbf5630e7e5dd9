"""Binary cross-entropy: of two classes on one output, or of labels on an output each."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import LOSSES, LossSection


@LOSSES.add("logistic")
class Logistic(LossSection):
    """ξ = Σ log(1 + eᶻ) - y z over the outputs, B = diag(p(1 - p)) with p = 1/(1 + e⁻ᶻ)."""

    targets = "classes"
    noise = "stated"

    def independent(self, outputs: int) -> bool:
        """Several outputs are as many labels."""
        return outputs > 1

    def probabilities(self, z: Array) -> Array:
        """1 - p and p, each to its last digits also where it is small; of several outputs p."""
        xp = namespace(z)
        both = z if z.shape[1] > 1 else xp.concat([-z, z], axis=1)
        return xp.exp(-xp.logaddexp(-both, xp.zeros_like(both)))

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
