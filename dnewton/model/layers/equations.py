"""The last layer of a net on jets: the residuals of equations, on which the squared error is the loss.

Unknown parameters of the equations are the biases of a dense layer whose only input is zero: they are owned, solved for
and kept as all biases are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

from dnewton.arrays.namespace import Array, namespace, zeros
from dnewton.config.layer_entry import LayerSection, Shape
from dnewton.model.jet import JetPositions
from dnewton.model.layers.dense import DenseSection
from dnewton.model.residual_term import ResidualTerm, evaluate


class EquationsSection(LayerSection):
    """Residuals of terms, of the jet and of the unknown parameters where there are any; no entry of a net."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    word = "terms"
    linear = False
    takes_data = True
    whole = True

    terms: tuple[ResidualTerm, ...]
    positions: JetPositions
    equations: int
    parameters: int

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(equations,)."""
        return (self.equations,)

    def operation(self, shape: Shape) -> Equations:
        """The operation."""
        return Equations(self.terms, self.positions, self.equations, self.parameters)


class ZeroSection(LayerSection):
    """A zero for every sample, from the data."""

    word = "zero"
    whole = True

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(1,)."""
        return (1,)

    def operation(self, shape: Shape) -> Zero:
        """The operation."""
        return Zero()


class ParametersSection(DenseSection):
    """The unknown parameters of the equations."""

    word = "unknowns"

    start: tuple[float, ...]


@dataclass(frozen=True)
class Zero:
    """No weights are below: it has neither tangents nor cotangents."""

    def forward(self, x: Array) -> tuple[Array, Array | None]:
        """(N, 1)."""
        return zeros((x.shape[0], 1), x), None


@dataclass(frozen=True)
class Equations:
    """(N, Q, outputs), and (N, parameters) where there are any, to (N, equations); it is both a
    :class:`~dnewton.model.layers.interface.Transform` and a :class:`~dnewton.model.layers.interface.Meeting`.

    The state is the residuals' derivatives by the jet and by the parameters, (N, equations, Q·outputs + parameters).
    """

    terms: tuple[ResidualTerm, ...]
    positions: JetPositions
    equations: int
    parameters: int

    def forward(self, z: Array, *more: Array) -> tuple[Array, Array | None]:
        """The residuals for a jet z, and parameters, on points x, of which the last column is the number of the term;
        they are computed in float64."""
        *unknown, x = more
        xp = namespace(z)
        wide, points = xp.astype(z, xp.float64, copy=False), xp.astype(x, xp.float64, copy=False)
        values = [float(v) for v in unknown[0][0, :]] if unknown and z.shape[0] else []
        r, slopes = evaluate(self.terms, points, wide, values, self.positions, self.equations, self.parameters)
        return xp.astype(r, z.dtype, copy=False), xp.astype(slopes, z.dtype, copy=False)

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of the residuals along one of the jet."""
        assert state is not None
        xp = namespace(t)
        n, q, o = t.shape
        return xp.matmul(state[..., : q * o], xp.reshape(t, (n, q * o, 1)))[..., 0]

    def push_all(self, tangents: Sequence[Array | None], state: Array | None) -> Array | None:
        """The tangents along those of the jet and of the parameters."""
        assert state is not None
        jets, unknown = tangents
        total = None
        if jets is not None:
            total = namespace(jets).stack([self.push(jets[k, ...], state) for k in range(jets.shape[0])])
        if unknown is not None:
            xp = namespace(unknown)
            part = xp.matmul(state[None, :, :, state.shape[2] - self.parameters :], unknown[..., None])[..., 0]
            total = part if total is None else total + part
        return total

    def backward(self, cot: Array, state: Array | None) -> Array:
        """(N or 1, K, equations) to (N, K, Q, outputs)."""
        assert state is not None
        n, _, width = state.shape
        q = self.positions.count
        jets = width - self.parameters
        return namespace(cot).reshape(namespace(cot).matmul(cot, state[..., :jets]), (n, cot.shape[1], q, jets // q))

    def parts(self, cot: Array, state: Array | None) -> list[Array]:
        """The cotangents of the jet and of the parameters, (N, K, parameters)."""
        assert state is not None
        return [
            self.backward(cot, state),
            namespace(cot).matmul(cot, state[..., state.shape[2] - self.parameters :]),
        ]
