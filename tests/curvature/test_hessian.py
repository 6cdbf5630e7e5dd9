"""Products with the true Hessian against derivatives of independent gradients, on every layer kind, split and grid."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import AWKWARD, CONVS, LOSSES, POOLS, conv, dense, pool
from places import cast, host, same
from problems import ALL_KINDS, CNN, MLP, OnRanks, Problem, flat, lay_out, relative, with_outputs
from share import from_first

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.curvature.hessian import Hessian
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import Grid, grids
from dnewton.model.layers.activation import ACTIVATIONS

pytestmark = pytest.mark.mpi

KINKS = 1e-6  # a step of the differences that hardly ever takes a ReLU or a maximum over its kink
SMOOTH = 1e-4


def hessian(on: OnRanks, parts: int = 2, dtype: str = "float64") -> Hessian:
    """The Hessian over all samples, in `parts` batches."""
    theta, batches = cast(on.theta, dtype), []
    for part in np.array_split(np.arange(on.problem.samples), parts):
        (x,) = on.objective.data.batches([part])
        batches.append((on.network.forward(theta, cast(x, dtype)), cast(on.problem.y[part], dtype)))
    return Hessian(on.network, theta, batches, on.objective.loss, on.problem.samples)


def direction(problem: Problem, seed: int = 5) -> dict[str, np.ndarray]:
    """A random vector in the form of the parameters."""
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=p.shape) for k, p in problem.params.items()}


def along(gradient: Any, step: float) -> Any:
    """dg/dt at t = 0 of a function g(t): central differences of order 4."""
    g = [gradient(t * step) for t in (1, -1, 2, -2)]
    return (8 * (g[0] - g[1]) - (g[2] - g[3])) / (12 * step)


def expected(problem: Problem, v: dict[str, np.ndarray], step: float) -> np.ndarray:
    """H v by differences of the oracle's gradient without regulariser."""

    def gradient(t: float) -> np.ndarray:
        moved = {k: p + t * v[k] for k, p in problem.params.items()}
        return flat(oracle.gradient(moved, problem.parsed, problem.x, problem.y, problem.loss, np.inf))

    return np.asarray(from_first(lambda: along(gradient, step)))


def check(problem: Problem, on: OnRanks, step: float, right: np.ndarray | None = None, parts: int = 2) -> None:
    """H v against the oracle; `right` saves working it out again for every layout."""
    v = direction(problem)
    right = expected(problem, v, step) if right is None else right
    found = flat(on.whole(hessian(on, parts).product(on.from_params(v))))
    assert relative(found, right) < 3e-13 / step


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_every_grid(comm: Comm, net: str, loss: str) -> None:
    layers = with_outputs(MLP if net == "mlp" else CNN, 1 if loss == "logistic" else 3)
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), layers, loss)
    step = SMOOTH if net == "mlp" else KINKS
    right = expected(problem, direction(problem), step)
    for grid in grids(comm.size):
        check(problem, lay_out(problem, comm, grid), step, right)


def test_every_combination_of_splits(comm: Comm) -> None:
    """All kinds in all orders: every redistribution occurs, with slices that are empty at P > 3."""
    layers = [MLP[0], {"dense": {"units": 4, "activation": "sigmoid"}}, MLP[2]]
    problem = Problem((3,), layers, samples=4)
    right = expected(problem, direction(problem), SMOOTH)
    for grid, kinds in product(grids(comm.size), product(ALL_KINDS, repeat=3)):
        check(problem, lay_out(problem, comm, grid, list(kinds)), SMOOTH, right)


def test_every_combination_of_splits_with_images(comm: Comm) -> None:
    layers: list[Any] = [
        {"conv": {"channels": 3, "kernel": 2, "activation": "tanh"}},
        {"maxpool": {"size": [1, 2]}},
        {"conv": {"channels": 2, "kernel": [1, 2], "activation": "softplus"}},
        "flatten",
        {"dense": {"units": 2}},
    ]
    problem = Problem((2, 4, 5), layers, "squared", samples=3)
    right = expected(problem, direction(problem), KINKS)
    for grid, kinds in product(grids(comm.size), product(ALL_KINDS, repeat=3)):
        check(problem, lay_out(problem, comm, grid, list(kinds)), KINKS, right)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "softplus", "linear"])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_convolutions(comm: Comm, options: dict[str, Any], activation: str) -> None:
    layers = [
        {"conv": {"channels": 2, **options, "activation": activation}},
        {"conv": {"channels": 3, "kernel": 1, "activation": activation}},
        "flatten",
        {"dense": {"units": 2}},
    ]
    problem = Problem((2, 6, 5), layers, samples=3)
    check(problem, lay_out(problem, comm), KINKS if activation == "relu" else SMOOTH)


