"""What the network, the Jacobian and the solvers need of a layer's operation; none of them communicates.

Arrays between layers are (N, features) or (N, H, W, C); a sequence (C, L) is an image of height 1. Cotangents carry K
right-hand sides: (N or 1, K, ...), where a leading 1 stands for all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dnewton.arrays.namespace import Array


class Parts(Protocol):
    """A cotangent that is multiplied out for some samples at a time."""

    @property
    def shared(self) -> bool:
        """The same for all samples."""
        ...

    def product(self, part: slice = slice(None)) -> Array:
        """(n or 1, K, Q, O)."""
        ...


class Linear(Protocol):
    """A layer with weights as a matrix (Wang, Tan, Lin 2018, section 2): a sample's input slice is seen as rows φ (Q
    positions, I inputs), and s = φ Wᵀ with W (O, I); a dense layer has one position."""

    def rows(self, z: Array) -> Array:
        """φ of the input slice, (N, Q, I)."""
        ...

    def forward(self, weight: Array, z: Array) -> Array:
        """The partial sums s = φ Wᵀ in the layer's output format."""
        ...

    def weight_gradient(self, cot: Array, z: Array) -> Array:
        """Σ over samples and positions of cot ⊗ φ, (O, I), for cot (N, Q, O)."""
        ...

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        """The partial cotangent of the input slice, (N or 1, K, features) or (N or 1, K, H, W, C).

        `cot.product(part)` gives the layer's cotangent (n, K, Q, O) for some of the samples.
        """
        ...

    def positions(self, cot: Array) -> Array:
        """A cotangent in output format (N, K, ...) as (N, K, Q, O)."""
        ...


class Transform(Protocol):
    """A layer without weights, of one input.

    One with a cheaper way to the output alone has it as `outputs(z)`, for passes of which nothing is kept.
    """

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """The output, and what the passes below need of it (the places of maxima), if anything."""
        ...

    def push(self, t: Array, state: Array | None) -> Array:
        """The tangent of :meth:`forward` along t."""
        ...

    def backward(self, cot: Array, state: Array | None) -> Array:
        """The cotangent of the input, (N or 1, K, ...)."""
        ...


class Meeting(Protocol):
    """A layer without weights, of several inputs."""

    def forward(self, *inputs: Array) -> tuple[Array, Array | None]:
        """The output, and what the passes below need of it."""
        ...

    def push_all(self, tangents: Sequence[Array | None], state: Array | None) -> Array | None:
        """The tangents (tangents, N, ...) of the output along those of the inputs; None stands for zero."""
        ...

    def parts(self, cot: Array, state: Array | None) -> list[Array]:
        """The cotangent of every input."""
        ...
