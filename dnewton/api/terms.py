"""The terms of a loss that is made of equations and data, and the unknown parameters of the equations."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dnewton.api.columns import source_of
from dnewton.comm.communicator import Comm
from dnewton.data.sources import Values
from dnewton.errors import UserError
from dnewton.model.residual_term import CALLED, naming
from dnewton.training.equations import EquationSet, PointTerm

POINTS = 5  # the purpose of these random draws


@dataclass(frozen=True)
class Parameter:
    """An unknown number of the equations, which is trained beside the weights from a first value."""

    name: str
    value: float


@dataclass(frozen=True)
class Residual:
    """Equations on points: `weight` times the mean over the points of the sum of squares of what `function` returns, or
    of its difference from `targets`.

    `function(x, u, *parameters)`: x is (n, inputs), `u.value`, `u.d(a)`, `u.dd(a, b)` and `u.laplacian(*axes)` are
    (n, outputs), all float64; parameters are numbers. It returns (n,) or (n, equations), and is called with complex
    numbers, too: their derivatives come by complex step, for which it must be analytic. Else `derivative(x, u,
    *parameters)` returns {"value": ..., "d(0)": ..., "dd(0, 1)": ..., "laplacian(0, 1)": ...} with arrays (n,
    equations, outputs), as far as they are not zero.
    `points`: (n, inputs), the same on all ranks, or a function of a NumPy random generator that draws them; with
    `resample` it draws others every so many iterations. `share`: of the points of the curvature, where these are fewer
    than all (`solver.subsample`); by default they are drawn in proportion to the numbers of the terms' points.
    `targets`: (n,) or (n, equations), measured values of what `function` returns, such as slopes.
    """

    function: Callable[..., Any]
    points: Any
    weight: float = 1.0
    parameters: Sequence[Parameter] = ()
    derivative: Callable[..., Any] | None = None
    resample: int | None = None
    share: float | None = None
    targets: Any = None


@dataclass(frozen=True)
class Data:
    """Measured values: `weight` times the mean over the points x (n, inputs) of ‖u - y‖², y (n,) or (n, outputs).
    `share`: as of :class:`Residual`."""

    x: Any
    y: Any
    weight: float = 1.0
    share: float | None = None


def equation_set(terms: Any, test: Any, seed: int, comm: Comm) -> EquationSet:
    """The terms with their points checked, the same on all ranks; what is drawn is by `seed`. Raises UserError alike on
    all ranks.

    Collective over `comm`.
    """
    with comm.raise_together():
        if not isinstance(terms, (list, tuple)) or not terms:
            raise UserError("fit: terms must be a list of dnewton.Residual and dnewton.Data")
        for k, term in enumerate(terms):
            if not isinstance(term, (Residual, Data)):
                raise UserError(f"fit: terms[{k}] is {type(term).__name__}; dnewton.Residual or dnewton.Data is needed")
            _check_weight(term.weight, _where(k, term))
        _check_shares(terms)
        unknown = _unknowns(terms)
    names = list(unknown)
    made = []
    for k, term in enumerate(terms):
        where = _where(k, term)
        if isinstance(term, Data):
            with comm.raise_together():
                if term.y is None:
                    raise UserError(f"{where}: y is needed, a row of the net's outputs for each point")
            points, targets = _pair(where, term.x, term.y, comm)
            made.append(PointTerm(where, points, targets, float(term.weight), share=term.share))
            continue
        draw = _drawing(where, term, [seed, POINTS, k]) if callable(term.points) else None
        with comm.raise_together():
            if draw is not None and term.targets is not None:
                raise UserError(f"{where}: targets are of points that are given, not drawn; give points as an array")
            given = term.points if draw is None else draw(0)
        points, targets = _pair(where, given, term.targets, comm)
        own = tuple(names.index(p.name) for p in term.parameters)
        every = int(term.resample or 0)
        about = (float(term.weight), term.function, term.derivative, own, draw, every, term.share)
        made.append(PointTerm(where, points, targets, *about))
    held = None
    if test is not None:
        with comm.raise_together():
            if not (isinstance(test, (tuple, list)) and len(test) == 2):
                raise UserError("fit: test must be a pair (x, y) beside terms")
        points, targets = _pair("test", test[0], test[1], comm)
        held = PointTerm("test", points, targets, 1.0)
    return EquationSet(tuple(made), unknown, held)


def _drawing(where: str, term: Residual, key: list[int]) -> Callable[[int], Values]:
    """The points by the number of the draw, which they depend on alone."""

    def draw(number: int) -> Values:
        with naming(f"{where}: points", f"{CALLED} a random generator"):
            points = np.asarray(term.points(np.random.default_rng([*key, number])))
        if points.dtype.kind not in "fiu" or points.ndim not in (1, 2) or not np.isfinite(points).all():
            about = f"shape {list(points.shape)} of {points.dtype}"
            raise UserError(f"{where}: drew points of {about}; finite numbers [points, inputs] are needed")
        return (points[:, None] if points.ndim == 1 else points).astype(np.float64)

    return draw


def _where(k: int, term: Residual | Data) -> str:
    """A term's name in messages."""
    if isinstance(term, Data):
        return f"terms[{k}] (data)"
    function = term.function
    while isinstance(function, partial):
        function = function.func
    return f"terms[{k}] ({getattr(function, '__name__', type(function).__name__)})"


