"""Terms of a loss that is made of equations: residuals r = F(x, jet) on points, and their derivatives by the jet.

∂F by every number of the jet comes by complex step, Im F(z + ih) / h (Squire, Trapp 1998), exact to rounding as nothing
is subtracted; F must be analytic in the jet. `derivative` replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnewton.arrays.namespace import Array, namespace, zeros
from dnewton.errors import UserError
from dnewton.model.jet import JetPositions
from dnewton.model.jet_field import Field, Key, held, key_name

STEP = 2.0**-200  # a power of two, so that dividing by it rounds nothing
FEW = 13  # points of the first call, by which shapes are found: no likely number of equations
DIFFERENCE = 1e-6  # step of the differences that check the complex step
CHECKED = 64  # points at which they do

Function = Callable[..., Any]


@dataclass(frozen=True)
class ResidualTerm:
    """One equation or several on some of the points, in the order of the caller: `weight` times the mean square."""

    where: str  # its name in messages
    function: Function | None  # of (x, u); None: u.value itself
    derivative: Function | None  # of (x, u), by name of the derivative; None: complex step
    keys: tuple[Key, ...]  # the derivatives that the function asks for
    equations: int
    scale: float  # √weight, and what makes a sum over all points the mean over its own

    def values(self, x: Array, jet: Array, positions: JetPositions) -> Array:
        """r on n points, (n, equations), for a jet (n, Q, outputs) in float64."""
        if self.function is None:
            return self.scale * jet[:, 0, :]
        field = held({key: jet[:, place(positions, key), :] for key in self.keys}, positions.inputs, self.where)
        return self.scale * as_rows(self.function(x, field), x.shape[0], self.where, self.equations, "float64")

    def slopes(self, x: Array, jet: Array, positions: JetPositions) -> Array:
        """∂r by the jet, (n, equations, Q, outputs)."""
        n, q, outputs = jet.shape
        out = zeros((n, self.equations, q, outputs), jet)
        if self.function is None:
            for o in range(outputs):
                out[:, o, 0, o] = self.scale
            return out
        values = {key: jet[:, place(positions, key), :] for key in self.keys}
        if self.derivative is not None:
            self._given(x, values, positions, out)
            return out
        xp = namespace(jet)
        for key in self.keys:
            for o in range(outputs):
                shifted = xp.astype(values[key], xp.complex128)
                shifted[:, o] += complex(0.0, STEP)
                r = self.function(x, held({**values, key: shifted}, positions.inputs, self.where))
                rows = as_rows(r, n, self.where, self.equations, None)
                if rows.dtype.kind == "c":  # real: it does not depend on this number
                    out[:, :, place(positions, key), o] = (self.scale / STEP) * xp.imag(rows)
        return out

    def _given(self, x: Array, values: Mapping[Key, Array], positions: JetPositions, out: Array) -> None:
        """The derivatives that the user states."""
        assert self.derivative is not None
        stated = self.derivative(x, held(values, positions.inputs, self.where))
        named = {key_name(key).removeprefix("u."): key for key in self.keys}
        if not isinstance(stated, Mapping) or not set(stated) <= set(named):
            known = ", ".join(named)
            raise UserError(f"{self.where}: derivative must give a dictionary with arrays for some of {known}")
        shape = (out.shape[0], self.equations, out.shape[3])
        for name, given in stated.items():
            array = namespace(out).asarray(given)
            fitting = array[:, None, :] if array.ndim == 2 else array
            if tuple(fitting.shape) != shape:
                raise UserError(
                    f"{self.where}: derivative by {name} has shape {list(array.shape)}; {list(shape)} (points, "
                    "equations, outputs) is needed"
                )
            out[:, :, place(positions, named[name]), :] = self.scale * fitting


def place(positions: JetPositions, key: Key) -> int:
    """The position of a derivative in a jet."""
    if key is None:
        return 0
    return positions.first(key) if isinstance(key, int) else positions.second(key)


def as_rows(r: Any, n: int, where: str, equations: int | None, dtype: str | None) -> Array:
    """What a residual returned as (n, equations). Raises UserError naming the shape or the dtype."""
    if not hasattr(r, "shape") or not hasattr(r, "dtype"):
        raise UserError(f"{where}: returned {type(r).__name__}; an array of a residual per point is needed")
    shape = list(r.shape)
    if len(shape) not in (1, 2) or shape[0] != n or (len(shape) == 2 and shape[1] == n and equations is None):
        outer = shape == [n, n]
        why = "; an array [points, 1] and one of [points] were combined, give both the same axes" if outer else ""
        raise UserError(
            f"{where}: returned shape {shape} on {n} points; [points] or [points, equations] is needed{why}"
        )
    found = shape[1] if len(shape) == 2 else 1
    if equations is not None and found != equations:
        raise UserError(f"{where}: returned {found} equation(s), on its first call {equations}")
    if dtype is not None and str(r.dtype) != dtype:
        raise UserError(f"{where}: returned dtype {r.dtype}; float64 is needed, which is what x and u have")
    return namespace(r).reshape(r, (n, found))


def traced(function: Function, x: Array, outputs: int, where: str) -> tuple[tuple[Key, ...], int]:
    """The derivatives that a function asks for, and how many equations it has, by one call on a few points.

    Raises UserError.
    """
    xp = namespace(x)
    few = xp.take(x, xp.arange(FEW) % x.shape[0], axis=0)
    asked: dict[Key, Array] = {}

    def get(key: Key) -> Array:
        if key not in asked:
            asked[key] = _made_up(few, outputs, len(asked))
        return asked[key]

    r = function(few, Field(get, few.shape[1], where))
    rows = as_rows(r, few.shape[0], where, None, "float64")
    if not asked:
        raise UserError(f"{where}: does not depend on the net; use u.value, u.d(a), u.dd(a, b) or u.laplacian()")
    return tuple(asked), int(rows.shape[1])


def check(term: ResidualTerm, x: Array, outputs: int, positions: JetPositions) -> None:
    """Call a term on all its points with made-up numbers, and compare its derivatives with differences at some.

    Raises UserError where it is not finite, or where the derivatives differ.
    """
    xp = namespace(x)
    jet = xp.stack([_made_up(x, outputs, k) for k in range(positions.count)], axis=1)
    r = term.values(x, jet, positions)
    broken = ~xp.all(xp.isfinite(r), axis=1)
    if xp.any(broken):
        row = int(xp.argmax(broken))
        point = ", ".join(f"{v:.6g}" for v in x[row, :])
        raise UserError(f"{term.where}: is {float(xp.sum(r[row, :])):g} at point {row}, ({point})")
    if term.function is None:
        return
    x, jet = x[:CHECKED, :], jet[:CHECKED, ...]
    slopes = term.slopes(x, jet, positions)
    if not xp.all(xp.isfinite(slopes)):
        raise UserError(f"{term.where}: its derivatives are not finite; state them as derivative=")
    for key in term.keys:
        at = place(positions, key)
        for o in range(outputs):
            shift = zeros(jet.shape, jet)
            shift[:, at, o] = DIFFERENCE
            above, below = term.values(x, jet + shift, positions), term.values(x, jet - shift, positions)
            found = (above - below) / (2 * DIFFERENCE)
            off = xp.max(xp.abs(found - slopes[:, :, at, o]))
            size = xp.max(xp.abs(found)) + xp.max(xp.abs(slopes[:, :, at, o]))
            rounding = 1e-15 * xp.max(xp.abs(above)) / DIFFERENCE
            if off > 1e-4 * size + 100 * rounding:
                what = "derivative=" if term.derivative is not None else "the complex step"
                cure = (
                    ""
                    if term.derivative is not None
                    else ("; it is not analytic there (abs, real, float, sign): state its derivatives as derivative=")
                )
                raise UserError(
                    f"{term.where}: by {key_name(key)} {what} and differences are {float(off):.2g} apart{cure}"
                )


def _made_up(x: Array, outputs: int, number: int) -> Array:
    """Numbers between 0.5 and 1.5 for outputs on points, others for every derivative."""
    xp = namespace(x)
    row = xp.arange(x.shape[0], dtype=xp.float64)[:, None]
    column = xp.arange(outputs, dtype=xp.float64)[None, :]
    return 1 + 0.5 * xp.sin(1 + 1.7 * row + 2.3 * column + 0.9 * number)


def evaluate(
    terms: Sequence[ResidualTerm], x: Array, jet: Array, positions: JetPositions, equations: int, slopes: bool
) -> tuple[Array, Array | None]:
    """The residuals (N, equations) of points of any terms, and their derivatives (N, equations, Q, outputs).

    The last column of x is the number of a point's term; a term with fewer equations has zeros for the rest.
    """
    xp = namespace(x)
    n, q, outputs = jet.shape
    r = zeros((n, equations), jet)
    out = zeros((n, equations, q, outputs), jet) if slopes else None
    for number, term in enumerate(terms):
        rows = xp.nonzero(x[:, -1] == number)[0]
        if not rows.shape[0]:
            continue
        points, there = x[rows, :-1], jet[rows, ...]
        r[rows, : term.equations] = term.values(points, there, positions)
        if out is not None:
            out[rows, : term.equations, ...] = term.slopes(points, there, positions)
    return r, out
