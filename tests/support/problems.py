"""Small nets with random data, laid out on any ranks, and their slow reference (tests/oracles/oracle.py)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import oracle
from places import host, put

from dnewton.arrays.namespace import namespace, take
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.matrix_free import MatrixFreeJacobian, MatrixFreeModel
from dnewton.data.samples import Samples
from dnewton.data.sources import from_arrays
from dnewton.data.weights import joined
from dnewton.grid import KINDS, Grid, Kind
from dnewton.model.network import Network, Tape
from dnewton.model.objective import Objective
from dnewton.model.weighted_loss import loss_of
from dnewton.planning import curvature_plan, grid_search
from dnewton.planning.net_plan import NetPlan, infer_shapes
from dnewton.solvers.newton import cg, early_termination
from dnewton.solvers.newton.newton import Newton

Layers = list[Any]

MLP: Layers = [
    {"dense": {"units": 7, "activation": "tanh"}},
    {"dense": {"units": 5, "activation": "softplus"}},
    {"dense": {"units": 3}},
]
CNN: Layers = [
    {"conv": {"channels": 3, "kernel": 3, "padding": 1, "activation": "tanh"}},
    {"maxpool": {"size": 2}},
    {"conv": {"channels": 4, "kernel": [2, 3], "stride": [1, 2], "padding": [0, 1], "activation": "relu"}},
    {"avgpool": {"size": [2, 1]}},
    "flatten",
    {"dense": {"units": 6, "activation": "sigmoid"}},
    {"dense": {"units": 3}},
]


def by_paper(solver: dict[str, Any]) -> dict[str, Any]:
    """Newton by the paper's rules, which the oracle follows, unless it is another method or `damping` is given."""
    return solver if solver.get("name", "newton") != "newton" else {"damping": "paper", **solver}


