"""Jets: the value of a net's outputs and their derivatives by its inputs, which go through the layers side by side.

A jet of an activation is Q positions (u, ∂_a u, …, ∂_a ∂_b u, …) that share the weights of a layer, as the positions of
a convolution do; the bias is added to the value alone. Second derivatives may be sums: where an equation has the
Laplacian alone, that is one position.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Pair = tuple[int, int]
Sum = tuple[Pair, ...]  # a sum of second derivatives


@dataclass(frozen=True)
class JetPositions:
    """Which derivatives by `inputs` inputs a jet has, in the order of its positions: the value, first derivatives, sums
    of second ones. What a second derivative needs is there, too."""

    inputs: int
    firsts: tuple[int, ...] = ()
    seconds: tuple[Sum, ...] = ()

    @classmethod
    def of(cls, inputs: int, firsts: Iterable[int] = (), seconds: Iterable[Sum] = ()) -> JetPositions:
        """The positions for some derivatives, in an order that does not depend on that in which they are asked for."""
        sums = tuple(sorted({ordered(pairs) for pairs in seconds}))
        inner = {a for pairs in sums for pair in pairs for a in pair}
        return cls(inputs, tuple(sorted({*firsts, *inner})), sums)

    @property
    def count(self) -> int:
        """Q."""
        return 1 + len(self.firsts) + len(self.seconds)

    def first(self, a: int) -> int:
        """The position of ∂_a."""
        return 1 + self.firsts.index(a)

    def second(self, pairs: Sum) -> int:
        """The position of a sum of second derivatives."""
        return 1 + len(self.firsts) + self.seconds.index(pairs)


def ordered(pairs: Iterable[Pair]) -> Sum:
    """A sum of second derivatives in one way of writing: ∂_a ∂_b is ∂_b ∂_a."""
    return tuple(sorted((min(pair), max(pair)) for pair in pairs))


def laplacian(axes: Iterable[int]) -> Sum:
    """Σ ∂_a² over some inputs."""
    return ordered((a, a) for a in axes)


def derivative(name: str, inputs: int) -> int | Sum | None:
    """The derivative that a name stands for: a number for `d0`, a sum for `d01` (`d0_11` where numbers have two digits)
    and `laplacian`, None for `value`. Raises ValueError."""
    if name == "value":
        return None
    if name == "laplacian":
        return laplacian(range(inputs))
    found = re.fullmatch(r"d(\d)(\d)?|d(\d+)_(\d+)|d(\d+)", name)
    numbers = [int(n) for n in found.groups() if n is not None] if found else []
    if not numbers or max(numbers) >= inputs:
        raise ValueError(f"{name!r} is no derivative by {inputs} input(s): value, d0, d00, d01, ..., laplacian are")
    if len(numbers) == 1:
        return numbers[0]
    return ordered([(numbers[0], numbers[1])])
