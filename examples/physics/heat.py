"""The heat equation u_t = u_xx / 4 on a rod, whose ends are kept at 0. python examples/physics/heat.py [ITERATIONS]"""

import sys

import numpy as np

import dnewton as dn

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
RNG = np.random.default_rng(0)
INSIDE = RNG.uniform(size=(900, 2))  # x, t
BEGINNING = np.column_stack([np.linspace(0, 1, 40), np.zeros(40)])
ENDS = np.column_stack([np.repeat([0.0, 1.0], 40), np.tile(np.linspace(0, 1, 40), 2)])


def solution(x):
    return np.exp(-(np.pi**2) / 4 * x[:, 1]) * np.sin(np.pi * x[:, 0])


def heat(x, u):
    return u.d(1) - u.dd(0, 0) / 4


def at_zero(x, u):
    return u.value


net = dn.net([2], [dn.dense(40, "tanh"), dn.dense(1)])
terms = [dn.Residual(heat, INSIDE), dn.Residual(at_zero, ENDS), dn.Data(BEGINNING, np.sin(np.pi * BEGINNING[:, 0]))]
model = dn.fit(net, terms=terms, solver={"max_iterations": ITERATIONS}, parallel={"dtype": "float64"})

test = RNG.uniform(size=(1000, 2))
error = np.linalg.norm(model.predict(test) - solution(test)) / np.linalg.norm(solution(test))
print(f"{model.message}\nrelative L2 error of u: {error:.1e}")
