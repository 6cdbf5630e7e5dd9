"""Burgers' equation u_t + u u_x = ν u_xx, whose solution gets a shock at x = 0; it is known by Cole and Hopf.
python examples/physics/burgers.py [ITERATIONS]"""

import sys

import numpy as np

import dnewton as dn

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
NU = 0.01 / np.pi
RNG = np.random.default_rng(0)
LOW, HIGH = [-1, 0], [1, 1]  # x, t
INSIDE = RNG.uniform(LOW, HIGH, size=(2000, 2))
INSIDE[:500, 0] = 0.1 * RNG.normal(size=500).clip(-3, 3)  # where the shock will be
INSIDE[500:700, 0] = 0.03 * RNG.normal(size=200)
BEGINNING = np.column_stack([np.linspace(-1, 1, 80), np.zeros(80)])
ENDS = np.column_stack([np.repeat([-1.0, 1.0], 30), np.tile(np.linspace(0, 1, 30), 2)])


def burgers(x, u):
    return u.d(1) + u.value * u.d(0) - NU * u.dd(0, 0)


def at_zero(x, u):
    return u.value


def solution(x):
    """A quotient of integrals of exp(-cos(πy) / 2πν) over a heat kernel, by the trapezoidal rule."""
    s = np.linspace(-12.5, 12.5, 1001)
    y = x[:, :1] - 2 * np.sqrt(NU * x[:, 1:]) * s
    exponent = -np.cos(np.pi * y) / (2 * np.pi * NU) - s**2
    weight = np.exp(exponent - exponent.max(1, keepdims=True))
    return -np.sum(weight * np.sin(np.pi * y), 1) / np.sum(weight, 1)


net = dn.net([2], [*[dn.dense(20, "tanh")] * 4, dn.dense(1)])
known = dn.Data(BEGINNING, -np.sin(np.pi * BEGINNING[:, 0]), weight=15.0)
terms = [dn.Residual(burgers, INSIDE), dn.Residual(at_zero, ENDS, weight=15.0), known]
model = dn.fit(net, terms=terms, solver={"max_iterations": ITERATIONS}, parallel={"dtype": "float64"})

test = RNG.uniform(LOW, HIGH, size=(1000, 2))
error = np.linalg.norm(model.predict(test) - solution(test)) / np.linalg.norm(solution(test))
print(f"{model.message}\nrelative L2 error of u: {error:.1e}")
