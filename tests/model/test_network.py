"""f, ∇f, J and Gauss-Newton products against plain loops, on every layer kind, split and grid."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from checks import function_and_gradient, products
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import AWKWARD, CONVS, LOSSES, POOLS, conv, dense, pool
from places import host, same
from problems import ALL_KINDS, CNN, MLP, Problem, flat, lay_out, relative, with_outputs

from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import local_systems
from dnewton.grid import Grid, grids
from dnewton.model import init_weights

pytestmark = pytest.mark.mpi


@pytest.mark.at16
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_every_grid(comm: Comm, net: str, loss: str) -> None:
    layers = with_outputs(MLP if net == "mlp" else CNN, 1 if loss == "logistic" else 3)
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), layers, loss)
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        function_and_gradient(problem, on)
        products(problem, on, "factored")
        products(problem, on, "dense")


def test_labels_on_outputs_of_their_own(comm: Comm) -> None:
    """`logistic` with several outputs."""
    problem = Problem((5,), with_outputs(MLP, 3), "logistic")
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        function_and_gradient(problem, on)
        products(problem, on, "factored")


@pytest.mark.parametrize("batch", [2, 4, 9, 100])
@pytest.mark.parametrize("last", [[8], [0], [0, 8], [1, 4, 8], [7, 8], list(range(9)), []], ids=str)
def test_scattered_subsamples(comm: Comm, last: list[int], batch: int) -> None:
    """f, ∇f and the subsample's passes, however the samples are divided between the rest and the subsample."""
    problem = Problem((5,), MLP, samples=9)
    on = lay_out(problem, comm, batch=batch)
    subsample = np.array(last, dtype=np.int64)
    at = on.objective.evaluate(on.theta, on.objective.others(subsample), subsample)
    assert at.value == pytest.approx(problem.objective_value(), rel=1e-11)
    grad = on.whole(on.objective.gradient(on.theta, at))
    expected = oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C)
    assert relative(flat(grad), flat(expected)) < 1e-11
    z = [b.tape.z for b in at.subsample if b.tape is not None]
    assert len(z) == len(at.subsample)
    if last:
        outputs = oracle.forward(problem.params, problem.parsed, problem.x[last])[-1]
        assert relative(np.concatenate([host(part) for part in z]), outputs) < 1e-11


@pytest.mark.parametrize("memory", [0.0, 1500.0, 1e9])
def test_passes_that_do_not_fit_are_recomputed(comm: Comm, memory: float) -> None:
    problem = Problem((2, 7, 6), CNN)
    function_and_gradient(problem, lay_out(problem, comm, batch=2, memory=memory))


@pytest.mark.parametrize("memory", np.linspace(2e3, 2e5, 12))
def test_all_ranks_keep_the_same_passes(comm: Comm, memory: float) -> None:
    """What is recomputed is a collective matter: with uneven slices a rank's own count would end in a deadlock."""
    layers = [
        {"dense": {"units": 31, "activation": "tanh", "split": "full->all"}},
        {"dense": {"units": 31, "activation": "tanh", "split": "all->full"}},
        {"dense": {"units": 2}},
    ]
    problem = Problem((3,), layers, samples=60)
    function_and_gradient(problem, lay_out(problem, comm, batch=5, memory=memory))


def test_every_combination_of_splits(comm: Comm) -> None:
    """All kinds in all orders: every redistribution occurs, with slices that are empty at P > 3."""
    layers = [MLP[0], {"dense": {"units": 4, "activation": "sigmoid"}}, MLP[2]]
    problem = Problem((3,), layers, samples=4)
    for grid, kinds in product(grids(comm.size), product(ALL_KINDS, repeat=3)):
        on = lay_out(problem, comm, grid, list(kinds))
        function_and_gradient(problem, on)
        products(problem, on, "factored")


