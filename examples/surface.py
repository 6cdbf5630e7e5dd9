"""Fits a surface to a mean square error of 1e-7, from arrays in memory and without a learning rate.

python examples/surface.py            (or: mpirun -np 2 python examples/surface.py)
"""

import math

import numpy as np

import dnewton as dn

rng = np.random.default_rng(0)


def surface(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1])


x = rng.uniform(-1, 1, (1500, 2))
unseen = rng.uniform(-1, 1, (1000, 2))

net = dn.net([2], [dn.dense(24, "tanh"), dn.dense(24, "tanh"), dn.dense(1)], loss="squared")


def good_enough(report: dict) -> bool:
    """Every iteration's figures come by; True ends the run."""
    return report["train_rmse"] ** 2 < 1e-7


model = dn.fit(
    net,
    x,
    surface(x),
    test=(unseen, surface(unseen)),
    solver={"C": math.inf, "max_iterations": 200},  # no regulariser: there is no noise
    parallel={"dtype": "float64"},
    callbacks=[good_enough],
)

errors = model.history["train_rmse"] ** 2
for iteration in range(0, len(errors), 5):
    print(f"iteration {iteration:3d}: mean square error {errors[iteration]:.1e}")
held_out = model.scores(unseen, surface(unseen))["rmse"] ** 2
print(f"ended ({model.stopped}) after {len(errors) - 1} iterations at {errors[-1]:.1e}, on unseen points {held_out:.1e}")
assert errors[-1] < 1e-7
