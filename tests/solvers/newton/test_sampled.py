"""The sampled preconditioner against dense algebra."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from places import host, put
from problems import flat, own_blocks, whole
from systems import setting

from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import local_systems
from dnewton.solvers.newton.local_solver import make
from dnewton.solvers.newton.sampled import SampledGaussNewton

pytestmark = pytest.mark.mpi
LAMBDA = 0.03


@pytest.mark.parametrize("held", ["factored", "dense"])
@pytest.mark.parametrize("samples", [1, 3, 7, 100])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_it_inverts_the_damped_curvature_of_the_samples(
    comm: Comm, net: str, loss: str, samples: int, held: str
) -> None:
    """On every rank's own block: (G_r + λI) times what it gives is the vector, G_r from some of the samples."""
    problem, on, _ = setting(comm, net, loss, samples=9)
    model = on.model(representation=held)
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    own = own_blocks(on)[comm.rank]
    place = flat(whole(on, np.arange(float(on.network.size))))[own].astype(int)  # in this rank's order
    if not unit.size:
        return
    inverse = SampledGaussNewton(model, unit, samples).preconditioner(LAMBDA)
    assert inverse is not None
    step = -(-9 // min(9, samples))
    chosen = np.arange(0, 9, step)
    dense = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x[chosen], problem.y[chosen], loss, problem.C, problem.samples
    )
    system = dense[np.ix_(own, own)] + LAMBDA * np.eye(len(own))
    v = np.random.default_rng(1).normal(size=unit.size)
    found = host(inverse(put(v)))
    assert np.abs(system @ found[place] - v[place]).max() < 1e-9 * np.abs(v).max()


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_from_all_samples_one_iteration_solves(comm: Comm, net: str) -> None:
    """Then it is the inverse of the system itself; what is formed is kept for the next λ."""
    _, on, gradient = setting(comm, net, "cross_entropy", samples=9)
    model, formed = on.model(), {}
    units = local_systems(on.network.blocks, per_layer=True)
    for damping in (0.5, 0.01):
        for unit in units:
            system = make("sampled", model, gradient, unit, damping, 1e-8, rows=10**6, formed=formed)
            d = put(np.zeros(on.network.size))
            iterations = 0
            while system.working and iterations < 5:
                system.advance()
                iterations += 1
            assert iterations <= 1
            system.finish(d)
            residual = host(model.block_product(d, unit, damping)) + host(gradient)[unit.span]
            assert np.linalg.norm(residual) <= 1e-8 * np.linalg.norm(host(gradient)[unit.span])
    assert set(formed) == {unit for unit in units if unit.size}


def test_a_matrix_that_is_not_positive_leaves_plain_conjugate_gradients(comm: Comm) -> None:
    _, on, gradient = setting(comm, "mlp", "squared", samples=9)
    model = on.model()
    unit = local_systems(on.network.blocks, per_layer=False)[0]
    formed = {unit: SampledGaussNewton(model, unit, 9)} if unit.size else {}
    for part in formed.values():
        part._gram[...] = np.nan
    system = make("sampled", model, gradient, unit, 0.1, 1e-3, rows=9, formed=formed)
    while system.working:
        system.advance()
    d = put(np.zeros(on.network.size))
    system.finish(d)
    if unit.size:
        residual = host(model.block_product(d, unit, 0.1)) + host(gradient)[unit.span]
        assert np.linalg.norm(residual) <= 1e-3 * np.linalg.norm(host(gradient))
