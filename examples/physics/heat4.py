"""The heat equation u_t = Δu / 4 in four dimensions and time, on points that are drawn afresh every 25 iterations.
python examples/physics/heat4.py [ITERATIONS]"""

import sys

import numpy as np

import dnewton as dn

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
SPACE, TIME = range(4), 4  # inputs


def solution(x):
    return np.exp(-x[:, TIME]) * np.sin(2 * x[:, SPACE]).sum(1)


def heat(x, u):
    return u.d(TIME) - u.laplacian(*SPACE) / 4


def known(x, u):
    return u.value[:, 0] - solution(x)


def inside(rng):
    return rng.uniform(size=(1000, 5))


def edges(rng):
    x = rng.uniform(size=(400, 5))
    side = rng.integers(9, size=400)  # two faces for each direction, and the beginning
    x[np.arange(400), side // 2] = side % 2
    return x


net = dn.net([5], [dn.dense(64, "tanh"), dn.dense(1)])
terms = [dn.Residual(heat, inside, resample=25), dn.Residual(known, edges, resample=25)]
model = dn.fit(net, terms=terms, solver={"max_iterations": ITERATIONS}, parallel={"dtype": "float64"})

test = np.random.default_rng(1).uniform(size=(1000, 5))
error = np.linalg.norm(model.predict(test) - solution(test)) / np.linalg.norm(solution(test))
print(f"{model.message}\nrelative L2 error of u: {error:.1e}")
