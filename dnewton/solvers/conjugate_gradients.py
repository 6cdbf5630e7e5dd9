"""Conjugate gradients for A d = b with A symmetric positive definite (Hestenes and Stiefel 1952), one step at a time.

The inner product is a parameter: of vectors that a rank holds whole (:func:`local_dots`), or summed over ranks and
agreed, so that all ranks take the same steps and stop together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dnewton.arrays.namespace import Array, add_scaled, copy, dot, namespace

Product = Callable[[Array], Array]
Dots = Callable[..., list[float]]  # inner products of pairs of vectors


def local_dots(*pairs: tuple[Array, Array]) -> list[float]:
    """Inner products of vectors that this rank holds whole. Communicates nothing."""
    return [dot(a, b) for a, b in pairs]


class ConjugateGradients:
    """An approximate solution d and its residual r = b - A d; `working` until ‖r‖ ≤ tolerance · ‖b‖.

    The rule is on the residual itself, with a preconditioner too. Curvature that is not positive and finite ends the
    solve with what there is: rounding or overflow has taken over.
    """

    def __init__(
        self,
        product: Product,
        b: Array,
        tolerance: float,
        *,
        dots: Dots = local_dots,
        squares: float | None = None,
        start: Array | None = None,
        preconditioner: Product | None = None,
    ) -> None:
        """Takes over b, which becomes the residual. `squares` is ‖b‖², where it is known; `preconditioner` maps r to
        M⁻¹ r.

        Collective over what `dots` and, where there is a `start`, `product` are collective over.
        """
        self._product = product
        self._dots = dots
        self._precondition = preconditioner
        self.d = namespace(b).zeros_like(b)
        self.r = b
        self.products = 0
        self._squares = dots((b, b))[0] if squares is None else squares  # ‖r‖²
        self._first = self._squares
        self._bound = tolerance**2 * self._squares
        if start is not None:
            image = product(start)  # even where b = 0: it may be a collective
            self.products = 1
            if self._squares > 0:
                self.d = copy(start)
                self.r = b - image
                (self._squares,) = dots((self.r, self.r))
        self.working = self._squares > self._bound
        self._v = copy(self._preconditioned())
        self._rz = self._preconditioned_squares(self._v)

    @property
    def residual(self) -> float:
        """‖r‖ / ‖b‖."""
        return math.sqrt(self._squares / self._first) if self._first > 0 else 0.0

    def advance(self) -> None:
        """One iteration. Collective over what `product` and `dots` are collective over."""
        gv = self._product(self._v)
        self.products += 1
        (curvature,) = self._dots((self._v, gv))
        if not (curvature > 0 and math.isfinite(curvature)):
            self.working = False
            return
        step = self._rz / curvature
        add_scaled(self.d, step, self._v)
        add_scaled(self.r, -step, gv)
        (self._squares,) = self._dots((self.r, self.r))
        self.working = self._squares > self._bound
        if self.working:
            self._turn()

    def _turn(self) -> None:
        """The next search direction, v = z + (rᵀz / r₋ᵀz₋) v₋."""
        z = self._preconditioned()
        rz = self._preconditioned_squares(z)
        self._v *= rz / self._rz
        self._v += z
        self._rz = rz

    def _preconditioned(self) -> Array:
        return self.r if self._precondition is None else self._precondition(self.r)

    def _preconditioned_squares(self, z: Array) -> float:
        """rᵀz."""
        return self._squares if self._precondition is None else self._dots((self.r, z))[0]


def run(solve: ConjugateGradients, limit: int) -> int:
    """Advance until the stopping rule is met, `limit` times at most; returns how often. Collective as `advance`."""
    iterations = 0
    while solve.working and iterations < limit:
        iterations += 1
        solve.advance()
    return iterations
