"""Terms of a loss that is made of equations: residuals r = F(x, jet) on points, and their derivatives by the jet.

∂F by every number of the jet comes by complex step, Im F(z + ih) / h (Squire, Trapp 1998), exact to rounding as nothing
is subtracted; F must be analytic in the jet. `derivative` replaces it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dnewton.arrays.namespace import Array, namespace, zeros
from dnewton.arrays.views import read_only
from dnewton.errors import UserError, one_line
from dnewton.model.jet import JetPositions
from dnewton.model.jet_field import Field, Key, held, key_name

STEP = 2.0**-200  # a power of two, so that dividing by it rounds nothing
FEW = 13  # points of the first call, by which shapes are found: no likely number of equations
DIFFERENCE = 1e-6  # step of the differences that check the complex step
CHECKED = 64  # points at which they do
COMPLEX = "use functions of NumPy that take complex numbers, by which derivatives are found"

CALLED = "it is called with"

Function = Callable[..., Any]


@dataclass(frozen=True)
class ResidualTerm:
    """One equation or several on some of the points, in the order of the caller: `weight` times the mean square."""

    where: str  # its name in messages
    function: Function | None  # of (x, u, parameters...); None: u.value itself
    derivative: Function | None  # likewise, to arrays by the names of the derivatives; None: complex step
    keys: tuple[Key, ...]  # the derivatives that the function asks for
    equations: int
    scale: float  # √weight, and what makes a mean over all points that over its own
    parameters: tuple[int, ...] = ()  # the unknowns that it takes, by their numbers

    def values(self, x: Array, jet: Array, unknown: Sequence[float], positions: JetPositions) -> Array:
        """r on n points, (n, equations), for a jet (n, Q, outputs) in float64 and values of all unknowns."""
        if self.function is None:
            return self.scale * jet[:, 0, :]
        field = held({key: jet[:, place(positions, key), :] for key in self.keys}, positions.inputs, self.where)
        r = self.function(read_only(x), field, *(unknown[p] for p in self.parameters))
        return self.scale * as_rows(r, x.shape[0], self.where, self.equations, "float64")

    def slopes(self, x: Array, jet: Array, unknown: Sequence[float], positions: JetPositions) -> tuple[Array, Array]:
        """∂r by the jet, (n, equations, Q, outputs), and by the unknowns, (n, equations, unknowns)."""
        n, q, outputs = jet.shape
        out = zeros((n, self.equations, q, outputs), jet)
        by_unknown = zeros((n, self.equations, len(unknown)), jet)
        if self.function is None:
            for o in range(outputs):
                out[:, o, 0, o] = self.scale
            return out, by_unknown
        values = {key: jet[:, place(positions, key), :] for key in self.keys}
        own = [unknown[p] for p in self.parameters]
        if self.derivative is not None:
            self._given(x, values, own, positions, out)
        else:
            xp = namespace(jet)
            for key in self.keys:
                for o in range(outputs):
                    shifted = xp.astype(values[key], xp.complex128)
                    shifted[:, o] += complex(0.0, STEP)
                    out[:, :, place(positions, key), o] = self._step(x, {**values, key: shifted}, own, positions)
        for k, p in enumerate(self.parameters):
            moved = [*own[:k], complex(own[k], STEP), *own[k + 1 :]]
            by_unknown[:, :, p] = self._step(x, values, moved, positions)
        return out, by_unknown

    def _step(self, x: Array, values: Mapping[Key, Array], own: Sequence[Any], positions: JetPositions) -> Array:
        """Im r / h, (n, equations), with an imaginary h in one of the numbers."""
        assert self.function is not None
        r = self.function(read_only(x), held(values, positions.inputs, self.where), *own)
        rows = as_rows(r, x.shape[0], self.where, self.equations, None)
        if rows.dtype.kind != "c":  # it does not depend on this number
            return zeros(rows.shape, rows)
        return (self.scale / STEP) * namespace(rows).imag(rows)

    def _given(
        self, x: Array, values: Mapping[Key, Array], own: Sequence[float], positions: JetPositions, out: Array
    ) -> None:
        """The derivatives that the user states."""
        assert self.derivative is not None
        stated = self.derivative(read_only(x), held(values, positions.inputs, self.where), *own)
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
        raise UserError(
            f"{where}: returned {type(r).__name__}; an array of a residual per point is needed, of several equations "
            "np.column_stack"
        )
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


@contextmanager
def naming(where: str, cure: str = "") -> Iterator[None]:
    """An exception of a user's function becomes a UserError with the name of the term and the line that raised it; one
    without such a line comes from the call itself."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(package + os.sep)]
        last = next((f for f in reversed(frames) if f.filename == frames[0].filename), None)
        place = "" if last is None else f" ({os.path.basename(last.filename)}, line {last.lineno})"
        why = f"; {cure}" if cure and (last is None) == cure.startswith(CALLED) else ""
        raise UserError(f"{where}: {type(error).__name__}: {one_line(error)}{place}{why}") from error


