"""Nets on jets with residuals as the last layer: values, ∇f, J and Gauss-Newton products against differences."""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from checks import traffic
from equations import UNKNOWNS, WIDE, Differences, Equations, net_of
from places import ARRAYS
from problems import ALL_KINDS, Problem, blocks_of, flat, lay_out, relative

from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import grids
from dnewton.model import init_weights
from dnewton.model.jet import JetPositions, derivative, laplacian
from dnewton.model.jet_net import with_jets
from dnewton.model.network import Network
from dnewton.planning import grid_search
from dnewton.planning.net_plan import infer_shapes

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(ARRAYS != "numpy", reason="residuals are functions of NumPy arrays"),
]


def dense(units: int, activation: str = "tanh") -> dict[str, Any]:
    return {"dense": {"units": units, "activation": activation}}


def last(units: int) -> dict[str, Any]:
    return {"dense": {"units": units}}


def poisson(x: Any, u: Any) -> Any:
    return u.laplacian() + 2 * np.sin(x[:, :1]) * x[:, 1:2]


def edge(x: Any, u: Any) -> Any:
    return u.value - x[:, :1] ** 2


def burgers(x: Any, u: Any) -> Any:
    return (u.d(1) + u.value * u.d(0) - 0.1 * u.dd(0, 0))[:, 0]


def system(x: Any, u: Any) -> Any:
    """Two equations of two outputs, with a mixed derivative and powers."""
    v, w = u.value[:, 0], u.value[:, 1]
    first = u.d(0)[:, 0] * w + np.exp(v) - u.laplacian(0, 1)[:, 1]
    second = u.dd(1, 0)[:, 1] * v**2 + u.dd(1, 1)[:, 0] + x[:, 0]
    return np.stack([first, second], axis=1)


def viscous(x: Any, u: Any, nu: Any, speed: Any) -> Any:
    """Two unknowns, one of them not linear."""
    return u.d(1) + np.sin(speed) * u.value * u.d(0) - nu * u.dd(0, 0)


def decay(x: Any, u: Any, nu: Any) -> Any:
    return u.value - np.exp(-nu * x[:, 1:])


def flow(x: Any, u: Any) -> Any:
    """Of a gradient field without sources: curl and divergence."""
    return np.stack([u.d(0)[:, 1] - u.d(1)[:, 0], u.d(0)[:, 0] + u.d(1)[:, 1]], axis=1)


def speed(x: Any, u: Any) -> Any:
    return u.value[:, 0] ** 2 + u.value[:, 1] ** 2 - 1


UNKNOWNS.update(viscous=("nu", "speed"), decay=("nu",))
PROBLEMS = {
    "unknowns": (
        2,
        [dense(4), last(1)],
        [(viscous, 5, 1.0), (edge, 3, 1.0), (decay, 2, 2.0)],
        {"nu": 0.3, "speed": 0.8},
    ),
    "poisson": (2, [dense(5), dense(3), last(1)], [(poisson, 7, 1.0), (edge, 4, 10.0)]),
    "burgers": (2, [dense(6, "sin"), last(1)], [(burgers, 6, 1.0), (edge, 3, 0.3)]),
    "system": (3, [dense(4, "sigmoid"), {"residual": [dense(4, "silu")]}, last(2)], [(system, 5, 2.0), (edge, 4, 1.0)]),
    "unequal numbers of equations": (2, [dense(5), last(2)], [(speed, 3, 2.0), (flow, 4, 1.0)]),
    "values alone": (2, [dense(4, "softplus"), last(2)], [(edge, 5, 1.0)]),
}


Known = tuple[Equations, np.ndarray, np.ndarray]


@functools.cache
def reference(name: str) -> Known:
    """A problem, its residuals and its dense J."""
    problem = Equations(*PROBLEMS[name])
    return problem, problem.residuals(problem.inner.params).astype(np.float64), problem.jacobian()


def test_the_reference_is_the_net() -> None:
    problem = Equations(*PROBLEMS["system"])
    x = problem.points[0]
    u = net_of(problem.inner.params, problem.layers)
    assert relative(u(x), oracle.forward(problem.inner.params, problem.inner.parsed, x)[-1]) < 1e-13


