"""A loss of one's own: log cosh, which counts large errors like their absolute value and so survives outliers.

python examples/own_loss.py
"""

import numpy as np

import dnewton as dn


@dn.loss("log_cosh")
class LogCosh(dn.Loss):
    """ξ = log cosh(z - y): what Newton needs is ξ, its gradient, its Hessian's product with a vector, and its root."""

    targets = "real"

    def terms(self, z, y):
        d = np.abs(z - y).astype(np.float64)
        return d + np.log1p(np.exp(-2 * d)) - np.log(2)

    def gradient(self, z, y):
        return np.tanh(z - y)

    def state(self, z, y):  # what the Hessian depends on
        return 1 - np.tanh(z - y) ** 2

    def hessian_product(self, state, u):
        return state * u

    def half(self, state, u):
        return np.sqrt(state) * u


rng = np.random.default_rng(1)
x = rng.uniform(-2, 2, (600, 1))
true = np.sin(2 * x[:, 0])
y = true + 0.05 * rng.normal(size=600)
y[::10] += 5 * rng.exponential(size=60)  # every tenth is an outlier

for loss in ("squared", LogCosh()):
    net = dn.net([1], [dn.dense(20, "tanh"), dn.dense(1)], loss=loss)
    model = dn.fit(net, x, y, solver={"max_iterations": 40}, parallel={"dtype": "float64"})
    error = np.sqrt(np.mean((model.predict(x) - true) ** 2))
    print(f"{model.net.loss.__class__.__name__:8}: distance to the true curve {error:.3f}")
