#!/usr/bin/env python3
"""What a Jacobian in half precision does to the direction, to memory and to a run (`solver.jacobian_dtype`).

    python scripts/bench/half_jacobian.py [--nets large CNN] [--damping 1e-2] [--iterations 30] [--json FILE]

Directions: one rank, random weights and samples, the nets of sides.py; the system is solved to ‖r‖ ≤ 1e-3 ‖g‖, so that
what is seen is J's rounding and not the solver's. The pieces of float64, float32 and both half precisions are compared
with float64's: difference and cosine, and how much of the decrease of float64's quadratic model the piece still gives
after the best multiple of it is taken (`combine` does so). Runs: nets of the package on one rank, with the same seed.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sides import NETS, Ours, write

from dnewton.comm.communicator import Comm
from dnewton.config.parse import load
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.solvers.newton import cg, early_termination
from dnewton.storage.run_directory import RunDirectory
from dnewton.training.checkpoint_reader import initial_state
from dnewton.training.job import Job, assemble
from dnewton.training.load_config import read
from dnewton.training.trainer import Trainer

TOLERANCE = 1e-3


def model_of(ours: Ours, dtype: str, half: str | None) -> tuple[GaussNewton, Any, int]:
    """The curvature with everything in `dtype` but J, which is in `half` if given; the gradient; bytes of J."""
    theta, x = ours.theta.astype(dtype), ours.x.astype(dtype)
    tape = ours.network.forward(theta, x)
    g = np.zeros_like(theta)
    ours.network.gradient(theta, tape, ours.loss.gradient(tape.z, ours.y.astype(dtype)) / len(ours.y), g)
    jac = jacobian.build(ours.network, theta, [tape], "factored", dtype=half)
    return (
        GaussNewton(jac, ours.loss, tape.z, ours.y.astype(dtype), ours.regulariser),
        g + ours.regulariser * theta,
        jac.nbytes,
    )


def directions(name: str, comm: Comm, damping: float) -> list[dict[str, Any]]:
    shape, layers, samples = NETS[name]
    ours = Ours(comm, shape, layers, samples, "squared" if "regression" in name else "cross_entropy")
    rows: list[dict[str, Any]] = []
    reference, g64, _ = model_of(ours, "float64", None)
    best = exact = None
    for dtype, half in (("float64", None), ("float32", None), ("float32", "float16"), ("float32", "bfloat16")):
        model, g, held = model_of(ours, dtype, half)

        def product(v: Any, unit: jacobian.LocalSystem, model: GaussNewton = model) -> Any:
            return model.block_product(v, unit, damping)

        system = cg.PlainCG(product, g, ours.unit, TOLERANCE)
        found = cg.solve([system], g, 1000, early_termination.NeverTerminate())
        d = found.d.astype(np.float64)
        curved = float(d @ reference.block_product(d, ours.unit, damping))
        decrease = float(g64 @ d) ** 2 / (2 * curved)  # of the best multiple
        exact, best = (d, decrease) if exact is None else (exact, best)
        assert best is not None
        rows.append(
            {
                "net": name,
                "weights": dtype,
                "jacobian": half or dtype,
                "bytes": held,
                "iterations": found.iterations,
                "difference": float(np.linalg.norm(d - exact) / np.linalg.norm(exact)),
                "one_minus_cosine": 1 - float(d @ exact) / math.sqrt(float(d @ d) * float(exact @ exact)),
                "decrease": decrease / best,
            }
        )
        print(
            f"{name:32} J {half or dtype:9} {held / 2**20:8.1f} MiB {found.iterations:4} it.  |d - d64|/|d64| "
            f"{rows[-1]['difference']:.1e}  1 - cos {rows[-1]['one_minus_cosine']:.1e}  "
            f"decrease {decrease / best:.6f}",
            flush=True,
        )
    return rows


def trained(net: str, iterations: int, comm: Comm) -> list[dict[str, Any]]:
    """Runs of a net of the package that differ in the Jacobian's precision alone."""
    rows = []
    for dtype in ("auto", "float16", "bfloat16"):
        text, _ = read(net, comm)
        settings = [
            f"solver.max_iterations={iterations}",
            f"solver.jacobian_dtype={dtype}",
            "parallel.rates={flops: 5e10, bandwidth: 1e10}",
            "output.checkpoint_every=0",
        ]
        with tempfile.TemporaryDirectory() as folder:
            job = assemble(load(text, net, settings), comm, net)
            assert isinstance(job, Job)
            out = RunDirectory(folder + "/run")
            out.create(job.config.dump())
            trainer = Trainer(job, out, 0.0, lambda record: None)
            trainer.run(initial_state(job, None))
        first, last = trainer.records[0], trainer.records[-1]
        cg = float(np.mean([r["cg_iterations"]["mean"] for r in trainer.records[1:]]))
        names = [key for key in ("test_accuracy", "test_rmse") if key in last]
        rows.append(
            {
                "net": net,
                "jacobian": dtype,
                "first": first["loss"],
                "loss": last["loss"],
                "cg": cg,
                **{key: last[key] for key in names},
            }
        )
        print(
            f"{net:20} jacobian_dtype {dtype:9} f {first['loss']:.4f} -> {last['loss']:.6g}  "
            + ", ".join(f"{key} {last[key]:.4f}" for key in names)
            + f"  CG {cg:.1f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["MLP", "CNN", "regression"], help="parts of names")
    parser.add_argument("--damping", type=float, default=1e-2, help="λ")
    parser.add_argument("--runs", nargs="*", default=["cnn.yaml", "mlp.yaml", "mlp_regression.yaml"])
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comm = Comm.world()
    rows = [
        row for name in NETS if any(part in name for part in args.nets) for row in directions(name, comm, args.damping)
    ]
    rows += [row for net in args.runs for row in trained(net, args.iterations, comm)]
    write(args.json, json.loads(json.dumps(rows)))


if __name__ == "__main__":
    main()