@pytest.mark.parametrize("options", POOLS, ids=str)
def test_pooling(comm: Comm, options: dict[str, Any]) -> None:
    layers = [
        options,
        {"conv": {"channels": 3, "kernel": 2, "padding": 1, "activation": "tanh"}},
        options,
        {"conv": {"channels": 2, "kernel": 2, "padding": 1}},
        options,
        "flatten",
        {"dense": {"units": 2, "activation": "sigmoid"}},
    ]
    problem = Problem((2, 7, 8), layers, "squared", samples=3)
    check(problem, lay_out(problem, comm), KINKS)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_shapes(comm: Comm, name: str) -> None:
    """One sample, one output, no weights above the first layer, layers smaller than the number of ranks."""
    problem = AWKWARD[name]
    right = expected(problem, direction(problem), KINKS)
    for grid in grids(comm.size):
        check(problem, lay_out(problem, comm, grid), KINKS, right, parts=min(2, problem.samples))


@settings(max_examples=25)
@given(
    st.lists(st.one_of(conv, pool), max_size=3),
    st.lists(dense, min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from(["squared", "cross_entropy"]),
    st.integers(0, 99),
)
def test_random_nets(
    comm: Comm, images: list[Any], features: list[Any], channels: int, grid: int, loss: str, seed: int
) -> None:
    try:
        problem = Problem((channels, 6, 5), [*images, "flatten", *features], loss, samples=4, seed=seed)
    except ValueError:
        return  # a window that does not fit
    if loss != "squared" and problem.outputs < 2:
        return
    check(problem, lay_out(problem, comm, grids(comm.size)[grid % len(grids(comm.size))]), KINKS)


def by_complex_step(problem: Problem, v: dict[str, np.ndarray]) -> np.ndarray:
    """H v of a net of dense layers to the last digits: Im ∇f(θ + ihv)/h has no difference in it (Squire, Trapp 1998).

    The gradient is written out here once more, in terms of s alone, for complex numbers.
    """
    sigma = {
        "tanh": (np.tanh, lambda s: 1 / np.cosh(s) ** 2),
        "sigmoid": (lambda s: 1 / (1 + np.exp(-s)), lambda s: np.exp(-s) / (1 + np.exp(-s)) ** 2),
        "softplus": (lambda s: np.log(1 + np.exp(s)), lambda s: 1 / (1 + np.exp(-s))),
        "linear": (lambda s: s, np.ones_like),
    }
    h, names, x = 1e-30, [f"layers.{i}" for i in range(len(problem.parsed))], [problem.x.astype(complex)]
    theta = {k: p + 1j * h * v[k] for k, p in problem.params.items()}
    sums, grad = [], {}
    for name, layer in zip(names, problem.parsed, strict=True):
        sums.append(x[-1] @ theta[f"{name}.weight"].T + theta[f"{name}.bias"])
        x.append(sigma[layer.activation][0](sums[-1]))
    if problem.loss == "squared":
        cot = 2 * (x[-1] - problem.y)
    elif problem.loss == "logistic":
        cot = sigma["sigmoid"][0](x[-1]) - problem.y
    else:
        cot = np.exp(x[-1]) / np.exp(x[-1]).sum(axis=1, keepdims=True) - problem.y
    for i in reversed(range(len(names))):
        d = cot * sigma[problem.parsed[i].activation][1](sums[i])
        grad[f"{names[i]}.weight"], grad[f"{names[i]}.bias"] = d.T @ x[i], d.sum(axis=0)
        cot = d @ theta[f"{names[i]}.weight"]
    return np.asarray(flat({k: g.imag for k, g in grad.items()}) / (h * problem.samples))


WIDTHS = {"sigmoid": 6, "tanh": 1, "softplus": 5, "linear": 4}
DEEP = [{"dense": {"units": n, "activation": activation}} for activation, n in WIDTHS.items()]


@pytest.mark.parametrize("samples", [1, 9])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("last", ["linear", "tanh", "softplus"])
def test_to_the_last_digits(comm: Comm, last: str, loss: str, samples: int) -> None:
    out = {"dense": {"units": 1 if loss == "logistic" else 3, "activation": last}}
    problem = Problem((4,), [*DEEP, out], loss, samples=samples)
    v = direction(problem)
    right = by_complex_step(problem, v)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        assert relative(flat(on.whole(hessian(on, 1).product(on.from_params(v)))), right) < 1e-12


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_central_differences(comm: Comm, net: str) -> None:
    """Against the engine's own gradient: no oracle's convention is involved."""
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN, samples=5)
    v = direction(problem)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        own, everything = on.from_params(v), np.arange(problem.samples)

        def gradient(t: float, on: OnRanks = on, own: Any = own, everything: Any = everything) -> Any:
            theta = on.theta + t * own
            at = on.objective.evaluate(theta, everything[:0], everything)
            return on.objective.gradient(theta, at) - on.objective.regulariser * theta

        right = flat(on.whole(along(gradient, KINKS)))
        assert relative(flat(on.whole(hessian(on).product(own))), right) < 3e-7