@dataclass
class Problem:
    """A net with parameters in PyTorch's form, inputs and targets, float64."""

    input: tuple[int, ...]
    layers: Layers
    loss: str = "cross_entropy"
    samples: int = 9
    C: float = 0.7
    seed: int = 0
    solver: dict[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None  # of the samples

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.parsed = oracle.parse(self.layers)
        shapes = oracle.parameter_shapes(self.input, self.parsed)
        self.params = {k: rng.normal(0, 0.5, s) for k, s in shapes.items()}
        self.x = rng.normal(size=(self.samples, *self.input))
        self.outputs = oracle.shapes(self.input, self.parsed)[-1][0]
        self.y = loss_targets(self.loss, np.zeros((self.samples, self.outputs)), rng)

    @property
    def config(self) -> Config:
        net = {"input": list(self.input), "loss": self.loss, "layers": self.layers}
        return Config.model_validate({"net": net, "solver": by_paper(self.solver), "parallel": {"dtype": "float64"}})

    def on(self, x: np.ndarray) -> Samples:
        """All samples, of which a rank has the columns x."""
        if self.weights is None:
            return Samples(put(x), put(self.y))
        y, total = joined(self.y, self.weights, from_arrays("problem", self.x, self.y))
        return Samples(put(x), put(y), total)

    @property
    def repeated(self) -> Problem:
        """The same problem with each sample as often as its weight says."""
        assert self.weights is not None
        times = self.weights.astype(int)
        assert (times == self.weights).all()
        twin = replace(self, samples=int(times.sum()), weights=None)
        twin.x, twin.y = np.repeat(self.x, times, axis=0), np.repeat(self.y, times, axis=0)
        return twin

    def objective_value(self) -> float:
        return oracle.objective(self.params, self.parsed, self.x, self.y, self.loss, self.C)


def loss_targets(loss: str, z: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Random targets that suit a loss and outputs like z, (N, K)."""
    rng = rng or np.random.default_rng(1)
    n, k = z.shape
    if loss in ("squared", "huber"):
        return rng.normal(size=(n, k))
    if loss == "poisson":
        return rng.poisson(2.0, size=(n, k)).astype(float)
    if loss == "logistic":
        return rng.integers(0, 2, size=(n, k)).astype(float)
    return np.eye(k)[rng.integers(0, k, n)]


def with_outputs(layers: Layers, outputs: int) -> Layers:
    """The same net with another number of outputs."""
    return [*layers[:-1], {"dense": {**layers[-1]["dense"], "units": outputs}}]


@dataclass
class OnRanks:
    """A problem laid out on the ranks of a communicator."""

    problem: Problem
    comm: Comm
    plan: NetPlan
    network: Network
    theta: np.ndarray
    objective: Objective

    def from_params(self, params: dict[str, np.ndarray]) -> np.ndarray:
        return blocks_of(self.network, params)

    def whole(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        return whole(self, vector)

    def model(
        self,
        indices: np.ndarray | None = None,
        representation: str = "factored",
        parts: int = 1,
        chunk: int = 100,
    ) -> GaussNewton:
        """The curvature on some samples, in `parts` batches and `chunk` samples at a time."""
        indices = np.arange(self.problem.samples) if indices is None else indices
        tapes = self.tapes(indices, parts)
        jac = jacobian.build(self.network, self.theta, tapes, representation, chunk)  # type: ignore[arg-type]
        z = namespace(self.theta).concat([t.z for t in tapes])
        return GaussNewton(jac, self.objective.loss, z, self.targets(indices), self.objective.regulariser)

    def targets(self, indices: np.ndarray | None = None) -> Any:
        """Targets of some samples, or of all, where the arrays are."""
        y = self.objective.data.y
        return y if indices is None else take(y, indices)

    def tapes(self, indices: np.ndarray, parts: int = 1) -> list[Tape]:
        return [self.objective.forward(self.theta, part, keep=True) for part in np.array_split(indices, parts)]

    def by_passes(self, chunk: int = 100, parts: int = 1) -> MatrixFreeModel:
        """The curvature on all samples, nothing stored."""
        tapes = self.tapes(np.arange(self.problem.samples), parts)
        passes = MatrixFreeJacobian(self.network, self.theta, tapes, chunk)
        z = namespace(self.theta).concat([t.z for t in tapes])
        return MatrixFreeModel(passes, self.objective.loss, z, self.targets(), self.objective.regulariser)

    def newton(self, objective: Objective | None = None, options: NewtonSection | None = None) -> Newton:
        """The solver with the strategy for these ranks."""
        options = options or self.problem.config.solver
        size = options.subsample_size(self.problem.samples, self.problem.outputs)
        work = grid_search.Workload(self.problem.samples, size, self.problem.outputs, options.batch_size, 8)
        how = curvature_plan.decide(self.plan, work, options)
        return Newton(objective or self.objective, options, self.comm, how)


def lay_out(
    problem: Problem,
    comm: Comm,
    grid: Grid | None = None,
    kinds: list[Kind] | None = None,
    batch: int = 4,
    memory: float = 1e9,
) -> OnRanks:
    """Plan the problem on the ranks (a fixed grid and kinds of split if given) and cut its arrays."""
    shapes = infer_shapes(problem.config.net)
    work = grid_search.Workload(problem.samples, problem.samples, problem.outputs)
    if kinds is not None:
        plan = grid_search.fixed(shapes, grid or Grid(1, comm.size), kinds, work)
    else:
        plan = grid_search.choose(shapes, comm.size, work, grid=(grid.rows, grid.cols) if grid else None)
    comm = comm.on_grid(plan.grid)
    network = Network(plan, comm)
    lo, hi = plan.grid.bounds(plan.input_split, plan.input_units, comm.rank)
    x = problem.x[:, lo:hi]
    if x.ndim == 3:  # a sequence is an image of height 1
        x = x[:, :, None, :]
    if x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    data = problem.on(x)
    objective = Objective(
        network,
        comm,
        data,
        loss_of(problem.config.net.loss, data),
        lambda z, y: 0.0,
        1.0 / (problem.C * data.weight),
        batch,
        memory,
    )
    return OnRanks(problem, comm, plan, network, blocks_of(network, problem.params), objective)


def blocks_of(network: Network, params: dict[str, np.ndarray]) -> np.ndarray:
    """This rank's θ from whole tensors."""
    theta = np.zeros(network.size)
    for b in network.blocks:
        name = b.name
        weight = params[f"{name}.weight"][b.out[0] : b.out[1], b.inputs[0] : b.inputs[1]]
        b.weight(theta)[...] = b.from_file_order(weight)
        if b.has_bias:
            b.bias(theta)[...] = params[f"{name}.bias"][b.out[0] : b.out[1]]
    return put(theta)


def whole(on: OnRanks, vector: np.ndarray) -> dict[str, np.ndarray]:
    """Whole tensors from every rank's vector like θ: each number has exactly one owner. Collective."""
    out, vector = {}, host(vector)
    for b in on.network.blocks:
        weight, bias = np.zeros(b.weight_shape), np.zeros(b.weight_shape[0])
        weight[b.out[0] : b.out[1], b.inputs[0] : b.inputs[1]] = b.to_file_order(b.weight(vector))
        if b.has_bias:
            bias[b.out[0] : b.out[1]] = b.bias(vector)
        out[f"{b.name}.weight"] = on.comm.allreduce(weight)
        out[f"{b.name}.bias"] = on.comm.allreduce(bias)
    return out


def flat(params: dict[str, np.ndarray]) -> np.ndarray:
    """The oracle's flat vector."""
    return oracle.flatten_params(params)


def relative(a: Any, b: Any) -> float:
    """Largest difference relative to the largest entry."""
    a, b = host(a), host(b)
    return float(np.abs(a - b).max(initial=0.0) / max(1e-300, float(np.abs(b).max(initial=0.0))))


def local_cg(
    product: cg.Product,
    g: Any,
    units: list[jacobian.LocalSystem],
    tolerance: float,
    max_cg: int,
    watch: early_termination.TerminationRule,
) -> cg.Solution:
    """Solve every unit alone by plain conjugate gradients from 0."""
    systems = [cg.PlainCG(product, g, unit, tolerance) for unit in units]
    return cg.solve(systems, g, max_cg, watch)


def own_blocks(on: OnRanks) -> list[np.ndarray]:
    """For every rank, the flat oracle indices of its variables. Collective."""
    owner = np.full(on.network.size, float(on.comm.rank))
    owners = flat(whole(on, owner))
    return [np.flatnonzero(owners == r) for r in range(on.comm.size)]


ALL_KINDS = list(KINDS.values())