def test_every_combination_of_splits_with_images(comm: Comm) -> None:
    layers: list[Any] = [
        {"conv": {"channels": 3, "kernel": 2, "activation": "tanh"}},
        {"maxpool": {"size": [1, 2]}},
        "flatten",
        {"dense": {"units": 2}},
    ]
    problem = Problem((2, 4, 5), layers, "squared", samples=3)
    for grid, kinds in product(grids(comm.size), product(ALL_KINDS, repeat=2)):
        on = lay_out(problem, comm, grid, list(kinds))
        function_and_gradient(problem, on)
        products(problem, on, "dense")


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "softplus", "linear"])
@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_convolutions(comm: Comm, conv: dict[str, Any], activation: str) -> None:
    layers = [
        {"conv": {"channels": 2, **conv, "activation": activation}},
        {"conv": {"channels": 3, "kernel": 1, "activation": activation}},
        "flatten",
        {"dense": {"units": 2}},
    ]
    problem = Problem((2, 6, 5), layers, samples=5)
    on = lay_out(problem, comm)
    function_and_gradient(problem, on)
    products(problem, on, "factored")
    products(problem, on, "dense")


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling(comm: Comm, pool: dict[str, Any]) -> None:
    layers = [
        pool,
        {"conv": {"channels": 3, "kernel": 2, "padding": 1, "activation": "tanh"}},
        pool,
        "flatten",
        {"dense": {"units": 2, "activation": "sigmoid"}},
    ]
    problem = Problem((2, 7, 8), layers, "squared", samples=5)
    on = lay_out(problem, comm)
    function_and_gradient(problem, on)
    products(problem, on, "factored")
    products(problem, on, "dense")


@pytest.mark.at16
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_shapes(comm: Comm, name: str) -> None:
    problem = AWKWARD[name]
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        at = on.objective.evaluate(on.theta, np.arange(0), np.arange(problem.samples))
        assert at.value == pytest.approx(problem.objective_value(), rel=1e-11)
        grad = on.whole(on.objective.gradient(on.theta, at))
        expected = oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C)
        assert relative(flat(grad), flat(expected)) < 1e-10
        products(problem, on, "factored")
        products(problem, on, "dense")


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
    layers = [*images, "flatten", *features]
    try:
        problem = Problem((channels, 6, 5), layers, loss, samples=4, seed=seed)
    except ValueError:
        return  # a window that does not fit
    if loss != "squared" and problem.outputs < 2:
        return
    on = lay_out(problem, comm, grids(comm.size)[grid % len(grids(comm.size))])
    function_and_gradient(problem, on, 1e-10)
    products(problem, on, "factored", 1e-10)
    products(problem, on, "dense", 1e-10)


def test_central_differences(comm: Comm) -> None:
    """Gradient and Jacobian against the engine's own function: no oracle's convention is involved."""
    problem = Problem((2, 7, 6), list(CNN), "cross_entropy", samples=3)
    problem.layers[2] = {"conv": {**CNN[2]["conv"], "activation": "softplus"}}  # smooth everywhere
    problem.__post_init__()
    on = lay_out(problem, comm)
    everything, h = np.arange(problem.samples), 1e-6
    at = on.objective.evaluate(on.theta, everything[:0], everything)
    grad = on.whole(on.objective.gradient(on.theta, at))
    model, unit = on.model(), local_systems(on.network.blocks, per_layer=False)[0]
    rng = np.random.default_rng(1)
    for _ in range(5):
        direction = {k: rng.normal(size=v.shape) for k, v in problem.params.items()}
        v = on.from_params(direction)
        moved = [on.theta + sign * h * v for sign in (1, -1)]
        f = [on.objective.evaluate(t, everything[:0], everything).value for t in moved]
        assert (f[0] - f[1]) / (2 * h) == pytest.approx(flat(grad) @ flat(direction), rel=1e-6)
        z = [on.objective.forward(t, everything, keep=False).z for t in moved]
        assert relative(on.comm.allreduce(model.jacobian.times(v, unit)), (z[0] - z[1]) / (2 * h)) < 1e-6


def test_initial_weights_do_not_depend_on_the_layout(comm: Comm) -> None:
    problem = Problem((2, 7, 6), CNN)
    reference = None
    for grid in grids(comm.size):
        on = lay_out(problem, comm, grid)
        drawn = flat(on.whole(init_weights.weights(on.network, 3, "float64")))
        assert reference is None or same(drawn, reference)
        reference = drawn
    alone = lay_out(problem, comm.split(comm.rank), Grid(1, 1))
    assert same(flat(alone.whole(init_weights.weights(alone.network, 3, "float64"))), reference)
    assert not same(flat(alone.whole(init_weights.weights(alone.network, 4, "float64"))), reference)
