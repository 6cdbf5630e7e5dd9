"""K-FAC over workers: dp_kfac (Zhang et al. 2022), d_kfac with KAISA's placements (Pauloski et al. 2020, 2021) and
mpd_kfac (Osawa et al. 2019). What differs is who computes which factors and what is sent; see `kfac_plan`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dnewton.arrays.namespace import Array, namespace, nbytes, to_device, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.baselines import WorkersSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, NotNegative, Positive
from dnewton.model.gathered_layers import GatheredLayers
from dnewton.planning.grid_search import Workload
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.replicas import RankDivision
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines import kfac_assignment
from dnewton.solvers.baselines.epoch_loop import saved_or_zeros
from dnewton.solvers.baselines.first_order import FirstOrder
from dnewton.solvers.baselines.kfac_assignment import LayerSize
from dnewton.solvers.baselines.kfac_factors import Decomposition, decompose, local_pass
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel
from dnewton.solvers.interface import SolverState, StartPoint
from dnewton.solvers.kind import Needs

EIGEN = 30.0  # operations of an eigendecomposition over the cube of its size, at the rate of products


class KFACSection(WorkersSection):
    """Kronecker-factored curvature: dp_kfac (Zhang et al. 2022), d_kfac (Pauloski et al. 2020, 2021), mpd_kfac (Osawa
    et al. 2019)."""

    name: Literal["dp_kfac", "d_kfac", "mpd_kfac"] = "dp_kfac"
    learning_rate: Positive = 0.05  # the rate of a step
    momentum: Fraction = 0.9  # of the preconditioned steps
    weight_decay: NotNegative = 0.0  # added to the gradient, times theta
    damping: Positive = 0.03  # added to the eigenvalues
    inverse: Literal["auto", "eigen", "pi"] = "auto"  # auto: pi for mpd_kfac, eigen otherwise
    decay: Fraction = 0.95  # running average of the factors: the weight of the OLD average
    factor_every: Count = 1  # steps between two updates of the factors
    inverse_every: Count = 10  # steps between two decompositions
    # bound on a step's size in the metric of the curvature; null: none
    kl_clip: Annotated[float, Field(gt=0)] | None = 0.001
    assignment: Literal["greedy", "round_robin"] = "greedy"  # which worker owns which layer: by costs, or in turn
    # d_kfac only: the share of workers that hold a layer's decomposition
    grad_worker_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _fraction_is_kaisas(self) -> KFACSection:
        if self.grad_worker_fraction != 1.0 and self.name != "d_kfac":
            raise ValueError("grad_worker_fraction is d_kfac's; in dp_kfac and mpd_kfac one worker owns a layer")
        if self.name == "mpd_kfac" and self.inverse == "eigen":
            raise ValueError("mpd_kfac has inverse: pi; the eigen form is d_kfac")
        return self


class KFAC(FirstOrder):
    """g ← mean gradient;  p ← (A ⊗ G + λI)⁻¹ g layer by layer;  p ← ν p with ν = min(1, √(κ / |η² pᵀg|));  a step with
    momentum along p.

    The factors' running average is F ← min(1 - 1/k, decay) F + (1 - …) new at its k-th update (Martens 2010): the
    weight is on the OLD average.
    """

    def __init__(self, workers: Workers, options: KFACSection) -> None:
        """Collective over the workers: makes the groups of KAISA's grid."""
        super().__init__(workers, options)
        self._own: KFACSection = options
        network = workers.objective.network
        self._sizes = kfac_assignment.layer_sizes(network.plan)
        self._place = kfac_assignment.place(
            self._sizes,
            workers.count,
            network.comm.size,
            options.name,
            options.assignment,
            options.grad_worker_fraction,
        )
        self._whole = GatheredLayers(network)
        row, column = self._place.place(workers.index)
        self._column: Comm = workers.peers.split(column)
        self._row: Comm = workers.peers.split(row)
        self._eigen = options.inverse == "eigen" or (options.inverse == "auto" and options.name != "mpd_kfac")
        at = range(len(self._sizes))
        here = [self._place.position[i] == network.comm.rank for i in at]
        owned = [self._place.owner[i] == workers.index for i in at]
        self._alone = options.name == "dp_kfac"  # factors from the owner's samples alone, no message
        self._asked = {self._sizes[i].name for i in at if owned[i] or not self._alone}
        self._factored = [i for i in at if here[i] and (owned[i] or not self._alone)]
        self._owned = [i for i in at if here[i] and owned[i]]
        self._preconditioned = [i for i in at if here[i] and self._place.column[i] == column]
        self._at_position = [i for i in at if here[i]]

    def prepare(self, start: StartPoint) -> None:
        """Take over θ, the momentum, and of factors and decompositions what this rank works with."""
        super().prepare(start)
        self._velocity = saved_or_zeros(start, "velocity")
        self._factors: dict[int, tuple[Array, Array]] = {}
        self._decomposed: dict[int, Decomposition] = {}
        self._updates = 0
        self._clip = 1.0
        if start.saved is not None:
            self._clip = float(start.saved.values.get("kl_clip", "1"))
            with self.workers.all.raise_together():
                self._take_over(start.saved.whole)

    def _take_over(self, whole: Mapping[str, Array]) -> None:
        xp, dtype = namespace(self._theta), self._theta.dtype

        def read(i: int, *parts: str) -> list[Array]:
            names = [f"{self._sizes[i].name}.{part}" for part in parts]
            return [xp.astype(to_device(whole[name], self._theta), dtype) for name in names if name in whole]

        updates = {i: int(n[0]) for i in range(len(self._sizes)) for n in read(i, "updates")}
        known = {i for i, n in updates.items() if n}
        self._factors = {i: (a, g) for i in known.intersection(self._factored) for a, g in [read(i, "A", "G")]}
        counts = [updates[i] for i in self._factors]  # without any, as others in the replica: they act together
        self._updates = max(counts or updates.values(), default=0)
        for i in known.intersection(self._preconditioned):
            if len(parts := read(i, *self._parts)) == len(self._parts):
                self._decomposed[i] = Decomposition(*parts)

    def update(self, share: Share, rate: float, count: int) -> None:
        """One step. Collective over the workers."""
        options = self._own
        renew = count % options.factor_every == 0 or not self._updates
        g = self._gradient(share, renew)
        if count % options.inverse_every == 0 or not self._decomposed:
            self._decompose()
        p = self._precondition(g)
        if options.kl_clip is not None:
            change = rate * rate * self.workers.dots((p, g))[0]
            self._clip = min(1.0, (options.kl_clip / abs(change)) ** 0.5) if change else 1.0
            p *= self._clip
        if options.weight_decay:
            p += options.weight_decay * self._theta
        self._velocity = options.momentum * self._velocity + p
        self._theta = self._theta - rate * self._velocity

    def _gradient(self, share: Share, renew: bool) -> Array:
        """The mean gradient over all workers; with `renew` the factors take in this batch."""
        workers = self.workers
        gradient = namespace(self._theta).zeros_like(self._theta)
        sums: dict[str, tuple[Array, Array]] = {}
        with workers.all.phase("gradient"):
            if len(share.indices):
                factored = {self._sizes[i].name for i in self._factored} if renew else set()
                asked = self._asked if renew else set()
                sums = local_pass(workers.objective, self._theta, share.indices, gradient, asked, factored)
        with workers.all.phase("exchange"):
            gradient = workers.peers.allreduce(gradient)
        if renew:
            with workers.all.phase("factors"):
                self._take_in(sums, share)
        gradient /= share.total
        gradient += workers.objective.regulariser * self._theta
        return gradient

    def _take_in(self, sums: dict[str, tuple[Array, Array]], share: Share) -> None:
        """Running averages of the factors of the layers that this rank factors."""
        if self._alone and not len(share.indices):
            return
        fresh = [sums.get(self._sizes[i].name) or self._nothing(i) for i in self._factored]
        total = len(share.indices)
        if not self._alone:
            fresh, total = self._summed(fresh), share.total
        self._updates += 1
        old = min(1 - 1 / self._updates, self._own.decay)
        for i, (a, g) in zip(self._factored, fresh, strict=True):
            a, g = (1 - old) / total * a, (1 - old) / total * g
            if i in self._factors:
                a = a + old * self._factors[i][0]
                g = g + old * self._factors[i][1]
            self._factors[i] = a, g

    def _nothing(self, i: int) -> tuple[Array, Array]:
        size = self._sizes[i]
        return zeros((size.a, size.a), self._theta), zeros((size.g, size.g), self._theta)

    def _summed(self, pairs: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
        """Sums over the workers, in one message."""
        if not pairs:
            return pairs
        flat = self.workers.peers.allreduce(_packed([m for pair in pairs for m in pair], self._theta))
        matrices = _unpacked(flat, [m.shape for pair in pairs for m in pair])
        return list(zip(matrices[::2], matrices[1::2], strict=True))

    def _decompose(self) -> None:
        """Owners decompose; the workers of a column give each other what they have."""
        options = self._own
        with self.workers.all.phase("precondition"):
            decomposed = {
                i: decompose(*self._factors[i], self._eigen, options.damping) for i in self._owned if i in self._factors
            }
            if self._column.size == 1:
                self._decomposed |= decomposed
                return
            flat = self._column.concatenate(_packed([p for d in decomposed.values() for p in d.parts()], self._theta))
        start = 0
        for row in range(self._column.size):
            for i in self._preconditioned:
                if self._place.place(self._place.owner[i])[0] != row:
                    continue
                a, g = self._sizes[i].a, self._sizes[i].g
                shapes: list[tuple[int, ...]] = [(g, g), (a, a), *([(g,), (a,)] if self._eigen else [])]
                size = sum(_count(s) for s in shapes)
                self._decomposed[i] = Decomposition(*_unpacked(flat[start : start + size], shapes))
                start += size

    def _precondition(self, g: Array) -> Array:
        """Every layer by the workers of its column; rows give each other the results, then the ranks of a replica."""
        place, damping = self._place, self._own.damping
        with self.workers.all.phase("precondition"):
            whole = self._whole.matrices(g)
            done = {
                i: self._decomposed[i].apply(whole[i], damping) if i in self._decomposed else whole[i]
                for i in self._preconditioned
            }
            if self._row.size > 1:
                flat = self._row.concatenate(_packed(list(done.values()), g))
                order = [i for c in range(place.columns) for i in self._at_position if place.column[i] == c]
                done = dict(zip(order, _unpacked(flat, [whole[i].shape for i in order]), strict=True))
            if self._whole.comm.size > 1:
                flat = self._whole.comm.concatenate(_packed([done[i] for i in self._at_position], g))
                order = [i for r in range(self._whole.comm.size) for i in range(len(whole)) if place.position[i] == r]
                done = dict(zip(order, _unpacked(flat, [whole[i].shape for i in order]), strict=True))
            return self._whole.vector([done[i] for i in range(len(whole))])

    def figures(self) -> dict[str, Any]:
        """The last KL clip, and the bytes of factors and decompositions on the largest rank."""
        kept = [m for pair in self._factors.values() for m in pair]
        kept += [p for d in self._decomposed.values() for p in d.parts()]
        largest = self.workers.all.minmax(float(nbytes(*kept)))[1]
        return {"kl_clip": self._clip, "curvature_bytes": int(largest)}

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("left", "right", "left_values", "right_values") if self._eigen else ("left", "right")

    def saved(self) -> SolverState:
        """The momentum, the factors, and the decompositions where they are not computed at every step; by owners."""
        shapes: dict[str, tuple[int, ...]] = {}
        whole: dict[str, Array] = {}
        for i, size in enumerate(self._sizes if self._iteration or self._position else []):
            a, g = size.a, size.g
            here = {"updates": (1,), "A": (a, a), "G": (g, g)}
            if self._own.inverse_every > 1:
                every = {"left": (g, g), "right": (a, a), "left_values": (g,), "right_values": (a,)}
                here |= {part: every[part] for part in self._parts}
            shapes |= {f"{size.name}.{part}": shape for part, shape in here.items()}
            if i in self._owned:
                tensors = {part: zeros(shape, self._theta) for part, shape in here.items()}
                if i in self._factors:
                    tensors["updates"] += self._updates
                    tensors["A"], tensors["G"] = self._factors[i]
                if i in self._decomposed and self._own.inverse_every > 1:
                    tensors |= dict(zip(self._parts, self._decomposed[i].parts(), strict=True))
                whole |= {f"{size.name}.{part}": tensor for part, tensor in tensors.items()}
        values = {**self.saved_values(), "kl_clip": repr(self._clip)}
        return SolverState({"velocity": self._velocity}, values=values, shapes=shapes, whole=whole)


def _count(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _packed(arrays: list[Array], like: Array) -> Array:
    """Arrays one after another in one vector."""
    xp = namespace(like)
    return xp.concat([like[:0], *(xp.reshape(a, (_count(a.shape),)) for a in arrays)])


def _unpacked(flat: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    xp = namespace(flat)
    arrays = []
    start = 0
    for shape in shapes:
        arrays.append(xp.reshape(flat[start : start + _count(shape)], shape))
        start += _count(shape)
    return arrays


def _placed(
    options: KFACSection, sizes: Sequence[LayerSize], layout: RankDivision, source: str
) -> kfac_assignment.Placement:
    return kfac_assignment.place(
        sizes,
        layout.replicas,
        layout.model_ranks,
        options.name,
        options.assignment,
        options.grad_worker_fraction,
        source,
    )


def _check(options: KFACSection, layout: RankDivision, source: str) -> None:
    _placed(options, [], layout, source)


def _needs(options: KFACSection, plan: NetPlan, work: Workload, layout: RankDivision, source: str) -> Needs:
    """Factors and decompositions of the rank that has most of them, and as much while they are renewed."""
    sizes = kfac_assignment.layer_sizes(plan)
    placement = _placed(options, sizes, layout, source)
    ranks = [(w, m) for w in range(layout.replicas) for m in range(layout.model_ranks)]
    numbers = max(kfac_assignment.held_numbers(sizes, placement, options.name, *at) for at in ranks)
    return Needs(bytes=2.0 * work.itemsize * numbers)


def _seconds(options: KFACSection, steps: Steps) -> Mapping[str, float]:
    """Factors from every batch, decompositions now and then, and the gradient in their coordinates at every step."""
    found = dict(mini_batches(steps, options.batch, 8.0, 1))
    sizes, price, plan = kfac_assignment.layer_sizes(steps.passes.plan), steps.price, steps.passes.plan
    layout = RankDivision(steps.replicas, plan.grid.size)
    where = _placed(options, sizes, layout, "plan")
    count, n = steps.count(options.batch), steps.of_pass(options.batch)
    of_each = [0.0] * steps.everybody  # factors, decompositions and applications of every rank
    formed, averaged, solved, applied = (list(of_each) for _ in range(4))
    alone = options.name == "dp_kfac"
    eigen = options.inverse == "eigen" or (options.inverse == "auto" and options.name != "mpd_kfac")
    for i, size in enumerate(sizes):
        a, g = float(size.a), float(size.g)
        q = float(next(b.q for b in steps.passes.blocks if b.name == size.name))
        for worker in range(steps.replicas):
            rank = worker * plan.grid.size + where.position[i]
            if not alone or where.owner[i] == worker:
                formed[rank] += price.product(a, n * q, a) + price.product(g, n * q, g) + price.touch(n * q * a, 2)
                averaged[rank] += price.touch(a * a + g * g, 5)
            if where.owner[i] == worker:
                solved[rank] += EIGEN * (a**3 + g**3) / price.flops + 20 * price.call
            if where.column[i] == where.place(worker)[1]:
                applied[rank] += (2.0 if eigen else 1.0) * (price.product(g, g, a) + price.product(g, a, a))
                applied[rank] += price.touch(a * g, 4)
    kept = sum(s.a**2 + s.g**2 for s in sizes)
    exchanged = 0.0 if alone else price.allreduce(kept, steps.replicas)
    whole = sum(s.a * s.g for s in sizes)
    sent = steps.gathered(whole, where.columns) + 2 * steps.gathered(whole, plan.grid.size)
    rows = steps.replicas // where.columns
    decomposed = max(solved) + steps.gathered(kept, rows)
    found["gradient"] += count / options.factor_every * max(formed)  # in the same pass
    found["factors"] = count / options.factor_every * (max(averaged) + exchanged)
    found["precondition"] = count * (max(applied) + sent + steps.vectors(2) + decomposed / options.inverse_every)
    return found


SOLVERS.add("dp_kfac", "d_kfac", "mpd_kfac")(
    data_parallel(KFACSection, KFAC, needs=_needs, check=_check, seconds=_seconds)
)
