"""What a residual sees of a net on some points: the outputs and the derivatives by the inputs that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dnewton.arrays.namespace import Array
from dnewton.arrays.views import read_only
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
        chosen = [self._axis(a, "laplacian") for a in axes or range(self._inputs)]
        if len(set(chosen)) < len(chosen):
            raise UserError(f"{self._where}: u.laplacian{axes}: name each input once")
        return self._get(laplacian(chosen))

    def __getattr__(self, name: str) -> Any:
        """Raises UserError for what a user may look for."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(
            f"{self._where}: u.{name} does not exist; u.value, u.d(a), u.dd(a, b) and u.laplacian(*axes) do; higher "
            "derivatives are those of a further output of the net"
        )

    def _axis(self, a: int, what: str) -> int:
        """Raises UserError for an input that the net does not have."""
        whole = hasattr(a, "__index__") and not isinstance(a, bool)
        if not whole or not 0 <= (number := a.__index__()) < self._inputs:
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
        return read_only(values[key])

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
