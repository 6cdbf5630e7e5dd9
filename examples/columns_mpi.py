"""Ranks that hold only their own features train one net together: no rank ever has all of x.

mpirun -np 4 python examples/columns_mpi.py
"""

import numpy as np
from mpi4py import MPI

import dnewton as dn

world = MPI.COMM_WORLD
rank, ranks = world.Get_rank(), world.Get_size()

SAMPLES, FEATURES = 1000, 40
lo, hi = rank * FEATURES // ranks, (rank + 1) * FEATURES // ranks  # this rank's features

# Each rank makes (or reads) its own columns; the targets are the same everywhere.
mine = np.stack([np.random.default_rng(k).normal(size=SAMPLES) for k in range(lo, hi)], axis=1)
weights = np.sin(np.arange(FEATURES))
y = np.zeros(SAMPLES)
world.Allreduce(mine @ weights[lo:hi], y)
y = np.tanh(y / 4)

net = dn.net([FEATURES], [dn.dense(16, "tanh"), dn.dense(1)])
model = dn.fit(net, dn.columns(mine, FEATURES), y, solver={"max_iterations": 15, "C": 100.0})
found = model.predict(dn.columns(mine, FEATURES))  # on every rank

if rank == 0:
    print(f"{ranks} rank(s), {hi - lo} features on the first: {model!r}")
    print(f"train rmse {model.history['train_rmse'][-1]:.2e}, largest error {np.abs(found - y).max():.2e}")