def _check_weight(weight: Any, where: str) -> None:
    if np.ndim(weight):
        raise UserError(
            f"{where}: weight has shape {list(np.shape(weight))}; a number above 0 is needed, and a weight of each "
            "point as a factor √w(x) of what a residual returns"
        )
    if not (_is_number(weight) and 0 < float(weight) < np.inf):
        raise UserError(f"{where}: weight is {weight!r}; a number above 0 is needed")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _check_shares(terms: Sequence[Residual | Data]) -> None:
    """Those that are given leave something for the others."""
    for k, term in enumerate(terms):
        share = term.share
        if share is not None and (isinstance(share, bool) or not (isinstance(share, (int, float)) and 0 < share <= 1)):
            raise UserError(f"{_where(k, term)}: share is {share!r}; a number above 0 and at most 1 is needed")
    total = sum(term.share or 0.0 for term in terms)
    others = any(term.share is None for term in terms)
    if total > 1 + 1e-9 or (others and total >= 1):
        why = "less than 1, as there are terms without" if others else "at most 1"
        raise UserError(f"fit: the shares of the terms are {total:g} in sum; {why} is needed")


def _unknowns(terms: Sequence[Residual | Data]) -> dict[str, float]:
    """The parameters of all terms by their names, in the order in which they appear."""
    found: dict[str, float] = {}
    for k, term in enumerate(terms):
        if isinstance(term, Data):
            continue
        where = _where(k, term)
        if not callable(term.function):
            raise UserError(f"{where}: a function of (x, u) is needed, not {type(term.function).__name__}")
        if term.derivative is not None and not callable(term.derivative):
            raise UserError(f"{where}: derivative must be a function of (x, u), not {type(term.derivative).__name__}")
        every = term.resample
        whole = isinstance(every, (int, np.integer)) and not isinstance(every, bool)
        if every is not None and not (whole and every > 0 and callable(term.points)):
            raise UserError(f"{where}: resample is {every!r}; a number of iterations and points= a function are needed")
        own = term.parameters
        if not isinstance(own, (list, tuple)) or not all(isinstance(p, Parameter) for p in own):
            kind = type(own).__name__ if not isinstance(own, (list, tuple)) else f"{[type(p).__name__ for p in own]}"
            raise UserError(f"{where}: parameters must be a list of dnewton.Parameter, not {kind}")
        twice = {p.name for p in own if [q.name for q in own].count(p.name) > 1}
        if twice:
            raise UserError(f"{where}: parameter {min(map(str, twice))!r} is named twice; name each once")
        for p in own:
            if not (isinstance(p.name, str) and p.name):
                raise UserError(f"{where}: parameter {p.name!r}: a name is needed, text that is not empty")
            if not (_is_number(p.value) and np.isfinite(p.value)):
                raise UserError(f"{where}: parameter {p.name!r} begins at {p.value!r}; a finite number is needed")
            if found.setdefault(p.name, float(p.value)) != float(p.value):
                raise UserError(f"{where}: parameter {p.name!r} begins at {p.value} here and {found[p.name]} before")
    return found


def _pair(where: str, x: Any, y: Any, comm: Comm) -> tuple[Values, Values | None]:
    """Points (n, inputs) and targets (n, outputs), float64, checked. Collective over `comm`."""
    with comm.raise_together():
        if not hasattr(x, "shape"):
            x = _as_points(where, x)
        if len(x.shape) == 1:
            x = np.asarray(x)[:, None]
        if len(x.shape) != 2 or not x.shape[0]:
            raise UserError(f"{where}: points have shape {list(x.shape)}; [points, inputs] is needed, one at least")
    source = source_of(where, x, y, comm)
    with comm.raise_together():
        points = np.concatenate(list(source.blocks(0, source.features))).astype(np.float64)
        if not np.isfinite(points).all():
            raise UserError(f"{where}: points hold NaN or infinity")
        values = None
        if y is not None:
            values = source.all_targets()
            if values.dtype.kind == "U" or not np.isfinite(values.astype(np.float64)).all():
                raise UserError(f"{where}: targets must be finite numbers; leave out points that have none")
            values = values.astype(np.float64).reshape(len(values), -1)
    low, high = comm.minmax(float(zlib.crc32(points.tobytes())))
    with comm.raise_together():
        if low != high:
            raise UserError(f"{where}: the points differ from rank to rank; draw them with the same seed on all")
    return points, values


def _as_points(where: str, x: Any) -> Values:
    """A list of numbers or of rows of them."""
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{where}: points must be numbers, all rows of one length") from None