def test_the_matrix_is_symmetric_and_indefinite(comm: Comm) -> None:
    problem = Problem((2,), [{"dense": {"units": 3, "activation": "tanh"}}, {"dense": {"units": 2}}], samples=6)
    on = lay_out(problem, comm)
    h, sizes = hessian(on), {k: p.shape for k, p in problem.params.items()}
    units_of = [oracle.unflatten(row, sizes) for row in np.eye(flat(problem.params).size)]
    matrix = np.stack([flat(on.whole(h.product(on.from_params(unit)))) for unit in units_of])
    assert relative(matrix, matrix.T) < 1e-14
    assert relative(matrix, np.stack([expected(problem, unit, SMOOTH) for unit in units_of])) < 1e-9
    assert np.linalg.eigvalsh(matrix)[0] < -1e-3  # unlike the Gauss-Newton matrix


def gauss_newton(on: OnRanks, v: Any) -> Any:
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    return on.model().full_product(v, unit, 0.0, on.comm) - on.objective.regulariser * v


@pytest.mark.parametrize("net", ["one dense layer", "one convolution", "mlp", "cnn"])
def test_gauss_newton_where_they_agree(comm: Comm, net: str) -> None:
    """The Gauss-Newton matrix leaves out Σ ∂ξ/∂z_k ∇²z_k: nothing if z is linear in θ or the residual is zero."""
    linear: dict[str, tuple[tuple[int, ...], list[Any]]] = {
        "one dense layer": ((6,), [{"dense": {"units": 3}}]),
        "one convolution": ((2, 5, 4), [{"conv": {"channels": 3, "kernel": 2}}, {"avgpool": {"size": 2}}, "flatten"]),
    }
    shape, layers = linear.get(net, ((5,), MLP) if net == "mlp" else ((2, 7, 6), CNN))
    problem = Problem(shape, layers, "squared")
    v = direction(problem)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        own = on.from_params(v)
        right = flat(on.whole(gauss_newton(on, own)))
        differ = relative(flat(on.whole(hessian(on).product(own))), right)
        assert differ < 1e-12 if net in linear else differ > 1e-2
    problem.y = oracle.forward(problem.params, problem.parsed, problem.x)[-1]
    on = lay_out(problem, comm)
    own = on.from_params(v)
    assert relative(flat(on.whole(hessian(on).product(own))), flat(on.whole(gauss_newton(on, own)))) < 1e-12


def test_products_leave_everything_as_it_was(comm: Comm) -> None:
    """A linear layer's cotangent is not copied: nothing may be written into it, nor into the passes."""
    layers = [*CNN[:-1], {"dense": {"units": 4}}, {"dense": {"units": 3}}]
    on = lay_out(Problem((2, 7, 6), layers), comm, Grid(1, comm.size))
    h, v = hessian(on), on.from_params(direction(on.problem))
    first, theta, direction_before = h.product(v), copy(on.theta), copy(v)
    h.product(2 * v)
    assert same(h.product(v), first)
    assert same(on.theta, theta)
    assert same(v, direction_before)


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_single_precision(comm: Comm, net: str) -> None:
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN)
    on = lay_out(problem, comm)
    v = on.from_params(direction(problem))
    found = hessian(on, dtype="float32").product(cast(v, "float32"))
    assert host(found).dtype == np.float32
    right = flat(on.whole(hessian(on).product(v)))
    assert relative(flat(on.whole(cast(found, "float64"))), right) < 1e-5


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives(comm: Comm, name: str) -> None:
    """σ″ against differences of σ′, near zero and far out."""
    a, s = ACTIVATIONS[name], np.array([-30.0, -8.0, -1.3, -0.4, 0.2, 1.1, 7.0])

    def kept(at: np.ndarray) -> np.ndarray:
        return a.value(at) if a.of == "z" else at

    assert a.slope(kept(s)) == pytest.approx(along(lambda t: a.value(s + t), 1e-3), rel=1e-6, abs=1e-10)
    assert a.curve(kept(s)) == pytest.approx(along(lambda t: a.slope(kept(s + t)), 1e-3), rel=1e-6, abs=1e-10)
