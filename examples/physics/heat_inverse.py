"""A conductivity from measured temperatures: u_t = k u_xx with k unknown, and 100 noisy values of u."""

import numpy as np

import dnewton as dn

RNG = np.random.default_rng(0)
INSIDE = RNG.uniform(size=(400, 2))
SEEN = RNG.uniform(size=(100, 2))
TRUE = 0.2


def solution(x):
    return np.exp(-TRUE * np.pi**2 * x[:, 1]) * np.sin(np.pi * x[:, 0])


def heat(x, u, k):
    return u.d(1) - k * u.dd(0, 0)


k = dn.Parameter("k", 1.0)
values = solution(SEEN) + 0.01 * RNG.normal(size=len(SEEN))
terms = [dn.Residual(heat, INSIDE, parameters=[k]), dn.Data(SEEN, values)]
net = dn.net([2], [dn.dense(20, "tanh"), dn.dense(1)])
model = dn.fit(net, terms=terms, solver={"max_iterations": 100}, parallel={"dtype": "float64"})
print(f"k = {model.parameters['k']:.3f}, by which the values were made: {TRUE}")
