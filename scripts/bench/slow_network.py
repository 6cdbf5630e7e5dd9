#!/usr/bin/env python3
"""Seconds to a target on two hosts over a slow cable, for newton and the comparison solvers (scripts/two_hosts.sh).

    python scripts/bench/slow_network.py --data DIR [--nets mlp cnn regression] [--methods newton adam-data ...]
        [--rates 1gbit 200mbit] [--delays 0 500us 5ms 20ms] [--budget 60] [--seeds 0] [--json FILE]

One rank of one thread on each host; `one host` is the control. Every method has the same net, data, start and target:
mlp: 784-300-100-10 on the first 10,000 images of MNIST (DIR), to 0.94 of the test part; cnn: the shipped cnn.yaml, to
0.97; regression: 10-64-64-1 on 4,000 samples of a smooth function, to a training rmse of 1e-3. A run is ended when its
target is reached or its budget of training seconds is over. Learning rates, and for newton the passes of Adam before it
on data of classes, are the best of three on one host (`--tune` prints them). Printed: training seconds, iterations
(passes), calls of collectives or messages and megabytes of each rank.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from smooth_functions import smooth_10

SCRIPT = Path(__file__).parents[1] / "two_hosts.sh"
DATA_PARALLEL, MODEL_PARALLEL = ["parallel.replicas=2"], ["parallel.replicas=1"]
METHODS: dict[str, list[str]] = {
    "newton": ["solver.name=newton", *MODEL_PARALLEL],
    "newton-full": ["solver.name=newton", "solver.curvature=full", *MODEL_PARALLEL],
    "newton-replicas": ["solver.name=newton", *DATA_PARALLEL],
    "adam-data": ["solver.name=adam", *DATA_PARALLEL],
    "adam-model": ["solver.name=adam", *MODEL_PARALLEL],
    "sgd-data": ["solver.name=sgd", "solver.momentum=0.9", *DATA_PARALLEL],
    "sgd-model": ["solver.name=sgd", "solver.momentum=0.9", *MODEL_PARALLEL],
    "easgd": ["solver.name=easgd", *DATA_PARALLEL],
    "dp_kfac": ["solver.name=dp_kfac", *DATA_PARALLEL],
    "averaging": ["solver.name=averaging", *DATA_PARALLEL],
}
RATES = {"adam": (3e-4, 1e-3, 3e-3), "sgd": (0.01, 0.03, 0.1), "easgd": (0.03, 0.1, 0.3), "dp_kfac": (0.01, 0.03, 0.1)}
RATES["averaging"] = RATES["sgd"]
PASSES = (2, 5, 10)


def problems(folder: Path, data: Path | None) -> dict[str, tuple[dict[str, Any], str, float]]:
    """Nets by name: the configuration, the figure that has a target, and the target."""
    dense = [{"dense": {"units": n, "activation": "relu"}} for n in (300, 100)] + [{"dense": {"units": 10}}]
    found: dict[str, tuple[dict[str, Any], str, float]] = {}
    if data is not None:
        x, y = (_idx(data / f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        np.savez(folder / "mnist.npz", x=x[:10000].reshape(10000, -1), y=y[:10000])
        test = {"x": str(data / "t10k-images-idx3-ubyte.gz"), "y": str(data / "t10k-labels-idx1-ubyte.gz")}
        net = {"input": [784], "loss": "cross_entropy", "layers": dense}
        section = {"train": str(folder / "mnist.npz"), "test": test, "scale": "minmax"}
        found["mlp"] = ({"net": net, "data": section, "solver": {"C": 1.0}}, "test_accuracy", 0.94)
    shipped = Path(__file__).parents[2] / "dnewton" / "config" / "nets" / "cnn.yaml"
    found["cnn"] = (yaml.safe_load(shipped.read_text()), "test_accuracy", 0.97)
    x, y = smooth_10(np.random.default_rng(0), 4000)
    np.savez(folder / "smooth.npz", x=x, y=y)
    tanh = [{"dense": {"units": 64, "activation": "tanh"}} for _ in range(2)] + [{"dense": {"units": 1}}]
    net = {"input": [10], "loss": "squared", "layers": tanh}
    section = {"train": str(folder / "smooth.npz"), "scale_targets": "standardize"}
    solver = {"C": float("inf")}
    regression = {"net": net, "data": section, "solver": solver, "parallel": {"dtype": "float64"}}
    found["regression"] = (regression, "train_rmse", 1e-3)
    return found


def _idx(path: Path) -> Any:
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, -1, 4 + 4 * axes).reshape(shape)


def reached(record: dict[str, Any], figure: str, target: float) -> bool:
    """Whether a line of metrics.jsonl has the target."""
    value = record.get(figure)
    return value is not None and (value >= target if figure.endswith("accuracy") else value <= target)


def run(
    folder: Path,
    problem: tuple[dict[str, Any], str, float],
    settings: list[str],
    cable: list[str] | None,
    budget: float,
) -> dict[str, Any]:
    """One run to its target, or None for its seconds; `cable`: options of two_hosts.sh, None for one host."""
    config, figure, target = problem
    (folder / "net.yaml").write_text(yaml.safe_dump(config))
    out = folder / "run"
    command = ["mpirun", "-np", "2", sys.executable, "-m", "dnewton.train", "--net", str(folder / "net.yaml")]
    settings = [*settings, "solver.max_iterations=100000", "output.checkpoint_every=0"]
    command += ["--out", str(out), "--overwrite", "--quiet", *(f"--set={s}" for s in settings)]
    if cable is not None:
        command = ["bash", str(SCRIPT), "--slots", "1", *cable, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    shutil.rmtree(out, ignore_errors=True)  # a run that was ended on another host would be waited for
    log = (folder / "output.txt").open("w")
    job = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    records: list[dict[str, Any]] = []
    deadline = time.monotonic() + 3 * budget + 60  # evaluations count for nothing, but must end
    try:
        while time.monotonic() < deadline:
            ended = job.poll() is not None
            text = (out / "metrics.jsonl").read_text() if (out / "metrics.jsonl").exists() else ""
            records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            last = records[-1] if records else {}
            if ended or reached(last, figure, target) or last.get("train_seconds", 0.0) > budget:
                break
            time.sleep(0.1)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGTERM)
            try:
                job.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
        log.close()
    if not records:
        raise SystemExit(f"{' '.join(command)}\n{(folder / 'output.txt').read_text()[-2000:]}")
    at = next((k for k, record in enumerate(records) if reached(record, figure, target)), None)
    used = records[: (len(records) if at is None else at + 1)]
    counted = [
        entry for r in used for phase, entry in r["comm"].items() if phase not in ("evaluate", "report", "setup")
    ]
    return {
        "seconds": None if at is None else used[-1]["train_seconds"],
        "iterations": used[-1]["iteration"],
        "value": used[-1].get(figure),
        "calls": sum(entry["calls"] for entry in counted) / 2,
        "megabytes": sum(entry["bytes"] for entry in counted) / 2e6,
    }


def tuned(folder: Path, problem: Any, method: str, budget: float) -> list[str]:
    """The setting that is first at the target on one host; of none that is, the best at the end."""
    solver, classes = METHODS[method][0].partition("=")[2], problem[1].endswith("accuracy")
    key, rates = "learning_rate", RATES.get(solver, ())
    if solver == "newton":
        key, rates = "start_passes", PASSES if classes else ()
    if not rates:
        return []
    tried = []
    for rate in rates:
        found = run(folder, problem, [*METHODS[method], f"solver.{key}={rate}"], None, budget)
        value = found["value"] if found["value"] is not None else float("inf")
        value = -value if problem[1].endswith("accuracy") else value
        tried.append((found["seconds"] or float("inf"), value, rate))
    return [f"solver.{key}={min(tried)[2]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the MNIST files")
    parser.add_argument("--nets", nargs="+", default=["mlp", "cnn", "regression"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--no-control", action="store_true", help="leave the runs on one host out")
    parser.add_argument("--rates", nargs="+", default=["1gbit", "200mbit"])
    parser.add_argument("--delays", nargs="+", default=["0", "500us", "5ms", "20ms"])
    parser.add_argument("--budget", type=float, default=60.0, help="training seconds of a run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], help="further settings of newton, KEY=VALUE")
    parser.add_argument("--tune", action="store_true", help="print the learning rates and stop")
    parser.add_argument("--given", nargs="*", metavar="METHOD:KEY=VALUE", help="settings, none of which is tuned then")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cables: dict[str, list[str] | None] = {} if args.no_control else {"one host": None}
    for rate in args.rates:
        for delay in args.delays:
            wait = [] if delay == "0" else ["--delay", delay]
            cables[f"{rate} {delay}"] = ["--rate", rate, *wait]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a run that goes on is ended with this script
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = problems(folder, args.data)
        for net in args.nets:
            if args.given is None:
                extra = {m: tuned(folder, every[net], m, args.budget) for m in args.methods}
            else:
                words = [word.partition(":") for word in args.given]
                extra = {m: [setting for name, _, setting in words if name == m] for m in args.methods}
            for method in args.methods:
                extra[method] += args.set if method.startswith("newton") else []
            print(f"{net}: {every[net][1]} {every[net][2]:g};", *(f"{m} {' '.join(s)}" for m, s in extra.items() if s))
            if args.tune:
                continue
            for cable, options in cables.items():
                for method in args.methods:
                    seeds = [[*METHODS[method], *extra[method], f"solver.seed={seed}"] for seed in args.seeds]
                    runs = [run(folder, every[net], settings, options, args.budget) for settings in seeds]
                    done = [r["seconds"] for r in runs if r["seconds"] is not None]
                    seconds = f"{median(done):8.2f}" if len(done) == len(runs) else f"> {args.budget:6.0f}"
                    value = "" if len(done) == len(runs) else f"  {every[net][1]} {runs[-1]['value']:.4g}"
                    figures = f"{runs[-1]['iterations']:>6} {runs[-1]['calls']:>8.0f} {runs[-1]['megabytes']:>9.1f}"
                    print(f"{net:11} {cable:14} {method:16} {seconds} s {figures} MB{value}", flush=True)
                    results.append({"net": net, "cable": cable, "method": method, "runs": runs})
                    if args.json:
                        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
