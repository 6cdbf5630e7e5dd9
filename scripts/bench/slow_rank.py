#!/usr/bin/env python3
"""What early termination costs and gives where a rank is slow: `off`, `lockstep` and `async` in turn.

    python scripts/bench/slow_rank.py [--ranks 2 4] [--slow none 0.5 0.25 jitter] [--nets regression mlp]
        [--iterations 15] [--rounds 3] [--set KEY=VALUE] [--json FILE]

Rank r is pinned to core r, modulo the cores of the machine. The last rank is slow: it is stopped and continued by
signals, 50 times a second, so that it runs for a half or a quarter of the time. `jitter`: every rank is stopped for
20 ms on average, at times of its own, a fifth of the time in all. With more ranks than cores a stopped rank's core goes
to its neighbour, and the speeds are nominal.

Printed, medians over the rounds: seconds per iteration (training, without evaluations), seconds to the loss that `off`
ends at (`off` does --iterations, the others at most three times as many), how many times sooner that is than `off`,
the loss after --iterations, and the share of iterations in which each rank was cut off. The regression is
10-128-128-128-1 on 4,000 samples of a smooth function without a regulariser, mlp the shipped net with CG to 1e-3 on
half of the digits: nets whose seconds go into local solves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from smooth_functions import smooth_10

NETS = Path(__file__).parents[2] / "dnewton" / "config" / "nets"
MODES = ("off", "lockstep", "async")
RANK = 'r=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}; echo $$ >pid.$r; exec taskset -c $((r % CORES)) "$@"'
PERIOD = 0.02  # seconds between two stops of the slow rank
PAUSE, PAUSED = 0.02, 0.2  # jitter: mean seconds of a stop, and the share of time that is stopped
LONGER = 3  # times the iterations of `off` that the others may take


class Brake:
    """Stops processes by signals while it is open."""

    def __init__(self, processes: list[int], slow: str) -> None:
        """`slow`: none, jitter, or the share of the time in which the last process runs."""
        self._open = True
        targets: list[tuple[int, Any]] = []
        if slow == "jitter":
            targets = [(process, self._jitter) for process in processes]
        elif slow != "none":
            targets = [(processes[-1], lambda: (float(slow) * PERIOD, (1 - float(slow)) * PERIOD))]
        self._threads = [threading.Thread(target=self._brake, args=target) for target in targets]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _jitter() -> tuple[float, float]:
        return random.expovariate(PAUSED / (PAUSE * (1 - PAUSED))), random.expovariate(1 / PAUSE)

    def _brake(self, process: int, times: Any) -> None:
        try:
            while self._open:
                running, stopped = times()
                time.sleep(running)
                os.kill(process, signal.SIGSTOP)
                time.sleep(stopped)
                os.kill(process, signal.SIGCONT)
        except ProcessLookupError:  # it has ended
            self._open = False

    def close(self) -> None:
        self._open = False
        for thread in self._threads:
            thread.join()


def train(folder: Path, ranks: int, slow: str, settings: list[str], target: float | None) -> list[dict[str, Any]]:
    """The lines of a run; it is ended where it has the target."""
    for old in [*folder.glob("pid.*"), *folder.glob("run/metrics.jsonl")]:
        old.unlink()
    command = ["mpirun", "-np", str(ranks), "bash", "-c", RANK.replace("CORES", str(os.cpu_count())), "rank"]
    command += [sys.executable, "-m", "dnewton.train", "--net", "net.yaml", "--out", "run", "--overwrite", "--quiet"]
    command += [f"--set={setting}" for setting in [*settings, "output.checkpoint_every=0"]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    metrics = folder / "run" / "metrics.jsonl"
    records: list[dict[str, Any]] = []
    with open(folder / "output.txt", "w") as log:
        job = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while not metrics.exists() and job.poll() is None:  # the start is not slowed down
            time.sleep(0.02)
        brake = Brake([int((folder / f"pid.{rank}").read_text()) for rank in range(ranks)], slow)
        try:
            while True:
                ended = job.poll() is not None
                text = metrics.read_text() if metrics.exists() else ""
                records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
                if ended or (target is not None and records and records[-1]["loss"] <= target):
                    break
                time.sleep(0.05)
        finally:
            brake.close()
            if job.poll() is None:
                job.send_signal(signal.SIGTERM)
                job.wait(60)
        if ended and job.returncode:
            raise SystemExit(f"{' '.join(command)}\n{(folder / 'output.txt').read_text()[-2000:]}")
    return records


def write(name: str, folder: Path) -> None:
    """The net's file, and its data."""
    if name == "mlp":
        config = yaml.safe_load((NETS / "mlp.yaml").read_text())
        config["solver"] |= {"subsample": 0.5, "cg_tolerance": 1e-3}
    else:
        x, y = smooth_10(np.random.default_rng(0), 4000)
        np.savez(folder / "d.npz", x=x, y=y)
        tanh = [{"dense": {"units": 128, "activation": "tanh"}} for _ in range(3)]
        config = {
            "net": {"input": [10], "loss": "squared", "layers": [*tanh, {"dense": {"units": 1}}]},
            "data": {"train": "d.npz", "scale_targets": "standardize"},
            "solver": {"C": float("inf")},
        }
    (folder / "net.yaml").write_text(yaml.safe_dump(config))


def figures(records: list[dict[str, Any]], iterations: int, target: float, ranks: int) -> dict[str, Any]:
    """What is printed of a run."""
    there = next((r["train_seconds"] for r in records if r["loss"] <= target), None)
    done = records[1:]
    started = records[0]["train_seconds"]
    return {
        "each": (records[-1]["train_seconds"] - started) / max(1, len(done)),
        "there": None if there is None else there - started,
        "loss": records[min(iterations, len(records) - 1)]["loss"],
        "cut": [sum(rank in r["early_stopped_ranks"] for r in done) / max(1, len(done)) for rank in range(ranks)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--slow", nargs="+", default=["none", "0.5", "0.25", "jitter"])
    parser.add_argument("--nets", nargs="+", default=["regression", "mlp"], choices=["regression", "mlp"])
    parser.add_argument("--modes", nargs="+", default=list(MODES), help="beside `off`")
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="further settings, KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = []
    modes = dict.fromkeys(["off", *args.modes])
    print("net        ranks   slow mode        s/it to the loss sooner       loss  cut off")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for net, ranks, slow in ((n, r, s) for n in args.nets for r in args.ranks for s in args.slow):
            write(net, folder)
            found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
            for _ in range(args.rounds):
                target = None
                for mode in modes:
                    count = args.iterations * (1 if mode == "off" else LONGER)
                    settings = [*args.set, f"solver.early_termination={mode}", f"solver.max_iterations={count}"]
                    records = train(folder, ranks, slow, settings, target)
                    target = float(records[-1]["loss"]) if target is None else target  # `off` is the first
                    found[mode].append(figures(records, args.iterations, target, ranks))
            base = median(run["there"] for run in found["off"])
            for mode, runs in found.items():
                times = [float("inf") if run["there"] is None else run["there"] for run in runs]
                cut = " ".join(f"{median(run['cut'][rank] for run in runs):.2f}" for rank in range(ranks))
                each, loss = (median(run[name] for run in runs) for name in ("each", "loss"))
                middle = f"{median(times):>11.2f} {base / median(times):>6.2f}"
                print(f"{net:10} {ranks:>5} {slow:>6} {mode:8} {each:>7.3f} {middle} {loss:>10.3e}  {cut}", flush=True)
                results.append({"net": net, "ranks": ranks, "slow": slow, "mode": mode, "runs": runs})
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
