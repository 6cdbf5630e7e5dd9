"""Who factors, decomposes and preconditions which layer, and what is sent: the K-FAC variants as pure functions.

The D workers form KAISA's grid (Pauloski et al. 2021): m = f·D rows and D/m columns, worker w at (w // columns,
w % columns). A layer belongs to a column, whose m workers precondition it, and one of them decomposes its factors. The
workers of a row then hand each other what their columns have preconditioned. mpd_kfac and dp_kfac are m = 1.
Inside a replica of M model ranks, a layer's work is done by one rank (`position`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dnewton.errors import UserError
from dnewton.planning.net_plan import NetPlan

Variant = Literal["dp_kfac", "d_kfac", "mpd_kfac"]
Assignment = Literal["greedy", "round_robin"]


@dataclass(frozen=True)
class LayerSize:
    """A layer's Kronecker factors: A is a x a (inputs and the bias), G is g x g (outputs)."""

    name: str
    a: int
    g: int

    @property
    def cost(self) -> float:
        """Of the decompositions, in operations up to a factor."""
        return float(self.a) ** 3 + float(self.g) ** 3


def layer_sizes(plan: NetPlan) -> tuple[LayerSize, ...]:
    """The factors of every layer with weights."""
    sizes = []
    for layer in plan.parametric():
        out, inputs, *_ = layer.spec.weight_shape
        sizes.append(LayerSize(layer.spec.name, inputs * layer.spec.kernel_size + 1, out))
    return tuple(sizes)


@dataclass(frozen=True)
class Placement:
    """Per layer: its column, the worker that decomposes it, and the model rank in every replica that works on it."""

    columns: int
    column: tuple[int, ...]
    owner: tuple[int, ...]
    position: tuple[int, ...]

    def place(self, worker: int) -> tuple[int, int]:
        """(row, column) of a worker."""
        return divmod(worker, self.columns)


def place(
    sizes: Sequence[LayerSize],
    workers: int,
    model_ranks: int,
    variant: Variant,
    assignment: Assignment,
    fraction: float = 1.0,
    source: str = "config",
) -> Placement:
    """Distribute the layers. Raises UserError when `fraction` does not cut the workers into equal columns."""
    rows = 1 if variant != "d_kfac" else round(fraction * workers)
    whole = variant != "d_kfac" or abs(rows - fraction * workers) <= 1e-6 * workers
    if not whole or rows < 1 or workers % rows:
        fitting = ", ".join(f"{r / workers:g}" for r in range(1, workers + 1) if workers % r == 0)
        raise UserError(
            f"{source}: solver.grad_worker_fraction: {fraction:g} of {workers} workers is not a whole divisor of them; "
            f"use one of {fitting}"
        )
    columns = workers // rows
    costs = [size.cost for size in sizes]
    column = _spread(costs, columns, assignment)
    owner = [0] * len(sizes)
    for c in range(columns):
        here = [i for i in range(len(sizes)) if column[i] == c]
        for i, row in zip(here, _spread([costs[i] for i in here], rows, assignment), strict=True):
            owner[i] = row * columns + c
    position = [0] * len(sizes)
    for w in range(workers):
        here = [i for i in range(len(sizes)) if owner[i] == w]
        for i, p in zip(here, _spread([costs[i] for i in here], model_ranks, assignment), strict=True):
            position[i] = p
    return Placement(columns, tuple(column), tuple(owner), tuple(position))


def _spread(costs: Sequence[float], bins: int, assignment: Assignment) -> list[int]:
    """A bin for every item: in turn, or the largest item first into the least loaded bin (Graham 1969)."""
    if assignment == "round_robin":
        return [i % bins for i in range(len(costs))]
    bin_of, load = [0] * len(costs), [0.0] * bins
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        bin_of[i] = load.index(min(load))
        load[bin_of[i]] += costs[i]
    return bin_of


@dataclass(frozen=True)
class Volumes:
    """Numbers that an update of each kind sends: the payload of its collectives, each counted once per group."""

    gradient: int  # every step, a sum over all workers
    factors: int  # every update of the factors, a sum over all workers
    inverse: int  # every decomposition, within each column
    preconditioned: int  # every step, within each row


def volumes(
    sizes: Sequence[LayerSize], placement: Placement, variant: Variant, workers: int, eigen: bool = True
) -> Volumes:
    """What one replica's position sends with M = 1 (docs/solvers.md has the table)."""
    weights = sum(s.a * s.g for s in sizes)
    rows = workers // placement.columns
    factors = 0 if variant == "dp_kfac" or workers == 1 else sum(s.a**2 + s.g**2 for s in sizes)
    values = 1 if eigen else 0
    inverse = sum(s.a**2 + s.g**2 + values * (s.a + s.g) for s in sizes) if rows > 1 else 0
    return Volumes(weights if workers > 1 else 0, factors, inverse, weights if placement.columns > 1 else 0)


def held_numbers(
    sizes: Sequence[LayerSize],
    placement: Placement,
    variant: Variant,
    worker: int,
    position: int = 0,
    eigen: bool = True,
) -> int:
    """Numbers that a rank keeps between steps: running averages of factors, and decompositions."""
    _, own_column = placement.place(worker)
    total = 0
    for i, size in enumerate(sizes):
        if placement.position[i] != position:
            continue
        squares = size.a**2 + size.g**2
        if variant != "dp_kfac" or placement.owner[i] == worker:
            total += squares
        if placement.column[i] == own_column:
            total += squares + (size.a + size.g if eigen else 0)
    return total
