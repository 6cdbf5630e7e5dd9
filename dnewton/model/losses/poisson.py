"""Poisson regression with the log link: the outputs are logarithms of expected counts."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import LOSSES, LossSection


@LOSSES.add("poisson")
class Poisson(LossSection):
    """ξ = Σ_k exp(z_k) - y_k z_k, the negative log-likelihood of counts y without the term log y!; B = diag(exp z).

    As PyTorch's PoissonNLLLoss, summed over the outputs. Predictions are exp z.
    """

    targets = "counts"
    noise = "stated"

    def mean(self, z: Array) -> Array:
        """exp z, the expected counts."""
        return namespace(z).exp(z)

    def terms(self, z: Array, y: Array) -> Array:
        """What ξ is the sum of, per output."""
        xp = namespace(z)
        z, y = xp.astype(z, xp.float64), xp.astype(y, xp.float64)
        return xp.exp(z) - y * z

    def gradient(self, z: Array, y: Array) -> Array:
        """exp z - y."""
        return namespace(z).exp(z) - y

    def mean_slope(self, z: Array) -> Array:
        """exp z."""
        return self.mean(z)

    def scatter(self, mean: Array) -> Array:
        """The mean itself."""
        return mean

    def state(self, z: Array, y: Array) -> Array:
        """exp z."""
        return namespace(z).exp(z)

    def hessian_product(self, state: Array, u: Array) -> Array:
        """B u."""
        return state * u

    def half(self, state: Array, u: Array) -> Array:
        """√B u."""
        return namespace(u).sqrt(state) * u
