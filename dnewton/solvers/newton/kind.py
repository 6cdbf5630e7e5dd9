"""Newton in the register of solvers: one replica, or several that share the curvature subsample."""

from __future__ import annotations

from dnewton.config.newton import NewtonSection
from dnewton.config.solver_register import SOLVERS
from dnewton.model.objective import Objective
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.memory import Budget
from dnewton.planning.replicas import ProcessGroups
from dnewton.solvers.interface import Solver
from dnewton.solvers.kind import SolverKind
from dnewton.solvers.newton.evidence import EvidenceNewton
from dnewton.solvers.newton.newton import Newton
from dnewton.solvers.newton.replicated import ReplicaComm, ReplicatedNewton, SharedObjective


def _make(objective: Objective, options: NewtonSection, groups: ProcessGroups, how: CurvaturePlan | Budget) -> Solver:
    assert isinstance(how, CurvaturePlan)
    if isinstance(objective, SharedObjective):
        assert groups.workers is not None
        comm = ReplicaComm(objective.comm, groups.workers, groups.replica)
        return ReplicatedNewton(objective, options, comm, how, groups)
    if options.C == "auto":
        return EvidenceNewton(objective, options, objective.comm, how)
    return Newton(objective, options, objective.comm, how)


SOLVERS.add("newton")(SolverKind(NewtonSection, _make))
