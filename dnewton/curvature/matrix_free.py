"""J by passes over the network instead of explicit blocks: one tangent sweep for J v, one cotangent sweep for Jᵀ w.

Nothing is stored but the forward passes of S (docs/method.md). The tangent of rank p's variables alone runs through the
layers of all ranks, so in diagonal mode all ranks' tangents travel together: P times the numbers of a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.arrays.namespace import Array, namespace
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import Loss
from dnewton.curvature.gauss_newton import OutputHessian
from dnewton.curvature.jacobian import LocalSystem
from dnewton.grid import ceil_div, even_slices
from dnewton.model.network import Network, Tape


class MatrixFreeJacobian:
    """J at θ on S, by sweeps over `chunk` samples at a time."""

    def __init__(self, network: Network, theta: Array, tapes: Sequence[Tape], chunk: int) -> None:
        self._network = network
        self._theta = theta
        self.parts: list[tuple[slice, Tape]] = []
        start = 0
        for tape in tapes:
            n = int(tape.z.shape[0])
            for part in even_slices(n, ceil_div(n, chunk)):
                self.parts.append((slice(start + part.start, start + part.stop), tape.part(part)))
            start += n
        self.samples = start
        self.outputs = network.plan.outputs

    def image(self, v: Array) -> Array:
        """J v over all ranks, (S, K). Collective over the forward-sum groups."""
        return self._tangents(v, 1, 0)[0, ...]

    def images_by_rank(self, v: Array, ranks: int, rank: int) -> Array:
        """J_p v_p of every rank p, (P, S, K), the same on all. Collective over the forward-sum groups."""
        return self._tangents(v, ranks, rank)

    def _tangents(self, v: Array, tangents: int, rank: int) -> Array:
        images = [self._network.tangents(self._theta, tape, v, tangents, rank) for _, tape in self.parts]
        return images[0] if len(images) == 1 else namespace(v).concat(images, axis=1)

    def add_transposed(self, w: Array, rank: int, out: Array) -> None:
        """out += J_pᵀ w[:, rank] for w (S, right-hand sides, K). Collective over the backward-sum groups."""
        for here, tape in self.parts:
            self._network.pull(self._theta, tape, w[here, ...], rank, out)


class MatrixFreeModel(OutputHessian):
    """The curvature at one point, J by passes."""

    def __init__(self, passes: MatrixFreeJacobian, loss: Loss, z: Array, y: Array, regulariser: float) -> None:
        """`z` and `y` are outputs and targets on S, (S, K)."""
        super().__init__(loss, z, y, regulariser)
        self.passes = passes

    def images(self, columns: Sequence[Array], unit: LocalSystem, comm: Comm) -> Array:
        """J z over all ranks. Collective: a tangent sweep per column."""
        return namespace(columns[0]).stack([self.passes.image(z) for z in columns])

    def images_with(
        self, columns: Sequence[Array], unit: LocalSystem, comm: Comm, values: Sequence[float]
    ) -> tuple[Array, list[float]]:
        """The same, and sums of scalars. Collective: a tangent sweep per column, and the scalars."""
        return self.images(columns, unit, comm), comm.sum_scalars(values)

    def full_product(self, v: Array, unit: LocalSystem, damping: float, comm: Comm) -> Array:
        """This rank's part of (G + λI) v. Collective: a tangent and a cotangent sweep."""
        out = namespace(v).zeros_like(v)
        u = self.passes.image(v)
        self.passes.add_transposed(self.hessian_times(u, slice(0, u.shape[0]))[:, None, ...], 0, out)
        return self.damped(out, v, unit, damping)

    def joint_product(self, v: Array, unit: LocalSystem, damping: float, comm: Comm) -> Array:
        """(G_uu + λI) v of every rank's own unit u, v being zero outside it; returns the unit's span.

        Collective: P tangents and P cotangents at once, so all ranks must take part.
        """
        xp, out = namespace(v), namespace(v).zeros_like(v)
        u = self.passes.images_by_rank(v, comm.size, comm.rank)
        w = xp.permute_dims(self.hessian_times(u, slice(0, self.samples)), (1, 0, 2))
        self.passes.add_transposed(w, comm.rank, out)
        return self.damped(out, v, unit, damping)
