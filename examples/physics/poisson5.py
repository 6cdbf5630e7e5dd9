"""-Δu = f in the unit cube of five dimensions, u given on its faces.
python examples/physics/poisson5.py [ITERATIONS]"""

import sys

import numpy as np

import dnewton as dn

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 150
RNG = np.random.default_rng(0)
INSIDE = RNG.uniform(size=(1000, 5))
FACES = RNG.uniform(size=(400, 5))
FACES[np.arange(400), RNG.integers(5, size=400)] = RNG.integers(2, size=400)  # one coordinate is 0 or 1


def solution(x):
    return np.cos(np.pi * x).sum(1)


def inside(x, u):
    return u.laplacian()[:, 0] + np.pi**2 * solution(x)


net = dn.net([5], [dn.dense(64, "tanh"), dn.dense(1)])
terms = [dn.Residual(inside, INSIDE), dn.Data(FACES, solution(FACES))]
model = dn.fit(net, terms=terms, solver={"max_iterations": ITERATIONS}, parallel={"dtype": "float64"})

test = RNG.uniform(size=(1000, 5))
error = np.linalg.norm(model.predict(test) - solution(test)) / np.linalg.norm(solution(test))
print(f"{model.message}\nrelative L2 error of u: {error:.1e}")
