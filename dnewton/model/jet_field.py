"""What a residual sees of a net on some points: the outputs and the derivatives by the inputs that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dnewton.arrays.namespace import Array
from dnewton.errors import UserError
from dnewton.model.jet import Sum, laplacian, ordered

Key = int | Sum | None  # of a derivative: ∂_a, a sum of second derivatives, the value


class Field:
    """The outputs u of a net on n points. Every derivative is an array (n, outputs)."""

    def __init__(self, get: Callable[[Key], Array], inputs: int, where: str) -> None:
        """`get` gives a derivative; `where` names the term in messages."""
        self._get = get
        self._inputs = inputs
        self._where = where

    @property
    def value(self) -> Array:
        """u."""
        return self._get(None)

    def d(self, a: int) -> Array:
        """∂u / ∂x_a."""
        return self._get(self._axis(a, "d"))

    def dd(self, a: int, b: int) -> Array:
        """∂²u / ∂x_a ∂x_b."""
        return self._get(ordered([(self._axis(a, "dd"), self._axis(b, "dd"))]))

    def laplacian(self, *axes: int) -> Array:
        """Σ ∂²u / ∂x_a² over some inputs, all of them by default. It goes through the net as one number."""
        chosen = axes or tuple(range(self._inputs))
        return self._get(laplacian({self._axis(a, "laplacian") for a in chosen}))

    def _axis(self, a: int, what: str) -> int:
        """Raises UserError for an input that the net does not have."""
        number = int(a)
        if number != a or not 0 <= number < self._inputs:
            raise UserError(f"{self._where}: u.{what} of input {a!r}; the net has inputs 0 to {self._inputs - 1}")
        return number


def held(values: Mapping[Key, Array], inputs: int, where: str) -> Field:
    """The field of derivatives that are known."""

    def get(key: Key) -> Array:
        if key not in values:
            raise UserError(
                f"{where}: asks for {key_name(key)}, not asked for on its first call; it must always ask for "
                "the same derivatives"
            )
        return values[key]

    return Field(get, inputs, where)


def key_name(key: Key) -> str:
    """A derivative as users write it."""
    if key is None:
        return "u.value"
    if isinstance(key, int):
        return f"u.d({key})"
    if len(key) == 1:
        return f"u.dd({key[0][0]}, {key[0][1]})"
    return f"u.laplacian({', '.join(str(a) for a, _ in key)})"
