"""The damped systems of one Newton direction: every rank's own, the whole one, or all in step by passes."""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.arrays.namespace import Array, namespace
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.matrix_free import MatrixFreeJacobian, MatrixFreeModel
from dnewton.errors import UserError
from dnewton.model.network import Network
from dnewton.model.objective import Batch, Objective
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.solvers.newton import cg, early_termination, local_solver
from dnewton.solvers.newton.exact_systems import DualSystem, ExactSystem
from dnewton.solvers.newton.whole_primal import WholePrimalSystem


class Systems:
    """What solves (G_uu + λI) d = -∇f, as the options and the plan say."""

    def __init__(self, network: Network, options: NewtonSection, comm: Comm, plan: CurvaturePlan) -> None:
        """Collective over the world (the early-termination counter's window)."""
        self._options = options
        self._comm = comm
        self._plan = plan
        self.rank_unit = jacobian.local_systems(network.blocks, per_layer=False)[0]
        self.units = jacobian.local_systems(network.blocks, options.diagonal_unit == "layer")
        self.watch: early_termination.TerminationRule
        stop = options.early_termination
        if options.curvature == "diagonal" and plan.how == "implicit":
            self.watch = early_termination.make_joint(stop.mode, stop.fraction, comm)
        else:
            mode = "off" if options.curvature == "full" else stop.mode  # one solve for all ranks
            alone = options.replica_solve != "exact"
            self.watch = early_termination.make(mode, stop.fraction, stop.every, comm, alone)
        self._solves = 0
        self._formed: local_solver.Formed = {}

    def model(self, objective: Objective, theta: Array, batches: Sequence[Batch]) -> GaussNewton | MatrixFreeModel:
        """The curvature at θ on the samples of some batches, whose forward passes it takes over.

        Collective over the world where J's sweeps or the check of float16 send messages.
        """
        xp, plan, half = namespace(theta), self._plan, self._options.jacobian_dtype
        tapes = [b.tape for b in batches if b.tape is not None]
        loss, y = objective.of_curvature(batches)
        for batch in batches:
            batch.tape = None
        z = xp.concat([t.z for t in tapes])
        if plan.how != "explicit":
            passes = MatrixFreeJacobian(objective.network, theta, tapes, plan.chunk)
            return MatrixFreeModel(passes, loss, z, y, objective.regulariser)
        dtype = None if half == "auto" else half
        jac = jacobian.build(objective.network, theta, tapes, plan.held, plan.chunk, dtype)
        if half == "float16" and self._comm.minmax(float(jac.sound))[0] == 0.0:
            raise UserError("solver.jacobian_dtype: float16 ends at 65504 and J does not; use bfloat16 or auto")
        return GaussNewton(jac, loss, z, y, objective.regulariser)

    def new_point(self) -> None:
        """Forget what was formed for one J and serves several λ."""
        self._formed = {}

    def begin(self, active: int) -> None:
        """A solve in which `active` ranks have something to do."""
        self._solves += 1
        self.watch.begin(self._solves, active)

    def solve(
        self,
        model: GaussNewton | MatrixFreeModel,
        gradient: Array,
        norm: float,
        lam: float,
        start: Array | None,
        rows: int,
    ) -> cg.Solution:
        """The direction's pieces; call :meth:`begin` before. `norm` is ‖∇f‖ over all ranks, `start` where CG begins,
        and `rows` what a sampled preconditioner is made from.

        Collective over the world where J is not held or the system is whole.
        """
        options = self._options
        if options.curvature == "full":
            solution = self._solve_whole(model, gradient, norm, lam, start)
            self.watch.finished(counts=False)
            return solution
        if not isinstance(model, GaussNewton):
            return self._solve_jointly(model, gradient, lam, start)
        systems = [
            local_solver.make(
                way,
                model,
                gradient,
                unit,
                lam,
                options.tolerance_of_cg,
                start,
                rows=min(rows, self._plan.rows),
                formed=self._formed,
            )
            for way, unit in zip(self._plan.ways, self.units, strict=True)
        ]
        self._comm.ledger.solving = systems
        try:
            return cg.solve(systems, gradient, options.max_cg, self.watch)
        finally:
            self._comm.ledger.solving = ()  # they hold the Jacobian

    def again(self, g: Array, lam: float) -> Array:
        """d of (G_uu + λI) d = -g for another g, by the matrices of exact solves that have been made for this J; zero
        where there is none. Collective over the world where the system is whole."""
        out = namespace(g).zeros_like(g)
        for unit in [self.rank_unit] if self._options.curvature == "full" else self.units:
            system = self._formed.get(unit)
            d = system.solve(lam, g) if isinstance(system, ExactSystem) else None
            if d is not None:
                out[unit.span] = d
        return out

    def _solve_whole(
        self, model: GaussNewton | MatrixFreeModel, gradient: Array, norm: float, lam: float, start: Array | None
    ) -> cg.Solution:
        """`curvature: full`. Collective over the world."""
        options, comm = self._options, self._comm
        if options.subproblem == "exact":
            assert isinstance(model, GaussNewton)
            kind = WholePrimalSystem if self._plan.whole_primal else DualSystem
            if not isinstance(system := self._formed.get(self.rank_unit), kind):
                system = self._formed[self.rank_unit] = kind(model, gradient, self.rank_unit, comm)
            start = system.solve(lam)
        return cg.solve_whole(
            lambda v, unit: model.full_product(v, unit, lam, comm),
            gradient,
            self.rank_unit,
            norm,
            options.tolerance_of_cg,
            options.max_cg,
            comm,
            start,
        )

    def _solve_jointly(self, model: MatrixFreeModel, g: Array, lam: float, start: Array | None) -> cg.Solution:
        """The local systems where their products are sweeps over all ranks. Collective over the world."""
        options, comm = self._options, self._comm
        zero = namespace(g).zeros_like(g)
        assert isinstance(self.watch, early_termination.LockstepTermination)

        def product(v: Array, unit: jacobian.LocalSystem) -> Array:
            return model.joint_product(v, unit, lam, comm)

        def idle(unit: jacobian.LocalSystem) -> None:
            product(zero, unit)

        systems = [cg.PlainCG(product, g, u, options.tolerance_of_cg, start) for u in self.units]
        return cg.solve_jointly(systems, idle, g, options.max_cg, self.watch)
