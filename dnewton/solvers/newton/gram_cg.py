"""Conjugate gradients in Gram coordinates: every vector is a·g + Jᵀ y, so that only numbers per sample are touched.

All vectors of CG on (G_uu + λI) d = -g lie in span{g} + range(Jᵀ). With the coordinates (a, y) and the image u = J v of
each vector an iteration needs one product with J Jᵀ, which for dense layers costs 2 S² O operations instead of 4 S O I,
and no vector of the length of θ (docs/method.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, add_scaled, copy, dot, namespace, zeros
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.solvers.newton.cg import PlainCG


@dataclass
class _Vector:
    """a·g + Jᵀ y and its image u = J v; y and u in float64, (S·K,)."""

    a: float
    y: Array
    u: Array

    def add(self, factor: float, other: _Vector) -> None:
        self.a += factor * other.a
        add_scaled(self.y, factor, other.y)
        add_scaled(self.u, factor, other.u)

    def squares(self, gg: float, h: Array) -> float:
        """‖v‖² = a² ‖g‖² + a h·y + y·u with h = J g."""
        return self.a**2 * gg + self.a * dot(h, self.y) + dot(self.y, self.u)


def _wide(u: Array) -> Array:
    xp = namespace(u)
    return xp.reshape(xp.astype(u, xp.float64), (u.shape[0] * u.shape[1],))


class _Recorder:
    """Products (G_uu + λI) v that keep J v and B J v / |S| of the last one."""

    def __init__(self, model: GaussNewton, damping: float, like: Array) -> None:
        shape = (model.samples, model.outputs)
        self._model = model
        self._damping = damping
        self.u = zeros(shape, like)
        self.w = zeros(shape, like)

    def __call__(self, v: Array, unit: LocalSystem) -> Array:
        def times_and_keep(u: Array, here: slice) -> Array:
            self.u[here, ...] = u
            self.w[here, ...] = self._model.hessian_times(u, here)
            return self.w[here, ...]

        out = namespace(v).zeros_like(v)
        self._model.jacobian.add_curved(v, unit, times_and_keep, out)
        return self._model.damped(out, v, unit, self._damping)


class RecordedCG(PlainCG):
    """Plain conjugate gradients from 0 that keep the coordinates of their vectors, for a change to Gram coordinates."""

    def __init__(self, model: GaussNewton, g: Array, unit: LocalSystem, damping: float, tolerance: float) -> None:
        n = model.samples * model.outputs
        self.model = model
        self.g = g
        self.mu = model.regulariser + damping
        empty = [zeros(n, g, "float64") for _ in range(6)]
        self.cd = _Vector(0.0, empty[0], empty[1])
        self.cr = _Vector(-1.0, empty[2], empty[3])
        self.cv = _Vector(-1.0, empty[4], empty[5])
        self.h: Array | None = None
        self._recorder = _Recorder(model, damping, g)  # not a method of this object: a cycle would keep J alive
        super().__init__(self._recorder, g, unit, tolerance)

    def advance(self) -> None:
        super().advance()
        self.cv.u = _wide(self._recorder.u)
        if self.h is None:
            self.h = -self.cv.u  # the first direction is -g
        d = self.cd
        r = self.cr
        v = self.cv
        step = self.step
        d.add(step, v)
        r.a -= step * self.mu * v.a
        r.y -= step * (self.mu * v.y + _wide(self._recorder.w))
        if self.working:  # v's image is that of the direction before, until the next product
            v.a = r.a + self.beta * v.a
            v.y = r.y + self.beta * v.y


class GramCG:
    """The solver of one diagonal unit; the same iterates as conjugate gradients from 0, up to rounding."""

    def __init__(self, model: GaussNewton, g: Array, unit: LocalSystem, damping: float, tolerance: float) -> None:
        self._model = model
        self._unit = unit
        self._g = g
        self._mu = model.regulariser + damping
        xp = namespace(g)
        self._gg = dot(g[unit.span], g[unit.span])
        self._h = _wide(model.jacobian.times(g, unit))
        zero = xp.zeros_like(self._h)
        self._d = _Vector(0.0, copy(zero), copy(zero))
        self._r = _Vector(-1.0, copy(zero), -self._h)
        self._v = _Vector(-1.0, zero, -self._h)
        self._squares = self._gg
        self._bound = tolerance**2 * self._gg
        self.working = self._squares > self._bound

    @classmethod
    def going_on(cls, before: RecordedCG) -> GramCG:
        """From where plain conjugate gradients have come to, after at least one iteration."""
        self = cls.__new__(cls)
        model = before.model
        unit = before.unit
        g = before.g
        self._model = model
        self._unit = unit
        self._g = g
        self._mu = before.mu
        assert before.h is not None
        self._h = before.h
        self._gg = dot(g[unit.span], g[unit.span])
        self._d = before.cd
        self._r = before.cr
        self._v = before.cv
        xp, last = namespace(g), before.cv.u
        y = xp.astype(xp.reshape(self._v.y, (model.samples, model.outputs)), g.dtype)
        self._v.u = self._v.a * self._h + _wide(model.jacobian.gram_times(y, unit))
        self._r.u = self._v.u - before.beta * last  # r = v - β v_before
        self._squares = before.squares
        self._bound = before.bound
        self.working = before.working
        return self

    def advance(self) -> None:
        """One iteration; see :class:`dnewton.solvers.newton.cg.System`."""
        model = self._model
        v = self._v
        r = self._r
        jacobian, xp = model.jacobian, namespace(self._g)
        shape = (model.samples, model.outputs)
        w = model.hessian_times(xp.reshape(v.u, shape), slice(0, shape[0]))
        image = jacobian.gram_times(xp.astype(w, self._g.dtype), self._unit)
        gv = _Vector(self._mu * v.a, self._mu * v.y + _wide(w), self._mu * v.u + _wide(image))
        curvature = self._mu * v.squares(self._gg, self._h) + dot(_wide(w), v.u)
        if not (curvature > 0 and math.isfinite(curvature)):
            self.working = False
            return
        step = self._squares / curvature
        self._d.add(step, v)
        r.add(-step, gv)
        squares = r.squares(self._gg, self._h)
        self.working = squares > self._bound
        if self.working:
            beta = squares / self._squares
            self._v = _Vector(r.a + beta * v.a, r.y + beta * v.y, r.u + beta * v.u)
        self._squares = squares

    def finish(self, d: Array) -> None:
        """d = a·g + Jᵀ y on the unit's span."""
        xp, s = namespace(d), self._unit.span
        d[s] = self._d.a * self._g[s]
        shape = (self._model.samples, self._model.outputs)
        self._model.jacobian.add_transposed(xp.astype(xp.reshape(self._d.y, shape), d.dtype), self._unit, d)
