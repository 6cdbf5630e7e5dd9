"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.layer_entry import LAYERS, LayerSection, Shape, needs_features
from dnewton.config.types import Count
from dnewton.grid import KindName
from dnewton.model.layers.activation import ActivationName
from dnewton.model.layers.interface import Parts


@LAYERS.add("dense")
class DenseSection(LayerSection):
    """`dense: {units, activation}`."""

    parametric = True

    units: Count  # outputs
    activation: ActivationName = "linear"  # see docs/nets.md
    split: KindName | None = None  # fixes the layer's kind of split; the planner chooses otherwise

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(units,)."""
        needs_features(shape, where)
        return (self.units,)

    def operation(self, shape: Shape) -> Dense:
        """The operation."""
        return Dense()


@dataclass(frozen=True)
class Dense:
    """φ is the input itself, one position; see :class:`~dnewton.model.layers.interface.Linear`."""

    def rows(self, z: Array) -> Array:
        return namespace(z).reshape(z, (z.shape[0], 1, z.shape[1]))

    def forward(self, weight: Array, z: Array) -> Array:
        return z @ weight.T

    def weight_gradient(self, cot: Array, z: Array) -> Array:
        return cot[:, 0, :].T @ z

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        whole = cot.product()
        xp = namespace(whole)
        n, k, _, o = whole.shape
        return xp.reshape(xp.reshape(whole, (n * k, o)) @ weight, (n, k, weight.shape[1]))

    def positions(self, cot: Array) -> Array:
        n, k, o = cot.shape
        return namespace(cot).reshape(cot, (n, k, 1, o))
