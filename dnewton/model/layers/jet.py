"""The layers of a net on jets: no entries of a net, but made from its own by :mod:`dnewton.model.jet_net`.

Arrays between them are (N, Q, features), cotangents (N or 1, K, Q, features); shapes are (features, Q), as those of a
sequence of Q positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.namespace import Array, empty, namespace, zeros
from dnewton.config.layer_entry import Arrangement, LayerSection, Shape
from dnewton.config.types import Count
from dnewton.grid import KindName, Split, SplitAxis
from dnewton.model.jet import JetPositions
from dnewton.model.layers.activation import ACTIVATIONS, Activation
from dnewton.model.layers.interface import Parts


class JetInputSection(LayerSection):
    """The first jet: (x, e_a, 0), from the first columns of the data, which every rank holds whole."""

    word = "jet"
    positions: JetPositions

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(inputs, Q)."""
        return (self.positions.inputs, self.positions.count)

    def arrangements(self, shape: Shape, split: Split, axis: SplitAxis) -> list[Arrangement]:
        """Whole on every rank."""
        return [Arrangement("full", "full", SplitAxis(self.positions.inputs, 1))]

    def operation(self, shape: Shape) -> JetInput:
        """The operation."""
        return JetInput(self.positions)


@dataclass(frozen=True)
class JetInput:
    """No weights are below: it has neither tangents nor cotangents."""

    positions: JetPositions

    def forward(self, x: Array) -> tuple[Array, Array | None]:
        """(N, columns) to (N, Q, inputs)."""
        positions = self.positions
        out = zeros((x.shape[0], positions.count, positions.inputs), x)
        out[:, 0, :] = x[:, : positions.inputs]
        for a in positions.firsts:
            out[:, positions.first(a), a] = 1
        return out, None


class JetDenseSection(LayerSection):
    """A dense layer on jets, without its activation."""

    word = "dense"
    parametric = True
    bias_positions = slice(0, 1)

    units: Count
    followed_by: str
    split: KindName | None = None

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(units, Q)."""
        return (self.units, shape[1])

    def operation(self, shape: Shape) -> JetDense:
        """The operation."""
        return JetDense()


@dataclass(frozen=True)
class JetDense:
    """φ is the input itself, Q positions; see :class:`~dnewton.model.layers.interface.Linear`."""

    def rows(self, z: Array) -> Array:
        return z

    def forward(self, weight: Array, z: Array) -> Array:
        xp = namespace(z)
        n, q, i = z.shape
        return xp.reshape(xp.reshape(z, (n * q, i)) @ weight.T, (n, q, weight.shape[0]))

    def weight_gradient(self, cot: Array, z: Array) -> Array:
        xp = namespace(z)
        n, q, i = z.shape
        return xp.reshape(cot, (n * q, cot.shape[2])).T @ xp.reshape(z, (n * q, i))

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        whole = cot.product()
        xp = namespace(whole)
        n, k, q, o = whole.shape
        return xp.reshape(xp.reshape(whole, (n * k * q, o)) @ weight, (n, k, q, weight.shape[1]))

    def positions(self, cot: Array) -> Array:
        return cot


class JetActivationSection(LayerSection):
    """An activation on jets."""

    word = "activation"
    linear = False

    name: str
    positions: JetPositions

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """The same."""
        return shape

    def operation(self, shape: Shape) -> JetActivation:
        """The operation."""
        return JetActivation(ACTIVATIONS[self.name], self.positions)


@dataclass(frozen=True)
class JetActivation:
    """(s, s_a, s_ab) to (σ(s), σ′ s_a, σ″ s_a s_b + σ′ s_ab); see :class:`~dnewton.model.layers.interface.Transform`.

    The state is the input, with what the derivatives of σ are functions of in the place of s.
    """

    activation: Activation
    positions: JetPositions

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """The jet of σ(s). The input, which nobody else needs, becomes the state."""
        activation, positions = self.activation, self.positions
        value = activation.value(z[:, 0, :])
        if activation.of == "z":
            z[:, 0, :] = value
        out = empty(z.shape, z)
        out[:, 0, :] = value
        if positions.firsts:
            ahead = 1 + len(positions.firsts)
            slope = activation.slope(z[:, 0, :])
            out[:, 1:, :] = slope[:, None, :] * z[:, 1:, :]
            if positions.seconds:
                curve = activation.curve(z[:, 0, :])
                out[:, ahead:, :] += curve[:, None, :] * self._products(z)
        return out, z

    def _products(self, z: Array) -> Array:
        """Σ s_a s_b for every sum of second derivatives, (N, seconds, features)."""
        positions = self.positions
        out = empty((z.shape[0], len(positions.seconds), z.shape[2]), z)
        for place, pairs in enumerate(positions.seconds):
            total = None
            for a, b in pairs:
                part = z[:, positions.first(a), :] * z[:, positions.first(b), :]
                total = part if total is None else total + part
            out[:, place, :] = total
        return out

    def _derivatives(self, z: Array) -> tuple[Array, Array, Array]:
        """σ′ and σ″, (N, features), and σ‴ Σ s_a s_b + σ″ s_ab, (N, seconds, features)."""
        activation, positions = self.activation, self.positions
        kept = z[:, 0, :]
        slope, curve = activation.slope(kept), activation.curve(kept)
        mixed = z[:, 1 + len(positions.firsts) :, :]
        if positions.seconds:
            assert activation.third is not None
            mixed = curve[:, None, :] * mixed + activation.third(kept)[:, None, :] * self._products(z)
        return slope, curve, mixed

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of the jet along a tangent t of the input, (N, Q, features)."""
        assert state is not None
        positions = self.positions
        slope, curve, mixed = self._derivatives(state)
        ahead = 1 + len(positions.firsts)
        out = slope[:, None, :] * t
        out[:, 1:ahead, :] += (curve * t[:, 0, :])[:, None, :] * state[:, 1:ahead, :]
        out[:, ahead:, :] += mixed * t[:, :1, :]
        for place, pairs in enumerate(positions.seconds):
            for a, b in pairs:
                i, j = positions.first(a), positions.first(b)
                out[:, ahead + place, :] += curve * (t[:, i, :] * state[:, j, :] + state[:, i, :] * t[:, j, :])
        return out

    def backward(self, cot: Array, state: Array | None) -> Array:
        """The cotangent of the input's jet: the transpose of :meth:`push`."""
        assert state is not None
        positions = self.positions
        slope, curve, mixed = (a[:, None, ...] for a in self._derivatives(state))
        ahead = 1 + len(positions.firsts)
        out = slope[:, :, None, :] * cot
        for a in positions.firsts:
            i = positions.first(a)
            out[:, :, 0, :] += curve * state[:, None, i, :] * cot[:, :, i, :]
        for place, pairs in enumerate(positions.seconds):
            above = cot[:, :, ahead + place, :]
            out[:, :, 0, :] += mixed[:, :, place, :] * above
            above = curve * above
            for a, b in pairs:
                i, j = positions.first(a), positions.first(b)
                out[:, :, i, :] += state[:, None, j, :] * above
                out[:, :, j, :] += state[:, None, i, :] * above
        return out
