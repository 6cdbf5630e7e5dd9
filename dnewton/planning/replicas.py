"""Who works together: P ranks as D replicas of M model ranks each, and parameter servers where a method has them."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.errors import UserError


@dataclass(frozen=True)
class RankDivision:
    """How the ranks of a job are divided: world rank = replica * M + model rank; the last `servers` ranks serve."""

    replicas: int
    model_ranks: int
    servers: int = 0

    def place(self, rank: int) -> tuple[int, int] | None:
        """(replica, model rank) of a world rank; None for a server."""
        return divmod(rank, self.model_ranks) if rank < self.replicas * self.model_ranks else None

    def describe(self) -> str:
        """A line for the log."""
        serving = f", {self.servers} server rank(s)" if self.servers else ""
        return f"ranks: {self.replicas} replica(s) of {self.model_ranks} model rank(s){serving}"


def layout(config: Config, ranks: int, source: str) -> RankDivision:
    """Divide the ranks as `parallel.replicas` and the solver ask for; `best`, which is found by forecasts, counts as
    `auto` here. Raises UserError when they do not fit."""
    solver = config.solver
    wanted = config.parallel.replicas
    grid = config.parallel.grid
    servers = getattr(solver, "servers", 0)
    workers = ranks - servers
    if workers < 1:
        raise UserError(
            f"{source}: solver.server_ranks: {servers} of {ranks} rank(s) would serve and none would train; "
            f"start at least {servers + 1} ranks" + (" or use solver.mode: sync" if solver.name[0] == "e" else "")
        )
    model = 1 if grid == "auto" else grid[0] * grid[1]
    free = wanted in ("auto", "best")
    replicas = wanted if isinstance(wanted, int) else max(1, workers // model) if solver.replicated else 1
    if free and solver.replicated and workers % model:
        raise UserError(
            f"{source}: parallel.grid: {list(grid)} has {model} ranks per replica and {workers} rank(s) train; use a "
            f"multiple of {model} or another grid"
        )
    if workers % replicas:
        fitting = ", ".join(str(d) for d in range(1, workers + 1) if workers % d == 0)
        raise UserError(
            f"{source}: parallel.replicas: {replicas} does not divide the {workers} rank(s) that train; use {fitting}"
        )
    return RankDivision(replicas, workers // replicas, servers)


@dataclass(frozen=True)
class ProcessGroups:
    """The communicators of one rank. Server ranks have `workers` None and train nothing."""

    layout: RankDivision
    world: Comm  # all ranks, servers too
    workers: Comm | None  # all ranks that train: replica * M + model rank
    model: Comm | None  # the M ranks of this replica
    peers: Comm | None  # the D ranks at this rank's place in their replicas

    @property
    def replica(self) -> int:
        """The replica that this rank belongs to; 0 on servers."""
        return self.world.rank // self.layout.model_ranks if self.workers is not None else 0

    @classmethod
    def of(cls, layout: RankDivision, world: Comm) -> ProcessGroups:
        """Collective over the world."""
        place = layout.place(world.rank)
        workers = world if layout.servers == 0 else world.split(0 if place else 1)
        if place is None:
            return cls(layout, world, None, None, None)
        replica, position = place
        model = workers if layout.replicas == 1 else workers.split(replica)
        return cls(layout, world, workers, model, workers.split(position))
