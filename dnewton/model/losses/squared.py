"""The squared error."""

from __future__ import annotations

import math

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import LOSSES, LossSection


@LOSSES.add("squared")
class Squared(LossSection):
    """ξ = ‖z - y‖², B = 2I."""

    targets = "real"
    noise = "estimated"

    def terms(self, z: Array, y: Array) -> Array:
        """What ξ is the sum of, per output."""
        xp = namespace(z)
        return xp.astype(z - y, xp.float64) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        """2 (z - y)."""
        return 2 * (z - y)

    def state(self, z: Array, y: Array) -> Array:
        """Nothing is needed; z stands for it."""
        return z

    def hessian_product(self, state: Array, u: Array) -> Array:
        """2 u."""
        return 2 * u

    def half(self, state: Array, u: Array) -> Array:
        """√2 u."""
        return math.sqrt(2) * u
