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
        self.d = namespace(b).zeros_like(b)
        self.r = b
        self.products = 0
        self.squares = dots((b, b))[0] if squares is None else squares  # ‖r‖²
        self.bound = tolerance**2 * self.squares
        if start is not None:
            image = product(start)  # even where b = 0: it may be a collective
            self.products = 1
            if self.squares > 0:
                self.d = copy(start)
                self.r = b - image
                (self.squares,) = dots((self.r, self.r))
        self.working = self.squares > self.bound
        self.restart(preconditioner)

    def restart(self, preconditioner: Product | None) -> None:
        """Continue from d with another preconditioner."""
        self._precondition = preconditioner
        self.v = copy(self._preconditioned())
        self._rz = self.squares if preconditioner is None else self._dots((self.r, self.v))[0]
        self.step = self.beta = 0.0  # of the last iteration

    def advance(self) -> None:
        """One iteration. Collective over what `product` and `dots` are collective over."""
        gv = self._product(self.v)
        self.products += 1
        (curvature,) = self._dots((self.v, gv))
        if not (curvature > 0 and math.isfinite(curvature)):
            self.working = False
            return
        self.step = self._rz / curvature
        add_scaled(self.d, self.step, self.v)
        add_scaled(self.r, -self.step, gv)
        (self.squares,) = self._dots((self.r, self.r))
        self.working = self.squares > self.bound
        if self.working:
            self._turn()

    def _turn(self) -> None:
        """The next search direction, v = z + (rᵀz / r₋ᵀz₋) v₋."""
        z = self._preconditioned()
        rz = self.squares if self._precondition is None else self._dots((self.r, z))[0]
        self.beta = rz / self._rz
        self.v *= self.beta
        self.v += z
        self._rz = rz

    def _preconditioned(self) -> Array:
        return self.r if self._precondition is None else self._precondition(self.r)


def run(solve: ConjugateGradients, limit: int) -> int:
    """Advance until the stopping rule is met, `limit` times at most; returns how often. Collective as `advance`."""
    iterations = 0
    while solve.working and iterations < limit:
        iterations += 1
        solve.advance()
    return iterations
