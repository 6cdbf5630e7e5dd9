"""Gauss-Newton products G v = v/C + (1/|S|) Σ_i J_iᵀ B_i J_i v (Wang et al. 2018, equations 9 and 27)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from dnewton.arrays.namespace import Array, dot, namespace
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import Loss
from dnewton.curvature.jacobian import Jacobian, LocalSystem


class OutputHessian:
    """B and its square root R at one point, and the regulariser 1/C: what does not depend on how J is held."""

    def __init__(self, loss: Loss, z: Array, y: Array, regulariser: float) -> None:
        """`z` and `y` are outputs and targets on S, (S, K)."""
        self._loss = loss
        self._state = loss.state(z, y)
        self.root_weights = loss.root_weights(self._state)  # √w of the samples' weights, (S,), if they have some
        self.regulariser = regulariser
        self.samples = int(z.shape[0])
        self.outputs = int(z.shape[1])

    def hessian_times(self, u: Array, here: slice) -> Array:
        """B u / |S| for u (..., n, K) of the samples of a slice."""
        return self._loss.hessian_product(self._state[here, ...], u) / self.samples

    def half(self, u: Array) -> Array:
        """R u / √|S| per sample, with R Rᵀ = B; for u (..., S, K)."""
        return self._loss.half(self._state, u) / math.sqrt(self.samples)

    def half_transposed(self, u: Array, here: slice = slice(None)) -> Array:
        """Rᵀ u / √|S| for u (..., n, K) of the samples of a slice."""
        return self._loss.half_transposed(self._state[here, ...], u) / math.sqrt(self.samples)

    def half_rows(self, u: Array, here: slice) -> Array:
        """Rᵀ u / √|S| along the second axis, for u (n, K, X) of the samples of a slice."""
        xp = namespace(u)
        return xp.permute_dims(self.half_transposed(xp.permute_dims(u, (2, 0, 1)), here), (1, 2, 0))

    def damped(self, out: Array, v: Array, unit: LocalSystem, damping: float) -> Array:
        """The unit's span of `out` with (λ + 1/C) v added."""
        part = out[unit.span]
        part += (self.regulariser + damping) * v[unit.span]
        return part

    def quadratic(self, u: Array, w: Array) -> float:
        """(J x)ᵀ B (J y) / |S| for complete u = J x and w = J y, (S, K); float64."""
        xp = namespace(u)
        n = u.shape[0] * u.shape[1]
        bw = self._loss.hessian_product(self._state, w)
        return dot(xp.reshape(u, (n,)), xp.reshape(bw, (n,))) / self.samples


class Model(Protocol):
    """The quadratic model as the whole solve and the combination of the pieces see it."""

    regulariser: float

    def images(self, columns: Sequence[Array], unit: LocalSystem, comm: Comm) -> Array:
        """J z over all ranks for vectors z of which every rank holds its blocks, (n, S, K). Collective."""
        ...

    def images_with(
        self, columns: Sequence[Array], unit: LocalSystem, comm: Comm, values: Sequence[float]
    ) -> tuple[Array, list[float]]:
        """The same, and sums of scalars over the ranks; right on rank 0 only. Collective."""
        ...

    def full_product(self, v: Array, unit: LocalSystem, damping: float, comm: Comm) -> Array:
        """This rank's part of (G + λI) v. Collective."""
        ...

    def quadratic(self, u: Array, w: Array) -> float:
        """uᵀ B w / |S|."""
        ...


class GaussNewton(OutputHessian):
    """The curvature at one point with this rank's Jacobian held explicitly."""

    def __init__(self, jacobian: Jacobian, loss: Loss, z: Array, y: Array, regulariser: float) -> None:
        """`z` and `y` are outputs and targets on S, (S, K)."""
        super().__init__(loss, z, y, regulariser)
        self.jacobian = jacobian
        self.z = z

    def block_product(self, v: Array, unit: LocalSystem, damping: float) -> Array:
        """(G_uu + λI) v on a diagonal unit alone; returns the unit's span. Communicates nothing."""
        out = namespace(v).zeros_like(v)
        self.jacobian.add_curved(v, unit, self.hessian_times, out)
        return self.damped(out, v, unit, damping)

    def images(self, columns: Sequence[Array], unit: LocalSystem, comm: Comm) -> Array:
        """J z over all ranks. Collective over the world: one sum of K|S| numbers per column."""
        return comm.allreduce(self._images(columns, unit))

    def images_with(
        self, columns: Sequence[Array], unit: LocalSystem, comm: Comm, values: Sequence[float]
    ) -> tuple[Array, list[float]]:
        """The same and sums of scalars, on rank 0. Collective over the world: one sum of all of it."""
        return comm.reduce_with(self._images(columns, unit), values)

    def _images(self, columns: Sequence[Array], unit: LocalSystem) -> Array:
        return namespace(columns[0]).stack([self.jacobian.times(z, unit) for z in columns])

    def full_product(self, v: Array, unit: LocalSystem, damping: float, comm: Comm) -> Array:
        """This rank's part of (G + λI) v; `unit` holds all its blocks.

        Collective over the world: one sum of K|S| numbers.
        """
        u = comm.allreduce(self.jacobian.times(v, unit))
        out = namespace(v).zeros_like(v)
        self.jacobian.add_transposed(self.hessian_times(u, slice(0, u.shape[0])), unit, out)
        return self.damped(out, v, unit, damping)