def test_jets_are_the_derivatives(comm: Comm) -> None:
    """Every derivative of a net with a skip connection, on every grid and with every pair of splits."""
    layers = [dense(5), {"residual": [dense(4, "sin"), dense(5, "sigmoid")]}, last(3)]
    problem = Problem((3,), layers, "squared")
    names = ["value", "d0", "d2", "d00", "d12", "d11", "laplacian"]
    keys = [derivative(name, 3) for name in names]
    positions = JetPositions.of(3, [k for k in keys if isinstance(k, int)], [k for k in keys if isinstance(k, tuple)])
    assert positions.count == 1 + 3 + 4
    x = problem.x
    wide = x.astype(WIDE)
    seen = Differences(net_of({k: v.astype(WIDE) for k, v in problem.params.items()}, layers), wide)
    expected = {
        0: seen.value,
        positions.first(0): seen.d(0),
        positions.first(1): seen.d(1),
        positions.second(((0, 0),)): seen.dd(0, 0),
        positions.second(((1, 2),)): seen.dd(2, 1),
        positions.second(((1, 1),)): seen.dd(1, 1),
        positions.second(laplacian(range(3))): seen.laplacian(),
    }
    specs = with_jets(infer_shapes(problem.config.net), positions, 3)
    work = grid_search.Workload(problem.samples, problem.samples, 3)
    ways = [grid_search.choose(specs, comm.size, work, grid=(g.rows, g.cols)) for g in grids(comm.size)]
    ways += [
        grid_search.fixed(specs, g, [a, b, a, b], work)
        for g in grids(comm.size)
        for a, b in product(ALL_KINDS, repeat=2)
    ]
    for plan in ways:
        network = Network(plan, comm.on_grid(plan.grid))
        z = network.forward(blocks_of(network, problem.params), x, keep=False).z
        for place, wanted in expected.items():
            assert relative(z[:, place, :], wanted.astype(np.float64)) < 1e-9


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_grid(comm: Comm, name: str) -> None:
    problem, r, jac = reference(name)
    for grid in grids(comm.size):
        on = problem.lay_out(comm, grid)
        against_the_dense(problem, on, r, jac)
        traffic(comm, problem.inner, on)


@pytest.mark.parametrize("kinds", list(product(ALL_KINDS, repeat=2)), ids=lambda k: "-".join(x.name for x in k))
def test_every_pair_of_splits(comm: Comm, kinds: tuple[Any, Any]) -> None:
    problem, r, jac = reference("burgers")
    on = problem.lay_out(comm, grids(comm.size)[-1], list(kinds))
    against_the_dense(problem, on, r, jac)
    traffic(comm, problem.inner, on)


def against_the_dense(problem: Equations, on: Any, r: np.ndarray, jac: np.ndarray) -> None:
    """f, ∇f, J v, Jᵀ w and (G + λI) v by every representation."""
    n, e, size = jac.shape
    theta = flat(problem.inner.params)
    indices = np.arange(n)
    at = on.objective.evaluate(on.theta, indices[:0], indices)
    value = 0.5 / (problem.C * n) * float(theta @ theta) + float((r**2).sum()) / n
    weighted = sum(
        w * float((r[lo : lo + k] ** 2).sum() / problem.made[t].scale ** 2) / k
        for t, ((_, k, w), lo) in enumerate(zip(problem.terms, starts(problem), strict=True))
    )
    assert weighted == pytest.approx(float((r**2).sum()) / n, rel=1e-10)
    assert at.value == pytest.approx(value, rel=1e-9)
    grad = flat(on.whole(on.objective.gradient(on.theta, at)))
    rows = jac.reshape(n * e, size)
    expected = theta / (problem.C * n) + 2 * rows.T @ r.reshape(-1) / n
    assert relative(grad, expected) < 1e-8
    rng = np.random.default_rng(5)
    v = {k: rng.normal(size=p.shape) for k, p in problem.inner.params.items()}
    wanted = 2 * rows.T @ (rows @ flat(v)) / n + (0.3 + 1 / (problem.C * n)) * flat(v)
    (unit,) = local_systems(on.network.blocks, per_layer=False)
    own = on.from_params(v)
    tapes = on.tapes(indices, 2)
    r_there = np.concatenate([t.z for t in tapes])
    assert relative(r_there, r) < 1e-9
    pushed = on.comm.allreduce(on.model(indices, "dense").jacobian.times(own, unit))
    assert relative(pushed, (rows @ flat(v)).reshape(n, e)) < 1e-8
    for how, chunk in (("factored", 100), ("dense", 100), ("factored", 2)):
        model = on.model(indices, how, parts=2, chunk=chunk)
        out = model.full_product(own, unit, 0.3, on.comm)
        assert relative(flat(on.whole(out)), wanted) < 1e-8
        gram = model.jacobian.gram_times(pushed, unit)
        back = np.zeros(on.network.size)
        model.jacobian.add_transposed(pushed, unit, back)
        assert relative(gram, model.jacobian.times(back, unit)) < 1e-10
        dense_rows = model.jacobian.rows(unit, slice(0, n))
        assert relative(dense_rows @ own, model.jacobian.times(own, unit).reshape(-1)) < 1e-10
    out = on.by_passes(parts=2).full_product(own, unit, 0.3, on.comm)
    assert relative(flat(on.whole(out)), wanted) < 1e-8


