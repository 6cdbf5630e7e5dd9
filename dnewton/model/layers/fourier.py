"""Fourier features: sines and cosines of random combinations of the inputs, by which a net learns high frequencies
(Tancik et al. 2020). Nothing of it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from dnewton.arrays.namespace import Array, dtype_name, namespace, normal, to_device, zeros
from dnewton.config.layer_entry import LAYERS, LayerSection, LayerSpec, Shape, needs_features
from dnewton.config.types import Positive
from dnewton.errors import UserError


@LAYERS.add("fourier")
class FourierSection(LayerSection):
    """`fourier: {features, scale, seed}`: (cos Bx, sin Bx), `features` numbers in all, B normal of deviation `scale`,
    drawn by the seed. The first layer of a net."""

    linear = False
    whole = True

    features: Annotated[int, Field(ge=2, le=2**31 - 2, multiple_of=2)]  # cosines and sines, an even number
    scale: Positive = 1.0  # standard deviation of the frequencies
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of the frequencies

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(features,)."""
        needs_features(shape, where)
        return (self.features,)

    def expand(self, name: str, shape: Shape, where: str) -> list[LayerSpec]:
        """The layer itself, where it is the first."""
        if name != "layers.0":
            raise UserError(f"{where}: Fourier features are those of the inputs; put the layer first")
        return super().expand(name, shape, where)

    def operation(self, shape: Shape) -> Fourier:
        """The operation on inputs of that shape."""
        return Fourier(self.features // 2, shape[0], self.scale, self.seed)


@dataclass(frozen=True)
class Fourier:
    """sin(W x + b), which is (cos Bx, sin Bx). No weights are below: it has neither tangents nor cotangents."""

    waves: int
    inputs: int
    scale: float
    seed: int

    @cached_property
    def _matrix(self) -> Array:
        b = normal(self.seed, self.scale, (self.waves, self.inputs))
        return namespace(b).concat([b, b])

    def matrix(self, like: Array) -> Array:
        """W, (features, inputs), where `like` is."""
        return to_device(self._matrix.astype(dtype_name(like)), like)

    def shift(self, like: Array) -> Array:
        """b, (features,)."""
        shift = zeros((2 * self.waves,), like)
        shift[: self.waves] = 0.5 * math.pi
        return shift

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """(N, inputs) to (N, features)."""
        return namespace(z).sin(z @ self.matrix(z).T + self.shift(z)), None
