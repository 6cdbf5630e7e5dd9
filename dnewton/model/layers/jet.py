"""The layers of a net on jets: no entries of a net, but made from its own by :mod:`dnewton.model.jet_net`.

Arrays between them are (N, Q, features), cotangents (N or 1, K, Q, features); shapes are (features, Q), as those of a
sequence of Q positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.namespace import (
    Array,
    block_bytes,
    empty,
    itemsize,
    multiply,
    namespace,
    sample_blocks,
    zeros,
)
from dnewton.config.layer_entry import Arrangement, LayerSection, Shape
from dnewton.config.types import Count
from dnewton.grid import KindName, Split, SplitAxis
from dnewton.model.jet import JetPositions
from dnewton.model.layers.activation import ACTIVATIONS, Activation
from dnewton.model.layers.fourier import Fourier, FourierSection
from dnewton.model.layers.interface import Parts

STAY = 2 << 20  # bytes of jets that are worked on at a time


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


class JetFourierSection(LayerSection):
    """The combinations of the inputs of Fourier features, of which a sine is taken; nothing of it is trained."""

    word = "fourier"
    whole = True

    features: FourierSection

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(features, Q)."""
        return (self.features.features, shape[1])

    def operation(self, shape: Shape) -> JetFourier:
        """The operation."""
        return JetFourier(self.features.operation(shape[:1]))


@dataclass(frozen=True)
class JetFourier:
    """W z + b, b for the value alone. No weights are below: it has neither tangents nor cotangents."""

    features: Fourier

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """(N, Q, inputs) to (N, Q, features)."""
        out = JetDense().forward(self.features.matrix(z), z)
        out[:, 0, :] += self.features.shift(z)
        return out, None


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

    The state (N, Q + 1, features) is what the derivatives of that are made of: σ′, s_a, σ‴ s_a s_b + σ″ s_ab, σ″. All
    is done for samples that stay in cache: there are many steps, of little work each.
    """

    activation: Activation
    positions: JetPositions

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """The jet of σ(s)."""
        n, q, o = z.shape
        out, state = empty(z.shape, z), empty((n, q + 1, o), z)
        for part in self._parts(z, 3 * q):
            self._forward(z[part, ...], out[part, ...], state[part, ...])
        return out, state

    def outputs(self, z: Array) -> Array:
        """The jet alone: less than half of the work."""
        out = empty(z.shape, z)
        for part in self._parts(z, 2 * z.shape[1]):
            self._forward(z[part, ...], out[part, ...], None)
        return out

    def _parts(self, z: Array, numbers: int) -> list[slice]:
        """Samples whose arrays of so many numbers a feature stay in cache."""
        return sample_blocks(z.shape[0], numbers * z.shape[-1] * itemsize(z), block_bytes(z, STAY))

    def _forward(self, z: Array, out: Array, state: Array | None) -> None:
        positions = self.positions
        ahead = 1 + len(positions.firsts)
        value = self.activation.value(z[:, 0, :])
        out[:, 0, :] = value
        slope, *higher = self._derivatives(z[:, 0, :], value, state is not None)
        multiply(z[:, 1:, :], slope[:, None, :], out[:, 1:, :])
        if state is not None:
            state[:, 0, :] = slope
        if state is not None and positions.firsts:
            state[:, -1, :] = higher[0]
            state[:, 1:ahead, :] = z[:, 1:ahead, :]
        for place, pairs in enumerate(positions.seconds, start=ahead):
            total = None
            for a, b in pairs:
                product = z[:, positions.first(a), :] * z[:, positions.first(b), :]
                total = product if total is None else total + product
            out[:, place, :] += higher[0] * total
            if state is not None:
                state[:, place, :] = higher[1] * total + higher[0] * z[:, place, :]

    def _derivatives(self, s: Array, value: Array, keep: bool) -> list[Array]:
        """σ′, and what more the jet is made of or its state (`keep`)."""
        activation, positions = self.activation, self.positions
        if not positions.firsts:
            return [activation.slope(value if activation.of == "z" else s)]
        assert activation.derivatives is not None
        return activation.derivatives(s, value, 1 + bool(positions.seconds) + keep)

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of the jet along a tangent t of the input, (N, Q, features)."""
        assert state is not None
        out = empty(t.shape, t)
        for part in self._parts(t, 3 * t.shape[1]):
            self._push(t[part, ...], state[part, ...], out[part, ...])
        return out

    def _push(self, t: Array, state: Array, out: Array) -> None:
        positions = self.positions
        slope, curve = state[:, :1, :], state[:, -1, :]
        multiply(t, slope, out)
        if not positions.firsts:
            return
        ahead = 1 + len(positions.firsts)
        out[:, 1:ahead, :] += (curve * t[:, 0, :])[:, None, :] * state[:, 1:ahead, :]
        out[:, ahead:, :] += state[:, ahead:-1, :] * t[:, :1, :]
        for place, pairs in enumerate(positions.seconds, start=ahead):
            for a, b in pairs:
                i, j = positions.first(a), positions.first(b)
                out[:, place, :] += curve * (t[:, i, :] * state[:, j, :] + state[:, i, :] * t[:, j, :])

    def backward(self, cot: Array, state: Array | None) -> Array:
        """The cotangent of the input's jet: the transpose of :meth:`push`."""
        assert state is not None
        n, k, q, o = state.shape[0], cot.shape[1], cot.shape[2], cot.shape[3]
        out = empty((n, k, q, o), cot)
        for part in self._parts(cot, (2 * k + 1) * q + 1):
            self._backward(cot if cot.shape[0] == 1 else cot[part, ...], state[part, ...], out[part, ...])
        return out

    def _backward(self, cot: Array, state: Array, out: Array) -> None:
        positions, xp = self.positions, namespace(cot)
        multiply(cot, state[:, None, :1, :], out)
        if not positions.firsts:
            return
        ahead = 1 + len(positions.firsts)
        curve = state[:, None, -1, :]
        value = out[:, :, 0, :]
        value += curve * xp.sum(state[:, None, 1:ahead, :] * cot[:, :, 1:ahead, :], axis=2)
        if positions.seconds:
            value += xp.sum(state[:, None, ahead:-1, :] * cot[:, :, ahead:, :], axis=2)
        for place, pairs in enumerate(positions.seconds, start=ahead):
            above = curve * cot[:, :, place, :]
            for a, b in pairs:
                i, j = positions.first(a), positions.first(b)
                out[:, :, i, :] += state[:, None, j, :] * above
                out[:, :, j, :] += state[:, None, i, :] * above
