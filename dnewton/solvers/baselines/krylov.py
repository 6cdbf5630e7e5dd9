"""Krylov methods on vectors spread over ranks: conjugate gradients, and Bi-CG-STAB for indefinite matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, add_scaled, copy, namespace

NEAR = 1e-10  # cosine below which two vectors of Bi-CG-STAB are taken for orthogonal
Product = Callable[[Array], Array]
Dots = Callable[..., list[float]]  # dot products of pairs, the same bits on all ranks


@dataclass
class Found:
    """An approximate solution d of A d = b, its residual b - A d, and the direction of lowest curvature seen."""

    d: Array
    r: Array
    iterations: int = 0
    products: int = 0
    lowest: float = math.inf  # qᵀAq / qᵀq
    q: Array | None = None

    def look(self, p: Array, curvature: float, squares: float) -> None:
        """Remember p if A curves less along it than along all before."""
        if squares > 0 and curvature / squares < self.lowest:
            self.lowest = curvature / squares
            self.q = copy(p)


def _begin(product: Product, b: Array, start: Array | None) -> Found:
    if start is None:
        return Found(namespace(b).zeros_like(b), copy(b))
    return Found(copy(start), b - product(start), products=1)


def conjugate_gradients(
    product: Product, b: Array, tolerance: float, limit: int, dots: Dots, start: Array | None = None
) -> Found:
    """Until ‖r‖ ≤ tolerance ‖b‖, `limit` iterations, or curvature that is not positive."""
    found = _begin(product, b, start)
    bound, rr = dots((b, b), (found.r, found.r))
    bound *= tolerance**2
    p = copy(found.r)
    while rr > bound and found.iterations < limit:
        ap = product(p)
        found.products += 1
        curvature, squares = dots((p, ap), (p, p))
        found.look(p, curvature, squares)
        if not (curvature > 0 and math.isfinite(curvature)):
            break
        found.iterations += 1
        step = rr / curvature
        add_scaled(found.d, step, p)
        add_scaled(found.r, -step, ap)
        before, rr = rr, dots((found.r, found.r))[0]
        p = found.r + (rr / before) * p
    return found


def bicgstab(product: Product, b: Array, tolerance: float, limit: int, dots: Dots, start: Array | None = None) -> Found:
    """Stabilised bi-conjugate gradients (van der Vorst 1992): two products per iteration, A may be indefinite.

    The iterate with the smallest residual is returned. A breakdown (ω = 0, or r̂ orthogonal to r or Ap but for 1e-10 of
    their lengths) begins anew from the residual; one at the very beginning ends the solve.
    """
    found = _begin(product, b, start)
    bound, rr = dots((b, b), (found.r, found.r))
    bound *= tolerance**2
    x, r = copy(found.d), copy(found.r)
    best = rr
    shadow = r
    p = r
    rho = rr
    fresh = True
    while rr > bound and found.iterations < limit:
        found.iterations += 1
        ap = product(p)
        found.products += 1
        with_shadow, curvature, squares, length, known = dots((shadow, ap), (p, ap), (p, p), (ap, ap), (shadow, shadow))
        found.look(p, curvature, squares)
        if not math.isfinite(with_shadow) or abs(with_shadow) <= NEAR * math.sqrt(known) * math.sqrt(length):
            if fresh or not math.isfinite(with_shadow):
                break
            shadow = r
            p = r
            rho = rr
            fresh = True  # breakdown: begin anew
            continue
        alpha = rho / with_shadow
        s = r - alpha * ap
        t = product(s)
        found.products += 1
        ts, tt, ss = dots((t, s), (t, t), (s, s))
        found.look(s, ts, ss)
        omega = ts / tt if tt > 0 else 0.0
        x = x + alpha * p + omega * s
        r = s - omega * t
        rr, after = dots((r, r), (shadow, r))
        if not math.isfinite(rr):
            break
        if rr < best:
            best = rr
            found.d = x
            found.r = r
        fresh = omega == 0 or abs(after) <= NEAR * math.sqrt(known) * math.sqrt(rr)
        if fresh:
            shadow = r
            p = r
            rho = rr
            continue
        p, rho = r + (after / rho) * (alpha / omega) * (p - omega * ap), after
    return found
