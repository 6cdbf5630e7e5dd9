"""Diagonal systems with their exact solutions, and trajectories of the Newton solver."""

from __future__ import annotations

import numpy as np
import oracle
from places import host, put
from problems import CNN, MLP, OnRanks, Problem, flat, lay_out, own_blocks, with_outputs

from dnewton.comm.communicator import Comm
from dnewton.curvature.gram import SampleMap, add_term, panel_width, panels_of
from dnewton.curvature.jacobian import Jacobian, LocalSystem
from dnewton.solvers.newton.newton import IterationReport, State

NETS = {"mlp": ((5,), MLP), "cnn": ((2, 7, 6), CNN)}
LAMBDA = 0.2


def setting(comm: Comm, net: str, loss: str, **options: object) -> tuple[Problem, OnRanks, np.ndarray]:
    """A problem on the ranks and its gradient."""
    shape, layers = NETS[net]
    problem = Problem(shape, with_outputs(layers, 1 if loss == "logistic" else 3), loss, **options)  # type: ignore[arg-type]
    on = lay_out(problem, comm)
    at = on.objective.evaluate(on.theta, np.arange(0), np.arange(problem.samples))
    return problem, on, on.objective.gradient(on.theta, at)


def dense_pieces(problem: Problem, on: OnRanks, per_layer: bool, damping: float = LAMBDA) -> np.ndarray:
    """The exact solution of every diagonal system, put together."""
    g = oracle.gauss_newton_matrix(
        problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C, problem.samples
    )
    gradient = flat(oracle.gradient(problem.params, problem.parsed, problem.x, problem.y, problem.loss, problem.C))
    blocks = own_blocks(on)
    if per_layer:
        lengths = np.cumsum([v.size for v in problem.params.values()])
        layer = np.searchsorted(lengths, np.arange(lengths[-1]), side="right") // 2
        blocks = [b[layer[b] == m] for b in blocks for m in range(layer.max() + 1)]
    expected = np.zeros(len(gradient))
    for block in blocks:
        system = g[np.ix_(block, block)] + damping * np.eye(len(block))
        expected[block] = np.linalg.solve(system, -gradient[block])
    return expected


def gram(jacobian: Jacobian, unit: LocalSystem, mapped: SampleMap = lambda u, here: u) -> np.ndarray:
    """A Aᵀ of a rank's unit, put together from the lower triangle of its terms."""
    n = jacobian.samples * jacobian.outputs
    total = np.zeros((n, n))
    for term in jacobian.gram_terms(unit, mapped, "float64"):
        matrix = put(np.zeros((n, n)))
        add_term(term, panels_of(matrix, panel_width(jacobian.outputs, 5)))
        total += host(matrix)
    return np.tril(total) + np.tril(total, -1).T


def run(on: OnRanks, iterations: int, theta: np.ndarray | None = None) -> list[tuple[IterationReport, np.ndarray]]:
    """The trajectory of the problem's solver section: the steps and whole weights."""
    solver = on.newton()
    start = State(on.theta if theta is None else theta, on.problem.config.solver.first_lambda)
    steps = [solver.start(start)]
    points = [flat(on.whole(start.theta))]
    for _ in range(iterations):
        steps.append(solver.step())
        points.append(flat(on.whole(solver.state.theta)))
    solver.close()
    return list(zip(steps, points, strict=True))
