"""The three parameters of Lorenz' equations from 60 noisy values of a trajectory: a system of three outputs and three
equations. All are divided by 20. python examples/physics/lorenz_inverse.py [ITERATIONS]"""

import sys

import numpy as np
from scipy.integrate import solve_ivp

import dnewton as dn

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
TRUE = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}
TIMES, END = np.linspace(0, 2, 120)[:, None], 2.0


def right(x, y, z, sigma, rho, beta):
    return sigma * (y - x), x * (rho - 20 * z) - y, 20 * x * y - beta * z


def lorenz(t, u, sigma, rho, beta):
    return u.d(0) - np.column_stack(right(*u.value.T, sigma, rho, beta))


options = {"rtol": 1e-10, "atol": 1e-12, "dense_output": True}
path = solve_ivp(lambda t, u: right(*u, *TRUE.values()), (0, END), [-0.4, 0.35, 1.35], **options).sol
SEEN = np.linspace(0, END, 60)
VALUES = path(SEEN).T + 0.005 * np.random.default_rng(0).normal(size=(60, 3))

unknown = [dn.Parameter(name, 1.0) for name in TRUE]
terms = [dn.Residual(lorenz, TIMES, weight=0.01, parameters=unknown), dn.Data(SEEN, VALUES)]
net = dn.net([1], [dn.dense(20, "tanh"), dn.dense(20, "tanh"), dn.dense(3)])
model = dn.fit(net, terms=terms, solver={"max_iterations": ITERATIONS}, parallel={"dtype": "float64"})

found = ", ".join(f"{name} {model.parameters[name]:.3f} ({value:.3f})" for name, value in TRUE.items())
error = max(abs(model.parameters[name] / value - 1) for name, value in TRUE.items())
print(f"{model.message}\nfound (true): {found}\nrelative error of the parameters: {error:.1e}")
