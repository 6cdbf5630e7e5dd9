"""Helmholtz' equation Δu + k²u = f with four half waves in one direction and one in the other, through Fourier
features. python examples/physics/helmholtz.py [ITERATIONS]"""

import sys

import numpy as np

import dnewton as dn

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
K = 2.0
RNG = np.random.default_rng(0)
INSIDE = RNG.uniform(size=(1000, 2))
ALONG = np.linspace(0, 1, 40)
ZERO = np.zeros(40)
EDGES = np.concatenate([np.column_stack(edge) for z in (ZERO, ZERO + 1) for edge in ((ALONG, z), (z, ALONG))])


def solution(x):
    return np.sin(np.pi * x[:, 0]) * np.sin(4 * np.pi * x[:, 1])


def helmholtz(x, u):
    return (u.laplacian() + K**2 * u.value)[:, 0] - (K**2 - 17 * np.pi**2) * solution(x)


def edge(x, u):
    return u.value


net = dn.net([2], [dn.fourier(32, scale=2.0), dn.dense(30, "tanh"), dn.dense(1)])
terms = [dn.Residual(helmholtz, INSIDE), dn.Residual(edge, EDGES, weight=100.0)]
model = dn.fit(net, terms=terms, solver={"max_iterations": ITERATIONS}, parallel={"dtype": "float64"})

test = RNG.uniform(size=(1000, 2))
error = np.linalg.norm(model.predict(test) - solution(test)) / np.linalg.norm(solution(test))
print(f"{model.message}\nrelative L2 error of u: {error:.1e}")
