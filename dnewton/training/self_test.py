"""A self-test of an installation: sums against closed forms, ∇f against differences, G against dense matrices, and a
Newton step on all ranks against the same step on one.

Every rank computes what one rank would by itself, without MPI, so an error of the library or of the machine shows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnewton.arrays.namespace import dot
from dnewton.comm.communicator import MESSAGE_BYTES, Comm
from dnewton.config.schema import Config
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.data.samples import Samples
from dnewton.data.sources import Values
from dnewton.model import init_weights
from dnewton.model.network import Network
from dnewton.model.objective import Objective
from dnewton.planning import curvature_plan, grid_search
from dnewton.planning.net_plan import infer_shapes
from dnewton.solvers.interface import StartPoint
from dnewton.solvers.newton.newton import Newton

SAMPLES, FEATURES, CLASSES, SEED = 60, 5, 3, 7
STEP = 1e-5  # of central differences of order 2 of the outputs: their error is about its square
NET = {
    "net": {
        "input": [FEATURES],
        "loss": "cross_entropy",
        "layers": [
            {"dense": {"units": 8, "activation": "tanh"}},
            {"dense": {"units": 6, "activation": "tanh"}},
            {"dense": {"units": CLASSES}},
        ],
    },
    "solver": {"curvature": "full", "subproblem": "cg", "cg_tolerance": 1e-12, "subsample": 1.0, "start": "none"},
    "parallel": {"dtype": "float64"},
}


@dataclass(frozen=True)
class Item:
    """One part of the test: what was compared, the largest relative difference, what it may be, and the time."""

    name: str
    difference: float
    limit: float
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return self.difference <= self.limit


def run(comm: Comm) -> Iterator[Item]:
    """The items one after another, the same on all ranks. Collective over the world."""
    with_one = _Problem(Comm.alone())
    everywhere = _Problem(comm)
    tests: list[tuple[str, float, Callable[[], float]]] = [
        ("sums over ranks, against closed forms", 0.0, lambda: _sums(comm)),
        ("gradient, against finite differences", 1e-9, lambda: _gradient(everywhere)),
        ("curvature product, against dense matrices", 1e-6, lambda: _product(everywhere, with_one)),
        ("one Newton step, against the same on one rank", 1e-8, lambda: _step(everywhere, with_one)),
    ]
    for name, limit, test in tests:
        started = time.perf_counter()
        difference = test()
        worst = comm.minmax(math.inf if math.isnan(difference) else difference)[1]
        yield Item(name, worst, limit, time.perf_counter() - started)


class _Problem:
    """A small net with random samples, laid out on some ranks."""

    def __init__(self, comm: Comm) -> None:
        config = Config.model_validate(NET)
        shapes = infer_shapes(config.net)
        work = grid_search.Workload(SAMPLES, SAMPLES, CLASSES)
        self.plan = grid_search.choose(shapes, comm.size, work)
        self.comm = comm.on_grid(self.plan.grid)
        self.network = Network(self.plan, self.comm)
        draws = np.random.Generator(np.random.Philox(key=SEED))
        x = draws.normal(size=(SAMPLES, FEATURES))
        self.y = np.eye(CLASSES)[draws.integers(0, CLASSES, SAMPLES)]
        lo, hi = self.plan.grid.bounds(self.plan.input_split, self.plan.input_units, self.comm.rank)
        self.objective = Objective(
            self.network,
            self.comm,
            Samples(np.ascontiguousarray(x[:, lo:hi]), self.y),
            config.net.loss,
            lambda z, y: 0.0,
            1.0 / SAMPLES,
            SAMPLES,
            1e9,
        )
        self.theta = init_weights.weights(self.network, SEED, "float64")
        options: Any = config.solver
        self.newton = Newton(self.objective, options, self.comm, curvature_plan.decide(self.plan, work, options))

    def value(self, theta: Values) -> float:
        """f. Collective."""
        return self.objective.evaluate(theta, np.arange(0), np.arange(SAMPLES)).value

    def gradient(self) -> Values:
        """∇f on this rank's blocks. Collective."""
        at = self.objective.evaluate(self.theta, np.arange(0), np.arange(SAMPLES))
        return np.asarray(self.objective.gradient(self.theta, at))

    def whole(self, theta: Values) -> Values:
        """All weights, layer by layer, of vectors like θ on all ranks: each number has one owner. Collective."""
        parts = []
        for b in self.network.blocks:
            weight, bias = np.zeros(b.weight_shape), np.zeros(b.weight_shape[0])
            weight[b.out[0] : b.out[1], b.inputs[0] : b.inputs[1]] = b.weight(theta)
            if b.has_bias:
                bias[b.out[0] : b.out[1]] = b.bias(theta)
            parts += [np.ravel(self.comm.allreduce(weight)), self.comm.allreduce(bias)]
        return np.concatenate(parts)

    def local(self, whole: Values) -> Values:
        """The inverse of :meth:`whole`: this rank's part."""
        theta, at = np.zeros(self.network.size), 0
        for b in self.network.blocks:
            out, inputs = b.weight_shape
            weight = whole[at : at + out * inputs].reshape(out, inputs)
            bias = whole[at + out * inputs : at + out * (inputs + 1)]
            b.weight(theta)[...] = weight[b.out[0] : b.out[1], b.inputs[0] : b.inputs[1]]
            if b.has_bias:
                b.bias(theta)[...] = bias[b.out[0] : b.out[1]]
            at += out * (inputs + 1)
        return theta