def called(own: Sequence[float]) -> str:
    """What a residual is called with."""
    return f"{CALLED} x, u and the values of its {len(own)} parameter(s)"


def traced(
    function: Function, x: Array, outputs: int, where: str, own: Sequence[float] = ()
) -> tuple[tuple[Key, ...], int]:
    """The derivatives that a function asks for, and how many equations it has, by one call on a few points; `own` are
    its unknowns.

    Raises UserError.
    """
    xp = namespace(x)
    few = read_only(xp.take(x, xp.arange(FEW) % x.shape[0], axis=0))
    asked: dict[Key, Array] = {}

    def get(key: Key) -> Array:
        if key not in asked:
            asked[key] = read_only(_made_up(few, outputs, len(asked)))
        return asked[key]

    with naming(where, called(own)):
        r = function(few, Field(get, few.shape[1], where), *own)
    rows = as_rows(r, few.shape[0], where, None, "float64")
    if not asked:
        raise UserError(f"{where}: does not depend on the net; use u.value, u.d(a), u.dd(a, b) or u.laplacian()")
    return tuple(asked), int(rows.shape[1])


def _check_points_apart(
    term: ResidualTerm, x: Array, jet: Array, unknown: Sequence[float], positions: JetPositions
) -> None:
    """Raise UserError where the residual of a point changes with what the net is at others: its derivatives would be
    taken for those of its own point."""
    n = x.shape[0]
    if n < 2:
        return
    xp = namespace(x)
    rows = xp.arange(n) * 40503 % 65536 >= 32768  # no pattern that a shift maps to itself
    moved = jet + 0.25 * xp.astype(rows, xp.float64)[:, None, None]
    with naming(term.where):
        before, after = (term.values(x, z, unknown, positions) for z in (jet, moved))
    if xp.max(xp.abs((after - before)[~rows, :])) > 1e-9 * xp.max(xp.abs(before)):
        raise UserError(
            f"{term.where}: the residual of a point depends on other points (a mean or sum over them, or random "
            "numbers); it may depend on its own x and u alone"
        )


