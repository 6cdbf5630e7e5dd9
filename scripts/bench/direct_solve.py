#!/usr/bin/env python3
"""Rates of exact solves: forming the matrix of K|S| rows, and factoring it and solving, against large products.

    python scripts/bench/direct_solve.py [--rows 500 1000 2000 4000] [--ranks 1 2] [--dtypes float32] [--rounds 3]

The MLP 784-1000-500-10 with softmax, `curvature: full`, one thread a rank, jobs on several numbers of ranks one after
the other in every round; the least of the rounds. Operations are those that are needed: half of a symmetric product,
n³/3 of a factor. "Of products" compares operations per processor second, waiting included, with those of 2,000 x 2,000
products of all ranks at once in the same job. Milliseconds are wall time of the slowest rank: they mean something on an
idle machine only. "Another λ" is a whole solve with a formed matrix, its residual included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dnewton.arrays.linear_algebra import Cholesky
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.model import init_weights
from dnewton.model.network import Network
from dnewton.planning import grid_search
from dnewton.planning.net_plan import infer_shapes
from dnewton.solvers.newton.exact_systems import DualSystem

WIDTHS = (784, 1000, 500, 10)
DAMPING = 1e-2
PRODUCT = 2000
STEPS = ("product", "form", "factor", "solve", "another")


def timed(comm: Comm, what: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the slowest rank, processor seconds of all, and the result."""
    comm.barrier()
    wall, processor = time.perf_counter(), time.process_time()
    found = what()
    processor = time.process_time() - processor
    return comm.minmax(time.perf_counter() - wall)[1], comm.sum_scalars([processor])[0], found


def model_of(comm: Comm, samples: int, dtype: str) -> tuple[GaussNewton, np.ndarray, jacobian.LocalSystem, Comm]:
    """The model at random weights and inputs, and a right-hand side."""
    layers: list[Any] = [{"dense": {"units": w, "activation": "relu"}} for w in WIDTHS[1:-1]]
    net = {"input": [WIDTHS[0]], "loss": "cross_entropy", "layers": [*layers, {"dense": {"units": WIDTHS[-1]}}]}
    config = Config.model_validate({"net": net})
    shapes = infer_shapes(config.net)
    plan = grid_search.choose(shapes, comm.size, grid_search.Workload(samples, samples, WIDTHS[-1]))
    on = comm.on_grid(plan.grid)
    network = Network(plan, on)
    theta = init_weights.weights(network, 0, dtype)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, WIDTHS[0])).astype(dtype)
    own = slice(*plan.grid.bounds(plan.input_split, plan.input_units, comm.rank))
    tape = network.forward(theta, np.ascontiguousarray(x[:, own]))
    y = np.eye(WIDTHS[-1], dtype=dtype)[rng.integers(0, WIDTHS[-1], samples)]
    held = jacobian.build(network, theta, [tape], "factored")
    model = GaussNewton(held, config.net.loss, tape.z, y, 1.0 / samples)
    g = np.random.default_rng(comm.rank).normal(size=network.size).astype(dtype)
    return model, g, jacobian.local_systems(network.blocks, per_layer=False)[0], on


def operations(samples: int) -> tuple[float, float]:
    """Of forming the matrix and of factoring it."""
    rows = float(samples * WIDTHS[-1])
    forming = sum(rows * rows * o + samples * samples * i for i, o in zip(WIDTHS, WIDTHS[1:], strict=False))
    return forming, rows**3 / 3


def worker(rows: list[int], dtypes: list[str]) -> list[dict[str, Any]]:
    """One job's figures. Collective over the job."""
    comm = Comm.world()
    Cholesky.factor(np.eye(2))  # what is imported then
    found = [one_size(comm, n, dtype) for dtype in dtypes for n in rows]
    return found if comm.rank == 0 else []


def one_size(comm: Comm, n: int, dtype: str) -> dict[str, Any]:
    """The figures of one size: seconds (wall, processor) of every step. Collective over the job."""
    a = np.random.default_rng(0).normal(size=(PRODUCT, PRODUCT)).astype(dtype)
    b = a @ a[::-1]
    samples = n // WIDTHS[-1]
    model, g, unit, on = model_of(comm, samples, dtype)
    product = min(timed(comm, lambda: a @ b)[:2] for _ in range(2))
    system = DualSystem(model, g, unit, on)
    form = timed(comm, lambda: system.matrix)
    right = np.ones(n, dtype)
    factor = timed(comm, lambda: system.matrix.factor(DAMPING))
    solve = timed(comm, lambda: factor[2].solve(right))
    another = timed(comm, lambda: system.solve(DAMPING))
    assert another[2] is not None
    steps = {"product": product, "form": form, "factor": factor, "solve": solve, "another": another}
    return {"dtype": dtype, "rows": n, "ranks": comm.size, **{name: step[:2] for name, step in steps.items()}}


def launched(ranks: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A job's figures."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [*args.launcher.split(), "-np", str(ranks), sys.executable, __file__, "--worker"]
    command += ["--rows", *map(str, args.rows), "--dtypes", *args.dtypes]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **one})
    return json.loads(ran.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--launcher", default="mpirun")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.worker:
        if report := worker(args.rows, args.dtypes):
            print(json.dumps(report))
        return
    reports = [r for _ in range(args.rounds) for ranks in args.ranks for r in launched(ranks, args)]
    columns = "products", "form", "of", "factor", "of", "solve", "another λ", "all", "faster"
    print(f"{'dtype':<8}{'rows':>6}{'ranks':>6}" + "".join(f"{c:>10}" for c in columns))
    print(f"{'':<20}{'Gflop/cpu s':>10}" + "".join(f"{c:>10}" for c in ("ms", "products") * 2 + ("ms",) * 3))
    for dtype in args.dtypes:
        for n in args.rows:
            base = 0.0
            for ranks in args.ranks:
                here = [r for r in reports if (r["dtype"], r["rows"], r["ranks"]) == (dtype, n, ranks)]
                wall, processor = ({k: min(r[k][i] for r in here) for k in STEPS} for i in (0, 1))
                rate = ranks * 2.0 * PRODUCT**3 / processor["product"]
                forming, factoring = operations(n // WIDTHS[-1])
                whole = wall["form"] + wall["another"]
                base = base or whole
                print(
                    f"{dtype:<8}{n:>6}{ranks:>6}{rate / 1e9:>10.1f}"
                    f"{1e3 * wall['form']:>10.1f}{forming / processor['form'] / rate:>10.0%}"
                    f"{1e3 * wall['factor']:>10.1f}{factoring / processor['factor'] / rate:>10.0%}"
                    f"{1e3 * wall['solve']:>10.1f}{1e3 * wall['another']:>10.1f}"
                    f"{1e3 * whole:>10.1f}{base / whole:>9.2f}x"
                )
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