def _sums(comm: Comm) -> float:
    """Largest difference of sums, copies and gathered parts: whole numbers, so that every sum is exact."""
    p, worst = comm.size, 0.0
    for n in (1, 1000, MESSAGE_BYTES // 8 + 1):  # the last goes in two messages
        counted = np.arange(n, dtype=np.float64)
        wanted = counted * (p * (p + 1) // 2)
        worst = max(worst, float(np.abs(comm.allreduce(counted * (comm.rank + 1)) - wanted).max()))
        given = comm.bcast(counted + comm.rank, root=p - 1)
        worst = max(worst, float(np.abs(given - counted - (p - 1)).max()))
    parts = comm.concatenate(np.full((comm.rank + 1, 2), float(comm.rank)))
    wanted = np.repeat(np.arange(float(p)), np.arange(1, p + 1))[:, None]
    return max(worst, float(np.abs(parts - wanted).max()), abs(comm.sum_scalars([1.0])[0] - p))


def _gradient(problem: _Problem) -> float:
    """∇f along random unit vectors against central differences of f, of order 4."""
    worst, g, total = 0.0, problem.gradient(), problem.comm.sum_scalars
    norm = math.sqrt(total([dot(g, g)])[0])
    h = 1e-3
    for k in range(3):
        draws = np.random.Generator(np.random.Philox(key=[SEED, 100 * k + problem.comm.rank]))
        d = draws.normal(size=problem.network.size)
        d /= math.sqrt(total([dot(d, d)])[0])

        def f(t: float, d: Values = d) -> float:
            return problem.value(problem.theta + t * h * d)

        slope = (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * h)
        worst = max(worst, abs(slope - total([dot(g, d)])[0]) / norm)
    return worst


def _product(problem: _Problem, alone: _Problem) -> float:
    """G v against JᵀBJ v/|S| + v/C, with J by differences of one rank's outputs and B = diag(p) - p pᵀ."""
    every = np.arange(SAMPLES)
    tape = problem.objective.forward(problem.theta, every, keep=True)
    jac = jacobian.build(problem.network, problem.theta, [tape], "factored")
    model = GaussNewton(jac, problem.objective.loss, tape.z, problem.y, problem.objective.regulariser)
    unit = jacobian.local_systems(problem.network.blocks, per_layer=False)[0]
    v = np.random.Generator(np.random.Philox(key=[SEED, 1])).normal(size=alone.network.size)
    found = problem.whole(np.asarray(model.full_product(problem.local(v), unit, 0.0, problem.comm)))

    def outputs(whole: Values) -> Values:
        return np.asarray(alone.objective.forward(alone.local(whole), every, keep=False).z)

    center = alone.whole(alone.theta)
    steps = STEP * np.eye(len(v))
    dense = np.stack([(outputs(center + e) - outputs(center - e)) / (2 * STEP) for e in steps], axis=2)
    e = np.exp(outputs(center))
    p = e / e.sum(axis=1, keepdims=True)
    b = np.einsum("nk,kj->nkj", p, np.eye(CLASSES)) - p[:, :, None] * p[:, None, :]
    wanted = np.einsum("nki,nkj,njm,m->i", dense, b, dense, v, optimize=True) / SAMPLES
    return _relative(found, wanted + alone.objective.regulariser * v)


def _step(problem: _Problem, alone: _Problem) -> float:
    """f, ‖∇f‖ and θ after a step of undivided curvature, which does not depend on the layout."""
    points = []
    for one in (problem, alone):
        one.newton.begin(StartPoint(one.theta))
        report = one.newton.step()
        norm = math.nan if report.grad_norm is None else report.grad_norm
        points.append((report.loss, norm, one.whole(np.asarray(one.newton.theta))))
        one.newton.close()
    (f, norm, theta), (f1, norm1, theta1) = points
    moved = float(np.abs(theta1 - alone.whole(alone.theta)).max())
    if moved == 0.0:
        return math.nan  # no step was taken
    return max(abs(f - f1) / abs(f1), abs(norm - norm1) / abs(norm1), _relative(theta, theta1))


def _relative(a: Values, b: Values) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())
