"""A loss whose samples have weights: every term of f, ∇f and G times w, so that weight 2 is the sample twice.

The targets carry the weights, of mean 1, as a last column (:class:`dnewton.data.samples.Samples`), and so does the
state: what cuts, joins or draws samples does not know of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import Loss, LossSection
from dnewton.data.samples import Samples
from dnewton.errors import UserError


def loss_of(loss: LossSection, data: Samples) -> Loss:
    """The loss as the samples need it: with their weights, if they have some.

    Raises UserError for a loss that states its value alone, not its terms.
    """
    if data.total is None:
        return loss
    if type(loss).terms is LossSection.terms:
        raise UserError(f"net.loss: {type(loss).__name__} states no terms, which weights multiply; define `terms`")
    return WeightedLoss(loss)


@dataclass(frozen=True)
class WeightedLoss:
    """w ξ(z; y) for y (N, K + 1), the last column w >= 0; see :class:`~dnewton.config.loss_entry.LossSection`."""

    loss: LossSection

    @property
    def targets(self) -> str:
        """Which targets it takes."""
        return self.loss.targets

    def value(self, z: Array, y: Array) -> float:
        """Σ w ξ over the samples, float64."""
        xp = namespace(z)
        terms = self.loss.terms(z, y[:, :-1])
        if terms.ndim == 2:
            terms = xp.sum(terms, axis=1)
        return float(xp.sum(terms * xp.astype(y[:, -1], xp.float64)))

    def gradient(self, z: Array, y: Array) -> Array:
        """w ∂ξ/∂z per sample, (N, K)."""
        return self.loss.gradient(z, y[:, :-1]) * y[:, -1:]

    def state(self, z: Array, y: Array) -> Array:
        """The loss's own and √w, (N, K + 1)."""
        xp = namespace(z)
        return xp.concat([self.loss.state(z, y[:, :-1]), xp.sqrt(y[:, -1:])], axis=1)

    def hessian_product(self, state: Array, u: Array) -> Array:
        """w B u per sample for u (..., N, K)."""
        return self.loss.hessian_product(state[:, :-1], u) * state[:, -1:] ** 2

    def half(self, state: Array, u: Array) -> Array:
        """√w R u per sample."""
        return self.loss.half(state[:, :-1], u) * state[:, -1:]

    def half_transposed(self, state: Array, u: Array) -> Array:
        """√w Rᵀ u per sample."""
        return self.loss.half_transposed(state[:, :-1], u) * state[:, -1:]

    def root_gradient(self, z: Array, y: Array) -> tuple[Array, Array | None]:
        """√w ∂ξ/∂z and √w."""
        root = namespace(z).sqrt(y[:, -1])
        return self.loss.gradient(z, y[:, :-1]) * root[:, None], root

    def root_weights(self, state: Array) -> Array | None:
        """√w, (N,)."""
        return state[:, -1]
