"""Nets on equations, laid out on any ranks, and their slow reference: differences in extended precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from problems import OnRanks, Problem, blocks_of

from dnewton.comm.communicator import Comm
from dnewton.data.samples import Samples
from dnewton.grid import Grid, Kind
from dnewton.model.jet_net import with_equations
from dnewton.model.network import Network
from dnewton.model.objective import Objective
from dnewton.model.residual_term import ResidualTerm, traced
from dnewton.planning import grid_search
from dnewton.planning.net_plan import infer_shapes

Net = Callable[[Any], Any]  # points (N, inputs) to outputs (N, outputs)
Residual = Callable[[Any, Any], Any]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda s: s,
    "tanh": np.tanh,
    "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
    "softplus": lambda s: np.logaddexp(s, 0),
    "silu": lambda s: s / (1 + np.exp(-s)),
    "sin": np.sin,
}
WIDE = np.longdouble
UNKNOWNS: dict[str, tuple[str, ...]] = {}  # of residuals, by their function's name
STENCIL = [(-2, 1 / WIDE(12)), (-1, -2 / WIDE(3)), (1, 2 / WIDE(3)), (2, -1 / WIDE(12))]  # of fourth order


def net_of(params: dict[str, Any], layers: Sequence[Any], prefix: str = "layers") -> Net:
    """The net as a function, in the precision of its points."""

    def u(x: Any) -> Any:
        for index, entry in enumerate(layers):
            name = f"{prefix}.{index}"
            if "dense" in entry:
                s = x @ params[f"{name}.weight"].T + params[f"{name}.bias"]
                x = ACTIVATIONS[entry["dense"].get("activation", "linear")](s)
            else:
                x = x + net_of(params, entry["residual"], f"{name}.layers")(x)
        return x

    return u


def derivative(u: Net, x: Any, axes: Sequence[int], step: float = 1e-3) -> Any:
    """∂u by the inputs `axes`, one after the other, by differences."""
    if not axes:
        return u(x)
    shift = np.zeros(x.shape[1], dtype=WIDE)
    shift[axes[0]] = WIDE(step)
    return sum(c * derivative(u, x + k * shift, axes[1:], step) for k, c in STENCIL) / WIDE(step)


class Differences:
    """What a residual sees of a net, by differences."""

    def __init__(self, u: Net, x: Any) -> None:
        self._u, self._x = u, x

    @property
    def value(self) -> Any:
        return self._u(self._x)

    def d(self, a: int) -> Any:
        return derivative(self._u, self._x, [a])

    def dd(self, a: int, b: int) -> Any:
        return derivative(self._u, self._x, [a, b])

    def laplacian(self, *axes: int) -> Any:
        return sum(self.dd(a, a) for a in axes or range(self._x.shape[1]))


@dataclass
class Equations:
    """A net, terms as (residual, number of points, weight), and random points."""

    input: int
    layers: list[Any]
    terms: list[tuple[Residual, int, float]]
    unknown: dict[str, float] = field(default_factory=dict)
    C: float = 0.7
    seed: int = 0
    inner: Problem = field(init=False)

    def __post_init__(self) -> None:
        self.inner = Problem((self.input,), self.layers, "squared", seed=self.seed, C=self.C)
        rng = np.random.default_rng(self.seed + 1)
        self.points = [rng.uniform(-1, 1, size=(n, self.input)) for _, n, _ in self.terms]
        self.samples = sum(n for _, n, _ in self.terms)
        self.made = []
        for (function, n, weight), x in zip(self.terms, self.points, strict=True):
            own = [list(self.unknown).index(name) for name in UNKNOWNS.get(function.__name__, ())]
            given = [list(self.unknown.values())[p] for p in own]
            keys, equations = traced(function, x, self.inner.outputs, "term", given)
            scale = float(np.sqrt(weight * self.samples / n))
            self.made.append(ResidualTerm("term", function, None, keys, equations, scale, tuple(own)))
        if self.unknown:
            size = len(self.unknown)
            self.inner.params["parameters.weight"] = np.zeros((size, 1))
            self.inner.params["parameters.bias"] = np.array(list(self.unknown.values()))
        self.equations = max(t.equations for t in self.made)

    def residuals(self, params: dict[str, Any]) -> Any:
        """√weight r of all points, (N, equations), in extended precision."""
        u = net_of({k: v.astype(WIDE) for k, v in params.items()}, self.layers)
        rows = []
        for (function, n, _), term, x in zip(self.terms, self.made, self.points, strict=True):
            x = x.astype(WIDE)
            r = np.zeros((n, self.equations), dtype=WIDE)
            own = [params["parameters.bias"][p] for p in term.parameters]
            r[:, : term.equations] = np.reshape(function(x, Differences(u, x), *own), (n, -1))
            rows.append(WIDE(term.scale) * r)
        return np.concatenate(rows)

    def jacobian(self, step: float = 1e-3) -> np.ndarray:
        """J (N, equations, weights), number by number."""
        columns = []
        params = {k: v.astype(WIDE) for k, v in self.inner.params.items()}
        for name in params:
            for place in np.ndindex(params[name].shape):
                total = 0
                for k, c in STENCIL:
                    moved = {key: v.copy() for key, v in params.items()}
                    moved[name][place] += k * WIDE(step)
                    total = total + c * self.residuals(moved)
                columns.append(total / WIDE(step))
        return np.stack(columns, axis=-1).astype(np.float64)

    def lay_out(self, comm: Comm, grid: Grid | None = None, kinds: list[Kind] | None = None, batch: int = 4) -> OnRanks:
        """The net on the ranks."""
        specs = with_equations(infer_shapes(self.inner.config.net), self.made, list(self.unknown.values()))
        work = grid_search.Workload(self.samples, self.samples, self.equations)
        if kinds is not None:
            plan = grid_search.fixed(specs, grid or Grid(1, comm.size), kinds, work)
        else:
            plan = grid_search.choose(specs, comm.size, work, grid=(grid.rows, grid.cols) if grid else None)
        comm = comm.on_grid(plan.grid)
        network = Network(plan, comm)
        x = np.concatenate([np.column_stack([p, np.full(len(p), k)]) for k, p in enumerate(self.points)])
        data = Samples(x, np.zeros((self.samples, self.equations)))
        loss = self.inner.config.net.loss
        regulariser = 1.0 / (self.C * self.samples)
        objective = Objective(network, comm, data, loss, lambda z, y: 0.0, regulariser, batch, 1e9)
        self.inner.samples = self.samples
        return OnRanks(self.inner, comm, plan, network, blocks_of(network, self.inner.params), objective)
