"""-Δu = f on the unit square with u = 0 on its edges, by a net with 64 hidden units: the error of the solution falls
below 1e-5. Also on several ranks: mpirun -np 2 python examples/physics/poisson.py"""

import numpy as np

import dnewton as dn

SIDE = (np.arange(30) + 0.5) / 30
INSIDE = np.array([(a, b) for a in SIDE for b in SIDE])
ALONG, ZERO = np.linspace(0, 1, 30), np.zeros(30)
EDGES = [(ALONG, ZERO), (ALONG, ZERO + 1), (ZERO, ALONG), (ZERO + 1, ALONG)]
EDGE = np.concatenate([np.column_stack(edge) for edge in EDGES])


def solution(x):
    return np.prod(np.sin(np.pi * x), axis=1)


def inside(x, u):
    return u.laplacian() + 2 * np.pi**2 * solution(x)[:, None]


def edge(x, u):
    return u.value


net = dn.net([2], [dn.dense(64, "tanh"), dn.dense(1)])
terms = [dn.Residual(inside, INSIDE), dn.Residual(edge, EDGE)]
test = np.random.default_rng(1).uniform(size=(1000, 2))
size = np.linalg.norm(solution(test))
model = dn.fit(
    net,
    terms=terms,
    solver={"max_iterations": 500},
    parallel={"dtype": "float64"},
    callbacks=[lambda figures: figures["loss"] < 1e-9],
)

found = model.derivatives(test, ["value", "d0", "laplacian"])
error = np.linalg.norm(found["value"] - solution(test)) / size
slope = np.pi * np.cos(np.pi * test[:, 0]) * np.sin(np.pi * test[:, 1])
off = np.linalg.norm(found["d0"] - slope) / np.linalg.norm(slope)
print(f"{model.message}\nrelative L2 error of u: {error:.1e}, of du/dx: {off:.1e}")