def check(
    term: ResidualTerm,
    x: Array,
    outputs: int,
    unknown: Sequence[float],
    positions: JetPositions,
    names: Sequence[str] = (),
) -> set[int]:
    """Call a term on all its points with made-up numbers, and compare its derivatives with differences at some; `names`
    are those of the unknowns. Returns the numbers of those on which it depends.

    Raises UserError where it is not finite, or where the derivatives differ.
    """
    xp = namespace(x)
    jet = xp.stack([_made_up(x, outputs, k) for k in range(positions.count)], axis=1)
    with naming(term.where):
        r = term.values(x, jet, unknown, positions)
    broken = ~xp.all(xp.isfinite(r), axis=1)
    if xp.any(broken):
        row = int(xp.argmax(xp.astype(broken, xp.int64)))
        point = ", ".join(f"{float(v):.6g}" for v in x[row, :])
        raise UserError(f"{term.where}: is {float(xp.sum(r[row, :])):g} at point {row}, ({point})")
    if term.function is None:
        return set()
    _check_points_apart(term, x, jet, unknown, positions)
    with naming(term.where, COMPLEX):
        slopes, by_unknown = term.slopes(x, jet, unknown, positions)
    used = {p for p in term.parameters if xp.any(by_unknown[:, :, p] != 0)}
    x, jet, slopes, by_unknown = (a[:CHECKED, ...] for a in (x, jet, slopes, by_unknown))

    def compare(stated: Array, name: str, moved: Callable[[float], Array], given: bool) -> None:
        above, below = moved(DIFFERENCE), moved(-DIFFERENCE)
        found = (above - below) / (2 * DIFFERENCE)
        size = float(xp.max(xp.abs(found)) + xp.max(xp.abs(stated)))
        off = float(xp.max(xp.abs(found - stated)))
        rounding = 1e-13 * float(xp.max(xp.abs(above))) / DIFFERENCE
        if off <= 1e-4 * size + rounding:
            return
        if given:
            raise UserError(f"{term.where}: derivative= by {name} differs from differences by {off:.2g}")
        raise UserError(
            f"{term.where}: the complex step by {name} is {off:.2g} from differences: not analytic there (abs, real, "
            "float, conj, a cast); use other functions, or state the derivatives as derivative="
        )

    for key in term.keys:
        for o in range(outputs):
            at = place(positions, key)

            def by_jet(step: float, at: int = at, o: int = o) -> Array:
                shift = zeros(jet.shape, jet)
                shift[:, at, o] = step
                return term.values(x, jet + shift, unknown, positions)

            compare(slopes[:, :, at, o], key_name(key), by_jet, term.derivative is not None)
    for p in term.parameters:

        def by_parameter(step: float, p: int = p) -> Array:
            return term.values(x, jet, [v + step * (k == p) for k, v in enumerate(unknown)], positions)

        compare(by_unknown[:, :, p], f"parameter {names[p]!r}", by_parameter, False)
    return used


def _made_up(x: Array, outputs: int, number: int) -> Array:
    """Numbers between 0.5 and 1.5 for outputs on points, others for every derivative."""
    xp = namespace(x)
    row = xp.arange(x.shape[0], dtype=xp.float64)[:, None]
    column = xp.arange(outputs, dtype=xp.float64)[None, :]
    return 1 + 0.5 * xp.sin(1 + 1.7 * row + 2.3 * column + 0.9 * number)


def evaluate(
    terms: Sequence[ResidualTerm],
    x: Array,
    jet: Array,
    unknown: Sequence[float],
    positions: JetPositions,
    equations: int,
    parameters: int,
) -> tuple[Array, Array]:
    """The residuals (N, equations) of points of any terms, and their derivatives by the jet and by the unknowns,
    (N, equations, Q·outputs + parameters).

    The last column of x is the number of a point's term; a term with fewer equations has zeros for the rest.
    """
    xp = namespace(x)
    n, q, outputs = jet.shape
    r = zeros((n, equations), jet)
    out = zeros((n, equations, q * outputs + parameters), jet)
    for number, term in enumerate(terms):
        rows = xp.nonzero(x[:, -1] == number)[0]
        if not rows.shape[0]:
            continue
        points, there = x[rows, :-1], jet[rows, ...]
        r[rows, : term.equations] = term.values(points, there, unknown, positions)
        slopes, by_unknown = term.slopes(points, there, unknown, positions)
        flat = xp.reshape(slopes, (rows.shape[0], term.equations, q * outputs))
        out[rows, : term.equations, :] = xp.concat([flat, by_unknown], axis=2)
    return r, out
