"""Krylov methods on vectors spread over ranks: conjugate gradients, and Bi-CG-STAB for indefinite matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, copy, namespace
from dnewton.solvers.conjugate_gradients import ConjugateGradients, Dots, Product, run

NEAR = 1e-10  # cosine below which two vectors of Bi-CG-STAB count as orthogonal


@dataclass
class Approximation:
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


def _begin(product: Product, b: Array, start: Array | None) -> Approximation:
    if start is None:
        return Approximation(namespace(b).zeros_like(b), copy(b))
    return Approximation(copy(start), b - product(start), products=1)


def conjugate_gradients(
    product: Product, b: Array, tolerance: float, limit: int, dots: Dots, start: Array | None = None
) -> Approximation:
    """Until ‖r‖ ≤ tolerance ‖b‖, `limit` iterations, or curvature that is not positive. A must be positive definite:
    no direction of negative curvature is looked for. Collective over what `product` and `dots` are collective over."""
    solve = ConjugateGradients(product, copy(b), tolerance, dots=dots, start=start)
    run(solve, limit)
    return Approximation(solve.d, solve.r, solve.products - (start is not None), solve.products)


def bicgstab(
    product: Product, b: Array, tolerance: float, limit: int, dots: Dots, start: Array | None = None
) -> Approximation:
    """Stabilised bi-conjugate gradients (van der Vorst 1992): two products per iteration, A may be indefinite.

    The iterate with the smallest residual is returned. A breakdown (ω = 0, or r̂ orthogonal to r or Ap but for 1e-10 of
    their lengths) begins again from the residual; one at the very beginning ends the solve.
    """
    solution = _begin(product, b, start)
    bound, rr = dots((b, b), (solution.r, solution.r))
    bound *= tolerance**2
    x, r = copy(solution.d), copy(solution.r)
    best = rr
    shadow = r
    p = r
    rho = rr
    fresh = True
    while rr > bound and solution.iterations < limit:
        solution.iterations += 1
        ap = product(p)
        solution.products += 1
        with_shadow, curvature, squares, length, known = dots((shadow, ap), (p, ap), (p, p), (ap, ap), (shadow, shadow))
        solution.look(p, curvature, squares)
        if not math.isfinite(with_shadow) or abs(with_shadow) <= NEAR * math.sqrt(known) * math.sqrt(length):
            if fresh or not math.isfinite(with_shadow):
                break
            shadow = r
            p = r
            rho = rr
            fresh = True  # breakdown: begin again
            continue
        alpha = rho / with_shadow
        s = r - alpha * ap
        t = product(s)
        solution.products += 1
        ts, tt, ss = dots((t, s), (t, t), (s, s))
        solution.look(s, ts, ss)
        omega = ts / tt if tt > 0 else 0.0
        x = x + alpha * p + omega * s
        r = s - omega * t
        rr, after = dots((r, r), (shadow, r))
        if not math.isfinite(rr):
            break
        if rr < best:
            best = rr
            solution.d = x
            solution.r = r
        fresh = omega == 0 or abs(after) <= NEAR * math.sqrt(known) * math.sqrt(rr)
        if fresh:
            shadow = r
            p = r
            rho = rr
            continue
        p, rho = r + (after / rho) * (alpha / omega) * (p - omega * ap), after
    return solution
