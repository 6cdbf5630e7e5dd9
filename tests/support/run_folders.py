"""Run directories as training leaves them, written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LAYERS = """layers.0   dense    [4] -> [6]                  full->all
layers.1   dense    [6] -> [3]                  row->col, input redistributed all->row"""
LOG = """dnewton 0.1.0: net.yaml on 4 rank(s), run directory runs/{name}
versions: Python 3.12.3, NumPy 2.3.1, MPI Open MPI v5.0.5
BLAS threads: as set by OMP_NUM_THREADS=1
ranks: 1 replica(s) of 4 model rank(s)
grid: 2 x 2 ranks; memory per rank: 4.17 GiB
{layers}
jacobian: layers.0 factored; local systems: sampled (by 44 Gflop/s, 19 GB/s)
planned memory of the largest rank: 188.5 MiB (MiB: process 112.0, vectors 0.5, curvature 76.0)
warning: a feature has a root mean square of 5e+04, weights are drawn for 1; try data.scale: standardize
newton: curvature of 144 of 1437 samples; lambda by the gain ratio
"""
CONFIG = """net:
  input: [4]
  loss: cross_entropy
  layers:
  - dense: {{units: 6, activation: tanh}}
  - dense: {{units: 3}}
data: {{train: digits, test: digits}}
solver: {{name: {solver}, max_iterations: 20, seed: {seed}}}
output: {{checkpoint_every: 10}}
"""


def record(iteration: int, **values: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    phases = {"function": 0.25, "gradient": 0.125, "cg": 0.5 + iteration}
    return {
        "iteration": iteration,
        "loss": 2.0 / (1 + iteration) ** 2,
        "grad_norm": 10.0**-iteration,
        "lambda": 0.01 * (1 + iteration) if iteration else None,
        "step": 1.0 if iteration else None,
        "ratio": 0.5 + 0.1 * iteration if iteration else None,
        "samples_seen": 100.0 * iteration,
        "cg_iterations": {"min": 2 + iteration, "mean": 4.5 + iteration, "max": 9 + iteration} if iteration else None,
        "rank_cg_iterations": [2 + iteration, None, 9 + iteration] if iteration else None,
        "early_stopped": iteration % 2,
        "early_stopped_ranks": [2] if iteration % 2 else [],
        "wait_seconds": 0.25 * iteration,
        "train_accuracy": 1 - 0.5 / (1 + iteration),
        "test_accuracy": 1 - 0.6 / (1 + iteration),
        "seconds": 1.0 + iteration,
        "train_seconds": 0.5 + 0.5 * iteration,
        "phase_seconds": phases,
        "comm": {name: {"calls": 2, "bytes": 1000 * (k + 1), "seconds": 0.5} for k, name in enumerate(phases)},
        "peak_rss_bytes": 100 << 20,
        **values,
    }


def write_run(
    folder: Path,
    records: Sequence[Any],
    *,
    seed: int = 1,
    solver: str = "newton",
    cut: bool = False,
    ended: bool = True,
) -> Path:
    """A run directory; `cut`: its last line of metrics is not whole."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(solver=solver, seed=seed))
    (folder / "log.txt").write_text(LOG.format(name=folder.name, layers=LAYERS))
    records = list(records)
    if ended and records:
        records[-1] = {**records[-1], "stopped": {"reason": "iterations", "text": "ended after iteration 5: enough"}}
    text = "".join(json.dumps(r) + "\n" for r in records)
    (folder / "metrics.jsonl").write_text(text[: len(text) - 40] if cut else text)
    return folder
