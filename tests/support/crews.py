"""Problems laid out on D replicas of M model ranks, for the tests of the comparison solvers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from problems import CNN, MLP, OnRanks, Problem, by_paper, flat, lay_out, whole

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.config.types import SolverSection
from dnewton.planning.replicas import ProcessGroups, RankDivision
from dnewton.solvers import registry
from dnewton.solvers.baselines.parameter_server import Server
from dnewton.solvers.interface import Solver, StartPoint


@dataclass
class OnCrew:
    """A rank that trains: its problem, its solver and its place."""

    on: OnRanks
    groups: ProcessGroups
    solver: Solver

    def params(self, vector: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Whole tensors of θ, or of a vector laid out like it. Collective over the replica."""
        return whole(self.on, self.solver.theta if vector is None else vector)

    def flat(self, vector: np.ndarray | None = None) -> np.ndarray:
        """The same as one vector in the oracle's order."""
        return flat(self.params(vector))

    def begin(self) -> None:
        self.solver.begin(StartPoint(copy(self.on.theta)))


# MPI libraries have about 2,000 communicators to give, so tests share them.
_made: dict[Any, tuple[Comm, ProcessGroups | None, Comm | None]] = {}


def divided(
    comm: Comm, replicas: int, model_ranks: int, servers: int = 0
) -> tuple[Comm, ProcessGroups | None, Comm | None]:
    """The first ranks of `comm` as D replicas of M and servers: those ranks, the crew (None for ranks left over), and
    for a server a communicator of its own. Collective over `comm`."""
    key = (id(comm), replicas, model_ranks, servers)
    if key not in _made:
        used = replicas * model_ranks + servers
        world = comm.split(int(comm.rank >= used))
        groups = ProcessGroups.of(RankDivision(replicas, model_ranks, servers), world) if comm.rank < used else None
        alone = None
        if servers and groups is not None:
            alone = world.split(1 + world.rank if groups.workers is None else 0)
        _made[key] = world, groups, alone
    return _made[key]


def section(problem: Problem, **options: Any) -> SolverSection:
    """A solver's options, checked as from a file; C is not used: problems have their own."""
    net = {"input": list(problem.input), "loss": problem.loss, "layers": problem.layers}
    return Config.model_validate({"net": net, "solver": by_paper(options)}).solver


def crewed(problem: Problem, comm: Comm, replicas: int, **options: Any) -> OnCrew | Server | None:
    """The solver on D replicas of as many model ranks as there are; None on ranks that are left over.

    Methods with servers take one more rank (or `server_ranks`), the last one. Collective over `comm`.
    """
    chosen = section(problem, **options)
    servers = getattr(chosen, "servers", 0)
    model_ranks = (comm.size - servers) // replicas
    assert model_ranks >= 1, "too few ranks"
    _, groups, own = divided(comm, replicas, model_ranks, servers)
    if groups is None:
        return None
    if groups.workers is None:
        assert own is not None
        alone = lay_out(problem, own)
        if model_ranks == 1:
            return Server(groups, alone.plan, chosen, "float64")
        raise NotImplementedError("servers of model-parallel workers: see test_compare")
    assert groups.model is not None
    on = lay_out(problem, groups.model)
    groups = replace(groups, model=on.comm)
    return OnCrew(on, groups, registry.make(chosen, on.objective, groups, None))  # type: ignore[arg-type]


def net(name: str, samples: int = 13, **options: Any) -> Problem:
    return Problem((5,) if name == "mlp" else (2, 7, 6), MLP if name == "mlp" else CNN, samples=samples, **options)


def replicas(comm: Comm) -> list[int]:
    """Numbers of replicas: D = 1, ..., P of M = P/D model ranks each, so for P up to 4 all M of 1, 2, 3, 4."""
    return [d for d in range(1, comm.size + 1) if comm.size % d == 0]


def begun(problem: Problem, comm: Comm, workers: int, **options: Any) -> OnCrew | None:
    """A solver at its starting point; None on ranks that are left over."""
    found = crewed(problem, comm, workers, **options)
    if found is None:
        return None
    assert isinstance(found, OnCrew)
    found.begin()
    return found