def test_autograd_of_torch() -> None:
    """The dense J of a system by PyTorch's automatic differentiation, in the points and in the weights."""
    torch = pytest.importorskip("torch")
    problem, r, jac = reference("system")
    names = list(problem.inner.params)
    params = {k: torch.tensor(v, requires_grad=True) for k, v in problem.inner.params.items()}

    def u(x: Any) -> Any:
        w = lambda name: params[f"layers.{name}.weight"]  # noqa: E731
        b = lambda name: params[f"layers.{name}.bias"]  # noqa: E731
        z = torch.sigmoid(x @ w("0").T + b("0"))
        z = z + torch.nn.functional.silu(z @ w("1.layers.0").T + b("1.layers.0"))
        return z @ w("2").T + b("2")

    def by(values: Any, x: Any, axis: int) -> Any:
        return torch.autograd.grad(values.sum(), x, create_graph=True)[0][:, axis]

    x = torch.tensor(problem.points[0], requires_grad=True)
    z = u(x)
    v, w = z[:, 0], z[:, 1]
    laplace = by(by(w, x, 0), x, 0) + by(by(w, x, 1), x, 1)
    first = by(v, x, 0) * w + torch.exp(v) - laplace
    second = by(by(w, x, 1), x, 0) * v**2 + by(by(v, x, 1), x, 1) + x[:, 0]
    rows = problem.made[0].scale * torch.stack([first, second], dim=1)
    assert relative(rows.detach().numpy(), r[: len(rows)]) < 1e-10
    leaves = [params[k] for k in names]
    for i in range(rows.shape[0]):
        for k in range(2):
            grads = torch.autograd.grad(rows[i, k], leaves, retain_graph=True, allow_unused=True)
            flat_row = [np.zeros(p.shape) if g is None else g.numpy() for g, p in zip(grads, leaves, strict=True)]
            assert relative(np.concatenate([g.ravel() for g in flat_row]), jac[i, k]) < 1e-7


def starts(problem: Equations) -> list[int]:
    """The first row of every term."""
    return np.concatenate([[0], np.cumsum([n for _, n, _ in problem.terms])[:-1]]).tolist()


def test_lay_out_of_the_plain_net_has_the_same_weights(comm: Comm) -> None:
    """A net on jets has its layers' names and shapes."""
    problem = Equations(*PROBLEMS["system"])
    jets, plain = problem.lay_out(comm).network, lay_out(problem.inner, comm).network
    named = [{b.name: b.weight_shape for b in network.blocks} for network in (jets, plain)]
    assert named[0] == named[1]
    a, b = (whole_norm(comm, init_weights.weights(network, 3, "float64")) for network in (jets, plain))
    assert a == pytest.approx(b, rel=1e-12)


def whole_norm(comm: Comm, theta: np.ndarray) -> float:
    return comm.sum_scalars([float(theta @ theta)])[0]
