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
_SHORT = re.compile(r"d(\d)(\d)?|d(\d+)_(\d+)|d([1-9]\d\d+)")  # of three digits, the first derivative by one input
_LONG = re.compile(r"d\((\d+)\)|dd\((\d+),(\d+)\)|laplacian\((\d+(?:,\d+)*)\)")


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


def derivative(name: object, inputs: int) -> int | Sum | None:
    """The derivative that a name stands for: a number for `d0` or `d(0)`, a sum for `d01` or `dd(0, 1)` (`d0_11` where
    numbers have two digits), `laplacian` and `laplacian(0, 1)`, None for `value`. Raises ValueError."""
    text = str(name).replace(" ", "")
    if text == "value":
        return None
    if text == "laplacian":
        return laplacian(range(inputs))
    found = _SHORT.fullmatch(text) or _LONG.fullmatch(text)
    numbers = [int(n) for part in (found.groups() if found else ()) if part is not None for n in part.split(",")]
    if not numbers or max(numbers) >= inputs:
        raise ValueError(
            f"{name!r} is no derivative by {inputs} input(s): value, d0, d00, d01, ..., laplacian are, or d(0), "
            "dd(0, 1), laplacian(0, 1)"
        )
    if text.startswith("laplacian"):
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{name!r}: name each input once")
        return laplacian(numbers)
    return numbers[0] if len(numbers) == 1 else ordered([(numbers[0], numbers[1])])
