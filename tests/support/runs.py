"""A run as a user starts it, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from inside import Done, start
from problems import Problem, by_paper
from safetensors.numpy import save_file

from dnewton.config import strict_yaml

KEYS = {
    "iteration",
    "loss",
    "grad_norm",
    "lambda",
    "step",
    "ratio",
    "cg_iterations",
    "early_stopped",
    "early_stopped_ranks",
    "rank_cg_iterations",
    "seconds",
    "phase_seconds",
    "comm",
    "peak_rss_bytes",
}


def arguments(folder: Path, net: Any, out: str, *args: str, settings: list[str] | None = None) -> list[str]:
    """A command line of dnewton.train; `net` is a file's name or what to write into one."""
    if not isinstance(net, str):
        (folder / "net.yaml").write_text(strict_yaml.dump(net))
        net = "net.yaml"
    return ["--net", net, "--out", out, *args, *(f"--set={s}" for s in settings or [])]


def train(ranks: int, folder: Path, net: Any, out: str, *args: str, settings: list[str] | None = None) -> Done:
    """Train inside this session."""
    return start(ranks, *arguments(folder, net, out, *args, settings=settings), cwd=folder)


def metrics(folder: Path, out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]


def write_problem(problem: Problem, folder: Path) -> dict[str, Any]:
    """data.npz, init.safetensors and the YAML values of a problem."""
    y = problem.y if problem.loss == "squared" else np.argmax(problem.y, axis=1)
    if problem.loss == "logistic":
        y = problem.y[:, 0].astype(int)
    np.savez(folder / "data.npz", x=problem.x, y=y)
    save_file(problem.params, folder / "init.safetensors")
    return {
        "net": {"input": list(problem.input), "loss": problem.loss, "layers": problem.layers},
        "data": {"train": "data.npz", "test": "data.npz"},
        "solver": by_paper({"C": problem.C, **problem.solver}),
        "parallel": {"dtype": "float64"},
    }


def fails(result: Any, *words: str) -> None:
    """Exit code 2 and one line that says `words`."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("dnewton: error:")]
    assert result.returncode == 2, result.stderr + result.stdout
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in lines[0], lines[0]
