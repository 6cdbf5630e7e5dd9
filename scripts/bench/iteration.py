#!/usr/bin/env python3
"""Whole Newton iterations: seconds by phase, and the share of the machine's matrix-product rate that they reach.

    python scripts/bench/iteration.py [--threads 1 2] [--iterations 7] [--nets CNN] [--json FILE]
    python scripts/bench/iteration.py --device cuda             (the rate is then the GPU's, measured with 4096 x 4096)
    mpirun -np 2 python scripts/bench/iteration.py --worker NET        (what scripts/bench/scaling.py starts)

The nets of gn_product.py with random data of l = 4 |S| samples and `subsample: 0.25`, float32, default options. The
operations counted are those of the matrix products that the passes, the Jacobian and the products need; the rate is
that of a product of 768 x 768 measured in the same process. Medians over the iterations after the first. On a GPU a
phase ends when the GPU has done it, and the peak of memory is the GPU's, of CuPy's pool.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dnewton.cli.launch import run
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.hardware import calibration, node
from dnewton.hardware.device import Device
from dnewton.model import init_weights
from dnewton.planning import costs, traffic_forecast
from dnewton.solvers.interface import IterationReport
from dnewton.solvers.newton.newton import Newton, State
from dnewton.training.job import Job, assemble

PHASES = ("function", "gradient", "jacobian", "cg", "combine")
RELU = {"activation": "relu"}
NETS: dict[str, tuple[list[int], list[Any], int]] = {  # as in sides.py, which needs PyTorch
    "large MLP": (
        [784],
        [{"dense": {"units": 1000, **RELU}}, {"dense": {"units": 500, **RELU}}, {"dense": {"units": 10}}],
        1000,
    ),
    "small MLP": ([16], [*[{"dense": {"units": 300, **RELU}}] * 3, {"dense": {"units": 26}}], 1000),
    "CNN": (
        [1, 28, 28],
        [
            {"conv": {"channels": 32, "kernel": 5, "padding": 2, **RELU}},
            {"maxpool": {"size": 2}},
            {"conv": {"channels": 64, "kernel": 3, "padding": 1, **RELU}},
            {"maxpool": {"size": 2}},
            {"conv": {"channels": 64, "kernel": 3, "padding": 1, **RELU}},
            {"maxpool": {"size": 2}},
            "flatten",
            {"dense": {"units": 10}},
        ],
        100,
    ),
}


def operations(job: Job, step: IterationReport) -> float:
    """Operations of this rank's matrix products in an iteration (of the largest rank's blocks)."""
    solver, how = job.config.solver, job.strategy
    count, k = job.objective.data.count, job.plan.outputs
    s, total = round(solver.subsample * count), 0.0
    for m, b in enumerate(costs.blocks_of(job.plan)):
        one = 2.0 * b.q * b.o * b.i  # a pass of a sample
        total += count * one * (step.trials + 1 + (m > 0))
        if b.sharing != "shared" and m > 0:
            total += s * k * one
        if how.held.get(b.name) == "dense":
            total += s * k * one + 4.0 * s * k * b.size * step.cg
        elif how.ways and how.ways[0] == "gram" and not b.conv and s < 2 * b.i:
            total += 4 * s * one + 2.0 * s * s * (b.i + b.o * step.cg)
        else:
            folded = 1 if b.sharing == "shared" else k
            total += 2 * s * one * (step.cg + 1) + 4.0 * s * b.held * b.o * folded * step.cg
    return total


def exact_phases(comm: Comm, device: Device) -> None:
    """From now on a phase waits for the GPU before its clock is read: kernels that nobody has waited for would else
    count in a later phase."""
    plain = comm.phase

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        device.synchronize()
        with plain(name):
            yield
            device.synchronize()

    if not device.is_host:
        comm.phase = phase  # type: ignore[method-assign]


def worker(comm: Comm, name: str, iterations: int, kind: str = "cpu", samples: int | None = None) -> dict[str, Any]:
    """Train on random data and measure; what rank 0 returns. Collective over the world."""
    shape, layers, s = NETS[name]
    s = samples or s
    rng, count = np.random.default_rng(0), 4 * s
    with tempfile.TemporaryDirectory() as folder:
        file = comm.text_from_root(f"{folder}/data.npz")
        if comm.rank == 0:
            y = rng.integers(0, layers[-1]["dense"]["units"], count)
            np.savez(file, x=rng.normal(size=(count, *shape)).astype(np.float32), y=y)
        comm.barrier()
        config = Config.model_validate(
            {
                "net": {"input": shape, "loss": "cross_entropy", "layers": layers},
                "data": {"train": file},
                "solver": {"subsample": 0.25},
                "parallel": {"device": kind},
            }
        )
        job = assemble(config, comm, name)
        comm.barrier()
    assert isinstance(job, Job)
    solver, comm, device = job.solver, job.comm, job.device
    assert isinstance(solver, Newton)
    rate = calibration.measure("float32", device).flops
    exact_phases(comm, device)
    solver.start(State(device.put(init_weights.weights(job.network, 0, "float32")), 1.0))
    rows, moved = [], False
    for _ in range(iterations + 1):
        before = {p: comm.ledger[p].values() for p in PHASES}
        comm.barrier()
        device.synchronize()
        begin = time.perf_counter()
        step = solver.step()
        device.synchronize()
        seconds = time.perf_counter() - begin
        after = {p: comm.ledger[p].values() for p in PHASES}
        counted = {p: int(comm.sum_scalars([after[p][1] - before[p][1]])[0]) for p in PHASES}
        did = traffic_forecast.Iteration(
            count,
            job.strategy.chunks(count, s),
            trials=step.trials,
            columns=2 if moved else 1,
            solves=step.extra.get("solves", 1),
            learns=job.strategy.learns,
            scales="solves" in step.extra and not rows,
        )
        moved |= bool(step.alpha)
        stated = traffic_forecast.iteration_bytes(job.plan, did)
        rows.append(
            {
                "seconds": seconds,
                "phases": {p: after[p][3] - before[p][3] for p in PHASES},
                "cg": step.cg,
                "trials": step.trials,
                "accepted": bool(step.alpha),
                "bytes": counted,
                "forecast": {p: stated[p] for p in PHASES},
                "operations": operations(job, step),
            }
        )
    peak = comm.minmax(float(node.peak_rss_bytes() if device.is_host else device.peak_bytes()))[1]
    solver.close()
    return {
        "net": name,
        "ranks": comm.size,
        "device": device.name,
        "rate": rate,
        "rows": rows,
        "ways": job.strategy.ways,
        "peak": peak,
        "planned_peak": job.strategy.peak,
        "held": dict(job.strategy.held),
    }


def launched(
    name: str,
    ranks: int,
    threads: int,
    iterations: int,
    launcher: list[str],
    kind: str = "cpu",
    samples: int | None = None,
) -> dict[str, Any]:
    """A worker's report."""
    command = [sys.executable, __file__, "--worker", name, "--iterations", str(iterations), "--device", kind]
    command += ["--samples", str(samples)] if samples else []
    if ranks > 1:
        command = [*launcher, "-np", str(ranks), *command]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def medians(report: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase and in all, CG iterations and the rate, medians without the first iteration."""
    rows = report["rows"][1:]
    found = {p: statistics.median(r["phases"][p] for r in rows) for p in PHASES}
    found["all"] = statistics.median(r["seconds"] for r in rows)
    found["trial"] = statistics.median(r["phases"]["function"] / r["trials"] for r in rows)
    found["cg each"] = statistics.median(r["phases"]["cg"] / max(1, r["cg"]) for r in rows)
    alike = found["trial"] + found["gradient"] + found["jacobian"] + found["combine"] + 10 * found["cg each"]
    found["alike"] = alike  # one trial step, 10 CG iterations
    found["cg iterations"] = statistics.median(r["cg"] for r in rows)
    found["flops"] = statistics.median(r["operations"] / r["seconds"] for r in rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", help="1 and 2 unless given; on a GPU 1")
    parser.add_argument("--iterations", type=int, default=7)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--samples", type=int, help="|S| instead of the nets' own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--worker", choices=list(NETS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.worker:

        def work(comm: Comm, _: Sequence[str]) -> None:
            report = worker(comm, args.worker, args.iterations, args.device, args.samples)
            if comm.rank == 0:
                print(json.dumps(report))

        run(work, None)
    reports = []
    print(
        f"{'net':10} {'threads':>7} {'iter/s':>8} "
        + " ".join(f"{p + ' ms':>12}" for p in PHASES)
        + f" {'CG':>5} {'Gflop/s':>8} {'of rate':>8}"
    )
    for name in args.nets:
        for threads in args.threads or ([1, 2] if args.device == "cpu" else [1]):
            report = launched(name, 1, threads, args.iterations, [], args.device, args.samples)
            m = medians(report)
            print(
                f"{name:10} {threads:>7} {1 / m['all']:>8.3f} "
                + " ".join(f"{1e3 * m[p]:>12.1f}" for p in PHASES)
                + f" {m['cg iterations']:>5.0f} {m['flops'] / 1e9:>8.1f} {m['flops'] / report['rate']:>8.0%}",
                flush=True,
            )
            reports.append({**report, "threads": threads})
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
