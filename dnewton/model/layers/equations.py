"""The last layer of a net on jets: the residuals of equations, on which the squared error is the loss."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.layer_entry import Arrangement, LayerSection, Shape
from dnewton.grid import Split, SplitAxis
from dnewton.model.jet import JetPositions
from dnewton.model.residual_term import ResidualTerm, evaluate


class EquationsSection(LayerSection):
    """Residuals of terms; no entry of a net."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    word = "terms"
    linear = False
    takes_data = True

    terms: tuple[ResidualTerm, ...]
    positions: JetPositions

    @property
    def equations(self) -> int:
        """K: of the term that has most."""
        return max(term.equations for term in self.terms)

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(equations,)."""
        return (self.equations,)

    def arrangements(self, shape: Shape, split: Split, axis: SplitAxis) -> list[Arrangement]:
        """Every rank needs all outputs."""
        return [Arrangement("full", "full", SplitAxis(self.equations, 1))]

    def operation(self, shape: Shape) -> Equations:
        """The operation."""
        return Equations(self.terms, self.positions, self.equations)


@dataclass(frozen=True)
class Equations:
    """(N, Q, outputs) to (N, equations); see :class:`~dnewton.model.layers.interface.Transform`.

    The state is the residuals' derivatives by the jet, (N, equations, Q, outputs).
    """

    terms: tuple[ResidualTerm, ...]
    positions: JetPositions
    equations: int

    def forward(self, z: Array, x: Array) -> tuple[Array, Array | None]:
        """The residuals for a jet z on points x, whose last column is the number of the term; computed in float64."""
        xp = namespace(z)
        wide, points = xp.astype(z, xp.float64, copy=False), xp.astype(x, xp.float64, copy=False)
        r, slopes = evaluate(self.terms, points, wide, self.positions, self.equations, slopes=True)
        return xp.astype(r, z.dtype, copy=False), xp.astype(slopes, z.dtype, copy=False)

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of the residuals."""
        assert state is not None
        xp = namespace(t)
        n, e, q, o = state.shape
        return xp.matmul(xp.reshape(state, (n, e, q * o)), xp.reshape(t, (n, q * o, 1)))[..., 0]

    def backward(self, cot: Array, state: Array | None) -> Array:
        """(N or 1, K, equations) to (N, K, Q, outputs)."""
        assert state is not None
        xp = namespace(cot)
        n, e, q, o = state.shape
        k = cot.shape[1]
        return xp.reshape(xp.matmul(cot, xp.reshape(state, (n, e, q * o))), (n, k, q, o))
